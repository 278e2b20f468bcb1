"""The start of an attempt: a free folder for a new run, or a run cut back to the step from which it goes on."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from lmtrace.errors import RunError
from lmtrace.records.database import checked_rows
from lmtrace.records.files import failing
from lmtrace.records.layout import DATABASE, create_database, header_to_json, to_json
from lmtrace.records.lock import LOCK_NAME, WriterLock
from lmtrace.records.scalars import cut_scalars
from lmtrace.records.schema import SCHEMA_VERSION, RunHeader


def check_free(folder: Path) -> None:
    """Say before long work what `RunWriter.create` would say after it; nothing is made.

    Raises
    ------
    RunError
        Where the folder holds a run, or no folder can be made there.
    """
    if (folder / DATABASE).exists():
        raise _taken(folder)
    with failing("create a run in", folder):
        above = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is a file")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{above} cannot be written to")


@contextmanager
def new_run(folder: Path, header: RunHeader, overwrite: bool) -> Iterator[WriterLock]:
    """Make folder and database of a new run and hold its lock; where the block fails, nothing of it is left."""
    path = folder / DATABASE
    header = replace(
        header, schema_version=SCHEMA_VERSION, status="running", name=header.name or folder.absolute().name,
        created=header.created or datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    made: list[Path] = []
    try:
        with failing("create a run in", folder):
            made += [parent for parent in (folder, *folder.absolute().parents) if not parent.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder) as lock:
                replaces = path.exists()
                if replaces and not overwrite:
                    raise _taken(folder)
                try:
                    create_database(path, header, (time.time(), _process(header)))
                    yield lock
                except BaseException:
                    for left in () if replaces else (*folder.glob(f"{DATABASE}*"), folder / LOCK_NAME):
                        left.unlink(missing_ok=True)
                    raise
    except RunError:
        _remove_empty(made)
        raise


def remove_run(folder: Path) -> None:
    """Remove what a writer has made in a folder, and the folder where nothing else is in it."""
    for pattern in (f"{DATABASE}*", LOCK_NAME, "arrays/step-*.safetensors", "memory/step-*.safetensors"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    _remove_empty([folder / "arrays"])
    _remove_empty([folder / "memory"])
    _remove_empty([folder])


@contextmanager
def held(folder: Path) -> Iterator[WriterLock]:
    """Hold the folder's lock, and give it back where the block fails."""
    lock = WriterLock(folder)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def cut_back(db: sqlite3.Connection, folder: Path, batch: int, step: int, header: RunHeader, now: RunHeader) -> None:
    """Begin, inside a transaction, a new attempt after `step`: what was written for later steps is superseded.

    `header` is the one of the run, which gains signals and fields; `now` has the settings of this attempt.
    """
    merged = replace(
        header,
        status="running",
        signals={**now.signals, **header.signals},
        fields={
            signal: list({f.metric: f for h in (header, now) for f in h.fields.get(signal, [])}.values())
            for signal in (*header.fields, *now.fields)
        },
    )
    later = len(checked_rows(db, folder, "SELECT step FROM measurement WHERE step > ?", step))
    for table in ("point", "array", "measurement", "memory", "event"):
        db.execute(f"DELETE FROM {table} WHERE step > ?", (step,))
    db.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM point)")
    cut_scalars(db, folder, step)
    db.execute("UPDATE header SET json = ?", (header_to_json(merged),))
    db.execute("INSERT INTO attempt VALUES (?, ?, ?, ?, ?)", (batch, step, time.time(), later, _process(now)))


def sweep(db: sqlite3.Connection, folder: Path) -> None:
    """Delete array and memory files that no row names: left by a kill, or superseded."""
    named = {
        file
        for table in ("array", "memory")
        for (file,) in checked_rows(db, folder, f"SELECT DISTINCT file FROM {table}")
    }
    for kind in ("arrays", "memory"):
        for pattern in (f"{kind}/step-*.safetensors", f"{kind}/.step-*.tmp"):
            for path in folder.glob(pattern):
                if path.relative_to(folder).as_posix() not in named:
                    path.unlink(missing_ok=True)
    for path in folder.glob(f".{DATABASE}.*.tmp*"):
        path.unlink(missing_ok=True)


def _process(header: RunHeader) -> str:
    provenance = {
        k: v for k, v in asdict(header).items() if k in ("versions", "hardware", "command", "commit", "settings")
    }
    return to_json({"pid": os.getpid(), "host": socket.gethostname(), **provenance}, "run header")


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that a failed start made, innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _taken(folder: Path) -> RunError:
    return RunError(
        f"run folder {folder} already holds a run",
        "Choose another folder, resume the run, or pass overwrite=True to replace it",
    )
