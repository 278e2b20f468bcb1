"""The peak of this process's memory while something runs."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from types import TracebackType

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory that was in use while the body ran, in bytes.

    On the GPU this is what torch had allocated. On the CPU it is the process's resident memory: on Linux the kernel's own peak,
    reset at the beginning; elsewhere the highest since the process began. It counts everything (libraries, model,
    optimizer), because what a body needs above that depends on what the allocator still holds from before.

    Attributes
    ----------
    peak
        Bytes; 0 until the body has ended.
    """

    peak: int = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                _RESET.write_text("5")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _highest()


def _highest() -> int:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
