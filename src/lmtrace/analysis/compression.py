"""Compression: a curve (intrinsic dimension) that rises and then falls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from lmtrace.analysis.noise import Array, ar1, autocorrelation, curve, thin
from lmtrace.analysis.splines import LIMIT, RESOLUTION, Models, spline_models

MIN_POINTS = 8
_NUM_NULL = 199
_NUM_SAMPLES = 400


@dataclass(frozen=True, slots=True)
class Compression:
    """Rise and then fall of a curve.

    Attributes
    ----------
    peak
        Step of the peak of the smooth curve, among the measured ones.
    interval
        Steps between which the peak lies (95 % of the curves that the noise allows).
    level
        Mean of the measured values at the peak and beside it.
    rise, fall
        From the lowest level before the peak, and to the lowest after it, as the same means.
    p_value
        Share of monotone curves with the same autocorrelated noise that seem to rise and fall as clearly.
    """

    peak: float
    interval: tuple[float, float]
    level: float
    rise: float
    fall: float
    p_value: float


def compression(
    steps: ArrayLike, values: ArrayLike, stderr: ArrayLike | None = None, false_alarm: float = 0.05, seed: int = 0
) -> Compression | None:
    """Describe a rise followed by a fall, or None where a monotone curve with noise explains it.

    A smoothing spline with AR(1) noise is fitted by maximum likelihood. The statistic is max over t of min(rise before t, fall
    after t), both in units of their standard deviation. Its null: monotone curves (isotonic regression of the
    spline, and of the values) with the autocorrelated noise around them, fitted again in the same way. Both nulls must be
    rejected.

    Parameters
    ----------
    steps, values : [measurements]
        One curve of at least 8 measured values.
    stderr : [measurements] or scalar, optional
        Standard errors: a lower limit of the noise of the null.
    false_alarm
        Chance of a compression in a monotone curve.
    seed
        Of the null curves.
    """
    x, y, (error,) = curve(steps, values, stderr, at_least=MIN_POINTS, who="compression")
    spread = float(np.ptp(y))
    if spread == 0:
        return None
    per_block = max(y.size / LIMIT, 1.0)
    x, y = thin([x, y], LIMIT)
    centre = float(y.mean())
    y = (y - centre) / spread
    least = (
        0.0
        if error is None or not np.isfinite(error).any()
        else float(np.nanmedian(error)) / spread / np.sqrt(per_block)
    )
    models = spline_models(tuple(range(y.size)))
    (k,), trends, noise = _fits(y[None], models, least)
    trend, deviation = trends[0], float(noise[0])
    observed = float(_humps(trends, noise, np.array([k]), models)[0])
    if observed <= 0:
        return None
    generator = np.random.default_rng(seed)
    monotone = _monotone(y)
    residual = y - monotone
    freedom = max(y.size - np.unique(monotone).size, 2)
    nulls = (
        (_monotone(trend), deviation, float(models.rho[k])),
        (monotone, max(float(np.sqrt(residual @ residual / freedom)), least), autocorrelation(residual, 2)),
    )
    p_value = 0.0
    for middle, scale, rho in nulls:
        curves = middle + scale * ar1(_NUM_NULL, y.size, rho, generator)
        best, smooth, noises = _fits(curves, models, least)
        p = (1 + int((_humps(smooth, noises, best, models) >= observed).sum())) / (1 + _NUM_NULL)
        p_value = max(p_value, p)
        if p_value > false_alarm:
            return None
    at = int(np.argmax(_heights(trend)))
    top = _level(y, at)
    low, high = _peak_interval(trend, deviation, k, models, generator)
    return Compression(
        peak=float(x[at]),
        interval=(float(x[min(low, at)]), float(x[max(high, at)])),
        level=top * spread + centre,
        rise=(top - _level(y, int(np.argmin(trend[: at + 1])))) * spread,
        fall=(top - _level(y, at + int(np.argmin(trend[at:])))) * spread,
        p_value=p_value,
    )


def _monotone(y: Array) -> Array:
    """Return the better of the rising and the falling isotonic regression."""
    fits = [isotonic_regression(y, increasing=up).x for up in (True, False)]
    return min(fits, key=lambda z: float(np.sum((y - z) ** 2)))


def _fits(y: Array, models: Models, least: float) -> tuple[np.ndarray, Array, Array]:
    """Return the best model, the trend and the noise of each curve; y: [curves, n]."""
    rss = models.rss(y.T)
    best = models.loglik(rss).argmax(axis=0)
    trends = np.empty_like(y)
    for k in np.unique(best):
        mine = best == k
        trends[mine] = y[mine] - y[mine] @ models.noise[k].T
    n = y.shape[1]
    floor = max(least, RESOLUTION)
    return best, trends, np.sqrt(np.maximum(np.take_along_axis(rss, best[None], axis=0)[0] / n, floor**2))


def _humps(trends: Array, noise: Array, best: np.ndarray, models: Models) -> Array:
    """Return per curve max over t of min(rise, fall) in standard deviations of the trend's differences."""
    out = np.empty(trends.shape[0])
    n = trends.shape[1]
    before = np.tri(n, k=-1, dtype=bool)
    for k in np.unique(best):
        mine = np.flatnonzero(best == k)
        difference = (trends[mine, :, None] - trends[mine, None, :]) / models.deviations(int(k))
        rise = np.where(before, difference, 0.0).max(axis=2)
        fall = np.where(before.T, difference, 0.0).max(axis=2)
        out[mine] = np.minimum(rise, fall).max(axis=1) / noise[mine]
    return out


def _level(y: Array, at: int) -> float:
    """Return the mean of the measured values around a place: a smooth curve cuts off the tip of a peak."""
    return float(y[max(at - 1, 0) : at + 2].mean())


def _heights(trend: Array) -> Array:
    """Return at each place min(rise since the lowest before, fall to the lowest after)."""
    before = np.minimum.accumulate(trend)
    after = np.minimum.accumulate(trend[::-1])[::-1]
    return np.minimum(trend - before, trend - after)


def _peak_interval(
    trend: Array, deviation: float, k: int, models: Models, generator: np.random.Generator
) -> tuple[int, int]:
    """Return the ends of the central 95 % of the peaks of curves drawn from the trend's posterior."""
    n = trend.size
    v = models.rho[k] ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    covariance = v - models.noise[k] @ v
    power, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    root = vectors * np.sqrt(np.maximum(power, 0.0))
    drawn = trend + deviation * generator.standard_normal((_NUM_SAMPLES, n)) @ root.T
    peaks = np.sort([int(np.argmax(_heights(row))) for row in drawn])
    return int(peaks[int(0.025 * _NUM_SAMPLES)]), int(peaks[int(0.975 * _NUM_SAMPLES) - 1])
