"""Change points while the run goes on: a CUSUM of what the curve's own past did not predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtr

from lmtrace.analysis.noise import Array, ar1, curve
from lmtrace.errors import ConfigError

BURN_IN = 12
"""Measurements from which the first law of a curve is learned; no change is reported among them."""

_LAGS = 2
_DRIFT = 1.0  # k of the CUSUM, in standard deviations: half of the smallest jump that it is tuned to
_RESOLUTION = 1e-3  # of the curve's range so far: what is smaller is not called a change
_NUM_NULL = 4000
_RHO = 0.85
_BEFORE = 8  # measurements beyond all of which a change that must hold lies
_MOST = 8.0  # one surprise counts no more than this, so that the law of large ones does not matter


@dataclass(frozen=True, slots=True)
class OnlineChange:
    """A change that was seen when it happened.

    Attributes
    ----------
    step
        The measurement at which it was reported.
    since
        First measurement of the rise of the CUSUM: where the change began, as far as known.
    direction
        1 or -1.
    surprise
        The CUSUM when it passed its limit, in standard deviations.
    """

    step: float
    since: float
    direction: int
    surprise: float


class ChangeDetector:
    r"""Reports abrupt changes of a curve as they come.

    Law of the curve since the last change: y_t = a + b_1 y_{t-1} + b_2 y_{t-2} + noise, least squares over all of it. It holds
    autocorrelated noise (b_1 = rho), straight trends (b = 2, -1) and exponential decay (b_1 = exp(-1/tau)). The recursive
    residual (Brown, Durbin and Evans 1975), in units of its own predicted deviation, has nearly Student's law; turned into a
    standard normal z_t it enters two CUSUMs, S_t = max(0, S_{t-1} +- z_t - 1) (Page 1954). A change is where one passes the
    limit that AR(.85) noise passes within `horizon` measurements with probability `false_alarm`; other curves without a
    change pass it more rarely. After a change, or a known break, the law is learned anew.

    Parameters
    ----------
    false_alarm
        Chance of any report within `horizon` measurements of a curve without a change.
    horizon
        Over how many measurements that chance is meant.
    covariates
        Steps at which something known changes (end of warm-up, drops of the learning rate): learned anew, not reported.
    holds
        How many last values must lie beyond all of the eight before: with 3 a single outlier is no change, and noise that grows
        seldom one; a change is seen up to two measurements later.

    Notes
    -----
    Deterministic, constant cost per measurement. A smooth rise out of a flat stretch is reported too: at that time nobody can
    know whether it is abrupt. `change_points` looks back and can. Tested on iid, AR(.5) and AR(.8) noise and on smooth decays.
    With `holds=3` Student's t noise of 3 degrees of freedom rings in 2 % of runs at 5 % (30 % without), noise whose deviation
    grows five times at once in 38 % (100 %).
    """

    def __init__(
        self, false_alarm: float = 0.05, horizon: int = 200, covariates: Sequence[float] = (), holds: int = 1
    ) -> None:
        if not 0 < false_alarm < 1:
            raise ConfigError(f"ChangeDetector: false_alarm is {false_alarm}", "Give a probability between 0 and 1")
        if horizon < BURN_IN:
            raise ConfigError(f"ChangeDetector: horizon is {horizon}", f"Give {BURN_IN} measurements or more")
        self.false_alarm, self.horizon, self.covariates = false_alarm, int(horizon), tuple(sorted(covariates))
        self.holds = holds
        self.limit = cusum_limit(self.horizon, false_alarm)
        self._last = -1.0
        self._restart()

    def _restart(self) -> None:
        self._past: list[float] = []
        self._recent: list[float] = []
        self._first: float | None = None
        self._low, self._high = float("inf"), float("-inf")
        self._rows: list[list[float]] = []  # only until the normal equations can be solved
        self._inverse: Array | None = None
        self._weights = np.zeros(1 + _LAGS)
        self._rss, self._num = 0.0, 0
        self._sums = [0.0, 0.0]
        self._since = [0.0, 0.0]

    def update(self, step: float, value: float) -> OnlineChange | None:
        """Take in one measurement; return a change where it is noticed.

        Parameters
        ----------
        step
            Must rise.
        value
            NaN (missing) is passed over.
        """
        if step <= self._last:
            raise ConfigError(f"ChangeDetector: step {step} after step {self._last:g}", "Feed a curve in order, once")
        if any(self._last < c <= step for c in self.covariates):
            self._restart()
        self._last = float(step)
        if not np.isfinite(value):
            return None
        if self._first is None:
            self._first = float(value)
        y = float(value) - self._first  # well-conditioned whatever the offset
        self._low, self._high = min(self._low, y), max(self._high, y)
        self._recent = [*self._recent, y][-(self.holds + _BEFORE) :]
        found = self._surprise(step, y) if len(self._past) == _LAGS else None
        self._past = [*self._past, y][-_LAGS:]
        if found is not None:
            self._restart()
            self._recent = [0.0]
            self._first, self._past, self._low, self._high = float(value), [0.0], 0.0, 0.0
        return found

    def _surprise(self, step: float, y: float) -> OnlineChange | None:
        row = np.array([1.0, *self._past])
        if self._inverse is None:
            self._rows.append([*row, y])
            if len(self._rows) == BURN_IN - _LAGS:
                self._learn()
            return None
        error = y - float(row @ self._weights)
        gain = self._inverse @ row
        spread = 1.0 + float(row @ gain)
        freedom = self._num - row.size
        least = _RESOLUTION * (self._high - self._low)
        deviation = float(np.sqrt(max(self._rss / freedom, least**2)) * np.sqrt(spread))
        z = float(_normal(error / deviation, freedom)) if deviation > 0 else 0.0
        self._weights = self._weights + gain * error / spread
        self._inverse = self._inverse - np.outer(gain, gain) / spread
        self._rss, self._num = self._rss + error**2 / spread, self._num + 1
        return self._cusum(step, z)

    def _learn(self) -> None:
        """Fit the law to the burn-in; a small ridge where the curve does not move, so that a constant has a law too."""
        data = np.asarray(self._rows)
        x, y = data[:, :-1], data[:, -1]
        scale = max(float(np.abs(data[:, 1:]).max()), 1e-30)
        self._inverse = np.asarray(np.linalg.inv(x.T @ x + _ridge(scale)), np.float64)
        self._weights = self._inverse @ (x.T @ y)
        self._rss = float(np.sum((y - x @ self._weights) ** 2))
        self._num = len(y)
        self._rows = []

    def _cusum(self, step: float, z: float) -> OnlineChange | None:
        for i, sign in enumerate((1, -1)):
            if self._sums[i] == 0.0:
                self._since[i] = float(step)
            self._sums[i] = max(0.0, self._sums[i] + sign * z - _DRIFT)
        i = int(np.argmax(self._sums))
        if self._sums[i] <= self.limit or not self._stays((1, -1)[i]):
            return None
        return OnlineChange(float(step), self._since[i], (1, -1)[i], self._sums[i])

    def _stays(self, sign: int) -> bool:
        """Tell whether the last values lie beyond all of those before them, in this direction; always where it need not."""
        if self.holds < 2:
            return True
        before, last = self._recent[: -self.holds], self._recent[-self.holds :]
        return min(sign * v for v in last) > max(sign * v for v in before)

    # -- resume ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, as plain JSON data."""
        return {
            "last": self._last, "first": self._first, "past": self._past, "rows": self._rows,
            "range": [self._low, self._high] if self._first is not None else None,
            "inverse": None if self._inverse is None else self._inverse.tolist(), "weights": self._weights.tolist(),
            "recent": self._recent, "rss": self._rss, "num": self._num, "sums": self._sums, "since": self._since,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._last, self._first, self._past = state["last"], state["first"], list(state["past"])
        self._recent = list(state.get("recent", state["past"]))
        self._low, self._high = state["range"] or (float("inf"), float("-inf"))
        self._rows = [[float(v) for v in row] for row in state["rows"]]
        self._inverse = None if state["inverse"] is None else np.asarray(state["inverse"], np.float64)
        self._weights = np.asarray(state["weights"], np.float64)
        self._rss, self._num = state["rss"], state["num"]
        self._sums, self._since = list(state["sums"]), list(state["since"])


def online_changes(
    steps: ArrayLike,
    values: ArrayLike,
    false_alarm: float = 0.05,
    horizon: int | None = None,
    covariates: Sequence[float] = (),
    holds: int = 1,
) -> list[OnlineChange]:
    """Return the changes that a `ChangeDetector` would have reported along a curve; `horizon` defaults to its length.

    Parameters
    ----------
    steps, values : [measurements]
        One curve; NaN where missing.
    false_alarm, horizon, covariates, holds
        As there.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal(200)
    >>> [change.step for change in online_changes(range(200), noise + 8 * (np.arange(200) >= 100))] != []
    True
    """
    x, y, _ = curve(steps, values, at_least=1, who="online_changes")
    detector = ChangeDetector(false_alarm, max(x.size, BURN_IN) if horizon is None else horizon, covariates, holds)
    found = (detector.update(step, value) for step, value in zip(x.tolist(), y.tolist()))
    return [change for change in found if change is not None]


@lru_cache(maxsize=32)
def cusum_limit(horizon: int, false_alarm: float) -> float:
    """Return the limit that either CUSUM passes within `horizon` measurements of AR(.85) noise with this probability.

    The detector itself is simulated: on autocorrelated noise its estimated law is biased, and the limit that holds for
    independent standard normal z_t is passed in 9 % of runs at a nominal 5 %.
    """
    noise = ar1(_NUM_NULL, horizon, _RHO, np.random.default_rng(0))
    sums, highest = np.zeros((2, _NUM_NULL)), np.zeros(_NUM_NULL)
    for z in surprises(noise):
        sums = np.maximum(sums + np.stack([z, -z]) - _DRIFT, 0.0)
        highest = np.maximum(highest, sums.max(axis=0))
    return float(np.quantile(highest, 1 - false_alarm))


def surprises(y: Array) -> Iterator[Array]:
    """Yield z_t of many curves at once ([curves, n]), one measurement after another: what the detector computes, without restarts."""
    y = y - y[:, :1]
    rows = np.stack([np.ones_like(y[:, _LAGS:]), y[:, 1:-1], y[:, :-2]], axis=2)  # [curves, n - 2, 3]
    target, start = y[:, _LAGS:], BURN_IN - _LAGS
    x, first = rows[:, :start], target[:, :start]
    scale = np.abs(x[:, :, 1:]).max(axis=(1, 2)).clip(min=1e-30)
    inverse = np.linalg.inv(np.swapaxes(x, 1, 2) @ x + _ridge(scale))
    weights = np.einsum("cij,cnj,cn->ci", inverse, x, first)
    rss = np.sum((first - np.einsum("cni,ci->cn", x, weights)) ** 2, axis=1)
    span = np.maximum.accumulate(y, axis=1) - np.minimum.accumulate(y, axis=1)
    for t in range(start, target.shape[1]):
        row = rows[:, t]
        error = target[:, t] - np.einsum("ci,ci->c", row, weights)
        gain = np.einsum("cij,cj->ci", inverse, row)
        spread = 1.0 + np.einsum("ci,ci->c", row, gain)
        freedom = t - row.shape[1]
        deviation = np.sqrt(np.maximum(rss / freedom, (_RESOLUTION * span[:, t + _LAGS]) ** 2) * spread)
        yield _normal(np.divide(error, deviation, out=np.zeros_like(error), where=deviation > 0), freedom)
        weights = weights + gain * (error / spread)[:, None]
        inverse = inverse - gain[:, :, None] * gain[:, None, :] / spread[:, None, None]
        rss = rss + error**2 / spread


def _ridge(scale: ArrayLike) -> Array:
    """Return [..., 3, 3]: next to nothing on the lags, so that a constant has a law too."""
    return np.asarray(scale, np.float64)[..., None, None] ** 2 * np.diag([0.0, *[1e-6] * _LAGS])


def _normal(t: ArrayLike, freedom: int) -> Array:
    """Return the standard normal quantile of Student's t, cut at `_MOST`."""
    t = np.asarray(t, np.float64)
    with np.errstate(divide="ignore"):
        z = -ndtri(stdtr(freedom, -np.abs(t)))
    return np.copysign(np.minimum(z, _MOST), t)
