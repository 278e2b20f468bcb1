"""Read a run: open its folder while it is written, or years later, without the code that wrote it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrace.errors import ConfigError, RunError
from lmtrace.records.files import failing, parsed, read_arrays
from lmtrace.records.layout import DATABASE, LAST_BATCH, header_from_json, open_for_reading
from lmtrace.records.lock import writer_alive
from lmtrace.records.rows import join_scalars, unpack_records
from lmtrace.records.schema import Field, Record, RunHeader, Series, SeriesKey, Status
from lmtrace.records.store import read_memory

if TYPE_CHECKING:
    import pandas

_COLUMNS = ("value", "stderr", "null", "n")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at a step: an alert, a finding, a decision to stop.

    Attributes
    ----------
    step, time
        When: optimizer step, and seconds since 1970.
    kind, text, data
        What: a word ("alert"), a sentence, plain data.
    """

    step: int
    kind: str
    text: str
    data: dict[str, Any]
    time: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a run.

    Attributes
    ----------
    step
        Step that it resumed from; None for the first.
    started
        Seconds since 1970.
    superseded
        Number of measurements of the attempt before that it replaced.
    provenance
        Process, host, versions, hardware, command, commit and settings of this start.
    """

    step: int | None
    started: float
    superseded: int
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a run gained since a cursor.

    Attributes
    ----------
    cursor
        To be given to the next `Run.since`.
    superseded_after
        Set where the run was resumed in between: forget every step after this one, then take the rest.
    records, events
        New ones, by step.
    scalars
        Metric -> (steps, values): new ones.
    status
        Status now.
    """

    cursor: int
    superseded_after: int | None
    records: list[Record]
    scalars: dict[str, tuple[np.ndarray, np.ndarray]]
    events: list[Event]
    status: Status


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run to read it; works while it is being written, and on read-only media.

    Parameters
    ----------
    path
        The run's folder, or its `run.sqlite`.

    Raises
    ------
    RunError
        Where there is no run, or it cannot be read.

    Examples
    --------
    >>> run = open_run("runs/first")                                         # doctest: +SKIP
    >>> run.series(signal="probe", metric="accuracy", label="role").values   # doctest: +SKIP
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
        return Run(folder, open_for_reading(folder / DATABASE))


