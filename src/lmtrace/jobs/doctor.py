"""What this machine offers: `lmtrace doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lmtrace.records.wording import counted

OPTIONAL = {
    "transformers": "lmtrace[hf]",
    "accelerate": "lmtrace[hf]",
    "lightning": "lmtrace[lightning]",
    "ray": "lmtrace[ray]",
    "pyarrow": "lmtrace[parquet]",
    "matplotlib": "lmtrace[plot]",
    "pandas": "pandas, for run.frame()",
}


def doctor() -> list[dict[str, Any]]:
    """Return one row per thing that lmtrace can use: name, ok, detail."""
    import torch

    rows = [
        {"name": "python", "ok": True, "detail": platform.python_version()},
        {"name": "lmtrace", "ok": True, "detail": version("lmtrace") if _has("lmtrace") else "run from source"},
        {"name": "torch", "ok": True, "detail": f"{torch.__version__}, {counted(torch.get_num_threads(), 'thread')}"},
        {
            "name": "accelerator",
            "ok": torch.cuda.is_available(),
            "detail": torch.cuda.get_device_name() if torch.cuda.is_available() else "none; everything runs on the CPU",
        },
    ]
    for package, extra in OPTIONAL.items():
        present = _has(package)
        rows.append({"name": package, "ok": present, "detail": version(package) if present else f"install {extra}"})
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    rows.append(
        {"name": "disk", "ok": free > 1, "detail": f"{free:.0f} GiB free, {_sync_ms():.1f} ms for a safe write"}
    )
    return rows


def _has(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _sync_ms() -> float:
    """Return how long a small write takes to reach the disk."""
    with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:
        start = time.perf_counter()
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
        return 1e3 * (time.perf_counter() - start)
