"""Files that are there whole or not at all, arrays without pickle, and failures in words."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lmtrace.errors import RunError

LEAST_FREE = 1 << 20  # bytes; what a failed start gives back lies below


def _disk_is_full(error: Exception, where: Path) -> bool:
    """SQLite tells a disk that is full when it opens a file as an error of reading or writing; the disk itself knows."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    if "full" in str(error):
        return True
    if not any(word in str(error) for word in ("disk I/O", "unable to open")) or not hasattr(os, "statvfs"):
        return False
    there = next((path for path in (where, *where.absolute().parents) if path.exists()), where)
    free = os.statvfs(there)
    return free.f_bavail * free.f_frsize < LEAST_FREE or (free.f_files > 0 and free.f_favail == 0)


def _cure(error: Exception) -> str:
    text = str(error).lower()
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        word in text for word in ("full", "no space left", "too large")
    ):
        return "Free space on this disk, or choose another folder; what was acknowledged before is intact"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS) or "readonly" in text or "read-only" in text:
        return "Make the folder writable, or choose another one"
    if code in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "Choose a folder"
    if code == errno.ENOENT:
        return "Check the path"
    if "locked" in text or "busy" in text:
        return "Another program holds the database; close it and try again"
    if "malformed" in text or "not a database" in text or "no such" in text or isinstance(error, SafetensorError):
        return "The file is damaged or is not a run; restore it from a copy"
    if "unable to open" in text:
        return "Check that the folder exists and may be read and written"
    return "Check that the disk has room and is whole; what was acknowledged before is intact"


@contextmanager
def failing(what: str, where: Path) -> Iterator[None]:
    """Turn failures of the file system and of SQLite inside the block into a `RunError` of one line."""
    try:
        yield
    except (OSError, sqlite3.Error, SafetensorError) as error:
        if _disk_is_full(error, where):
            raise RunError(
                f"cannot {what} {where}: the disk is full",
                "Free space on this disk, or choose another folder; what was acknowledged before is intact",
            ) from error
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RunError(f"cannot {what} {where}: {' '.join(reason.split())}", _cure(error)) from error


def parsed(text: Any) -> Any:
    """Return what a cell of JSON says; `RunError` where it is damaged."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(
            f"the run's database is damaged: expected JSON, got {str(text)[:40]!r}", "Restore it from a copy"
        ) from error


def parsed_object(text: Any) -> dict[str, Any]:
    """Return what a cell that holds a JSON object says; `RunError` where it is damaged."""
    found = parsed(text)
    if not isinstance(found, dict):
        raise RunError(
            f"the run's database is damaged: expected a JSON object, got {str(text)[:40]!r}", "Restore it from a copy"
        )
    return found


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, even after a loss of power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def arrays_to_bytes(arrays: Mapping[tuple[str | None, ...], Any]) -> bytes:
    """Return a safetensors file; the name of each tensor is its key as a JSON list."""
    tensors = {}
    for key, value in arrays.items():
        array = np.asarray(value, order="C")
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            name = ".".join(str(part) for part in key if part is not None)
            raise RunError(f"array {name} has dtype {array.dtype}", "Give real numbers of 64 bits or less")
        tensors[json.dumps(key)] = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return save(tensors)


def read_arrays(path: Path, *keys: tuple[str | None, ...]) -> dict[tuple[str | None, ...], np.ndarray]:
    """Return the arrays of a file, all or those named."""
    with failing("read", path), safe_open(str(path), framework="np") as file:
        names = [json.dumps(key) for key in keys] or list(file.keys())
        return {tuple(json.loads(name)): file.get_tensor(name) for name in names}
