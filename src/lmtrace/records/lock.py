"""One writer per run folder: an operating-system lock that dies with its process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path

from lmtrace.errors import RunError

try:
    import fcntl
except ImportError:  # Windows: no flock; a run is then written without protection against a second writer
    fcntl = None

LOCK_NAME = ".writer"
_open_locks: set[int] = set()


def _forget_in_child() -> None:
    """Close inherited lock files, so that a forked data loader does not keep a dead writer's lock alive."""
    for descriptor in _open_locks:
        os.close(descriptor)
    _open_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class WriterLock:
    """The right to write into `folder`; held until `release` or the death of the process.

    Raises
    ------
    RunError
        Where another writer, in this or another process, holds it.
    """

    def __init__(self, folder: Path, patience: float = 0.5) -> None:
        path = folder / LOCK_NAME
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._acquire(folder, patience)
            with contextlib.suppress(OSError):  # a full disk: the lock holds without its name
                os.ftruncate(self._descriptor, 0)
                os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BaseException:
            os.close(self._descriptor)
            raise
        _open_locks.add(self._descriptor)

    def _acquire(self, folder: Path, patience: float) -> None:
        deadline = time.monotonic() + patience  # a reader that asks whether the writer lives holds it for microseconds
        while fcntl is not None:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() > deadline:
                    holder = os.pread(self._descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                    raise RunError(
                        f"run folder {folder}: {holder} is writing to it",
                        "Wait for it, stop it, or choose another folder",
                    ) from None
                time.sleep(0.02)
            else:
                return

    def release(self) -> None:
        """Give the right back; nothing happens where it was given back before or was inherited through a fork."""
        if self._descriptor in _open_locks:
            _open_locks.remove(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def writer_alive(folder: Path) -> bool:
    """Return whether some process holds the folder's writer lock."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        if fcntl is None:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return True
    finally:
        os.close(descriptor)
    return False
