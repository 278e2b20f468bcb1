"""Phases: abrupt changes of level that a smooth trend with autocorrelated noise does not explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from lmtrace.analysis.noise import Array, ar1, curve, whiten
from lmtrace.analysis.splines import LIMIT, RESOLUTION, Models, fixed_effects, spline_models
from lmtrace.errors import ConfigError

MIN_POINTS = 12
_BATCHES = (20, 40, 139)  # null curves, drawn until the answer is certain
_NUM_NULL = sum(_BATCHES)
_SCALE = 0.04  # the steepest sigmoid that still counts as smooth: from 10 to 90 % in a sixth of the run
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
    """A smooth curve with AR(1) noise of this standard deviation, and how well it fits."""

    trend: Array
    deviation: float
    rho: float
    loglik: float


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
    spread = float(np.ptp(y))
    if spread == 0:
        return []
    edges = _blocks(x.size)
    last = np.append(edges[1:], x.size) - 1
    y = np.add.reduceat((y - y.mean()) / spread, edges) / (last - edges + 1)
    known = tuple(sorted({c for c in np.searchsorted(x[edges], list(covariates)).tolist() if 0 < c < y.size - 1}))
    axes = (np.arange(y.size, dtype=np.float64), np.log1p(x[last]))
    families = [spline_models(tuple(axis.tolist()), known) for axis in axes]
    fixed = fixed_effects(axes[0], known)[:, [0, *range(2, 2 + 2 * len(known))]]
    margin = max(3, round(y.size / 20))
    allowed = np.zeros(y.size, bool)
    allowed[margin : y.size - margin + 1] = True
    for c in known:  # what happens at a known breakpoint belongs to it
        allowed[max(c - margin + 1, 0) : c + margin] = False
    generator = np.random.default_rng(seed)
    found: list[tuple[int, ChangePoint]] = []
    while allowed.any():
        search = _search(y, families, allowed)
        p_value = _judge(y, search, families, axes, fixed, allowed, false_alarm, generator)
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
        fixed = np.column_stack([fixed, (np.arange(y.size) >= at).astype(np.float64)])
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
    axes: Sequence[Array],
    fixed: Array,
    allowed: NDArray[np.bool_],
    level: float,
    generator: np.random.Generator,
) -> float | None:
    """Return the largest p-value over the nulls that fit the curve; None where one of them explains it."""
    observed = float(search.gain.max())
    null = _spline_null(y, search, families)
    worst = _p_value(y, observed, null, families, allowed, level, generator)
    for axis in axes:
        if worst is None:
            return None
        other = _sigmoid_null(y, axis, fixed)
        if other.loglik < null.loglik - _PLAUSIBLE:
            continue
        p_value = _p_value(y, observed, other, families, allowed, level, generator)
        worst = None if p_value is None else max(worst, p_value)
    return worst


def _p_value(
    y: Array,
    observed: float,
    null: _Null,
    families: Sequence[Models],
    allowed: NDArray[np.bool_],
    level: float,
    generator: np.random.Generator,
) -> float | None:
    """Return the share of null curves that gain as much from a jump; None as soon as it must exceed `level`."""
    too_many = int(np.floor(level * (_NUM_NULL + 1)))
    exceed = 0
    for size in _BATCHES:
        curves = null.trend + null.deviation * ar1(size, y.size, null.rho, generator)
        exceed += int((_largest_gains(curves.T, families, allowed) >= observed).sum())
        if exceed >= too_many:
            return None
    return (exceed + 1) / (_NUM_NULL + 1)


def _spline_null(y: Array, search: _Search, families: Sequence[Models]) -> _Null:
    """Return the best smoothing spline with its AR(1) noise."""
    family, k = search.best
    models = families[family]
    deviation = float(np.sqrt(models.rss(y[:, None])[k, 0] / y.size))
    return _Null(models.trend(k, y), deviation, float(models.rho[k]), search.loglik)


def _sigmoid_null(y: Array, axis: Array, fixed: Array) -> _Null:
    """Return the best sigmoid of bounded steepness (far from its midpoint: exponential, power law) with AR(1) noise.

    A spline is equally smooth everywhere; a sigmoid is flat, then steep, then flat. Each is a null of its own.
    """
    n = y.size
    u = (axis - axis[0]) / (axis[-1] - axis[0])

    def fit(m: float, w: float, rho: float) -> tuple[float, float, Array]:
        design = np.column_stack([fixed, expit((u - m) / w)])
        whitened = whiten(design.T, rho).T
        target = whiten(y, rho)
        solution = np.linalg.lstsq(whitened, target, rcond=1e-10)[0]
        rss = float(np.sum((target - whitened @ solution) ** 2))
        loglik = -n / 2 * np.log(rss + n * RESOLUTION**2) - (n - 1) / 2 * np.log(1 - rho**2)
        return loglik, rss, design @ solution

    middles, widths = np.linspace(-0.2, 1.2, 29), np.geomspace(_SCALE, 0.4, 5)
    grid = [(fit(m, w, r)[0], m, w, r) for r in (0.0, 0.5) for m in middles for w in widths]
    _, m, w, _ = max(grid)
    best = None
    for rho in (0.0, 0.35, 0.6, 0.85):
        result = minimize(
            lambda p, rho=rho: -fit(p[0], _SCALE + abs(p[1]), rho)[0],
            [m, w - _SCALE],
            method="Nelder-Mead",
            options={
                "maxiter": 60,
                "initial_simplex": [[m, w - _SCALE], [m + 0.03, w - _SCALE], [m, w - _SCALE + 0.03]],
            },
        )
        loglik, rss, trend = fit(result.x[0], _SCALE + abs(result.x[1]), rho)
        if best is None or loglik > best.loglik:
            best = _Null(trend, float(np.sqrt(rss / n)), rho, loglik)
    assert best is not None
    return best


def _blocks(n: int) -> NDArray[np.int64]:
    """Return the first index of each of at most `LIMIT` blocks of nearly equal size."""
    return np.unique(np.linspace(0, n, min(n, LIMIT) + 1).astype(np.int64))[:-1]