class Run:
    """A run, read only. Made by `open_run`. Safe to share between threads.

    Every question is answered from one consistent state of the database, as of the question.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self.folder = folder
        self._db = db
        self._mutex = threading.RLock()
        self._header = ("", RunHeader())

    def close(self) -> None:
        """Close the database; the run cannot be asked afterwards."""
        with self._mutex:
            self._db.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._db.close()

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, failing("read the run in", self.folder):
            outermost = not self._db.in_transaction
            if outermost:
                self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if outermost and self._db.in_transaction:
                    self._db.execute("COMMIT")

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._snapshot() as db:
            return db.execute(query, values).fetchall()

    # ------------------------------------------------------------------------------------------------- the run
    @property
    def header(self) -> RunHeader:
        """Return who, what and with which settings; its status is the one of `status`."""
        ((text,),) = self._rows("SELECT json FROM header")
        if text != self._header[0]:
            self._header = (text, header_from_json(text))
        header = self._header[1]
        if header.status == "running" and not writer_alive(self.folder):
            ((text,),) = self._rows("SELECT json FROM header")  # it may have finished between the two questions
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
        rows = self._rows("SELECT step, started, superseded, json FROM attempt ORDER BY batch")
        return tuple(Attempt(step, started, num, parsed(text)) for step, started, num, text in rows)

    @property
    def steps(self) -> np.ndarray:
        """Return [measurements] int64: the measured steps, rising."""
        return np.array([s for (s,) in self._rows("SELECT step FROM measurement ORDER BY step")], dtype=np.int64)

    @property
    def tokens_seen(self) -> np.ndarray:
        """Return [measurements] float64: training tokens until each of `steps`, NaN where not given."""
        return np.array(self._rows("SELECT tokens_seen FROM measurement ORDER BY step"), dtype=np.float64).reshape(-1)

    @property
    def wall_time(self) -> np.ndarray:
        """Return [measurements] float64: seconds of training until each of `steps`, NaN where not given."""
        return np.array(self._rows("SELECT wall_time FROM measurement ORDER BY step"), dtype=np.float64).reshape(-1)

    def field(self, signal: str, metric: str) -> Field:
        """Return what a metric means; where the header does not say, a field that only has its name."""
        found = [field for field in self.header.fields.get(signal, []) if field.metric == metric]
        return found[0] if found else Field(metric=metric, title=f"{signal} {metric}".replace("_", " "))

    # ------------------------------------------------------------------------------------------------- numbers
    def keys(self) -> tuple[SeriesKey, ...]:
        """Return every series of the run, in the order in which they first appeared."""
        rows = self._rows("SELECT signal, metric, label, split FROM series ORDER BY id")
        return tuple(SeriesKey(*row) for row in dict.fromkeys(rows))

    def find(
        self, signal: str | None = None, metric: str | None = None, label: str | None = None, split: str | None = None
    ) -> tuple[SeriesKey, ...]:
        """Return the keys that match; None matches everything."""
        rows = self._rows(
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
            asked = _named(signal=signal, metric=metric, label=label, split=split)
            choices = found or self.find(signal, metric) or self.find(signal) or self.keys()
            raise RunError(
                f"{'several' if found else 'no'} series of {self.folder} match {asked}",
                f"Choose from: {_listed([_key_name(k) for k in choices])}",
            )
        series = self._read_series(key)
        if site is None:
            return series
        if site not in series.sites:
            raise RunError(
                f"{_key_name(key)} has no site {site!r}", f"Choose from: {_listed([str(s) for s in series.sites])}"
            )
        return series.at(site)

    def _read_series(self, key: SeriesKey) -> Series:
        field = self.field(key.signal, key.metric)
        with self._snapshot() as db:
            parts = [
                (number, tuple(parsed(sites)))
                for number, sites in db.execute(
                    "SELECT id, sites FROM series WHERE signal = ? AND metric = ? AND label IS ? AND split IS ?",
                    _parts(key),
                )
            ]
            rows = [
                (row, sites)
                for number, sites in parts
                for row in db.execute(
                    'SELECT step, value, stderr, "null", n, missing FROM point WHERE series = ? ORDER BY step',
                    (number,),
                )
            ]
        rows.sort(key=lambda item: item[0][0])
        sites = self._in_model_order(dict.fromkeys(site for _, row_sites in parts for site in row_sites))
        columns = {site: i for i, site in enumerate(sites)}
        filled = {name: np.full((len(rows), len(sites)), np.nan) for name in _COLUMNS}
        missing: dict[tuple[int, str | None], str] = {}
        places: dict[tuple[str | None, ...], list[int]] = {}
        for i, ((step, *blobs, reasons), row_sites) in enumerate(rows):
            place = places.setdefault(row_sites, [columns[site] for site in row_sites])
            for name, blob in zip(_COLUMNS, blobs):
                if blob is not None:
                    filled[name][i, place] = np.frombuffer(blob, "<f8")
            for reason, where in parsed(reasons).items() if reasons else ():
                missing |= {(step, row_sites[j]): reason for j in where}
        steps = np.array([row[0] for row, _ in rows], dtype=np.int64)
        return Series(
            key=key, field=field, steps=steps, sites=sites, missing=missing, values=filled.pop("value"), **filled
        )

    def _in_model_order(self, sites: dict[str | None, None]) -> tuple[str | None, ...]:
        """Return sites in the order of the model, where the header tells it, otherwise as they first appeared."""
        model = self.header.model.get("sites")
        order = {site: i for i, site in enumerate(model)} if isinstance(model, list) else {}
        return tuple(sorted(sites, key=lambda site: order.get(site, len(order))))

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
        with self._snapshot() as db:
            points = db.execute(
                'SELECT signal, metric, label, split, sites, value, stderr, n, "null", missing FROM measurement '
                "JOIN point ON point.id BETWEEN first AND last JOIN series ON series.id = point.series "
                "WHERE measurement.step = ? ORDER BY point.id",
                (step,),
            ).fetchall()
            found = list(self._array_rows("step = ?", step)) if arrays else []
        records = [record for row in points for record in unpack_records(step, *row)]
        return records + [self._load(row) for row in found]

    # -------------------------------------------------------------------------------------------------- arrays
    def array_keys(self) -> tuple[SeriesKey, ...]:
        """Return the quantities that are arrays, in the order in which they first appeared."""
        rows = self._rows("SELECT signal, metric, label, split FROM array ORDER BY id")
        return tuple(SeriesKey(*row) for row in dict.fromkeys(rows))

    def arrays(self, signal: str, metric: str) -> Iterator[Record]:
        """Yield the records of a quantity that is an array, by step."""
        for row in self._array_rows("signal = ? AND metric = ?", signal, metric):
            yield self._load(row)

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
        rows = self._array_rows("step = ? AND signal = ? AND metric = ?", int(step), signal, metric)
        wanted = (label, split, site)
        found = [row for row in rows if all(w in (None, has) for w, has in zip(wanted, row[3:6]))]
        exact = [row for row in found if row[3:6] == wanted]
        found = exact if len(exact) == 1 else found
        if len(found) != 1:
            steps = sorted({row[0] for row in self._array_rows("signal = ? AND metric = ?", signal, metric)})
            choices = [_named(site=r[5], label=r[3], split=r[4]) for r in found or rows] or [f"step {s}" for s in steps]
            choices = choices or [f"{k.signal}.{k.metric}" for k in self.array_keys()]
            raise RunError(
                f"{'several arrays' if found else 'no array'} {signal}.{metric} at step {step} match "
                f"{_named(site=site, label=label, split=split)}",
                f"Choose from: {_listed(choices)}",
            )
        array = self._load(found[0]).array
        assert array is not None
        return array

    def _array_rows(self, condition: str, *values: object) -> list[Any]:
        return self._rows(
            f'SELECT step, signal, metric, label, split, site, stderr, n, "null", file FROM array WHERE {condition} '
            "ORDER BY step, id",
            *values,
        )

    def _load(self, row: tuple[Any, ...]) -> Record:
        step, signal, metric, label, split, site, stderr, n, null, file = row
        key = (signal, metric, label, split, site)
        return Record(
            step=step, signal=signal, metric=metric, label=label, split=split, site=site, stderr=stderr, n=n, null=null,
            array=read_arrays(self.folder / file, key)[key],
        )  # fmt: skip

    def read_memory(self, step: int | None = None) -> dict[str, dict[str, np.ndarray]]:
        """Return what the signals remembered at or before `step`; see `RunWriter.read_memory`."""
        with self._snapshot() as db:
            return read_memory(db, self.folder, step)

    # ------------------------------------------------------------------------------------- scalars and events
    @property
    def scalar_metrics(self) -> tuple[str, ...]:
        """Return the names of the dense training scalars."""
        return tuple(m for (m,) in self._rows("SELECT metric FROM scalar GROUP BY metric ORDER BY min(id)"))

    def scalars(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (steps int64, values float64) of a dense training scalar ("loss"), by rising step."""
        rows = self._rows('SELECT metric, steps, "values" FROM scalar WHERE metric = ? ORDER BY first', metric)
        if not rows:
            raise RunError(
                f"{self.folder} has no scalar {metric!r}", f"Choose from: {_listed(list(self.scalar_metrics))}"
            )
        return join_scalars(rows)[metric]

    def events(self, kind: str | None = None) -> tuple[Event, ...]:
        """Return what happened, in the order in which it was written; only one kind where given."""
        rows = self._rows("SELECT step, kind, text, data, time FROM event ORDER BY id")
        return tuple(Event(s, k, t, parsed(d), at) for s, k, t, d, at in rows if kind in (None, k))

    # ----------------------------------------------------------------------------------------------------- live
    @property
    def cursor(self) -> int:
        """Return the number of the last transaction; `since(cursor)` gives what came after it."""
        ((cursor,),) = self._rows(LAST_BATCH)
        return cursor

    def since(self, cursor: int, arrays: bool = True) -> Changes:
        """Return what the run gained after the transaction numbered `cursor`; 0 for everything.

        A reader that keeps up calls it again with the cursor of the answer.
        """
        with self._snapshot():
            superseded = self._rows("SELECT min(step) FROM attempt WHERE batch > ?", cursor)[0][0]
            steps = self._rows("SELECT step FROM measurement WHERE batch > ? ORDER BY step", cursor)
            scalars = self._rows('SELECT metric, steps, "values" FROM scalar WHERE batch > ? ORDER BY first', cursor)
            events = self._rows("SELECT step, kind, text, data, time FROM event WHERE batch > ? ORDER BY id", cursor)
            return Changes(
                self.cursor, superseded, [r for (step,) in steps for r in self._records_of(step, arrays)],
                join_scalars(scalars), [Event(s, k, t, parsed(d), at) for s, k, t, d, at in events], self.status,
            )  # fmt: skip

    # --------------------------------------------------------------------------------------------- other shapes
    def frame(self) -> pandas.DataFrame:
        """Return the records without arrays as a pandas data frame, one row each (columns: `export.SCALAR_COLUMNS`)."""
        try:
            import pandas  # an extra: not needed to read a run
        except ImportError as error:
            raise ConfigError("Run.frame needs pandas, which is not installed", "pip install pandas") from error
        from lmtrace.records.export import SCALAR_COLUMNS, tables

        parts = [table for table in tables(self, arrays=False)]
        joined = {name: [value for part in parts for value in part[name]] for name in SCALAR_COLUMNS}
        return pandas.DataFrame(joined)

    def findings(self) -> Any:
        """Return what emerged, when, and how sure it is; see `lmtrace.analysis`."""
        from lmtrace.analysis.finding import Findings  # the analysis reads runs, so it cannot be imported before them
        from lmtrace.analysis.findings import findings

        return Findings(findings(self))

    def plot(self, signal: str, metric: str | None = None, **options: Any) -> Any:
        """Draw one series with Matplotlib and return its axes; see `lmtrace.show.notebook.plot`."""
        from lmtrace.show.notebook import plot  # show reads runs, so it cannot be imported before them

        return plot(self, signal, metric, **options)

    def __repr__(self) -> str:
        steps = self.steps
        reach = f"{len(steps)} measurements, steps {steps[0]} to {steps[-1]}" if len(steps) else "no measurement yet"
        return f"Run({str(self.folder)!r}: {self.status}, {reach}, {len(self.keys())} series)"

    def _repr_html_(self) -> str:
        from lmtrace.show.notebook import run_html

        return run_html(self)


def _parts(key: SeriesKey) -> tuple[str | None, ...]:
    return (key.signal, key.metric, key.label, key.split)


def _named(**parts: str | None) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in parts.items() if v is not None) or "anything"


def _key_name(key: SeriesKey) -> str:
    rest = [f"{k}={v!r}" for k, v in (("label", key.label), ("split", key.split)) if v is not None]
    return f"{key.signal}.{key.metric}" + (f" ({', '.join(rest)})" if rest else "")


def _listed(names: list[str], limit: int = 12) -> str:
    unique = list(dict.fromkeys(names))
    return (
        ", ".join(unique[:limit]) + (f" and {len(unique) - limit} more" if len(unique) > limit else "") or "nothing yet"
    )
