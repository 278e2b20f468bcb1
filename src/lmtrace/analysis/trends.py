"""Statements about two or more curves: order, memorisation, the published combined event; breaks of a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from lmtrace.analysis.noise import Array, curve, local_scatter
from lmtrace.errors import DataError

NOT_RESOLVED = "not resolved"


@dataclass(frozen=True, slots=True)
class Order:
    """Which of two things came first.

    Attributes
    ----------
    verdict
        "first", "second" (came earlier), or "not resolved".
    ratio
        exp of the mean difference of log(1 + step), second minus first: how many times later the second came; None where a
        time is unknown in every run.
    interval
        95 % interval of the ratio.
    num_runs
        Pairs of times, one per seed.
    note
        Why it is not resolved, or what to know.
    """

    verdict: str
    ratio: float | None
    interval: tuple[float, float] | None
    num_runs: int
    note: str = ""


def order(first: ArrayLike, second: ArrayLike, grid: ArrayLike | None = None, level: float = 0.95) -> Order:
    """Say which of two events came first, from paired times of several runs (seeds).

    The differences d_i = log(1 + second_i) - log(1 + first_i) are taken within each run; the order is resolved only where
    Student's interval of their mean excludes 0. Times are known to the grid of measurements only, so with `grid` each
    difference is first moved towards 0 by the uncertainty of its grid, from either side, and both must agree.

    Parameters
    ----------
    first, second : [runs]
        Times (midpoints, steps) of the two events; NaN where it did not happen in a run.
    grid : [runs] or scalar, optional
        Uncertainty of each time in log(1 + step): the distance of neighbouring measurements there.
    level
        Of the interval.

    Returns
    -------
    Order

    Notes
    -----
    Fewer than 3 complete pairs are never resolved. A noisier measure crosses later by construction: use midpoints.
    """
    a, b = np.atleast_1d(np.asarray(first, float)), np.atleast_1d(np.asarray(second, float))
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(f"order: {a.shape} and {b.shape} are not paired times", "Pass one time per run and event")
    known = np.isfinite(a) & np.isfinite(b)
    d = np.log1p(b[known]) - np.log1p(a[known])
    slack = np.broadcast_to(0.0 if grid is None else np.asarray(grid, float), a.shape)[known]
    num = int(known.sum())
    lost = int((~known).sum())
    note = f"{lost} of {a.size} runs lack one of the two times" if lost else ""
    if num < 3:
        ratio = float(np.exp(d.mean())) if num else None
        return Order(NOT_RESOLVED, ratio, None, num, f"{num} complete pairs; 3 or more seeds are needed")
    margin = stdtrit(num - 1, (1 + level) / 2) * d.std(ddof=1) / np.sqrt(num)
    low, high = float(d.mean() - margin - slack.mean()), float(d.mean() + margin + slack.mean())
    verdict = "first" if low > 0 else "second" if high < 0 else NOT_RESOLVED
    if verdict != NOT_RESOLVED and lost > num:
        verdict = NOT_RESOLVED
    return Order(verdict, float(np.exp(d.mean())), (float(np.exp(low)), float(np.exp(high))), num, note)


@dataclass(frozen=True, slots=True)
class Memorisation:
    """The training curve leaves the panel's, or stays below it.

    Attributes
    ----------
    kind
        "memorisation": the panel's loss rises, or the training loss falls below its own trend where the panel's has come to
        rest. "gap": a difference that does not grow then, as of panel and training text of different kinds.
    onset
        First measured step of the memorisation that is clear of the noise; of a gap, the first measured step.
    gap, largest
        Panel minus train at the end, and the largest from the onset on.
    rise
        How far the panel's loss rose above its lowest value before.
    panel_rises
        Whether that is beyond noise: the classical sign.
    closed
        Step from which the gap is less than a tenth of its largest, to the end; None where it is not.
    """

    kind: str
    onset: float
    gap: float
    largest: float
    rise: float
    panel_rises: bool
    closed: float | None


_RISE = 5.0  # standard errors of a value: AR(.9) noise wanders by less within hundreds of measurements
_CLOSED = 0.1


def memorisation(
    steps: ArrayLike, train: ArrayLike, panel: ArrayLike, stderr: ArrayLike | None = None
) -> Memorisation | None:
    """Describe memorisation, or a gap panel - train (loss, curvature); None where there is neither beyond noise.

    Memorisation is told where the panel's loss rises above its lowest value so far by five standard errors while the training
    loss does not, even if it falls again later; or where the panel has come to rest and the training loss falls below what
    its own decay until then (to any floor) leads to, by as much. A training loss that lags behind, and a
    constant difference, are neither.

    Parameters
    ----------
    steps, train, panel : [measurements]
        The two curves at the same steps. A train loss per batch is noisy: average it between measurements (`between`).
    stderr : [measurements] or scalar, optional
        Standard errors of the panel's values.
    """
    x, y, (t, error) = curve(steps, panel, train, stderr, at_least=5, who="memorisation")
    if t is None or not np.all(np.isfinite(t)):
        raise DataError("memorisation: the two curves are not measured at the same steps", "Drop incomplete rows")
    gap = y - t
    scatter = _wobble(y)
    # Without errors it is not known how far the curve wanders: twice what its neighbours show.
    noise = np.full(y.size, 2 * scatter) if error is None else np.maximum(np.nan_to_num(error), scatter)
    noise = np.maximum(noise, 1e-3 * max(float(np.ptp(y)), float(np.ptp(t))))
    either = np.hypot(noise, _wobble(t))
    smooth, smooth_train = _middle(y), _middle(t)
    low = np.minimum.accumulate(smooth)
    at_low = _latest_low(smooth)
    with_train = smooth_train - smooth_train[at_low]  # how far the training loss rose meanwhile
    rise = smooth - low - np.maximum(with_train, 0.0)
    if float(np.max(rise - _RISE * noise)) > 0:
        peak = int(np.argmax(rise))
        first = int(np.flatnonzero(rise[: peak + 1] > 2 * noise[: peak + 1])[-1])
        while first > at_low[peak] + 1 and rise[first - 1] > 2 * noise[first - 1]:
            first -= 1
        return _told(x, gap, first, float(rise[peak]), True)
    first = _falls_on(x, smooth, smooth_train, either)
    if first is not None:
        return _told(x, gap, first, 0.0, False)
    late = gap[-max(gap.size // 4, 3) :]
    if float(late.mean()) > 3 * float(either[-1]) and float(late.min()) > 0:
        return Memorisation("gap", float(x[0]), float(gap[-1]), float(gap.max()), 0.0, False, None)
    return None


def _told(x: Array, gap: Array, first: int, rise: float, rises: bool) -> Memorisation:
    largest = float(gap[first:].max())
    open_until = np.flatnonzero(gap > _CLOSED * largest)
    last = int(open_until[-1]) + 1
    closed = float(x[last]) if last < x.size else None
    return Memorisation("memorisation", float(x[first]), float(gap[-1]), largest, rise, rises, closed)


def _wobble(y: Array) -> float:
    """Return the standard deviation of a curve around the running median of nine values, and of neighbours."""
    around = np.array([np.median(y[max(i - 4, 0) : i + 5]) for i in range(y.size)])
    off = np.sort(np.abs(y - around))
    return max(local_scatter(y), 1.4826 * float(np.median(off)))


def _middle(y: Array) -> Array:
    """Return the running median of three: one value alone is no rise."""
    padded = np.concatenate([y[:1], y, y[-1:]])
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)


def _latest_low(y: Array) -> np.ndarray:
    """Return per value the index of the lowest value so far."""
    return np.maximum.accumulate(np.where(y <= np.minimum.accumulate(y), np.arange(y.size), 0))


def _falls_on(x: Array, panel: Array, train: Array, noise: Array) -> int | None:
    """Return where the training loss falls below its own trend while the panel's rests; None where it does not.

    The trend is a decay a + b exp(-s / tau) or a + b (1 + s / tau)^-1/2, fitted to the values before the panel came to rest.
    """
    rest = (
        int(np.flatnonzero(panel - panel.min() > 2 * noise)[-1]) + 1 if np.any(panel - panel.min() > 2 * noise) else 0
    )
    if rest < 5 or x.size - rest < 3:
        return None
    fits = []
    for tau in np.geomspace(max(float(x[1] - x[0]), 1e-9) / 2, 4 * float(x[-1] - x[0]), 24):
        for shape in (np.exp(-x / tau), (1 + x / tau) ** -0.5):
            design = np.column_stack([np.ones(x.size), shape])
            weights, *_ = np.linalg.lstsq(design[:rest], train[:rest], rcond=None)
            rss = float(np.sum((train[:rest] - design[:rest] @ weights) ** 2))
            fits.append((rss, design @ weights))
    best = min(rss for rss, _ in fits)
    floor = float(np.mean(noise[:rest] ** 2))
    lowest = np.min([fit for rss, fit in fits if rss <= best + 4 * max(best / max(rest - 3, 1), floor)], axis=0)
    below = lowest - train - _RISE * noise
    below[:rest] = -np.inf
    return int(np.argmax(below > 0)) if np.any(below > 0) and below[-1] > 0 else None


def between(steps: ArrayLike, dense_steps: ArrayLike, dense_values: ArrayLike) -> Array:
    """Return the mean of a dense curve (loss of every batch) between each measured step and the one before.

    Parameters
    ----------
    steps : [measurements]
        Measured steps, rising.
    dense_steps, dense_values : [n]
        The dense curve; what is not finite is left out.

    Returns
    -------
    [measurements]
        Mean over (previous step, step]; NaN where there is nothing (as at step 0).
    """
    at, dense, values = np.asarray(steps, float), np.asarray(dense_steps, float), np.asarray(dense_values, float)
    keep = np.isfinite(values)
    dense, values = dense[keep], values[keep]
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.searchsorted(dense, at, side="right")
    start = np.concatenate([[0], end[:-1]])
    count = end - start
    return np.where(count > 0, (sums[end] - sums[start]) / np.maximum(count, 1), np.nan)


@dataclass(frozen=True, slots=True)
class CombinedEvent:
    """The published event "curvature collapse meets dimension stabilisation": a descriptor, not evidence.

    Attributes
    ----------
    step
        Where the min-max normalised falling curve crosses the rising one; None where it does not.
    p_value
        Share of pairs of unrelated monotone noisy curves that cross: near 1, since min-max normalised curves in
        opposite directions must cross.
    """

    step: float | None
    p_value: float


def combined_event(
    steps: ArrayLike, falling: ArrayLike, rising: ArrayLike, num_null: int = 499, seed: int = 0
) -> CombinedEvent:
    """Find where a falling curve crosses a rising one after min-max normalisation, with its null p-value.

    The null curves are independent of each other: a falling and a rising exponential, each with its own random time scale, and
    noise as rough as that of the two curves.
    """
    x, down, (up,) = curve(steps, falling, rising, at_least=3, who="combined_event")
    if up is None or not np.all(np.isfinite(up)):
        raise DataError("combined_event: the two curves are not measured at the same steps", "Drop incomplete rows")
    generator = np.random.default_rng(seed)
    t = np.linspace(0.0, 1.0, x.size)
    scales = np.exp(generator.uniform(np.log(0.02), np.log(1.0), (2, num_null, 1)))
    sizes = [_roughness(down), _roughness(up)]
    null = [np.exp(-t / scales[i]) + sizes[i] * generator.standard_normal((num_null, x.size)) for i in range(2)]
    crossed = _crossing(null[0], -null[1]) >= 0
    at = int(_crossing(down[None], up[None])[0])
    p = float((1 + crossed.sum()) / (1 + num_null))
    return CombinedEvent(float(x[at]), p) if at >= 0 else CombinedEvent(None, 1.0)


def _roughness(y: Array) -> float:
    spread = float(np.ptp(y))
    return float(np.median(np.abs(np.diff(y)))) / spread / 2 if spread > 0 else 0.0


def _crossing(falling: Array, rising: Array) -> np.ndarray:
    """Return per pair of curves the first index at which the normalised falling curve is no longer above; -1 for none."""

    def normal(y: Array) -> Array:
        low, high = y.min(axis=1, keepdims=True), y.max(axis=1, keepdims=True)
        return (y - low) / np.where(high > low, high - low, 1.0)

    below = normal(falling) <= normal(rising)
    crossing = below[:, 1:] & ~below[:, :-1]
    return np.where(crossing.any(axis=1), crossing.argmax(axis=1) + 1, -1)


def breakpoints(steps: ArrayLike, rates: ArrayLike) -> list[float]:
    """Return the steps at which a learning-rate schedule has a kink or a jump (end of warm-up, drops).

    A kink is a second difference far beyond those around it; the smooth bend of a cosine is none.
    """
    x, rate = np.asarray(steps, float), np.asarray(rates, float)
    if x.size < 4 or np.ptp(rate) == 0:
        return []
    slope = np.diff(rate) / np.diff(x)
    bend = np.abs(np.diff(slope))
    usual = np.maximum.reduce([np.median(bend), 1e-9 * np.abs(slope).max()])
    kinks = np.flatnonzero(bend > np.maximum(20 * usual, 0.02 * np.abs(slope).max())) + 1
    merged: list[int] = []
    for k in kinks:
        if not merged or k > merged[-1] + 2:
            merged.append(int(k))
    return [float(x[k]) for k in merged]


def separated(first: Sequence[float], second: Sequence[float]) -> str:
    """Return "first", "second" or "not resolved" from two intervals (low, high): resolved only where they are disjoint."""
    if first[1] < second[0]:
        return "first"
    if second[1] < first[0]:
        return "second"
    return NOT_RESOLVED
