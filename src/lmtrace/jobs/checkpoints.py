"""Checkpoints: where they are, at which step, and whether two hold the same weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmtrace.jobs.data import CARD
from lmtrace.records.layout import DATABASE

_STEP = re.compile(r"(?<![a-z])(?:global_?)?(?:steps?|checkpoint|ckpt|iter(?:ation)?)[-_=]?(\d+)(?![\d.]*[kKmMbB])")
_WEIGHTS = ("*.safetensors", "*.bin", "config.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved model.

    Attributes
    ----------
    path, revision
        A folder; or a repository on the Hub and its revision (None: the default one).
    step
        Optimizer step that it is at, or None where nothing tells.
    """

    path: str
    revision: str | None = None
    step: int | None = None

    def __str__(self) -> str:
        return self.path if self.revision is None else f"{self.path}@{self.revision}"

    @property
    def stamp(self) -> str:
        """Return names, sizes and times of the files in one hash, to see cheaply that nothing changed; "" on the Hub."""
        folder = Path(self.path)
        if not folder.is_dir():
            return ""
        files = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
        seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.blake2b(json.dumps(seen).encode(), digest_size=16).hexdigest()


def find_checkpoints(sources: Iterable[str | Path]) -> tuple[list[Checkpoint], list[tuple[str, str]]]:
    """Return the checkpoints that the sources name, by rising step within each source, and (source, what is wrong).

    Parameters
    ----------
    sources
        Folders of one checkpoint (with config.json), folders of several, folders of runs (with `checkpoints/`), names on the
        Hub, with or without "@revision".
    """
    found: dict[tuple[str, str | None], Checkpoint] = {}
    problems: list[tuple[str, str]] = []
    for source in map(str, sources):
        folder = Path(source).expanduser()
        if folder.is_dir():
            inside = _in_folder(folder)
            if not inside:
                what = "a run without checkpoints" if (folder / DATABASE).exists() else "no checkpoint in this folder"
                problems.append((source, what))
        elif _is_local(source):
            problems.append((source, "no such folder"))
            continue
        else:
            path, _, revision = source.partition("@")
            inside = [Checkpoint(path, revision or None, step_in(revision or path.rpartition("/")[2]))]
        for checkpoint in inside:
            found.setdefault((checkpoint.path, checkpoint.revision), checkpoint)
    return list(found.values()), problems


def _in_folder(folder: Path) -> list[Checkpoint]:
    if (folder / "config.json").is_file():
        return [Checkpoint(str(folder), None, step_of(folder))]
    parent = folder / "checkpoints" if (folder / DATABASE).exists() else folder
    inside = [
        Checkpoint(str(path), None, step_of(path))
        for path in (sorted(parent.iterdir()) if parent.is_dir() else ())
        if path.is_dir() and ((path / "config.json").is_file() or step_in(path.name) is not None)
    ]
    return sorted(inside, key=lambda c: (c.step is None, c.step or 0, c.path))


def _is_local(source: str) -> bool:
    """Return whether a name can only be a folder: a Hub name is "name" or "organisation/name", perhaps with "@revision"."""
    return not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@[^@]+)?", source)


def step_of(folder: Path) -> int | None:
    """Return the step of a checkpoint's folder: its card's, the Trainer's, or the one in its name."""
    for name, key in ((CARD, "step"), ("trainer_state.json", "global_step")):
        try:
            return int(json.loads((folder / name).read_text(encoding="utf-8"))[key])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return step_in(folder.name)


def step_in(name: str) -> int | None:
    """Return the step that a name tells: "checkpoint-500", "step1000", "stage1-step2000-tokens5B", "0300"; or None."""
    if name.isdigit():
        return int(name)
    match = _STEP.search(name.lower())
    return int(match[1]) if match else None


def with_steps(checkpoints: Sequence[Checkpoint], steps: Sequence[int] | None) -> list[Checkpoint]:
    """Return the checkpoints with the given steps; or, where none of them tells its step, with their positions."""
    if steps is None:
        if any(c.step is not None for c in checkpoints):
            return list(checkpoints)
        steps = range(len(checkpoints))
    return [Checkpoint(c.path, c.revision, step) for c, step in zip(checkpoints, steps, strict=True)]


def weight_hash(model: nn.Module) -> str:
    """Return 32 hex digits over the names, types, shapes and bits of all weights and buffers that are saved."""
    digest = hashlib.blake2b(digest_size=16)
    state: dict[str, Any] = model.state_dict()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
