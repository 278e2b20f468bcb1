"""Checkpoints on disk: there whole or not at all, and a failure of the disk is one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmtrace.errors import RunError
from lmtrace.jobs.data import CARD
from lmtrace.records.files import failing


def save_whole(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder beside `folder`, then put it in its place.

    Raises
    ------
    RunError
        Where it cannot be written; what was there before is still there then.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with disk_failures("save the checkpoint", folder):
        try:
            partial.mkdir(parents=True)
            write(partial)
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove the Trainer's checkpoints whose writing was cut off (the last file of one is missing), and empty folders."""
    for path in folder.glob("checkpoint-*"):
        if not any((path / last).is_file() for last in ("trainer_state.json", CARD)):
            shutil.rmtree(path, ignore_errors=True)
    for path in (folder, folder.parent):
        with suppress(OSError):
            path.rmdir()


@contextmanager
def disk_failures(what: str, where: Path) -> Iterator[None]:
    """Turn failures of the disk inside the block into a `RunError` of one line, those of `torch.save` included."""
    with failing(what, where):
        try:
            yield
        except RuntimeError as error:
            if "inline_container" not in str(error):  # torch's writer of zip files
                raise
            raise RunError(
                f"cannot {what} {where}: a file could not be written whole", "Free space on this disk"
            ) from error
