"""How the analysis reads a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from lmtrace.records.schema import Field, Record, RunHeader, Series, SeriesKey


class Readable(Protocol):
    """What the analysis asks of a run; `lmtrace.run.Run` is one."""

    @property
    def header(self) -> RunHeader:
        """Return who, what and with which settings."""
        ...

    @property
    def steps(self) -> np.ndarray:
        """Return the measured steps."""
        ...

    @property
    def scalar_metrics(self) -> tuple[str, ...]:
        """Return the names of the dense training scalars."""
        ...

    def keys(self) -> tuple[SeriesKey, ...]:
        """Return every series."""
        ...

    def series(self, signal: str, metric: str, label: str | None, split: str | None) -> Series:
        """Return one series."""
        ...

    def scalars(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and values of a dense training scalar."""
        ...


def read(run: Readable, key: SeriesKey) -> Series:
    """Return the series of a key."""
    return run.series(signal=key.signal, metric=key.metric, label=key.label, split=key.split)


def keys_of(run: Readable, signal: str, metric: str | None = None) -> list[SeriesKey]:
    """Return the keys of a signal, or of one of its metrics."""
    return [k for k in run.keys() if k.signal == signal and metric in (None, k.metric)]


def field_of(run: Readable, key: SeriesKey) -> Field:
    """Return the field of a key; its numbers are read only where the header does not know it."""
    known = [f for f in run.header.fields.get(key.signal, []) if f.metric == key.metric]
    return known[0] if known else read(run, key).field


def whole(run: Readable, signal: str, metric: str) -> Series | None:
    """Return the series of a metric over everything (no label, no split), or None where the run has none."""
    key = SeriesKey(signal, metric)
    return read(run, key) if key in run.keys() else None


def column(series: Series, site: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return steps, values, standard errors and null at one site, without missing values; None where not given."""
    keep = np.isfinite(series.values[:, site])
    stderr, null = series.stderr[keep, site], series.null[keep, site]
    return (
        series.steps[keep], series.values[keep, site],
        stderr if np.isfinite(stderr).all() and stderr.size else None,
        null if np.isfinite(null).all() and null.size else None,
    )  # fmt: skip


def is_value(key: SeriesKey) -> bool:
    """Tell whether a series is about one value of a label layer ("role=Agent")."""
    return key.label is not None and "=" in key.label


def direction(series: Series) -> float:
    """Return -1 where the values should fall, otherwise 1."""
    return -1.0 if series.field.better == "down" else 1.0


def best_site(series: Series) -> int | None:
    """Return the index of the site with the best last value; None where nothing was measured."""
    last = {i: column(series, i)[1] for i in range(len(series.sites))}
    measured = [i for i, values in last.items() if values.size]
    return max(measured, key=lambda i: direction(series) * last[i][-1]) if measured else None


def floor_of(run: Readable) -> tuple[float, float] | None:
    """Return the exact floor of the panel's loss in nats and its standard error; None where unknown."""
    series = whole(run, "truth", "floor")
    if series is not None:
        values = column(series)[1]
        if values.size:  # of the same tokens: it has no error of its own
            return float(values[-1]), 0.0
    floor = run.header.data.get("floor_nats")
    if isinstance(floor, int | float) and np.isfinite(floor):
        return float(floor), float(run.header.data.get("floor_stderr", 0.0) or 0.0)
    return None


def measurements(run: Readable, keys: Iterable[SeriesKey]) -> Iterator[tuple[int, list[Record]]]:
    """Yield every measured step with its records of these series, as a live observer saw them."""
    at: dict[int, list[Record]] = {int(step): [] for step in run.steps}
    for key in keys:
        series = read(run, key)
        for i, step in enumerate(series.steps.tolist()):
            for j, site in enumerate(series.sites):
                value, reason = series.values[i, j], series.missing.get((step, site))
                if not np.isfinite(value) and reason is None:
                    continue
                at.setdefault(step, []).append(Record(
                    step=step, signal=key.signal, metric=key.metric, label=key.label, split=key.split, site=site,
                    value=_number(value), stderr=_number(series.stderr[i, j]), null=_number(series.null[i, j]), missing=reason,
                ))  # fmt: skip
    yield from sorted(at.items())


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
