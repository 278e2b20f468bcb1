"""Smooth trends with autocorrelated noise: cubic splines, smoothed (Gaussian processes) or of few knots, plus AR(1) noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import BSpline
from scipy.linalg import cho_solve, cholesky

from lmtrace.analysis.noise import Array, whiten

LIMIT = 100  # longer curves are averaged in blocks: the models cost n^3 once per grid, and n^2 per curve
RESOLUTION = 1e-3  # of the curve's range: no change smaller than this is looked for
_RHOS = (0.0, 0.35, 0.6, 0.85)
_NUM_WIDTHS = 6
_WIDTH = 0.05  # the narrowest trend that still counts as smooth, as a share of the run


@dataclass(frozen=True, slots=True)
class Models:
    """Null models of one family of trends, one per (rho, smoothness): a spline trend + AR(1) noise of covariance V.

    `weights[k]` is W = C^-1 - C^-1 X (X' C^-1 X)^-1 X' C^-1 with C = V + q K (K the spline's covariance, X the fixed
    effects), `logdet[k]` is log |C|, `noise[k]` = V W maps a curve to its noise. For the jump s_c = [t >= c],
    `information[k, c]` is s' W s and `scan[k, c]` is W s / sqrt(s' W s).
    """

    rho: Array
    logdet: Array
    weights: Array
    noise: Array
    information: Array
    scan: Array

    @classmethod
    def of(cls, rho: Array, logdet: Array, weights: Array, noise: Array) -> Models:
        """Return the models with what follows from their matrices."""
        jumps = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]  # [models, c, n]: s_c' W
        information = np.einsum("kcc->kc", np.cumsum(jumps[:, :, ::-1], axis=2)[:, :, ::-1])
        possible = information > 1e-6  # a jump at the first measurement, or that the trend follows, is no jump
        scan = np.where(possible[:, :, None], jumps / np.sqrt(np.where(possible, information, 1.0))[:, :, None], 0.0)
        return cls(rho, logdet, weights, noise, np.where(possible, information, np.inf), scan)

    def rss(self, y: Array) -> Array:
        """Return y' W y per model and curve; y: [n, curves]."""
        return np.maximum(np.sum((self.weights @ y) * y, axis=1), 0.0)

    def loglik(self, rss: Array) -> Array:
        """Return the profile log-likelihood (up to a constant) of residual sums [models, ...]."""
        n = self.weights.shape[1]
        floor = n * RESOLUTION**2
        return -0.5 * self.logdet[:, None] - n / 2 * np.log(np.maximum(rss, 0.0) + floor)

    def trend(self, k: int, y: Array) -> Array:
        """Return the smooth part of the curve under model k."""
        return y - self.noise[k] @ y

    def deviations(self, k: int) -> Array:
        """Return [n, n]: standard deviation of the trend's difference between two places, in units of the noise's.

        The covariance of the trend given the curve is V - V W V (times the noise variance), the fixed effects unknown.
        """
        n = self.weights.shape[1]
        v = self.rho[k] ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        covariance = v - self.noise[k] @ v
        power = np.diag(covariance)
        return np.sqrt(np.maximum(power[:, None] + power[None, :] - 2 * covariance, 1e-12))

    def with_jump(self, c: int) -> Models:
        """Return the same models with a jump at index c among the fixed effects."""
        unit = self.scan[:, c]  # [models, n]: W s / sqrt(s' W s)
        weights = self.weights - unit[:, :, None] * unit[:, None, :]
        vws = self.noise[:, :, c:].sum(axis=2) / np.sqrt(self.information[:, c])[:, None]
        return Models.of(self.rho, self.logdet, weights, self.noise - vws[:, :, None] * unit[:, None, :])


