"""Read a run: open its folder while it is written, or years later, without the code that wrote it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from lmtrace.errors import RunError
from lmtrace.records.arrays import array_rows, find_array, load_array
from lmtrace.records.database import Database
from lmtrace.records.files import failing, parsed_object
from lmtrace.records.layout import DATABASE, LAST_BATCH, header_from_json
from lmtrace.records.lock import writer_alive
from lmtrace.records.memory import read_memory
from lmtrace.records.scalars import join_scalars
from lmtrace.records.schema import Attempt, Changes, Event, Field, Record, RunHeader, Series, SeriesKey, Status
from lmtrace.records.series import read_records, read_series
from lmtrace.records.wording import key_name, listed, named, reach


def open_database(path: str | os.PathLike[str]) -> Database:
    """Open the database of a run to read it; works while it is being written, and on read-only media.

    Parameters
    ----------
    path
        The run's folder, or its `run.sqlite`.

    Raises
    ------
    RunError
        Where there is no run, or it cannot be read.
    """
    path = Path(path)
    folder = path.parent if path.name == DATABASE else path
    with failing("read the run in", folder):
        if not (folder / DATABASE).is_file():
            runs = sorted(str(p.parent) for p in folder.glob(f"*/{DATABASE}"))[:5] if folder.is_dir() else []
            state = "holds no run" if folder.is_dir() else "is not a folder" if folder.exists() else "does not exist"
            raise RunError(
                f"{folder} {state}", f"Runs below it: {', '.join(runs)}" if runs else "Name the folder of a run"
            )
        return Database(folder, folder / DATABASE)


class RunReader:
    """The records of a run, read only. Safe to share between threads.

    Every question is answered from one consistent state of the database, as of the question. `lmtrace.open_run` gives a
    `lmtrace.run.Run`, which also knows what the records say.
    """

    def __init__(self, db: Database) -> None:
        self.folder = db.folder
        self._db = db
        self._header = ("", RunHeader())

    def close(self) -> None:
        """Close the database; the run cannot be asked afterwards."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------- the run
    @property
    def header(self) -> RunHeader:
        """Return who, what and with which settings; its status is the one of `status`."""
        ((text,),) = self._db.rows("SELECT json FROM header")
        if text != self._header[0]:
            self._header = (text, header_from_json(text))
        header = self._header[1]
        if header.status == "running" and not writer_alive(self.folder):
            ((text,),) = self._db.rows("SELECT json FROM header")  # it may have finished between the two questions
            finished = header_from_json(text)
            return replace(finished, status="crashed") if finished.status == "running" else finished
        return header

    @property
    def status(self) -> Status:
        """Return the status; "running" only while the writer's process lives, otherwise "crashed"."""
        return self.header.status

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Return every start of the run: the first, and one per resume."""
        rows = self._db.rows("SELECT step AS resumed_step, started, superseded, json FROM attempt ORDER BY batch")
        return tuple(Attempt(step, started, num, parsed_object(text)) for step, started, num, text in rows)

    @property
    def steps(self) -> np.ndarray:
        """Return [measurements] int64: the measured steps, rising."""
        return np.array([s for (s,) in self._db.rows("SELECT step FROM measurement ORDER BY step")], dtype=np.int64)

    @property
    def tokens_seen(self) -> np.ndarray:
        """Return [measurements] float64: training tokens until each of `steps`, NaN where not given."""
        return np.array(self._db.rows("SELECT tokens_seen FROM measurement ORDER BY step"), dtype=np.float64).reshape(
            -1
        )

    @property
    def wall_time(self) -> np.ndarray:
        """Return [measurements] float64: seconds of training until each of `steps`, NaN where not given."""
        return np.array(self._db.rows("SELECT wall_time FROM measurement ORDER BY step"), dtype=np.float64).reshape(-1)

    def field(self, signal: str, metric: str) -> Field:
        """Return what a metric means; where the header does not say, a field that only has its name."""
        found = [field for field in self.header.fields.get(signal, []) if field.metric == metric]
        return found[0] if found else Field(metric=metric, title=f"{signal} {metric}".replace("_", " "))

    # ------------------------------------------------------------------------------------------------- numbers
    def keys(self) -> tuple[SeriesKey, ...]:
        """Return every series of the run, in the order in which they first appeared."""
        rows = self._db.rows("SELECT signal, metric, label, split FROM series ORDER BY id")
        return tuple(SeriesKey(*row) for row in dict.fromkeys(rows))

    def find(
        self, signal: str | None = None, metric: str | None = None, label: str | None = None, split: str | None = None
    ) -> tuple[SeriesKey, ...]:
        """Return the keys that match; None matches everything."""
        rows = self._db.rows(
            "SELECT signal, metric, label, split FROM series WHERE ifnull(?1, signal) = signal "
            "AND ifnull(?2, metric) = metric AND (?3 IS NULL OR label = ?3) AND (?4 IS NULL OR split = ?4) ORDER BY id",
            signal, metric, label, split,
        )  # fmt: skip
        return tuple(SeriesKey(*row) for row in dict.fromkeys(rows))

    def series(
        self,
        signal: str | None = None,
        metric: str | None = None,
        label: str | None = None,
        split: str | None = None,
        site: str | None = None,
    ) -> Series:
        """Return the one series that matches.

        Parameters
        ----------
        signal, metric, label, split
            None matches everything; where several match, the one whose label and split are exactly those given.
        site
            Only this site; None for all.

        Raises
        ------
        RunError
            Where none or several match, or the site is not there; the message lists the choices.
        """
        found = self.find(signal, metric, label, split)
        exact = [key for key in found if (key.label, key.split) == (label, split)]
        key = (exact if len(exact) == 1 else found)[0] if len(exact) == 1 or len(found) == 1 else None
        if key is None:
            asked = named(signal=signal, metric=metric, label=label, split=split)
            choices = found or self.find(signal, metric) or self.find(signal) or self.keys()
            raise RunError(
                f"{'several' if found else 'no'} series of {self.folder} match {asked}",
                f"Choose from: {listed([key_name(k) for k in choices])}",
            )
        model = self.header.model.get("sites")
        order = model if isinstance(model, list) else None
        series = read_series(self._db, key, self.field(key.signal, key.metric), order)
        if site is None:
            return series
        if site not in series.sites:
            raise RunError(
                f"{key_name(key)} has no site {site!r}", f"Choose from: {listed([str(s) for s in series.sites])}"
            )
        return series.at(site)

    def records(self, first: int = 0, arrays: bool = True) -> Iterator[Record]:
        """Yield every record from step `first` on, by step, as it was written.

        Parameters
        ----------
        first
            First step wanted.
        arrays
            Whether to read the records with arrays too.
        """
        for step in self.steps[self.steps >= first].tolist():
            yield from self._records_of(step, arrays)

    def _records_of(self, step: int, arrays: bool) -> list[Record]:
        with self._db.snapshot():
            records = read_records(self._db, step)
            found = array_rows(self._db, "step = ?", step) if arrays else []
        return records + [load_array(self._db, row) for row in found]

    # -------------------------------------------------------------------------------------------------- arrays
    def array_keys(self) -> tuple[SeriesKey, ...]:
        """Return the quantities that are arrays, in the order in which they first appeared."""
        rows = self._db.rows("SELECT signal, metric, label, split FROM array ORDER BY id")
        return tuple(SeriesKey(*row) for row in dict.fromkeys(rows))

    def arrays(self, signal: str, metric: str) -> Iterator[Record]:
        """Yield the records of a quantity that is an array, by step."""
        for row in array_rows(self._db, "signal = ? AND metric = ?", signal, metric):
            yield load_array(self._db, row)

    def array(
        self,
        step: int,
        signal: str,
        metric: str,
        site: str | None = None,
        label: str | None = None,
        split: str | None = None,
    ) -> np.ndarray:
        """Return the one array that matches; None matches everything, as in `series`.

        Raises
        ------
        RunError
            Where none or several match; the message lists the choices.
        """
        array = find_array(self._db, step, signal, metric, site, label, split).array
        assert array is not None
        return array

    def read_memory(self, step: int | None = None) -> dict[str, dict[str, np.ndarray]]:
        """Return what the signals remembered at or before `step`; see `RunWriter.read_memory`."""
        with self._db.snapshot() as db:
            return read_memory(db, self.folder, step)

    # ------------------------------------------------------------------------------------- scalars and events
    @property
    def scalar_metrics(self) -> tuple[str, ...]:
        """Return the names of the dense training scalars."""
        return tuple(m for (m,) in self._db.rows("SELECT metric FROM scalar GROUP BY metric ORDER BY min(id)"))

    def scalars(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (steps int64, values float64) of a dense training scalar ("loss"), by rising step."""
        rows = self._db.rows('SELECT metric, steps, "values" FROM scalar WHERE metric = ? ORDER BY first', metric)
        if not rows:
            raise RunError(
                f"{self.folder} has no scalar {metric!r}", f"Choose from: {listed(list(self.scalar_metrics))}"
            )
        return join_scalars(rows)[metric]

    def events(self, kind: str | None = None) -> tuple[Event, ...]:
        """Return what happened, in the order in which it was written; only one kind where given."""
        rows = self._db.rows("SELECT step, kind, text, data, time FROM event ORDER BY id")
        return tuple(Event(s, k, t, parsed_object(d), at) for s, k, t, d, at in rows if kind in (None, k))

    # ----------------------------------------------------------------------------------------------------- live
    @property
    def cursor(self) -> int:
        """Return the number of the last transaction; `since(cursor)` gives what came after it."""
        ((cursor,),) = self._db.rows(LAST_BATCH)
        return cursor

    def since(self, cursor: int, arrays: bool = True) -> Changes:
        """Return what the run gained after the transaction numbered `cursor`; 0 for everything.

        A reader that keeps up calls it again with the cursor of the answer.
        """
        with self._db.snapshot():
            superseded = self._db.rows("SELECT min(step) AS resumed_step FROM attempt WHERE batch > ?", cursor)[0][0]
            steps = self._db.rows("SELECT step FROM measurement WHERE batch > ? ORDER BY step", cursor)
            scalars = self._db.rows('SELECT metric, steps, "values" FROM scalar WHERE batch > ? ORDER BY first', cursor)
            events = self._db.rows("SELECT step, kind, text, data, time FROM event WHERE batch > ? ORDER BY id", cursor)
            return Changes(
                self.cursor, superseded, [r for (step,) in steps for r in self._records_of(step, arrays)],
                join_scalars(scalars), [Event(s, k, t, parsed_object(d), at) for s, k, t, d, at in events], self.status,
            )  # fmt: skip

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}: {self.status}, {reach(self.steps)}, {len(self.keys())} series)"
