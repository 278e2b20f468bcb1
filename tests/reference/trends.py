"""Slow, obvious versions of what the analysis computes about curves."""

from __future__ import annotations

import numpy as np
from scipy import stats


def slope_interval(x, y):
    """Return slope and 95 % interval of ordinary least squares."""
    fit = stats.linregress(x, y)
    margin = stats.t.ppf(0.975, len(x) - 2) * fit.stderr
    return fit.slope, fit.slope - margin, fit.slope + margin


def best_sigmoid(steps, values):
    """Return (midpoint, width on the log axis, start, end) by least squares from many starting points."""
    from scipy.optimize import least_squares

    t = np.log1p(np.asarray(steps, float))
    values = np.asarray(values, float)

    def residual(p):
        return p[0] + p[1] * (1 + np.tanh((t - p[2]) / (2 * p[3]))) / 2 - values

    best = None
    for m in np.linspace(t[1], t[-1], 12):
        for w in (0.1, 0.3, 1.0):
            start = [values[0], values[-1] - values[0], m, w]
            bounds = ([-np.inf, -np.inf, t[0], 0.02], [np.inf, np.inf, t[-1] * 1.5, 10])
            fit = least_squares(residual, start, bounds=bounds)
            if best is None or fit.cost < best.cost:
                best = fit
    a, b, m, w = best.x
    return np.expm1(m), w, a, a + b


def bic_segmentation(values):
    """Standard segmentation: PELT with a BIC penalty on the standardised series; returns the number of changes."""
    import ruptures

    values = np.asarray(values, float)
    z = (values - values.mean()) / values.std()
    noise = np.median(np.abs(np.diff(z))) / 0.6745 / np.sqrt(2)
    penalty = 2 * noise**2 * np.log(z.size)
    return len(ruptures.Pelt(model="l2", min_size=2, jump=1).fit(z).predict(pen=penalty)) - 1
