"""Convergence of a curve: its slope is known to be near zero, its level is stable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from lmtrace.analysis.noise import Array, autocorrelation, curve
from lmtrace.errors import ConfigError

LEVEL = 0.95
FLAT_SHARE = 0.01  # of the whole change so far, per window: what still counts as flat where no tolerance is given


@dataclass(frozen=True, slots=True)
class Convergence:
    """Whether a curve has converged at its end.

    Attributes
    ----------
    converged
        The rule holds over the last `window` measurements.
    step
        The first step of the unbroken stretch of measurements at which the rule holds, up to the end: where a run that
        watched it would have stopped, if nothing changed since. None where it does not hold.
    slope
        Change of the value per step over the last window.
    interval
        95 % interval of the slope.
    note
        Why not: "slope", "level", "too few measurements"; empty where converged.
    """

    converged: bool
    step: float | None
    slope: float | None
    interval: tuple[float, float] | None
    note: str = ""


def convergence(steps: ArrayLike, values: ArrayLike, window: int = 20, tolerance: float | None = None) -> Convergence:
    """Decide whether a curve has converged at its end.

    It has if the 95 % interval of its slope over the last `window` measurements lies inside +-`tolerance`, and no third
    of the window leaves the window's mean by more than the slopes allow (tolerance x length of the window) beyond twice its error: so a
    valley, whose slope is zero, is not a level. The interval of the slope is that of least squares, widened for the
    autocorrelation of the residuals; noise makes it wide, so a noisy curve has not converged until the
    window is long enough to say so.

    Parameters
    ----------
    steps, values : [measurements]
        One curve; NaN where missing.
    window
        Number of measurements, at least 5.
    tolerance
        Largest slope that counts as flat, in units of the value per step; None for 1 % of the curve's whole change so far per
        window.

    Returns
    -------
    Convergence

    Examples
    --------
    >>> noise = 0.01 * np.random.default_rng(0).standard_normal(40)
    >>> convergence(range(40), noise, window=20, tolerance=0.1).converged
    True
    >>> convergence(range(40), noise + np.arange(40), window=20, tolerance=0.1).converged
    False
    """
    check_window(window, tolerance, "convergence")
    x, y, _ = curve(steps, values, at_least=1, who="convergence")
    if x.size < window:
        return Convergence(False, None, None, None, "too few measurements")
    verdict, slope, interval, note = _judge_end(x, y, window, tolerance)
    if not verdict:
        return Convergence(False, None, slope, interval, note)
    end = x.size
    while end > window and _judge_end(x[: end - 1], y[: end - 1], window, tolerance)[0]:
        end -= 1
    return Convergence(True, float(x[end - 1]), slope, interval)


def _judge_end(
    x: Array, y: Array, window: int, tolerance: float | None
) -> tuple[bool, float, tuple[float, float], str]:
    return judge(x[-window:], y[-window:], tolerance, float(np.ptp(y)))


def check_window(window: int, tolerance: float | None, who: str) -> None:
    """Raise `ConfigError` where a window or a tolerance cannot be used."""
    if isinstance(window, bool) or window != int(window) or window < 5:
        raise ConfigError(f"{who}: window is {window}", "Give a number of measurements of 5 or more")
    if tolerance is not None and not (np.isfinite(tolerance) and tolerance > 0):
        raise ConfigError(f"{who}: tolerance is {tolerance}", "Give a positive slope (units of the value per step)")


def judge(x: Array, y: Array, tolerance: float | None, change: float) -> tuple[bool, float, tuple[float, float], str]:
    """Return verdict, slope, its interval and the reason of a no, for one window; `change` is the range of all values."""
    n = x.size
    if tolerance is None:
        tolerance = max(FLAT_SHARE * change, 1e-300) / float(x[-1] - x[0])
    centred = x - x.mean()
    power = float(centred @ centred)
    level = float(y.mean())
    slope = float(centred @ (y - level)) / power
    residual = y - level - slope * centred
    rho = autocorrelation(residual, 2)
    variance = float(residual @ residual) / (n - 2) * (1 + rho) / (1 - rho)
    freedom = max((n - 2) * (1 - rho) / (1 + rho), 1.0)
    margin = float(stdtrit(freedom, (1 + LEVEL) / 2)) * np.sqrt(variance / power)
    interval = (slope - margin, slope + margin)
    if not (-tolerance < interval[0] and interval[1] < tolerance):
        return False, slope, interval, "slope"
    allowed = tolerance * float(x[-1] - x[0])
    for part in np.array_split(y, 3):
        if abs(float(part.mean()) - level) > allowed + 2 * np.sqrt(variance / part.size):
            return False, slope, interval, "level"
    return True, slope, interval, ""
