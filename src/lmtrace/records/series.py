"""Curves and records, put together from the packed rows of a run's database."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmtrace.errors import RunError
from lmtrace.records.database import Database
from lmtrace.records.rows import reasons_of, sites_of, unpack, unpack_records
from lmtrace.records.schema import Field, Record, Series, SeriesKey

_COLUMNS = ("value", "stderr", "null", "n")


def read_series(db: Database, key: SeriesKey, field: Field, model_order: Sequence[str] | None) -> Series:
    """Return one series at all its sites, in the order of the model where that is known, else as they first appeared."""
    with db.snapshot():
        parts = [
            (number, tuple(sites_of(sites)))
            for number, sites in db.rows(
                "SELECT id, sites FROM series WHERE signal = ? AND metric = ? AND label IS ? AND split IS ?",
                key.signal, key.metric, key.label, key.split,
            )
        ]  # fmt: skip
        rows = [
            (row, sites)
            for number, sites in parts
            for row in db.rows(
                'SELECT step, value, stderr, "null", n, missing FROM point WHERE series = ? ORDER BY step', number
            )
        ]
    rows.sort(key=lambda item: item[0][0])
    order = {site: i for i, site in enumerate(model_order or ())}
    found = dict.fromkeys(site for _, row_sites in parts for site in row_sites)
    sites = tuple(sorted(found, key=lambda site: order.get(site or "", len(order))))
    columns = {site: i for i, site in enumerate(sites)}
    filled = {name: np.full((len(rows), len(sites)), np.nan) for name in _COLUMNS}
    missing: dict[tuple[int, str | None], str] = {}
    places: dict[tuple[str | None, ...], list[int]] = {}
    for i, ((step, *blobs, reasons), row_sites) in enumerate(rows):
        place = places.setdefault(row_sites, [columns[site] for site in row_sites])
        for name, blob in zip(_COLUMNS, blobs):
            if blob is not None:
                filled[name][i, place] = unpack(blob, len(row_sites))
        if reasons:
            missing |= {(step, row_sites[j]): reason for j, reason in reasons_of(reasons, len(row_sites)).items()}
    steps = np.array([row[0] for row, _ in rows], dtype=np.int64)
    return Series(key=key, field=field, steps=steps, sites=sites, missing=missing, values=filled.pop("value"), **filled)


def read_records(db: Database, step: int) -> list[Record]:
    """Return the records of one measurement that are numbers or missing, as they were written."""
    spans = db.rows("SELECT first, last FROM measurement WHERE step = ?", step)
    points = db.rows(
        'SELECT signal, metric, label, split, sites, value, stderr, n, "null", missing FROM measurement '
        "JOIN point ON point.id BETWEEN first AND last JOIN series ON series.id = point.series "
        "WHERE measurement.step = ? ORDER BY point.id",
        step,
    )
    if sum(last - first + 1 for first, last in spans) != len(points):
        raise RunError(
            f"the run's database in {db.folder} is damaged: step {step} does not have the rows it was written with",
            "Restore it from a copy",
        )
    return [record for row in points for record in unpack_records(step, *row)]