@lru_cache(maxsize=16)
def spline_models(axis: tuple[float, ...], known: tuple[int, ...] = ()) -> Models:
    """Return the models of curves measured at these places, with known breaks (indices) among the fixed effects."""
    u = np.asarray(axis)
    u = (u - u[0]) / (u[-1] - u[0])
    n = u.size
    x = np.linalg.qr(fixed_effects(u, known))[0]
    small, large = np.minimum.outer(u, u), np.maximum.outer(u, u)
    spline = small**2 * (3 * large - small) / 6  # covariance of the twice integrated Wiener process
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    # A smoothing spline with ratio q on n points averages over a width of about (n q)^(-1/4) (Silverman 1984).
    ratios = (0.0, *(1 / (n * np.geomspace(1.0, _WIDTH, _NUM_WIDTHS) ** 4)))
    rho, logdet, weights, noise = [], [], [], []
    for r in _RHOS:
        v = r**lag
        for q in ratios:
            factor = cholesky(v + q * spline + 1e-10 * np.eye(n), lower=True)
            inverse = cho_solve((factor, True), np.eye(n))
            cx = inverse @ x
            w = inverse - cx @ np.linalg.solve(x.T @ cx, cx.T)
            rho.append(r)
            logdet.append(2 * np.log(np.diag(factor)).sum())
            weights.append(w)
            noise.append(v @ w)
    return Models.of(np.array(rho), np.array(logdet), np.array(weights), np.array(noise))


_KNOTS = (
    0,
    1,
    2,
    4,
    7,
    11,
    15,
)  # the last: a trend that takes about a sixth of the run from 10 to 90 % is followed closely


@lru_cache(maxsize=16)
def knot_models(axis: tuple[float, ...], known: tuple[int, ...] = ()) -> Models:
    """Return models whose trend is a cubic spline with few knots, evenly placed along the axis; the number of knots is paid for.

    However little noise there is, such a trend follows nothing faster than its knots, and everything slower as closely as
    the noise demands. `logdet` holds the Bayesian information criterion's price, log(n) per coefficient.
    """
    u = np.asarray(axis)
    u = (u - u[0]) / (u[-1] - u[0])
    n = u.size
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    breaks = fixed_effects(u, known)[:, 2:]
    rho, logdet, weights, noise = [], [], [], []
    for num in _KNOTS:
        if num > n // 3:
            break
        x = _independent(np.column_stack([_spline_basis(u, num), breaks]))
        for r in _RHOS:
            inverse = _ar_inverse(n, r)
            cx = inverse @ x
            w = inverse - cx @ np.linalg.solve(x.T @ cx, cx.T)
            rho.append(r)
            logdet.append((n - 1) * np.log(1 - r**2) + x.shape[1] * np.log(n))
            weights.append(w)
            noise.append((r**lag) @ w)
    return Models.of(np.array(rho), np.array(logdet), np.array(weights), np.array(noise))


def _spline_basis(u: Array, num: int) -> Array:
    """Return [n, num + 4]: cubic B-splines on [0, 1] with this many evenly placed inner knots."""
    inner = np.linspace(0.0, 1.0, num + 2)
    knots = np.concatenate([np.zeros(3), inner, np.ones(3)])
    return BSpline.design_matrix(u, knots, 3).toarray()


def _independent(x: Array) -> Array:
    """Return an orthonormal basis of the columns: where there are fewer measurements than knots, some say the same."""
    left, size, _ = np.linalg.svd(x, full_matrices=False)
    return left[:, size > 1e-6 * size[0]]


def _ar_inverse(n: int, rho: float) -> Array:
    """Return the inverse of the correlation matrix of AR(1) noise."""
    rows = whiten(np.eye(n), rho)  # row i: the i-th unit vector without its correlation
    return rows @ rows.T


def fixed_effects(u: Array, known: Sequence[int]) -> Array:
    """Return [n, 2 + 2 known]: level, slope, and a change of both at each known breakpoint."""
    columns = [np.ones(u.size), u]
    for c in known:
        after = np.arange(u.size) >= c
        columns += [after.astype(np.float64), np.where(after, u - u[c], 0.0)]
    return np.stack(columns, axis=1)
