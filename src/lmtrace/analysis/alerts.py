"""Alerts: what should make somebody look at the run now. Live and afterwards by the same code."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmtrace.analysis.online import ChangeDetector
from lmtrace.analysis.readings import Readable, floor_of, measurements
from lmtrace.records.schema import Record, SeriesKey

_TRAIN_LOSS = SeriesKey("train", "loss")
_NORM = ("gradient", "norm")
_RANKS = ("effective_rank",)
"""Not the participation ratio: one dominant direction (word frequency) takes it from 10 to 1.4 in the first steps of a healthy
training, while the effective rank keeps half of its value."""

_MEMORY = 64
_FALSE_ALARM, _HORIZON = 0.01, 200
"""A panel loss without a change rings in one run of a hundred, within 200 measurements."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something is wrong, or looks it.

    Attributes
    ----------
    kind
        "non-finite loss", "spike", "jump", "exploding norm", "dead block", "collapse of rank" or "leak".
    step
        When.
    text
        A sentence.
    value, limit
        What was measured, and what it should not have passed.
    look_at
        What to check.
    series, site
        What it rests on.
    """

    kind: str
    step: int
    text: str
    value: float
    limit: float | None
    look_at: str
    series: SeriesKey
    site: str | None = None


class Alarms:
    """Watches a run; an alert is given once per episode, not at every step of it.

    Parameters
    ----------
    floor, floor_stderr
        Exact floor of the panel's loss in nats and its standard error, where known.
    spike
        A loss beyond the median of the last 64 by this many robust standard deviations (and by a tenth of the median).
    explosion
        A gradient norm beyond the median of its past by this factor.
    """

    def __init__(
        self, floor: float | None = None, floor_stderr: float = 0.0, spike: float = 10.0, explosion: float = 10.0
    ) -> None:
        self.floor, self.floor_stderr, self.spike, self.explosion = floor, floor_stderr, spike, explosion
        self._losses: deque[float] = deque()
        self._sorted: list[float] = []
        self._past: dict[str, list[float]] = {}
        self._ringing: set[str] = set()
        self._changes = ChangeDetector(_FALSE_ALARM, _HORIZON, holds=3)

    def scalars(self, name: str, steps: Sequence[int], values: Sequence[float]) -> list[Alert]:
        """Take in dense training scalars ("loss", "grad_norm"), in the order of steps."""
        if name == "grad_norm":
            key = SeriesKey("train", name)
            found = (self._norm(int(s), float(v), key, None) for s, v in zip(steps, values) if np.isfinite(v))
            return [alert for alert in found if alert is not None]
        if name != "loss":
            return []
        out: list[Alert] = []
        for step, value in zip(steps, values):
            out += self._loss(int(step), float(value))
        return out

    def update(self, step: int, records: Iterable[Record]) -> list[Alert]:
        """Take in the records of one measurement."""
        out: list[Alert | None] = []
        norms: dict[str, float] = {}
        measured = [r for r in records if r.value is not None]
        paired = any(_is(r, "truth", "excess") for r in measured)
        for r in measured:
            assert r.value is not None
            key = SeriesKey(r.signal, r.metric, r.label, r.split)
            if (r.signal, r.metric) == _NORM:
                if r.site is None and r.label is None:
                    out.append(self._norm(step, r.value, key, None))
                elif r.site is not None:
                    norms[r.site] = r.value
            elif r.signal == "dimension" and r.metric in _RANKS:
                out.append(self._rank(step, r.value, key, r.site))
            elif _is(r, "output", "loss"):
                out.append(self._jump(step, r.value, key))
                if self.floor is not None and not paired:
                    limit = self.floor - 3 * float(np.hypot(r.stderr or 0.0, self.floor_stderr))
                    out.append(self._leak(step, r.value, limit, f"the exact floor {self.floor:.4g}", key))
            elif _is(r, "truth", "excess"):  # against the oracle on the same tokens: the panel's own luck cancels
                out.append(self._leak(step, r.value, -3 * (r.stderr or 0.0), "the exact law's on the same tokens", key))
        out += self._dead(step, norms)
        return [alert for alert in out if alert is not None]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, as plain JSON data."""
        return {
            "losses": list(self._losses), "past": self._past, "ringing": sorted(self._ringing),
            "changes": self._changes.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._losses, self._sorted = deque(state["losses"]), sorted(state["losses"])
        self._past = {k: list(v) for k, v in state["past"].items()}
        self._ringing = set(state["ringing"])
        self._changes.load_state_dict(state["changes"])

    # -- one rule each --------------------------------------------------------------------------------------------------

    def _once(self, name: str, wrong: bool, alert: Alert) -> Alert | None:
        """Return the alert where its episode begins."""
        if not wrong:
            self._ringing.discard(name)
            return None
        if name in self._ringing:
            return None
        self._ringing.add(name)
        return alert

    def _loss(self, step: int, value: float) -> list[Alert]:
        finite = bool(np.isfinite(value))
        out = [self._once("non-finite loss", not finite, Alert(
            "non-finite loss", step, f"The training loss is {value} at step {step:,}.", value, None,
            "The batch of this step, the learning rate, and overflow in reduced precision.", _TRAIN_LOSS,
        ))]  # fmt: skip
        if finite:
            middle = self._sorted[len(self._sorted) // 2] if self._sorted else 0.0
            if len(self._sorted) >= 16:
                limit = float("inf") if value <= 1.1 * abs(middle) else self._spike_limit(middle)
                out.append(self._once("spike", value > limit, Alert(
                    "spike", step, f"The training loss jumped to {value:.4g} at step {step:,}; it had been near {middle:.4g}.",
                    value, limit, "The batch of this step, the gradient norm, and the learning rate.", _TRAIN_LOSS,
                )))  # fmt: skip
            self._remember(value)
        return [alert for alert in out if alert is not None]

    def _spike_limit(self, middle: float) -> float:
        past = np.asarray(self._sorted)
        return middle + max(self.spike * 1.4826 * float(np.median(np.abs(past - middle))), 0.1 * abs(middle))

    def _remember(self, value: float) -> None:
        """Keep the last losses, also sorted: their median is wanted at every step."""
        self._losses.append(value)
        insort(self._sorted, value)
        if len(self._losses) > _MEMORY:
            del self._sorted[bisect_left(self._sorted, self._losses.popleft())]

    def _norm(self, step: int, value: float, key: SeriesKey, site: str | None) -> Alert | None:
        name = f"{key.signal}.{key.metric}"
        past = self._past.setdefault(name, [])
        limit = self.explosion * float(np.median(past)) if len(past) >= 5 else float("inf")
        self._past[name] = [*past[-(_MEMORY - 1) :], value]
        return self._once(name, value > limit, Alert(
            "exploding norm", step, f"The gradient norm is {value:.3g} at step {step:,}, {self.explosion:g} times its median or more.",
            value, limit if np.isfinite(limit) else None, "Clipping, the learning rate, and the batch of this step.", key, site,
        ))  # fmt: skip

    def _rank(self, step: int, value: float, key: SeriesKey, site: str | None) -> Alert | None:
        name = f"{key.metric}[{key.label},{key.split}]@{site}"
        most = max([*self._past.get(name, []), value])
        self._past[name] = [most]
        limit = max(1.5, 0.1 * most)
        wrong = most >= 4 and value < limit
        return self._once(name, wrong, Alert(
            "collapse of rank", step,
            f"The {key.metric.replace('_', ' ')} at {site} fell to {value:.3g} at step {step:,}, from {most:.3g} at most.",
            value, limit, "Whether all tokens are mapped to one direction: norms, learning rate, weight decay.", key, site,
        ))  # fmt: skip

    def _jump(self, step: int, value: float, key: SeriesKey) -> Alert | None:
        """Ring where the panel's loss rises abruptly; that it falls so is good news."""
        change = self._changes.update(step, value)
        if change is None or change.direction < 0:
            return None
        return Alert(
            "jump", step, f"The panel's loss rose abruptly to {value:.4g} at step {step:,}, more than its own past explains.",
            value, None, "The data and the learning rate since the measurement before.", key,
        )  # fmt: skip

    def _dead(self, step: int, norms: dict[str, float]) -> list[Alert | None]:
        if len(norms) < 2:
            return []
        usual = float(np.median(list(norms.values())))
        limit = 1e-6 * usual
        out: list[Alert | None] = []
        for site, value in norms.items():
            past = self._past.setdefault(f"dead@{site}", [])
            dead = usual > 0 and value <= limit
            self._past[f"dead@{site}"] = [*past, 1.0][-2:] if dead else []
            wrong = len(self._past[f"dead@{site}"]) == 2  # at two measurements in a row
            out.append(self._once(f"dead@{site}", wrong, Alert(
                "dead block", step, f"No gradient reaches {site} at step {step:,} (norm {value:.3g}, others {usual:.3g}).",
                value, limit, "Frozen parameters, saturated activations, or a detached graph.", SeriesKey(*_NORM), site,
            )))  # fmt: skip
        return out

    def _leak(self, step: int, value: float, limit: float, what: str, key: SeriesKey) -> Alert | None:
        return self._once("leak", value < limit, Alert(
            "leak", step, f"The panel's loss at step {step:,} is below {what} by more than 3 standard errors ({value:.4g}).",
            value, limit,
            "A leak: panel sentences in the training data, a mask that shows the answer, or labels that are the inputs.", key,
        ))  # fmt: skip


def _is(record: Record, signal: str, metric: str) -> bool:
    return (record.signal, record.metric, record.label, record.split) == (signal, metric, None, None)


def alerts(run: Readable, alarms: Alarms | None = None) -> list[Alert]:
    """Return the alerts of a run, as they would have been given live, in the order of steps.

    Parameters
    ----------
    run
        An open run.
    alarms
        Rules; default those of `Alarms`, with the run's floor.
    """
    floor = floor_of(run)
    if alarms is None:
        alarms = Alarms() if floor is None else Alarms(floor[0], floor[1])
    found: list[Alert] = []
    for name in ("loss", "grad_norm"):
        if name in run.scalar_metrics:
            steps, values = run.scalars(name)
            found += alarms.scalars(name, steps.tolist(), values.tolist())
    read = {_NORM, ("output", "loss"), ("truth", "excess"), *(("dimension", metric) for metric in _RANKS)}
    wanted = [key for key in run.keys() if (key.signal, key.metric) in read]
    for step, records in measurements(run, wanted):
        found += alarms.update(step, records)
    return sorted(found, key=lambda alert: alert.step)
