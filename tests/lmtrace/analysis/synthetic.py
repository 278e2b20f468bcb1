"""A run made of arrays, for tests of what is said about it."""

from __future__ import annotations

import numpy as np

from lmtrace.records.schema import Field, RunHeader, Series, SeriesKey

FIELDS = {
    "output": [
        Field(metric="loss", title="Loss", unit="nats", better="down", null="uniform"),
        Field(metric="accuracy", title="Accuracy", better="up", null="most frequent token"),
    ],
    "truth": [
        Field(metric="excess", title="Excess", unit="nats", better="down"),
        Field(metric="floor", title="Floor", unit="nats"),
    ],
    "probe": [
        Field(metric="accuracy", title="Probe accuracy", better="up", null="majority"),
        Field(metric="selectivity", title="Selectivity", better="up", null="zero"),
        Field(metric="gain_over_embed", title="Gain over embed", better="up", null="zero"),
        Field(metric="f1", title="F1", better="up"),
    ],
    "dimension": [Field(metric="two_nn", title="Intrinsic dimension", unit="dimensions"),
                  Field(metric="effective_rank", title="Effective rank", unit="dimensions"),
                  Field(metric="participation_ratio", title="Participation ratio", unit="dimensions")],
    "curvature": [Field(metric="trace", title="Trace"), Field(metric="edge", title="Edge", meaning="1 is that of SGD."),
                  Field(metric="trace_gap", title="Trace: panel - train")],
    "cost": [Field(metric="seconds", title="Time per measurement", unit="seconds")],
    "gradient": [Field(metric="norm", title="Gradient norm")],
}  # fmt: skip


class SyntheticRun:
    """Reads like `lmtrace.run.Run`."""

    def __init__(self, steps, floor=None):
        self.header = RunHeader(name="synthetic", fields=FIELDS, data={} if floor is None else {"floor_nats": floor})
        self.steps = np.asarray(steps)
        self._series, self._scalars = {}, {}

    @property
    def scalar_metrics(self):
        return tuple(self._scalars)

    def keys(self):
        return tuple(self._series)

    def series(self, signal=None, metric=None, label=None, split=None, site=None):
        return self._series[SeriesKey(signal, metric, label, split)]

    def scalars(self, metric):
        return self._scalars[metric]

    def events(self, kind=None):
        return ()

    def add(self, signal, metric, values, label=None, split=None, sites=(None,), stderr=np.nan, null=np.nan):
        """Add a series; `values` is [steps] or [steps, sites]."""
        values = np.asarray(values, float).reshape(self.steps.size, -1)
        key = SeriesKey(signal, metric, label, split)
        field = next(f for f in FIELDS[signal] if f.metric == metric)
        spread = [np.broadcast_to(np.asarray(c, float), values.shape).copy() for c in (stderr, null, np.nan)]
        self._series[key] = Series(key, field, self.steps, sites, values, *spread, {})
        return self

    def add_scalars(self, name, steps, values):
        self._scalars[name] = (np.asarray(steps), np.asarray(values, float))
        return self
