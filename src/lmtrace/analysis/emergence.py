"""Emergence: whether a curve left its null, when it was half way, when it was done, and how sure that is.

No shape is assumed. Whether is decided by the errors of the end, of the null and of the first measurement; when by the
crossings of a monotone fit. A sigmoid, as it is published, is fitted beside it as a description.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, least_squares
from scipy.special import expit, ndtr

from lmtrace.analysis.noise import Array, ar1, autocorrelation, curve, local_scatter, thin, whiten
from lmtrace.errors import ConfigError

MIN_POINTS = 5
EMERGED = "emerged"
NOT_TIMED = "time not resolved"
_RHOS = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95)
_NUM_NULL = 800
_LIMIT = 80  # longer curves are averaged in blocks for the test of their shape (not for the times)
_RESOLUTION = 5e-3  # of the curve's range: what is smaller than this is not called a change
_QUANTILE = 2.4  # of each end of a 95 % interval; more than 1.96, for the measurements and windows that are looked at
_END = 0.1  # share of the run over which its end is averaged
_LATE = 0.2  # share of the run over which its last slope is taken


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """The published description, start + (end - start) / (1 + exp(-(log(1 + step) - log(1 + midpoint)) / width)).

    Attributes
    ----------
    midpoint
        Step.
    width
        In log(1 + step).
    start, end
        Levels, extrapolated.
    misfit
        Root mean square of its residuals in standard errors: about 1 where it describes the curve, more where it does not.
    """

    midpoint: float
    width: float
    start: float
    end: float
    misfit: float


@dataclass(frozen=True, slots=True)
class Emergence:
    """When a quantity emerged. All times are optimizer steps.

    Attributes
    ----------
    onset
        First measured step from which the value stays beyond its null by two standard errors. It happened after
        `onset_after`, the measurement before: the time is interval-censored by the grid of measurements.
    midpoint
        First crossing of half of the way from `start` to `end`. None where it is not known to any use (`why`), or lies
        before the first measurement.
    interval
        95 % interval of the midpoint, at least the two measurements around it. Its end is infinite where the curve is still
        on its way, and later than the crossing alone would have it where the curve has not levelled off.
    saturation, saturation_interval
        The same of 90 % of the way.
    onset_after
        The measurement before the onset; None where the very first one is already beyond the null.
    direction
        "up" or "down".
    start, end
        The levels between which the way is measured: null or first value, and the end of the curve.
    p_value
        Chance of an end as far from the null and from the first value, in either direction.
    note
        Empty, or what to know about these numbers.
    verdict
        "emerged", or "time not resolved": clear of its null and of the first value, but when is not known.
    why
        Why the time is not resolved; empty where it is.
    tenth, tenth_interval
        The same of 10 % of the way.
    sigmoid
        The published description; None below 5 measurements.
    """

    onset: float
    midpoint: float | None
    interval: tuple[float, float]
    saturation: float | None
    saturation_interval: tuple[float, float]
    onset_after: float | None
    direction: str
    start: float
    end: float
    p_value: float
    note: str = ""
    verdict: str = EMERGED
    why: str = ""
    tenth: float | None = None
    tenth_interval: tuple[float, float] = (0.0, np.inf)
    sigmoid: Sigmoid | None = None


def emergence(
    steps: ArrayLike,
    values: ArrayLike,
    stderr: ArrayLike | None = None,
    null: ArrayLike | None = None,
    false_alarm: float = 0.01,
) -> Emergence | None:
    r"""Describe when a rising or falling curve emerged; None where there is no sign that anything did.

    **Whether.** The end of the curve must be clear of its null and of the first value, by their standard errors, on one side of
    both; or, beyond two of them, a sigmoid must fit better than a constant by more than it does on flat curves with AR(1)
    noise. Each of the two ways has half of `false_alarm`, both directions together. Without standard errors only the second.

    **When.** The first crossing of 10, 50 and 90 % of the way between the two levels, by a monotone fit (isotonic
    regression). The interval of a crossing ends at the nearest measurements on either side whose value, or the mean of the
    2, 4, 8 .. values from there on, is known to be below or above the level. So no time is given inside a gap of the
    measurements: a jump has the gap that holds it as its interval.

    Parameters
    ----------
    steps, values : [measurements]
        One curve; NaN where missing. At least 5 measured values, with standard errors at least 2.
    stderr : [measurements] or scalar, optional
        Standard errors; without them the scatter of neighbours is taken.
    null : [measurements] or scalar, optional
        What the value would be with nothing to find; default the first value. What the curve does on the way to it is no part
        of the emergence. A curve that is beyond its null at step 0 is timed from its value there.
    false_alarm
        Chance of an emergence in a flat curve.

    Returns
    -------
    Emergence or None
        `verdict` tells whether the time is resolved.

    Notes
    -----
    A noisier quantity crosses two standard errors later: compare midpoints, not onsets, between quantities.
    Where the curve has not levelled off, the way is the way so far, and the ends of the intervals allow for as much again
    as the last slope brings in a run of the same length.

    Examples
    --------
    >>> steps = np.arange(0, 400, 20)
    >>> found = emergence(steps, 1 / (1 + np.exp(-(steps - 200) / 20.0)))
    >>> abs(found.midpoint - 200) < 10, found.interval[0] < 200 < found.interval[1], found.direction
    (True, True, 'up')
    """
    if not 0 < false_alarm < 1:
        raise ConfigError(f"emergence: false_alarm is {false_alarm}", "Give a probability between 0 and 1")
    least = MIN_POINTS if stderr is None else 2
    x, y, (error, given) = curve(steps, values, stderr, null, at_least=least, who="emergence")
    if np.ptp(y) <= 1e-12 * max(1.0, float(np.abs(y).max())):
        return None
    noise = _noise(y, error)
    sign = 1.0 if _tail(x, y, noise)[0] > y[0] else -1.0
    p_value = _whether(x, y, noise, given, sign, error is not None, false_alarm)
    if not p_value <= false_alarm:
        return None
    way = _Way.of(x, y, noise, given, sign)
    onset, before = _onset(x, y, noise, given, sign)
    ten, half, ninety = (way.crossing(share) for share in (0.1, 0.5, 0.9))
    why = way.unresolved(half)
    notes = [] if given is None or before is not None else ["already beyond its null at the first measurement"]
    if way.rising:
        notes.append("has not levelled off by the last measurement")
    if half.before:
        notes.append(f"half way before the first measurement, at step {x[0]:,.0f}")
    elif x[0] > 0:
        notes.append(f"no step 0: known from step {x[0]:,.0f} on")
    done = None if way.rising and not np.isfinite(ninety.interval[1]) else ninety.time
    first = y[0] if way.from_first else given[0]  # pyright: ignore[reportOptionalSubscript]
    return Emergence(
        onset=onset,
        onset_after=before,
        midpoint=None if why else half.time,
        interval=half.interval,
        saturation=None if why else done,
        saturation_interval=ninety.interval,
        direction="up" if sign > 0 else "down",
        start=float(first),
        end=float(way.base[-1] + sign * way.top),
        p_value=p_value,
        note="; ".join(notes),
        verdict=NOT_TIMED if why else EMERGED,
        why=why,
        tenth=None if why else ten.time,
        tenth_interval=ten.interval,
        sigmoid=_sigmoid(x, y, noise, ten.time, half.time) if y.size >= MIN_POINTS else None,
    )


# ------------------------------------------------------------------------------------------------------------------ noise
def _noise(y: Array, error: Array | None) -> Array:
    """Return the standard errors, at least the scatter between neighbours: a curve may wobble by more than its errors."""
    scatter = _scatter(y)
    noise = np.full(y.size, scatter) if error is None else np.nan_to_num(np.maximum(error, 0.0))
    known = noise[noise > 0]
    if error is not None and known.size and y.size >= 12:
        noise = noise * max(1.0, scatter / float(np.median(known)))
    return np.maximum(noise, _RESOLUTION / 2 * np.ptp(y))


def _scatter(y: Array) -> float:
    """Return the standard deviation of the noise of a curve: what neither a monotone curve nor a smooth one explains."""
    fits = (isotonic_regression(y, increasing=up) for up in (True, False))
    free = (np.sum((y - fit.x) ** 2) / max(y.size - 1.5 * fit.weights.size, y.size / 4) for fit in fits)
    return min(float(np.sqrt(min(free))), local_scatter(y))


# ---------------------------------------------------------------------------------------------------------------- whether
def _whether(
    x: Array, y: Array, noise: Array, null: Array | None, sign: float, errors: bool, false_alarm: float
) -> float:
    """Return the p-value of an end beyond null and first value in the direction `sign`."""
    end = _tail(x, y, noise)[0]
    last = float(noise[-1])  # not that of the mean: neighbours, and the panel's own luck, are not independent
    z = sign * (end - y[0]) / np.hypot(last, noise[0])
    if null is not None:
        z = min(z, sign * (end - null[-1]) / last)
    own = 2 * float(ndtr(-z))
    if errors and (2 * own <= false_alarm or y.size < MIN_POINTS):
        return min(1.0, 2 * own)
    if z < 2:
        return 1.0
    shape = _p_value(np.log1p(x), _from_null(y, null, noise, sign))
    return min(1.0, 2 * min(own, shape)) if errors else shape


def _from_null(y: Array, null: Array | None, noise: Array, sign: float) -> Array:
    """Return the curve with the way to its null taken out: what comes before it first reaches the null is set to the null.

    An accuracy that first rises to that of the majority class, and later beyond it, emerges in the second rise.
    """
    if null is None:
        return y
    reached = np.flatnonzero(sign * (y - null) >= -2 * noise)
    first = int(reached[0]) if reached.size else 0
    lifted = np.where(np.arange(y.size) < first, null, y)
    return lifted if np.ptp(lifted) > 0 else y


def _onset(x: Array, y: Array, noise: Array, null: Array | None, sign: float) -> tuple[float, float | None]:
    """Return the first step from which the value stays beyond its null by two errors, and the step before."""
    if null is None:
        beyond, against = sign * (y - y[0]), np.hypot(noise, noise[0])
    else:
        beyond, against = sign * (y - null), noise
    near = np.flatnonzero(beyond[:-1] <= 2 * against[:-1])
    first = int(near[-1]) + 1 if near.size else 0
    return float(x[first]), float(x[first - 1]) if first else None


# ------------------------------------------------------------------------------------------------------------------- when
def _tail(x: Array, y: Array, noise: Array, share: float = _END) -> tuple[float, float, float, float]:
    """Return value and slope at the end with their standard errors: a straight line over the last part of the run.

    Where fewer than 4 values lie in it, the last value, and the slope of the last 3.
    """
    span = float(x[-1] - x[0])
    late = x >= x[-1] - share * span * (1 + 1e-9)
    few = int(late.sum()) < 4
    if few:
        late = np.arange(x.size) >= min(x.size - 3, np.argmax(late))
    u, v, e = x[late] - x[-1], y[late], noise[late]
    centred = u - u.mean()
    power = float(centred @ centred)
    slope = float(centred @ v) / power
    slope_error = float(np.sqrt(centred**2 @ e**2)) / power
    if few:
        return float(y[-1]), float(noise[-1]), slope, slope_error
    weights = 1 / u.size - centred * u.mean() / power
    return float(weights @ v), float(np.sqrt(weights**2 @ e**2)), slope, slope_error


@dataclass(frozen=True, slots=True)
class _Crossing:
    """When a level was crossed: `time` None where that is before the first or after the last measurement."""

    time: float | None
    interval: tuple[float, float]
    before: bool
    inside: int


@dataclass(frozen=True, slots=True)
class _Way:
    """A curve as its way beyond the base, upwards: 0 at the base, `top` at the end."""

    x: Array
    beyond: Array
    noise: Array
    fit: Array
    rho: float
    base: Array
    base_error: float
    from_first: bool
    top: float
    top_error: float
    more: float
    rising: bool
    steady: bool

    @classmethod
    def of(cls, x: Array, y: Array, noise: Array, null: Array | None, sign: float) -> _Way:
        """Return the way of a curve from its null, or from its first value where there is none or that is beyond it."""
        from_first = null is None or bool(x[0] == 0 and sign * (y[0] - null[0]) > 2 * noise[0])
        base = np.full(y.size, y[0]) if null is None else null
        if null is not None and from_first:
            base = sign * np.maximum(sign * null, sign * y[0])
        beyond = sign * (y - base)
        top, top_error, _, _ = _tail(x, beyond, noise)
        _, _, slope, slope_error = _tail(x, beyond, noise, _LATE)
        span = float(x[-1] - x[0])
        clear = slope > 3 * slope_error
        more = slope * span
        fit = np.asarray(isotonic_regression(beyond, weights=1 / noise**2).x)
        return cls(
            x=x, beyond=beyond, noise=noise, fit=fit, rho=autocorrelation(beyond - fit, 2) if y.size >= 12 else 0.0,
            base=base, base_error=float(noise[0]) if from_first else 0.0, from_first=from_first,
            top=top, top_error=top_error, more=more if clear else 0.0, rising=bool(clear and more > 0.1 * top),
            steady=bool(clear and more > 0.75 * top),
        )  # fmt: skip

    def crossing(self, share: float) -> _Crossing:
        """Return when the curve first passed this share of its way."""
        x, level = self.x, share * self.top
        error = float(np.hypot(share * self.top_error, (1 - share) * self.base_error))
        passed = np.flatnonzero(self.fit >= level)
        at = int(passed[0]) if passed.size else x.size
        low, high = self._bounds(at, level, error)
        if self.rising:
            high = max(high, self._bounds(at, share * (self.top + self.more), error)[1])
        interval = (
            float(x[low]) if low >= 0 else 0.0,
            float(x[high]) if high < x.size else np.inf,
        )
        inside = high - low - 1
        if at == 0 or at == x.size:
            return _Crossing(None, interval, at == 0, inside)
        below, above = self.fit[at - 1], self.fit[at]
        time = x[at - 1] + (level - below) / (above - below) * (x[at] - x[at - 1])
        return _Crossing(float(time), interval, False, inside)

    def _bounds(self, at: int, level: float, error: float) -> tuple[int, int]:
        """Return the last measurement known to lie below the level and the first known to lie above it, around index `at`."""
        n = self.x.size
        below, above = np.zeros(n, bool), np.zeros(n, bool)
        width = 1
        while width == 1 or width <= n // 6:
            means, errors = self._windows(width)
            away = _QUANTILE * np.hypot(errors, error)
            below[: n - width + 1] |= means < level - away
            above[width - 1 :] |= means > level + away
            width *= 2
        low, high = np.flatnonzero(below[:at]), np.flatnonzero(above[at:])
        return int(low[-1]) if low.size else min(at, 1) - 1, at + int(high[0]) if high.size else n

    def _windows(self, width: int) -> tuple[Array, Array]:
        """Return mean and standard error of every `width` neighbouring values."""
        kernel = np.ones(width) / width
        lags = np.arange(1, width)
        together = 1 + 2 * float(((1 - lags / width) * self.rho**lags).sum()) if width > 1 else 1.0
        variance = np.convolve(self.noise**2, kernel, "valid") / width * together
        return np.convolve(self.beyond, kernel, "valid"), np.sqrt(variance)

    def unresolved(self, half: _Crossing) -> str:
        """Return why the time of the half is of no use; empty where it is."""
        n = self.x.size
        if n < MIN_POINTS:
            return f"{n} measurements"
        if self.steady:
            return "still on its way at the last measurement"
        low, high = half.interval
        if not np.isfinite(high):
            return "too noisy: its second half of the way is not clear"
        if half.inside > n / 2:
            return f"two stages or noise: near half of its way from step {low:,.0f} to {high:,.0f}"
        return ""


def _sigmoid(x: Array, y: Array, noise: Array, tenth: float | None, half: float | None) -> Sigmoid:
    """Return the published description, fitted by weighted least squares from the crossings of the monotone fit."""
    time = np.log1p(x)
    span, scale = float(np.ptp(time)), float(np.ptp(y))
    middle = float(time.mean()) if half is None else float(np.log1p(half))
    width = 0.05 * span if tenth is None else max((middle - float(np.log1p(tenth))) / np.log(9.0), 1e-3 * span)
    found = least_squares(
        lambda p: (p[0] + p[1] * expit((time - p[2]) * np.exp(-p[3])) - y) / noise,
        [y[0], y[-1] - y[0], middle, np.log(width)],
        bounds=(
            [-np.inf, -np.inf, time[0] - span, np.log(1e-4 * span)],
            [np.inf, np.inf, time[-1] + span, np.log(3 * span)],
        ),
        x_scale=[scale, scale, 0.1 * span, 1.0],
        max_nfev=30,
    )
    a, b, m, w = found.x
    misfit = float(np.sqrt(2 * found.cost / max(y.size - 4, 1)))
    return Sigmoid(float(np.expm1(max(m, 0.0))), float(np.exp(w)), float(a), float(a + b), misfit)


# ------------------------------------------------------------------------------------------------- shape against AR noise
def _p_value(time: Array, y: Array) -> float:
    """Return the chance of such a gain of a sigmoid over a constant on flat curves with AR(1) noise.

    The autocorrelation of the null lies between (two thirds up) that around the flat fit (which takes a rise for correlation, so
    short rises would pass unseen) and that around the best sigmoid (which takes correlation for a rise).
    """
    time, y = thin([time, y], _LIMIT)
    flat = (y - y.mean()) / y.std()
    shapes = _sigmoids(tuple(time.tolist()))
    gain, rho = _gain(flat[None], shapes)
    score = shapes[0] @ flat
    best = int(np.argmax(score**2))
    high = max(float(rho[0]), autocorrelation(flat, 1))
    low = autocorrelation(flat - score[best] * shapes[0][best], 4)
    k = int(np.searchsorted(_RHOS, min((2 * high + low) / 3, _RHOS[-1])))
    null = _null_gains(tuple(time.tolist()), k)
    return _tail_share(null, float(gain[0]))


def _tail_share(null: Array, value: float) -> float:
    """Return the share of null values at or above a value; beyond the largest tenth by their exponential tail.

    A share of 800 cannot be less than 1/800, and findings compare hundreds of curves.
    """
    share = float((1 + (null >= value).sum()) / (1 + null.size))
    limit = float(np.quantile(null, 0.9))
    if value <= null.max():
        return share
    return min(share, 0.1 * float(np.exp(-(value - limit) / (null[null > limit] - limit).mean())))


@lru_cache(maxsize=64)
def _null_gains(time: tuple[float, ...], k: int) -> Array:
    noise = ar1(_NUM_NULL, len(time), _RHOS[k], np.random.default_rng(0))
    return _gain(noise, _sigmoids(time))[0]


@lru_cache(maxsize=16)
def _sigmoids(time: tuple[float, ...]) -> tuple[Array, ...]:
    """Return per autocorrelation the whitened, centred, normalised sigmoids of all midpoints and widths: [shapes, n]."""
    t = np.asarray(time)
    middles = np.concatenate([np.linspace(t[0], t[-1], 24), (t[1:] + t[:-1]) / 2])
    widths = np.geomspace(np.diff(t).min() / 4, np.ptp(t) / 2, 8)
    m, w = (g.ravel() for g in np.meshgrid(middles, widths))
    shapes = expit((t - m[:, None]) / w[:, None])
    out = []
    for rho in _RHOS:
        constant = whiten(np.ones((1, t.size)), rho)[0]
        z = whiten(shapes, rho)
        z = z - np.outer(z @ constant / (constant @ constant), constant)
        norm = np.sqrt(np.einsum("kn,kn->k", z, z))
        out.append(z[norm > 1e-6] / norm[norm > 1e-6, None])
    return tuple(out)


def _gain(y: Array, shapes: tuple[Array, ...]) -> tuple[Array, NDArray[np.float64]]:
    """Return per curve of `y` ([curves, n]) the gain in log-likelihood and the autocorrelation of the flat fit."""
    n = y.shape[1]
    flat = np.full(y.shape[0], -np.inf)
    best = np.full(y.shape[0], -np.inf)
    rho_flat = np.zeros(y.shape[0])
    for rho, z in zip(_RHOS, shapes):
        constant = whiten(np.ones((1, n)), rho)[0]
        target = whiten(y, rho)
        target = target - np.outer(target @ constant / (constant @ constant), constant)
        rss = np.einsum("cn,cn->c", target, target)
        explained = ((target @ z.T) ** 2).max(axis=1)
        floor = 1e-6 * n
        jacobian = -(n - 1) / 2 * np.log(1 - rho**2)
        without = jacobian - n / 2 * np.log(rss + floor)
        rho_flat = np.where(without > flat, rho, rho_flat)
        flat = np.maximum(flat, without)
        best = np.maximum(best, jacobian - n / 2 * np.log(np.maximum(rss - explained, 0) + floor))
    return best - flat, rho_flat
