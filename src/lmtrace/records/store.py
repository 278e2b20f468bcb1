"""Write a run: one folder, one writer, one transaction per measurement.

A measurement is acknowledged when `RunWriter.write` returns: it then survives kill -9 and loss of power. Whatever
happens before, readers see either the whole measurement or nothing of it.
"""

from __future__ import annotations

import itertools
import json
import logging
import operator
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lmtrace.errors import RunError
from lmtrace.records.database import checked_rows
from lmtrace.records.files import arrays_to_bytes, failing, write_file
from lmtrace.records.layout import DATABASE, LAST_BATCH, header_from_json, header_to_json, open_for_writing, to_json
from lmtrace.records.lock import WriterLock
from lmtrace.records.memory import Memory, insert_memory, keep_memory, read_memory
from lmtrace.records.opening import cut_back, held, new_run, sweep
from lmtrace.records.rows import sort_records
from lmtrace.records.scalars import ScalarBuffer
from lmtrace.records.schema import Record, RunHeader, Status

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0

_writers: weakref.WeakValueDictionary[Path, RunWriter] = weakref.WeakValueDictionary()
"""The writers of this process by folder: a training that was interrupted and started again takes its folder back."""


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
        _writers[folder.absolute()] = self
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        self._new_files: list[str] = []
        self._last_flush = time.monotonic()
        try:
            self._load()
            if resumed:
                self._cut_back(*resumed)
            sweep(self._open(), self.folder)
        except BaseException:
            self._db.close()
            raise

    def _load(self) -> None:
        """Take the counters from the database."""
        db = self._open()
        rows = partial(checked_rows, db, self.folder)
        self._series = {tuple(key): number for number, *key in rows("SELECT * FROM series")}
        self._steps = {step for (step,) in rows("SELECT step FROM measurement")}
        ((last_point,),) = rows("SELECT ifnull(max(id), 0) AS id FROM point")
        self._next_point = last_point + 1
        ((self._batch,),) = rows(LAST_BATCH)
        self._scalars = ScalarBuffer(dict(rows("SELECT metric, max(last) AS last FROM scalar GROUP BY metric")))
        self.header = header_from_json(rows("SELECT json FROM header")[0][0])

    # ------------------------------------------------------------------------------------------------ opening
    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], header: RunHeader, overwrite: bool = False, take_over: bool = False
    ) -> RunWriter:
        """Start a new run in `folder`, made where it does not exist.

        Parameters
        ----------
        folder
            Where the run will live. It may hold other files, but no run.
        header
            What is known of the run; its status becomes "running".
        overwrite
            Replace a run that is there (its database, arrays and memory; other files stay).
        take_over
            Whether an attempt that this process has begun and not ended, as a notebook cell that was stopped, ends as
            "interrupted" and makes room.

        Raises
        ------
        RunError
            Where the folder holds a run, is being written to, or cannot be written. Nothing is left half-written.
        """
        folder = Path(folder)
        if overwrite and take_over:
            _interrupt(folder)
        with new_run(folder, header, overwrite) as lock:
            return cls(folder, lock, None)

    @classmethod
    def resume(
        cls, folder: str | os.PathLike[str], step: int, header: RunHeader | None = None, take_over: bool = False
    ) -> RunWriter:
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
        take_over
            As for `create`.

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
            if take_over:
                _interrupt(folder)
            with held(folder) as lock:
                return cls(folder, lock, (step, header))

    def _cut_back(self, step: int, header: RunHeader | None) -> None:
        with self._transaction("resume the run in") as (db, batch):
            cut_back(db, self.folder, batch, step, self.header, header or self.header)
        self._load()

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
        with self._mutex:
            if self._scalars.add(metric, steps, values) and time.monotonic() - self._last_flush > FLUSH_SECONDS:
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
        return insert_memory(db, self.folder, step, file)

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
            keep_memory(db, step)

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
                self._scalars.insert(db, batch)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                self._forget(self._new_files)
                raise
            self._batch = batch
            self._scalars.clear()
            self._last_flush = time.monotonic()


def _interrupt(folder: Path) -> None:
    """End what this process still writes into the folder."""
    before = _writers.get(folder.absolute())
    if before is not None:
        before.finish("interrupted")


def _step(step: int) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if number < 0:
        raise RunError(f"step {step!r} is not a step", "Give a whole number from 0")
    return number
