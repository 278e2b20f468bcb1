"""Phases: abrupt changes of level that a smooth trend with autocorrelated noise does not explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmtrace.analysis.noise import Array, colour, curve, whiten
from lmtrace.analysis.splines import Models, knot_models
from lmtrace.errors import ConfigError

MIN_POINTS = 12
_BATCHES = (20, 40, 139, 200)  # null curves, drawn until the answer is certain
_NUM_NULL = sum(_BATCHES)
_LIMIT = 160  # longer curves are averaged in blocks: the models cost n^3 once per grid, and n^2 per curve
_LEAST_FREE = 0.05
_FREE = 0.75  # share of a measurement that the trend does not follow, below which its residual says little
_CAUTION = (
    0.25  # the null is estimated from the curve itself: its share of larger gains counts 4 times (measured: AR(.8))
)
_PLAUSIBLE = 5.0  # nats of log-likelihood within which a second null is taken as an explanation


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """One abrupt change.

    Attributes
    ----------
    step
        First measured step after the change.
    interval
        Steps between which the change lies (95 %, profile likelihood, widened to the measured steps).
    size
        Jump of the level, in units of the values; its sign is its direction.
    p_value
        Share of matched null curves with a jump that stands out as much.
    """

    step: float
    interval: tuple[float, float]
    size: float
    p_value: float


@dataclass(frozen=True, slots=True)
class _Null:
    """A smooth curve with the surprises of AR(1) noise around it, and how well it fits."""

    trend: Array
    surprises: Array
    rho: float
    loglik: float
    free: Array

    def curves(self, num: int, generator: np.random.Generator) -> Array:
        """Return [num, n] curves of the trend with the same surprises in the same places, with random signs (Wu 1986).

        So the noise is as large as it is, where it is, and as heavy in its tails.
        """
        signs = generator.integers(0, 2, (num, self.trend.size)) * 2.0 - 1.0
        return self.trend + colour(signs * self.surprises, self.rho)


@dataclass(frozen=True, slots=True)
class _Search:
    """Log-likelihood gain and size of a jump at each candidate ([n]); the best null and its fit."""

    gain: Array
    size: Array
    loglik: float
    best: tuple[int, int]

    def location(self, allowed: NDArray[np.bool_]) -> tuple[int, int, int]:
        """Return the best candidate and the ends of its 95 % profile interval."""
        gain = self.gain
        at = int(np.argmax(gain))
        inside = gain >= gain[at] - 1.92  # half of the 95 % quantile of chi-square with one degree of freedom
        low = high = at
        while inside[low - 1] and allowed[low - 1]:
            low -= 1
        while high + 1 < inside.size and inside[high + 1]:
            high += 1
        return at, low, high


def change_points(
    steps: ArrayLike,
    values: ArrayLike,
    false_alarm: float = 0.05,
    covariates: Sequence[float] = (),
    seed: int = 0,
) -> list[ChangePoint]:
    r"""Find abrupt changes of level, or none.

    Model: y_t = trend_t + covariates_t + sum_k delta_k [t >= c_k] + noise_t, the trend a cubic smoothing spline over
    the index or over log(1 + step), the noise AR(1). For each candidate c the profile log-likelihood ratio of
    delta_c = 0 is taken over smoothness and autocorrelation; the largest is compared with the same quantity on
    curves drawn from the null that fits best: its smooth trend plus its autocorrelated noise. Changes enter one by
    one until the next is not significant. So the chance of any change on a smooth, autocorrelated curve without
    one is at most about `false_alarm`.

    Parameters
    ----------
    steps, values : [measurements]
        One curve, at least 12 measured values; NaN where missing.
    false_alarm
        Chance of reporting a change where there is none.
    covariates
        Steps at which something known changed (end of warm-up, learning-rate drops): a change of level and of slope there
        is attributed to it and is not a phase.
    seed
        Of the null curves; the same input gives the same answer.

    Returns
    -------
    list[ChangePoint]
        In the order of steps; empty is the answer "no transition". A trend that takes more than about 5 % of the run
        counts as smooth, and a change needs max(3, n/20) measurements on both sides.

    References
    ----------
    Harvey and Koopman 1992 (auxiliary residuals); Andrews 1993 (unknown change point); `docs/design`.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal(100)
    >>> [point.step for point in change_points(range(100), noise + 5 * (np.arange(100) >= 50))]
    [50.0]
    >>> change_points(range(100), noise)
    []
    """
    if not 0 < false_alarm < 1:
        raise ConfigError(f"change_points: false_alarm is {false_alarm}", "Give a probability between 0 and 1")
    x, y, _ = curve(steps, values, at_least=MIN_POINTS, who="change_points")
    found = _changes(x, y, false_alarm, covariates, seed)
    if found and y.min() > 0 and y.max() > 2 * y.min():  # the noise of what is positive often scales with its level
        again = _changes(x, np.log(y), false_alarm, covariates, seed)
        found = [change for change in found if any(_overlap(change, other) for other in again)]
    return found


def _overlap(one: ChangePoint, other: ChangePoint) -> bool:
    return one.interval[0] <= other.interval[1] and other.interval[0] <= one.interval[1]


def _changes(x: Array, y: Array, false_alarm: float, covariates: Sequence[float], seed: int) -> list[ChangePoint]:
    """Return the changes on one scale of the values."""
    spread = float(np.ptp(y))
    if spread == 0:
        return []
    edges = _blocks(x.size)
    size = np.diff(np.append(edges, x.size))
    y = np.add.reduceat((y - y.mean()) / spread, edges) / size
    known = tuple(sorted({c for c in np.searchsorted(x[edges], list(covariates)).tolist() if 0 < c < y.size - 1}))
    axes = [np.arange(x.size, dtype=np.float64), np.log1p(x)]
    if np.ptp(np.diff(x)) > 1e-9 * x[-1]:  # the order of measurements is not their time
        axes.append(x)
    axes = [np.add.reduceat(axis, edges) / size for axis in axes]  # where the mean of a block stands
    families = [knot_models(tuple(axis.tolist()), known) for axis in axes]
    margin = max(3, round(y.size / 20))
    allowed = np.zeros(y.size, bool)
    allowed[margin : y.size - margin + 1] = True
    for c in known:  # what happens at a known breakpoint belongs to it
        allowed[max(c - margin + 1, 0) : c + margin] = False
    generator = np.random.default_rng(seed)
    found: list[tuple[int, ChangePoint]] = []
    while allowed.any():
        search = _search(y, families, allowed)
        p_value = _judge(y, search, families, allowed, false_alarm, generator)
        if p_value is None:
            break
        at, low, high = search.location(allowed)
        change = ChangePoint(
            step=float(x[edges[at]]),
            interval=(float(x[edges[low] - 1]), float(x[edges[high]])),
            size=float(search.size[at]) * spread,
            p_value=p_value,
        )
        found.append((at, change))
        families = [models.with_jump(at) for models in families]
        allowed[max(at - margin + 1, 0) : at + margin] = False
    return [change for _, change in sorted(found, key=lambda pair: pair[0])]


def _search(y: Array, families: Sequence[Models], allowed: NDArray[np.bool_]) -> _Search:
    """Compare, for each candidate, the best fit of the curve with and without a jump there."""
    without, with_jump = -np.inf, np.full(y.size, -np.inf)
    size = np.zeros(y.size)
    best = (0, 0)
    for f, models in enumerate(families):
        fits = models.loglik(models.rss(y[:, None]))[:, 0]
        score = models.scan @ y  # [models, n]
        jumps = models.loglik(models.rss(y[:, None]) - score**2)
        if fits.max() > without:
            without, best = float(fits.max()), (f, int(fits.argmax()))
        k = jumps.argmax(axis=0)
        top = jumps.max(axis=0)
        delta = np.take_along_axis(score / np.sqrt(models.information), k[None], axis=0)[0]
        size = np.where(top > with_jump, delta, size)
        with_jump = np.maximum(with_jump, top)
    return _Search(np.where(allowed, with_jump - without, -np.inf), size, without, best)


def _largest_gains(y: Array, families: Sequence[Models], allowed: NDArray[np.bool_]) -> Array:
    """Return the largest gain of a jump for each curve of `y` ([n, curves]): what `_search` finds, for many curves."""
    without = np.full(y.shape[1], -np.inf)
    with_jump = without
    for models in families:
        rss = models.rss(y)
        drop = np.max((models.scan[:, allowed] @ y) ** 2, axis=1)
        without = np.maximum(without, models.loglik(rss).max(axis=0))
        with_jump = np.maximum(with_jump, models.loglik(rss - drop).max(axis=0))
    return with_jump - without


def _judge(
    y: Array,
    search: _Search,
    families: Sequence[Models],
    allowed: NDArray[np.bool_],
    level: float,
    generator: np.random.Generator,
) -> float | None:
    """Return the largest p-value over the nulls that fit the curve; None where one of them explains it.

    Each null has its own best trend. Its noise is what is left where the jump is allowed for (around a trend that cannot
    follow a jump, the jump itself would pass for noise); but where measurements are so few that the trend follows each of
    them, what is left says little, and the larger of both is taken.
    """
    observed = float(search.gain.max())
    at = int(np.argmax(search.gain))
    fits = [_best_fit(y, models.with_jump(at)) for models in families]
    noise = max(fits, key=lambda fit: fit.loglik)
    worst = 0.0
    for models in families:
        null = _best_fit(y, models)
        larger = np.where(np.abs(null.surprises) > np.abs(noise.surprises), null.surprises, noise.surprises)
        null = replace(null, surprises=np.where(null.free < _FREE, larger, noise.surprises), rho=noise.rho)
        if null.loglik < search.loglik - _PLAUSIBLE:
            continue
        p_value = _p_value(observed, null, families, allowed, level, generator)
        if p_value is None:
            return None
        worst = max(worst, p_value)
    return worst


def _p_value(
    observed: float,
    null: _Null,
    families: Sequence[Models],
    allowed: NDArray[np.bool_],
    level: float,
    generator: np.random.Generator,
) -> float | None:
    """Return the share of null curves that gain as much from a jump; None as soon as it must exceed `level`."""
    too_many = int(np.floor(_CAUTION * level * (_NUM_NULL + 1)))
    exceed = 0
    for size in _BATCHES:
        exceed += int((_largest_gains(null.curves(size, generator).T, families, allowed) >= observed).sum())
        if exceed >= too_many:
            return None
    return (exceed + 1) / (_NUM_NULL + 1) / _CAUTION


def _best_fit(y: Array, models: Models) -> _Null:
    """Return the best trend of a family with the surprises that it leaves."""
    fits = models.loglik(models.rss(y[:, None]))[:, 0]
    k = int(fits.argmax())
    trend, rho = models.trend(k, y), float(models.rho[k])
    free = np.maximum(np.diag(models.noise[k]), _LEAST_FREE)  # what the trend does not follow of a single measurement
    surprises = whiten(((y - trend) / free)[None], rho)[0]
    return _Null(trend, surprises, rho, float(fits[k]), free)


def _blocks(n: int) -> NDArray[np.int64]:
    """Return the first index of each of at most `_LIMIT` blocks of nearly equal size."""
    return np.unique(np.linspace(0, n, min(n, _LIMIT) + 1).astype(np.int64))[:-1]
