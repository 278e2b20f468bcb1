"""Emergence: when a curve leaves its null, when it is half way, when it is done, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, fdtri

from lmtrace.analysis.noise import Array, ar1, autocorrelation, curve, thin, whiten
from lmtrace.errors import ConfigError

MIN_POINTS = 5
LEVEL = 0.95
_RHOS = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95)
_NUM_NULL = 800
_LIMIT = 80  # longer curves are averaged in blocks for the test (not for the fit)
_RESOLUTION = 5e-3  # of the curve's range: what is smaller than this is not called a change


@dataclass(frozen=True, slots=True)
class Emergence:
    """When a quantity emerged. All times are optimizer steps.

    Attributes
    ----------
    onset
        First measured step from which the value stays beyond its null by two standard errors. It happened after
        `onset_after`, the measurement before: the time is interval-censored by the grid of measurements.
    midpoint
        Half way between the two levels of the fitted sigmoid; None where it lies beyond the last measurement.
    interval
        95 % profile interval of the midpoint. Its end is infinite where the curve has not levelled off.
    saturation
        Step at which 90 % of the way is done; None where that lies beyond the last measurement.
    saturation_interval
        95 % profile interval of the saturation.
    onset_after
        The measurement before the onset; None where the very first one is already beyond the null.
    direction
        "up" or "down".
    start, end
        Levels of the fitted sigmoid before and after; where a null is given, of the part beyond it.
    p_value
        Chance of a sigmoid that fits as well in a flat curve with the same autocorrelated noise.
    note
        Empty, or what to know about these numbers.
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


def emergence(
    steps: ArrayLike,
    values: ArrayLike,
    stderr: ArrayLike | None = None,
    null: ArrayLike | None = None,
    false_alarm: float = 0.01,
) -> Emergence | None:
    r"""Describe when a rising or falling curve emerged; None where nothing emerged.

    Something emerged if a sigmoid in log(1 + step) fits better than a constant by more than it does on flat curves with
    AR(1) noise (at level `false_alarm`), and the value ends beyond its null by two standard errors. The
    sigmoid, value = a + b / (1 + exp(-(log(1 + step) - m) / w)), is fitted by generalised least squares; the
    intervals are ranges over the parameters whose residual sum stays below its 95 % limit (profile likelihood),
    so a jump between two measurements has an interval that reaches from the one to the other.

    Parameters
    ----------
    steps, values : [measurements]
        One curve, at least 5 measured values; NaN where missing.
    stderr : [measurements] or scalar, optional
        Standard errors; without them the scatter around the fit is taken.
    null : [measurements] or scalar, optional
        What the value would be with nothing to find; default the first value. What the curve does on the way to it is no part
        of the emergence.
    false_alarm
        Chance of an emergence in a flat curve.

    Returns
    -------
    Emergence or None

    Notes
    -----
    A noisier quantity crosses two standard errors later: compare midpoints, not onsets, between quantities.

    Examples
    --------
    >>> steps = np.arange(0, 400, 20)
    >>> found = emergence(steps, 1 / (1 + np.exp(-(steps - 200) / 20.0)))
    >>> abs(found.midpoint - 200) < 5, found.direction
    (True, 'up')
    """
    if not 0 < false_alarm < 1:
        raise ConfigError(f"emergence: false_alarm is {false_alarm}", "Give a probability between 0 and 1")
    x, y, (error, given) = curve(steps, values, stderr, null, at_least=MIN_POINTS, who="emergence")
    if np.ptp(y) <= 1e-12 * max(1.0, float(np.abs(y).max())):
        return None
    time = np.log1p(x)
    lifted = _from_null(y, given, error)
    p_value = _p_value(time, lifted)
    if p_value > false_alarm and error is None:
        return None
    fit = _fit(*_thinned(time, lifted, error))
    noise = np.full(y.size, fit.deviation) if error is None else np.maximum(np.nan_to_num(error), 0.0)
    noise = np.maximum(noise, _RESOLUTION / 2 * np.ptp(y))
    if given is None:
        beyond, against = y - y[0], np.hypot(noise, noise[0])
    else:
        beyond, against = y - given, noise
    sign = 1.0 if fit.b > 0 else -1.0
    clear = sign * beyond > 2 * against
    if not clear[-1]:
        return None
    late = np.flatnonzero(~clear)
    first = int(late[-1]) + 1 if late.size else 0
    if p_value > false_alarm and not _beyond_error(y, first, error, fit.deviation):
        return None
    notes = [] if given is None or first > 0 else ["already beyond its null at the first measurement"]
    middle, done = fit.middle, fit.done
    if not np.isfinite(middle[2]) or done[1] > time[-1]:
        notes.append("has not levelled off by the last measurement")
    return Emergence(
        onset=float(x[first]),
        onset_after=float(x[first - 1]) if first else None,
        midpoint=_within(middle[1], time[-1]),
        interval=(_step(middle[0]), _step(middle[2])),
        saturation=_within(done[1], time[-1]),
        saturation_interval=(_step(done[0]), _step(done[2])),
        direction="up" if sign > 0 else "down",
        start=fit.a,
        end=fit.a + fit.b,
        p_value=p_value,
        note="; ".join(notes),
    )


