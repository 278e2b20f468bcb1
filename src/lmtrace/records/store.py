"""Write a run: one folder, one writer, one transaction per measurement.

A measurement is acknowledged when `RunWriter.write` returns: it then survives kill -9 and loss of power. Whatever
happens before, readers see either the whole measurement or nothing of it.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import operator
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lmtrace.errors import RunError
from lmtrace.records.files import arrays_to_bytes, failing, read_arrays, write_file
from lmtrace.records.layout import (
    DATABASE,
    LAST_BATCH,
    create_database,
    header_from_json,
    header_to_json,
    open_for_writing,
    supersede,
    to_json,
)
from lmtrace.records.lock import LOCK_NAME, WriterLock
from lmtrace.records.rows import sort_records
from lmtrace.records.schema import SCHEMA_VERSION, Record, RunHeader, Status

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
MEMORIES_KEPT = 3

Memory = Mapping[str, Mapping[str, np.ndarray]]


class RunWriter:
    """The one writer of a run folder. Made by `create` or `resume`; also a context manager.

    Leaving the context without an exception finishes the run; with one, the run is marked "crashed".
    Methods raise `RunError`, in one line, where the folder cannot be written; what was acknowledged before stays intact
    and the writer can go on once the cause is gone.
    """

    def __init__(self, folder: Path, lock: WriterLock, resumed: tuple[int, RunHeader | None] | None) -> None:
        self.folder = folder
        self._lock = lock
        self._db: sqlite3.Connection | None = open_for_writing(folder / DATABASE)
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        self._buffer: dict[str, tuple[list[int], list[float]]] = {}
        self._new_files: list[str] = []
        self._last_flush = time.monotonic()
        try:
            self._load()
            if resumed:
                self._supersede(*resumed)
            self._sweep()
        except BaseException:
            self._db.close()
            raise

    def _load(self) -> None:
        """Take the counters from the database."""
        db = self._open()
        self._series = {
            (signal, metric, label, split, sites): number
            for number, signal, metric, label, split, sites in db.execute("SELECT * FROM series")
        }
        self._steps = {step for (step,) in db.execute("SELECT step FROM measurement")}
        (self._next_point,) = db.execute("SELECT ifnull(max(id), 0) + 1 FROM point").fetchone()
        (self._batch,) = db.execute(LAST_BATCH).fetchone()
        self._last_scalar = dict(db.execute("SELECT metric, max(last) FROM scalar GROUP BY metric"))
        self.header = header_from_json(db.execute("SELECT json FROM header").fetchone()[0])

    # ------------------------------------------------------------------------------------------------ opening
    @classmethod
    def create(cls, folder: str | os.PathLike[str], header: RunHeader, overwrite: bool = False) -> RunWriter:
        """Start a new run in `folder`, made where it does not exist.

        Parameters
        ----------
        folder
            Where the run will live. It may hold other files, but no run.
        header
            What is known of the run; its status becomes "running".
        overwrite
            Replace a run that is there (its database, arrays and memory; other files stay).

        Raises
        ------
        RunError
            Where the folder holds a run, is being written to, or cannot be written. Nothing is left half-written.
        """
        folder = Path(folder)
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
                with _held(folder) as lock:
                    replaces = path.exists()
                    if replaces and not overwrite:
                        raise _taken(folder)
                    try:
                        create_database(path, header, (time.time(), _process(header)))
                        return cls(folder, lock, None)
                    except BaseException:
                        for left in () if replaces else (*folder.glob(f"{DATABASE}*"), folder / LOCK_NAME):
                            left.unlink(missing_ok=True)
                        raise
        except RunError:
            _remove_empty(made)
            raise

    @classmethod
    def resume(cls, folder: str | os.PathLike[str], step: int, header: RunHeader | None = None) -> RunWriter:
        """Go on with a run from the training state after `step`.

        Everything that the previous attempt wrote for later steps is superseded in one transaction: measurements,
        arrays, scalars, events and memory. What belongs to `step` and before stays; `steps` tells what that is.

        Parameters
        ----------
        folder
            Folder of the run.
        step
            Optimizer step of the training state that training goes on from.
        header
            The present settings: signals and fields that the run did not have are added, the rest is
            kept with the attempt (`Run.attempts`).

        Raises
        ------
        RunError
            Where there is no run, another process writes to it, or it cannot be written.
        """
        folder = Path(folder)
        step = _step(step)
        with failing("resume the run in", folder):
            if not (folder / DATABASE).is_file():
                raise RunError(
                    f"there is no run in {folder} to resume", "Name the folder of the run, or start a new one"
                )
            with _held(folder) as lock:
                return cls(folder, lock, (step, header))

    def _supersede(self, step: int, header: RunHeader | None) -> None:
        attempt = header or self.header
        merged = replace(
            self.header,
            status="running",
            signals={**attempt.signals, **self.header.signals},
            fields={
                signal: list({f.metric: f for h in (self.header, attempt) for f in h.fields.get(signal, [])}.values())
                for signal in (*self.header.fields, *attempt.fields)
            },
        )
        with self._transaction("resume the run in") as (db, batch):
            later = supersede(db, step)
            db.execute("UPDATE header SET json = ?", (header_to_json(merged),))
            row = (batch, step, time.time(), later, _process(attempt))
            db.execute("INSERT INTO attempt VALUES (?, ?, ?, ?, ?)", row)
        self._load()

    def _sweep(self) -> None:
        """Delete array and memory files that no row names: left by a kill, or superseded."""
        db = self._open()
        named = {file for table in ("array", "memory") for (file,) in db.execute(f"SELECT DISTINCT file FROM {table}")}
        for pattern in (
            "arrays/step-*.safetensors",
            "memory/step-*.safetensors",
            "arrays/.step-*.tmp",
            "memory/.step-*.tmp",
        ):
            for path in self.folder.glob(pattern):
                if path.relative_to(self.folder).as_posix() not in named:
                    path.unlink(missing_ok=True)
        for path in self.folder.glob(f".{DATABASE}.*.tmp*"):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------ writing
    @property
    def steps(self) -> tuple[int, ...]:
        """Return the measured steps, rising; after `resume`, those that need not be measured again."""
        return tuple(sorted(self._steps))

    def write(
        self,
        step: int,
        records: Iterable[Record],
        tokens_seen: int | None = None,
        wall_time: float | None = None,
        memory: Memory | None = None,
        events: Iterable[tuple[str, str, Mapping[str, Any]]] = (),
    ) -> None:
        """Write one measurement; it is acknowledged when this returns.

        Parameters
        ----------
        step
            Optimizer step; measured once per run.
        records
            All records of the measurement, each of this step, no two of the same signal, metric, site, label and split.
        tokens_seen, wall_time
            Training tokens and seconds of training until here.
        memory
            Signal -> name -> array: what the signals want back after a resume (`read_memory`).
        events
            (kind, text, data) of what happened at this measurement, as in `event`.

        Raises
        ------
        RunError
            Where a record is not allowed, the step was written before, or the folder cannot be written; nothing of
            the measurement is then stored.
        """
        step = _step(step)
        points, arrays = sort_records(step, records, self.folder)
        names = [(*key, json.dumps(sites)) for key, sites, _ in points]
        happened = [(step, time.time(), k, t, to_json(dict(data), f"event {k}")) for k, t, data in events]
        with self._mutex:
            if step in self._steps:
                raise RunError(
                    f"step {step} of {self.folder} was written before", "Write each step once, all records together"
                )
            with self._transaction(f"write step {step} to") as (db, batch):
                array_file = self._write_arrays(
                    "arrays", step, batch, {(r.signal, r.metric, r.label, r.split, r.site): r.array for r in arrays}
                )
                unknown = [name for name in names if name not in self._series]
                series = dict(zip(unknown, itertools.count(max(self._series.values(), default=0) + 1)))
                first = self._next_point
                db.executemany(
                    "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?)", [(i, *name) for name, i in series.items()]
                )
                db.executemany(
                    "INSERT INTO point VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (first + i, series.get(name) or self._series[name], step, *columns)
                        for i, (name, (_, _, columns)) in enumerate(zip(names, points))
                    ],
                )
                db.executemany(
                    "INSERT INTO array VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (step, r.signal, r.metric, r.label, r.split, r.site, r.stderr, r.n, r.null, array_file)
                        for r in arrays
                    ],
                )
                db.execute(
                    "INSERT INTO measurement VALUES (?, ?, ?, ?, ?, ?, 0)",
                    (batch, step, tokens_seen, wall_time, first, first + len(points) - 1),
                )
                db.executemany("INSERT INTO event VALUES (NULL, ?, ?, ?, ?, ?, ?)", [(batch, *row) for row in happened])
                forgotten = self._insert_memory(db, step, batch, memory) if memory else []
            self._series.update(series)
            self._steps.add(step)
            self._next_point += len(points)
            self._forget(forgotten)

    def _write_arrays(
        self, kind: str, step: int, batch: int, arrays: Mapping[tuple[str | None, ...], Any]
    ) -> str | None:
        if not arrays:
            return None
        # The number of the transaction keeps a file that a reader still knows from being replaced under it.
        file = f"{kind}/step-{step:09d}-{batch}.safetensors"
        write_file(self.folder / file, arrays_to_bytes(arrays))
        self._new_files.append(file)
        return file

    def write_scalars(
        self,
        metric: str,
        steps: int | Sequence[int] | np.ndarray,
        values: float | Sequence[float] | np.ndarray,
    ) -> None:
        """Add dense training scalars ("loss", "learning_rate"); NaN and infinity are stored as they are.

        They are buffered, and written with the next measurement, event, `flush` or `checkpoint`, or by the first call
        more than two seconds after the last of these.

        Raises
        ------
        RunError
            Where steps and values differ in number, steps do not rise, or the folder cannot be written.
        """
        new_steps = [operator.index(s) for s in np.atleast_1d(steps).tolist()]
        new_values = [float(v) for v in np.atleast_1d(values).tolist()]
        if len(new_steps) != len(new_values):
            raise RunError(
                f"scalar {metric}: {len(new_steps)} steps but {len(new_values)} values", "Give one value per step"
            )
        if not new_steps:
            return
        with self._mutex:
            last = self._last_scalar.get(metric, -1)
            for step in new_steps:
                if step <= last:
                    raise RunError(
                        f"scalar {metric}: step {step} comes after step {last}", "Give rising steps, each once"
                    )
                last = step
            buffered = self._buffer.setdefault(metric, ([], []))
            buffered[0].extend(new_steps)
            buffered[1].extend(new_values)
            self._last_scalar[metric] = last
            if time.monotonic() - self._last_flush > FLUSH_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Write buffered scalars now."""
        with self._transaction("write scalars to"):
            pass  # every transaction writes what is buffered

    def event(self, step: int, kind: str, text: str, data: Mapping[str, Any] | None = None) -> None:
        """Write an event at once: an "alert", a "finding", a "stop" decision, with a sentence and plain data."""
        row = (_step(step), time.time(), kind, text, to_json(dict(data or {}), f"event {kind}"))
        with self._transaction("write an event to") as (db, batch):
            db.execute("INSERT INTO event VALUES (NULL, ?, ?, ?, ?, ?, ?)", (batch, *row))

    # ------------------------------------------------------------------------------------------------- memory
    def write_memory(self, step: int, memory: Memory) -> None:
        """Write what the signals remember of the measurement at `step`; `write(memory=)` does it in one transaction.

        The last three memories are kept, and those named by `checkpoint`.
        """
        if _step(step) not in self._steps:
            raise RunError(
                f"memory of step {step}: {self.folder} has no such measurement", "Write the measurement first"
            )
        with self._transaction(f"write memory of step {step} to") as (db, batch):
            forgotten = self._insert_memory(db, step, batch, memory)
        self._forget(forgotten)

    def _insert_memory(self, db: sqlite3.Connection, step: int, batch: int, memory: Memory) -> list[str]:
        arrays: dict[tuple[str | None, ...], Any] = {
            (signal, name): array for signal, named in memory.items() for name, array in named.items()
        }
        file = self._write_arrays("memory", step, batch, arrays)
        if file is None:
            return []
        db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?, 0)", (step, file))
        db.execute("UPDATE measurement SET remembers = 1 WHERE step = ?", (step,))
        old = db.execute(
            "SELECT step, file FROM memory WHERE kept = 0 ORDER BY step DESC LIMIT -1 OFFSET ?", (MEMORIES_KEPT,)
        )
        forgotten = old.fetchall()
        db.executemany("DELETE FROM memory WHERE step = ?", [(s,) for s, _ in forgotten])
        return [file for _, file in forgotten]

    def _forget(self, files: Iterable[str]) -> None:
        for file in files:
            (self.folder / file).unlink(missing_ok=True)

    def read_memory(self, step: int | None = None) -> dict[str, dict[str, np.ndarray]]:
        """Return the memory of the last measurement at or before `step` (default: the last one); empty if it had none.

        Raises
        ------
        RunError
            Where that measurement had a memory that is no longer kept.
        """
        return read_memory(self._open(), self.folder, step)

    def checkpoint(self, step: int) -> None:
        """Tell that the training state after `step` was saved, so that `resume(folder, step)` is exact.

        Writes buffered scalars and keeps the signals' memory that a resume from there needs.
        """
        step = _step(step)
        with self._transaction(f"keep a checkpoint of step {step} in") as (db, _):
            db.execute(
                "UPDATE memory SET kept = 1 WHERE step = (SELECT max(step) FROM measurement WHERE step <= ?)", (step,)
            )

    # ------------------------------------------------------------------------------------------------- ending
    def finish(self, status: Status = "finished") -> None:
        """Write what is buffered, set the status, and close; a second call does nothing."""
        if self._db is None or self._pid != os.getpid():
            return
        try:
            header = replace(self.header, status=status)
            with self._transaction("finish the run in") as (db, _):
                db.execute("UPDATE header SET json = ?", (header_to_json(header),))
            self.header = header
            try:  # one plain file, readable from read-only media; not possible while somebody reads
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._db.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.OperationalError:
                pass
        finally:
            self._db.close()
            self._db = None
            self._lock.release()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finish("crashed" if kind else "finished")
        except RunError as failure:
            if kind is None:
                raise
            _log.warning("%s", failure)  # the exception on its way out says more

    # ----------------------------------------------------------------------------------------------- internals
    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise RunError(f"the run in {self.folder} was finished", "Resume it to write more")
        if self._pid != os.getpid():
            raise RunError(
                f"the run in {self.folder} belongs to process {self._pid}", "Write from the process that opened it"
            )
        return self._db

    @contextmanager
    def _transaction(self, what: str) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Run the block, and write the buffered scalars, in one transaction; yields the database and its number."""
        with self._mutex, failing(what, self.folder):
            db, batch = self._open(), self._batch + 1
            self._new_files.clear()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db, batch
                db.executemany(
                    "INSERT INTO scalar VALUES (NULL, ?, ?, ?, ?, ?, ?)",
                    [
                        (batch, metric, s[0], s[-1], np.array(s, "<i8").tobytes(), np.array(v, "<f8").tobytes())
                        for metric, (s, v) in self._buffer.items()
                    ],
                )
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                self._forget(self._new_files)
                raise
            self._batch = batch
            self._buffer.clear()
            self._last_flush = time.monotonic()


@contextmanager
def _held(folder: Path) -> Iterator[WriterLock]:
    """Hold the folder's lock, and give it back where the block fails."""
    lock = WriterLock(folder)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def read_memory(db: sqlite3.Connection, folder: Path, step: int | None) -> dict[str, dict[str, np.ndarray]]:
    """Return the memory of the last measurement at or before `step`; see `RunWriter.read_memory`."""
    row = db.execute(
        "SELECT measurement.step, remembers, file FROM measurement LEFT JOIN memory USING (step) "
        "WHERE measurement.step <= ? ORDER BY measurement.step DESC LIMIT 1",
        (2**62 if step is None else step,),
    ).fetchone()
    if row is None or not row[1]:
        return {}
    if row[2] is None:
        raise RunError(
            f"the signals' memory of step {row[0]} in {folder} is no longer kept",
            "Resume from a later step, or call RunWriter.checkpoint when the training state is saved",
        )
    memory: dict[str, dict[str, np.ndarray]] = {}
    for (signal, name), array in read_arrays(folder / row[2]).items():
        memory.setdefault(str(signal), {})[str(name)] = array
    return memory


def _step(step: int) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if number < 0:
        raise RunError(f"step {step!r} is not a step", "Give a whole number from 0")
    return number


def _process(header: RunHeader) -> str:
    provenance = {
        k: v for k, v in asdict(header).items() if k in ("versions", "hardware", "command", "commit", "settings")
    }
    return to_json({"pid": os.getpid(), "host": socket.gethostname(), **provenance}, "run header")


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that a failed `create` made, innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


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


def _taken(folder: Path) -> RunError:
    return RunError(
        f"run folder {folder} already holds a run",
        "Choose another folder, resume the run, or pass overwrite=True to replace it",
    )
