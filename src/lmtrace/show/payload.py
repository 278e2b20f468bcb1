"""A run as one compact payload for the report and the dashboard.

Generic over signals: what a series is called, its unit, limits and null come from its `Field` and its records. Nothing
is computed here but the choice of the measurements that are shown.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lmtrace.analysis.compare import compare
from lmtrace.analysis.findings import findings as findings_of
from lmtrace.errors import RunError
from lmtrace.records.inspection import read_inspections
from lmtrace.records.schema import Field, Series, SeriesKey
from lmtrace.show.pack import Packer, plain
from lmtrace.show.thin import thin

log = logging.getLogger(__name__)

FORM = 1
MAX_BYTES = 2_050_000
"""Of the packed payload; in base64 with the bundle around it a report stays under 3 MB."""
MAX_ARRAY_STEPS = 48
MAX_INSPECTION, MAX_INSPECTIONS = 150_000, 900_000
"""Characters of one inspection with the attention of every checkpoint, and of all; gzip makes a fifth of them."""

SCALARS = {
    "loss": Field(
        metric="loss", title="Training loss", unit="nats", better="down", meaning="Loss of the training batch."
    ),
    "learning_rate": Field(
        metric="learning_rate", title="Learning rate", meaning="What the optimizer's schedule gave."
    ),
}


def build(
    runs: Sequence[Any],
    findings: Sequence[Iterable[Any]] | None = None,
    max_bytes: int = MAX_BYTES,
    marks: Sequence[dict[str, Any]] | None = None,
) -> bytes:
    """Return the payload of some runs, thinned until it is no larger than `max_bytes`.

    Parameters
    ----------
    runs
        Open runs (`lmtrace.open_run`).
    findings
        One iterable of findings per run; by default each run's own.
    max_bytes
        Limit of the packed payload. The measurements shown are reduced, never the numbers' precision.
    marks
        Plain data to add to each run (the dashboard's name and cursor).
    """
    sources = [Source.of(run, None if findings is None else findings[i]) for i, run in enumerate(runs)]
    cells = sum(s.cells for s in sources)
    limit = max((len(series.steps) for s in sources for series in s.series), default=1)
    if cells:
        limit = min(limit, _limit_for(sources, max_bytes))
    array_steps = MAX_ARRAY_STEPS
    between = comparison(runs) if findings is None else []
    while True:
        data = _pack(sources, limit, array_steps, marks or [{} for _ in sources], between)
        if len(data) <= max_bytes or (limit <= 16 and array_steps <= 4):
            if len(data) > max_bytes:
                log.warning("the payload has %d bytes, more than the %d wanted", len(data), max_bytes)
            return data
        ratio = max_bytes / len(data)
        limit = max(16, int(limit * min(ratio, 0.92)))
        array_steps = max(4, int(array_steps * min(ratio, 0.92)))


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """What of a run goes into a payload."""

    name: str
    header: dict[str, Any]
    fields: dict[str, dict[str, dict[str, Any]]]
    series: list[Series]
    arrays: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    events: list[dict[str, Any]]
    inspections: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, run: Any, findings: Iterable[Any] | None = None) -> Source:
        """Read everything that is shown from an open run."""
        header = dataclasses.asdict(run.header)
        fields = {name: {f["metric"]: f for f in specs} for name, specs in header.pop("fields").items()}
        series = [*scalar_series(run), *(read_series(run, key) for key in tuple(run.keys()))]
        series = [s for s in series if len(s.steps)]
        for s in series:
            fields.setdefault(s.key.signal, {}).setdefault(s.key.metric, dataclasses.asdict(s.field))
        found = findings_of(run) if findings is None else findings
        return cls(
            name=header.get("name") or "run",
            header=plain(header),
            fields=fields,
            series=series,
            arrays=list(array_records(run)),
            findings=[finding(f) for f in found],
            events=[plain(e if isinstance(e, Mapping) else dataclasses.asdict(e)) for e in run.events()],
            inspections=inspections(run),
        )

    @property
    def cells(self) -> int:
        """Return the number of measured values."""
        return sum(s.values.size for s in self.series)


def read_series(run: Any, key: SeriesKey) -> Series:
    """Return the series of a key."""
    return run.series(signal=key.signal, metric=key.metric, label=key.label, split=key.split)


def scalar_series(run: Any) -> list[Series]:
    """Return the trainer's own scalars and its clocks in the form of series of the signal "train"."""
    found = [_column(_scalar_field(name), *run.scalars(name)) for name in run.scalar_metrics]
    clocks = (
        (Field(metric="tokens_seen", title="Tokens seen", unit="tokens", better="up"), run.tokens_seen),
        (Field(metric="wall_time", title="Wall time", unit="seconds", better="up"), run.wall_time),
    )
    return found + [_column(field, run.steps, values) for field, values in clocks if np.isfinite(values).any()]


def _scalar_field(name: str) -> Field:
    return SCALARS.get(name, Field(metric=name, title=name.replace("_", " ").capitalize()))


def _column(field: Field, steps: np.ndarray, values: np.ndarray) -> Series:
    column = np.asarray(values, dtype=np.float64)[:, None]
    empty = np.full_like(column, np.nan)
    return Series(SeriesKey("train", field.metric), field, np.asarray(steps), (None,), column, empty, empty, empty, {})


def array_records(run: Any) -> Iterable[dict[str, Any]]:
    """Yield the arrays of a run as plain descriptions with their `array`."""
    for signal, metric in dict.fromkeys((key.signal, key.metric) for key in run.array_keys()):
        for record in run.arrays(signal, metric):
            yield {
                "step": int(record.step), "signal": signal, "metric": metric, "site": record.site,
                "label": record.label, "split": record.split, "array": np.asarray(record.array),
            }  # fmt: skip


def finding(source: Any) -> dict[str, Any]:
    """Return a finding as plain data."""
    data = source if isinstance(source, Mapping) else dataclasses.asdict(source)
    return plain(dict(data))


def comparison(runs: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the findings about how several runs differ; none of a single run."""
    return [finding(f) for f in compare(runs)] if len(runs) > 1 else []


def inspections(run: Any) -> list[dict[str, Any]]:
    """Return the sentences inspected in a run as plain data, the newest first, as many as fit.

    Of one that is large, attention is kept for the last checkpoint only. A file that cannot be read is left out, and said in the
    log: the run itself is whole.
    """
    try:
        found = read_inspections(run.folder, run.header.created)
    except RunError as error:
        log.warning("no inspections are shown: %s", error)
        return []
    shown, size = [], 0
    for inspection in found:
        data = inspection.to_dict()
        if len(json.dumps(data)) > MAX_INSPECTION:
            for moment in data["moments"][:-1]:
                moment["attention"] = {"missing": "kept for the last checkpoint only, so that the page stays small"}
        size += len(json.dumps(data))
        if size > MAX_INSPECTIONS and shown:
            break
        shown.append(data)
    return shown


def _limit_for(sources: Sequence[Source], max_bytes: int) -> int:
    """Return how many measurements each series may show, by an estimate of the packed size that the loop of `build` corrects."""
    bytes_per_value = 3.4
    weights = [
        (len(s.steps), s.values.shape[1] * (1 + _varies(s.stderr) + _varies(s.null) + _varies(s.n)))
        for source in sources
        for s in source.series
    ]
    low, high = 16, max(rows for rows, _ in weights)
    while low < high:
        middle = (low + high + 1) // 2
        if bytes_per_value * sum(min(rows, middle) * columns for rows, columns in weights) <= max_bytes * 0.9:
            low = middle
        else:
            high = middle - 1
    return max(low, 16)


def _varies(array: np.ndarray) -> bool:
    """Return whether an array needs room of its own (is there, and changes with the step)."""
    first = array[:1]
    return bool(np.isfinite(array).any() and not ((array == first) | (np.isnan(array) & np.isnan(first))).all())


def _pack(
    sources: Sequence[Source],
    limit: int,
    array_steps: int,
    marks: Sequence[dict[str, Any]],
    between: list[dict[str, Any]],
) -> bytes:
    packer = Packer()
    runs = []
    for source, mark in zip(sources, marks):
        runs.append({
            **mark,
            "name": source.name,
            "header": source.header,
            "fields": source.fields,
            "findings": source.findings,
            "events": source.events[-400:],
            "numEvents": len(source.events),
            "inspections": source.inspections,
            "series": [pack_series(packer, s, limit) for s in source.series],
            "arrays": _pack_arrays(packer, source.arrays, array_steps),
        })  # fmt: skip
    return packer.close({"form": FORM, "runs": runs, "comparison": between})


def pack_series(packer: Packer, series: Series, limit: int) -> dict[str, Any]:
    """Pack one series, thinned to `limit` measurements."""
    rows = thin(series.values, limit)
    steps = series.steps[rows]
    entry: dict[str, Any] = {
        "signal": series.key.signal, "metric": series.key.metric, "label": series.key.label, "split": series.key.split,
        "sites": list(series.sites), "rows": len(rows), "total": len(series.steps), "steps": packer.steps(steps),
    }  # fmt: skip
    for name, array in (
        ("values", series.values), ("stderr", series.stderr), ("null", series.null), ("n", series.n),
    ):  # fmt: skip
        packed = packer.floats(array[rows])
        if packed is not None:
            entry[name] = packed
    if series.missing:
        at = {int(s): i for i, s in enumerate(steps)}
        column = {site: i for i, site in enumerate(series.sites)}
        reasons: dict[str, int] = {}
        codes = np.zeros((len(rows), len(series.sites)), dtype=np.uint8)
        for (step, site), reason in series.missing.items():
            if step in at and site in column:
                codes[at[step], column[site]] = reasons.setdefault(reason, min(len(reasons) + 1, 255))
        if reasons:
            entry["missing"] = packer.bytes(codes)
            entry["reasons"] = list(reasons)[:255]
    return entry


def _pack_arrays(packer: Packer, arrays: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Pack arrays grouped by what they are: one entry per series of arrays, its steps thinned."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for item in arrays:
        groups.setdefault((item["signal"], item["metric"], item["label"], item["split"], item["site"]), []).append(item)
    packed = []
    for (signal, metric, label, split, site), items in groups.items():
        items.sort(key=lambda item: item["step"])
        count = len(items)
        keep = np.unique(np.concatenate([
            np.geomspace(1, count, max(limit // 2, 1)) - 1, np.linspace(0, count - 1, max(limit // 2, 1)), [0, count - 1],
        ]).astype(np.int64)) if count > limit else np.arange(count)  # fmt: skip
        chosen = [items[i] for i in keep]
        packed.append({
            "signal": signal, "metric": metric, "label": label, "split": split, "site": site, "total": count,
            "steps": packer.steps(np.array([item["step"] for item in chosen])),
            "frames": [
                {"shape": list(item["array"].shape), "data": packer.floats(item["array"].reshape(1, -1))} for item in chosen
            ],
        })  # fmt: skip
    return packed