def _within(time: float, last: float) -> float | None:
    return _step(time) if time <= last else None


def _step(time: float) -> float:
    return float(np.expm1(max(time, 0.0)))


def _from_null(y: Array, null: Array | None, error: Array | None) -> Array:
    """Return the curve with the way to its null taken out: what comes before it first reaches the null is set to the null.

    An accuracy that first rises to that of the majority class, and later beyond it, emerges in the second rise.
    """
    if null is None or error is None:  # without errors it is not known when the null is reached
        return y
    distance = y - null if np.median((y - null)[-3:]) > 0 else null - y
    reached = np.flatnonzero(distance >= -2 * np.nan_to_num(error))
    first = int(reached[0]) if reached.size else 0
    lifted = np.where(np.arange(y.size) < first, null, y)
    return lifted if np.ptp(lifted) > 0 else y


def _beyond_error(y: Array, first: int, error: Array | None, deviation: float) -> bool:
    """Tell whether the change is clear from the given standard errors alone (short curves: no test of the shape)."""
    if error is None or first == 0 or first > y.size - 2:
        return False
    noise = max(float(np.median(error)), deviation)
    before, after = y[:first], y[first:]
    scatter = np.hypot(before.std(), after.std()) if y.size > 6 else 0.0
    return abs(float(np.median(after) - np.median(before))) > 5 * max(noise * np.sqrt(2), float(scatter))


@dataclass(frozen=True, slots=True)
class _Fit:
    """Sigmoid a + b S((t - m) / w); `middle` and `done` are (low, best, high) on the log axis."""

    a: float
    b: float
    deviation: float
    middle: tuple[float, float, float]
    done: tuple[float, float, float]


def _fit(time: Array, y: Array, error: Array | None) -> _Fit:
    weight = np.ones(y.size)
    if error is not None and np.all(np.isfinite(error)) and np.all(error > 0):
        weight = np.clip(np.median(error) / error, 0.2, 5.0)
    gap, span = float(np.diff(time).min()), float(np.ptp(time))
    box = (time[0], time[-1] + span / 2, np.log(gap / 10), np.log(span))
    outer = near = box
    rss, m, w = _surface(time, y, weight, 0.0, near)
    k = int(np.argmin(rss))
    for _ in range(4):  # zoom in on the best fit, or the grid's misfit would pass for autocorrelated noise
        near = _zoom(near, m[[k]], w[[k]], outer)
        rss, m, w = _surface(time, y, weight, 0.0, near)
        k = int(np.argmin(rss))
    a, b = _levels(time, y, weight, m[k], w[k])
    residual = weight * (y - a - b * expit((time - m[k]) / w[k]))
    rho = autocorrelation(residual, 4) if y.size >= 12 else 0.0
    freedom = max(y.size - 4, 1)
    if y.size >= 12:
        freedom = max(freedom * (1 - rho) / (1 + rho), 3.0)
    limit = 1 + fdtri(1, freedom, LEVEL) / freedom
    floor = y.size * (_RESOLUTION / 10 * np.ptp(y)) ** 2
    for _ in range(4):
        rss, m, w = _surface(time, y, weight, rho, box)
        inside = rss + floor <= (rss.min() + floor) * limit
        box = _zoom(box, m[inside], w[inside], outer)
    rss, m, w = _surface(time, y, weight, rho, box)
    inside = rss + floor <= (rss.min() + floor) * limit
    k = int(np.argmin(rss))
    a, b = _levels(time, y, weight, m[k], w[k])
    residual = y - a - b * expit((time - m[k]) / w[k])
    deviation = float(np.sqrt(residual @ residual / max(y.size - 4, 1)))
    done = m + np.log(9.0) * w
    open_end = m[inside].max() >= outer[1] - 1e-9
    centre = _plateau_centre(m, w, rss, k)
    return _Fit(
        float(a), float(b), deviation,
        (float(m[inside].min()), centre, np.inf if open_end else float(m[inside].max())),
        (float(done[inside].min()), float(centre + np.log(9.0) * w[k]), np.inf if open_end else float(done[inside].max())),
    )  # fmt: skip


