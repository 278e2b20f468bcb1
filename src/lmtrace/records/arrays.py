"""Quantities that are arrays: a row of the database names the file, the file holds the numbers."""

from __future__ import annotations

from typing import Any

from lmtrace.errors import RunError
from lmtrace.records.database import Database
from lmtrace.records.files import read_arrays
from lmtrace.records.schema import Record
from lmtrace.records.wording import listed, named


def array_rows(db: Database, condition: str, *values: object) -> list[Any]:
    """Return the rows that name arrays, by step; `load_array` makes the record of one."""
    return db.rows(
        "SELECT step, signal, metric, label, split, site, stderr AS array_stderr, n AS array_n, "
        f'"null" AS array_null, file FROM array WHERE {condition} ORDER BY step, id',
        *values,
    )


def load_array(db: Database, row: tuple[Any, ...]) -> Record:
    """Return the record of a row, with its array read from the file."""
    step, signal, metric, label, split, site, stderr, n, null, file = row
    key = (signal, metric, label, split, site)
    return Record(
        step=step, signal=signal, metric=metric, label=label, split=split, site=site, stderr=stderr, n=n, null=null,
        array=read_arrays(db.folder / file, key)[key],
    )  # fmt: skip


def find_array(
    db: Database, step: int, signal: str, metric: str, site: str | None, label: str | None, split: str | None
) -> Record:
    """Return the one array that matches; see `Run.array`."""
    rows = array_rows(db, "step = ? AND signal = ? AND metric = ?", int(step), signal, metric)
    wanted = (label, split, site)
    found = [row for row in rows if all(w in (None, has) for w, has in zip(wanted, row[3:6]))]
    exact = [row for row in found if row[3:6] == wanted]
    found = exact if len(exact) == 1 else found
    if len(found) != 1:
        steps = sorted({row[0] for row in array_rows(db, "signal = ? AND metric = ?", signal, metric)})
        choices = [named(site=r[5], label=r[3], split=r[4]) for r in found or rows] or [f"step {s}" for s in steps]
        choices = choices or [f"{s}.{m}" for s, m in db.rows("SELECT signal, metric FROM array ORDER BY id")]
        raise RunError(
            f"{'several arrays' if found else 'no array'} {signal}.{metric} at step {step} match "
            f"{named(site=site, label=label, split=split)}",
            f"Choose from: {listed(choices)}",
        )
    return load_array(db, found[0])
