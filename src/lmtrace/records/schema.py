"""The vocabulary of a run: `Record`, `Field`, `Series`, `RunHeader`, and the version of their form on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lmtrace.errors import SignalError

SCHEMA_VERSION = 1

Status = Literal["running", "finished", "stopped early", "interrupted", "crashed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What one metric of a signal means; titles, units and limits of every table and figure come from here.

    Attributes
    ----------
    metric
        Name of the metric, unique within its signal ("accuracy").
    title
        How a figure calls it ("Probe accuracy").
    unit
        "1" for shares and ratios, "nats", "bits", "dimensions", "seconds", ...
    low, high
        Limits that no value may leave; None where there is none.
    better
        Whether training is expected to push it "up", "down", or neither ("").
    null
        In words: what the record's `null` value is ("accuracy of the majority class"); empty where there is none.
    meaning
        One sentence for the reader of a figure.
    axis
        For arrays: what the axes are ("eigenvalue, density"); empty for scalars.
    """

    metric: str
    title: str
    unit: str = "1"
    low: float | None = None
    high: float | None = None
    better: Literal["up", "down", ""] = ""
    null: str = ""
    meaning: str = ""
    axis: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measured number, or the reason why it is missing.

    Exactly one of `value`, `array` and `missing` is set.

    Attributes
    ----------
    step
        Optimizer step after which it was measured; 0 is the untrained model.
    signal, metric
        Which signal ("probe") and which of its fields ("accuracy").
    site
        Where in the model ("embed", "block.0", "final"), or None for the whole model.
    label
        What of the language: a layer ("role") or a layer and value ("role=Agent"), or None.
    split
        Which split or variant of the same quantity ("sentence", "lexical"), or None.
    value, stderr, n, null
        The number, its standard error, the number of units it rests on, and what the same number would be
        with nothing to find.
    missing
        Why there is no number.
    array
        A vector or matrix instead of a number (a spectrum, heads x layers).
    """

    step: int
    signal: str
    metric: str
    site: str | None = None
    label: str | None = None
    split: str | None = None
    value: float | None = None
    stderr: float | None = None
    n: int | None = None
    null: float | None = None
    missing: str | None = None
    array: np.ndarray | None = field(default=None, compare=False)

    def check(self, fields: dict[str, Field]) -> None:
        """Raise `SignalError` where the record breaks the rules of its signal's fields."""
        where = f"{self.signal}.{self.metric} at step {self.step}, site {self.site}, label {self.label}"
        if self.metric not in fields:
            raise SignalError(f"{where}: the signal declares no such field", f"Declared: {', '.join(fields)}")
        if (self.value is not None) + (self.array is not None) + bool(self.missing) != 1:
            raise SignalError(f"{where}: exactly one of value, array and missing must be set")
        for name in ("value", "stderr", "null"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise SignalError(f"{where}: {name} is {number}", "Yield missing=reason instead")
        if self.array is not None and not np.all(np.isfinite(self.array)):
            raise SignalError(f"{where}: the array holds a number that is not finite", "Yield missing=reason instead")
        spec, tolerance = fields[self.metric], 1e-6
        if self.value is not None and spec.low is not None and self.value < spec.low - tolerance:
            raise SignalError(f"{where}: {self.value} is below the field's limit {spec.low}")
        if self.value is not None and spec.high is not None and self.value > spec.high + tolerance:
            raise SignalError(f"{where}: {self.value} is above the field's limit {spec.high}")


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """Names one curve or heatmap of a run: all sites of a (signal, metric, label, split)."""

    signal: str
    metric: str
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One quantity over the steps of a run, at every site where it was measured.

    Attributes
    ----------
    key, field
        What it is.
    steps : [steps]
        int64, rising.
    sites
        Site names; (None,) for a quantity of the whole model.
    values, stderr, null : [steps, sites]
        float64; NaN where missing or not given.
    n : [steps, sites]
        float64; NaN where not given.
    missing
        (step, site) -> reason.
    """

    key: SeriesKey
    field: Field
    steps: np.ndarray
    sites: tuple[str | None, ...]
    values: np.ndarray
    stderr: np.ndarray
    null: np.ndarray
    n: np.ndarray
    missing: dict[tuple[int, str | None], str]

    def at(self, site: str | None) -> Series:
        """Return the same series at one site; `values` keeps its shape [steps, 1]."""
        if site not in self.sites:
            raise KeyError(f"site {site!r} is not one of {', '.join(map(str, self.sites))}")
        column = [self.sites.index(site)]
        return Series(
            self.key, self.field, self.steps, (site,), self.values[:, column], self.stderr[:, column],
            self.null[:, column], self.n[:, column], {k: v for k, v in self.missing.items() if k[1] == site},
        )  # fmt: skip


@dataclass(kw_only=True)
class RunHeader:
    """Who, what and with which settings: everything needed to read a run without the code that wrote it.

    Attributes
    ----------
    status
        "running", "finished", "stopped early", "interrupted" (by hand, or by a restart of the same training) or "crashed".
    signals
        Signal name -> list of its instances' parameters.
    fields
        Signal name -> its fields.
    model
        Class, sizes, number of parameters, sites, fingerprint of the configuration.
    panel
        Hash, number of sentences, words and tokens, label layers with their values, alignment coverage.
    data, versions, hardware, seeds, command, commit
        Provenance; `data` may hold "floor_nats" and whatever the caller knows of the corpus.
    """

    schema_version: int = SCHEMA_VERSION
    name: str = ""
    status: Status = "running"
    created: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    panel: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    signals: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    fields: dict[str, list[Field]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    commit: str = ""


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