def _thinned(time: Array, y: Array, error: Array | None) -> tuple[Array, Array, Array | None]:
    """Return the columns averaged to at most 160 values: what a block of neighbours says, at bounded cost."""
    time, y, *rest = thin([time, y] if error is None else [time, y, error], 160)
    return time, y, rest[0] if rest else None


def _plateau_centre(m: Array, w: Array, rss: Array, k: int) -> float:
    """Return the best midpoint; where a jump fits equally well anywhere in a gap, the middle of the gap."""
    same = (w == w[k]) & (rss <= rss[k] * (1 + 1e-9) + 1e-300)
    return float((m[same].min() + m[same].max()) / 2)


_GRID = (40, 24)
Box = tuple[float, float, float, float]


def _zoom(box: Box, m: Array, w: Array, outer: Box) -> Box:
    """Return the box around these points, one grid cell wider, within the outer box."""
    cell_m, cell_w = (box[1] - box[0]) / (_GRID[0] - 1), (box[3] - box[2]) / (_GRID[1] - 1)
    logs = np.log(w)
    return (
        max(float(m.min()) - cell_m, outer[0]), min(float(m.max()) + cell_m, outer[1]),
        max(float(logs.min()) - cell_w, outer[2]), min(float(logs.max()) + cell_w, outer[3]),
    )  # fmt: skip


def _surface(time: Array, y: Array, weight: Array, rho: float, box: Box) -> tuple[Array, Array, Array]:
    """Return the residual sum of squares on a grid of midpoints and widths, with the grid; all [points]."""
    m, w = np.meshgrid(np.linspace(box[0], box[1], _GRID[0]), np.exp(np.linspace(box[2], box[3], _GRID[1])))
    m, w = m.ravel(), w.ravel()
    shapes = whiten(expit((time - m[:, None]) / w[:, None]) * weight, rho)
    constant, target = whiten(weight.copy(), rho), whiten(weight * y, rho)
    norm = constant @ constant
    target = target - constant * (constant @ target / norm)
    shapes = shapes - np.outer(shapes @ constant / norm, constant)
    power = np.einsum("kn,kn->k", shapes, shapes)
    gain = np.where(power > 1e-12, (shapes @ target) ** 2 / np.maximum(power, 1e-12), 0.0)
    return np.maximum(target @ target - gain, 0.0), m, w


def _levels(time: Array, y: Array, weight: Array, m: float, w: float) -> tuple[float, float]:
    design = np.column_stack([np.ones(y.size), expit((time - m) / w)])
    a, b = np.linalg.lstsq(design * weight[:, None], y * weight, rcond=None)[0]
    return float(a), float(b)


def _p_value(time: Array, y: Array) -> float:
    """Return the chance of such a gain of a sigmoid over a constant on flat curves with AR(1) noise.

    The autocorrelation of the null is half way between that around the flat fit (which takes a rise for correlation, so
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
    k = int(np.searchsorted(_RHOS, min((high + low) / 2, _RHOS[-1])))
    null = _null_gains(tuple(time.tolist()), k)
    return float((1 + (null >= gain[0]).sum()) / (1 + null.size))


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
