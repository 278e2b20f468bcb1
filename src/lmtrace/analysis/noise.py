"""Autocorrelated noise: how a curve of measurements wobbles when nothing happens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmtrace.errors import DataError

Array = NDArray[np.float64]


def curve(
    steps: ArrayLike, values: ArrayLike, *others: ArrayLike | None, at_least: int, who: str
) -> tuple[Array, Array, list[Array | None]]:
    """Return steps, values and the other columns as float64 without the rows where the value is missing (NaN).

    Parameters
    ----------
    steps, values : [measurements]
        Steps must rise strictly.
    *others
        Further columns: [measurements], a scalar (which is spread), or None (stays None).
    at_least
        How many finite values are needed.
    who
        Name of the caller, for the message.

    Raises
    ------
    DataError
        Where shapes differ, steps do not rise, a value is infinite, or too few are left.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise DataError(
            f"{who}: steps {x.shape} and values {y.shape} must be vectors of one length", "Pass one curve at a time"
        )
    if np.any(np.isinf(y)) or not np.all(np.isfinite(x)):
        raise DataError(f"{who}: steps and values must be finite", "Use NaN for a value that is missing")
    if np.any(np.diff(x) <= 0) or np.any(x < 0):
        raise DataError(f"{who}: steps must be 0 or more and rise strictly", "Sort the curve and drop repeated steps")
    keep = np.isfinite(y)
    if keep.sum() < at_least:
        raise DataError(
            f"{who}: needs at least {at_least} measured values, got {int(keep.sum())}", "Measure more often"
        )
    columns: list[Array | None] = []
    for other in others:
        if other is None:
            columns.append(None)
            continue
        column = np.asarray(other, dtype=np.float64)
        if column.ndim and column.shape != y.shape:
            raise DataError(f"{who}: a column of shape {column.shape} does not fit {y.shape[0]} values")
        columns.append(np.broadcast_to(column, y.shape)[keep].copy())
    return x[keep], y[keep], columns


def whiten(x: Array, rho: float) -> Array:
    """Return the series with AR(1) correlation `rho` taken out (Prais and Winsten 1954): unit noise stays unit noise.

    Parameters
    ----------
    x : [..., n]
        Series along the last axis.
    rho
        Correlation of neighbours, in (-1, 1).
    """
    out = np.empty_like(x)
    out[..., 0] = x[..., 0]
    out[..., 1:] = (x[..., 1:] - rho * x[..., :-1]) / np.sqrt(1 - rho**2)
    return out


def colour(x: Array, rho: float) -> Array:
    """Return the series with AR(1) correlation put in: the inverse of `whiten`."""
    out = np.array(x, dtype=np.float64)
    out[..., 1:] *= np.sqrt(1 - rho**2)
    if rho != 0:
        for t in range(1, out.shape[-1]):
            out[..., t] += rho * out[..., t - 1]
    return out


def ar1(num_series: int, n: int, rho: float, generator: np.random.Generator) -> Array:
    """Return [num_series, n] stationary AR(1) noise of unit marginal variance."""
    return colour(generator.standard_normal((num_series, n)), rho)


def autocorrelation(residuals: Array, num_parameters: int = 1) -> float:
    """Return the lag-1 correlation of residuals, corrected for its bias in short series, within [0, 0.95].

    After a fit with p parameters the raw estimate is low by about (p + (p + 3) rho) / n
    (Marriott and Pope 1954 for p = 1).
    """
    n = residuals.size
    power = float(residuals @ residuals)
    if n < 4 or power == 0:
        return 0.0
    raw = float(residuals[1:] @ residuals[:-1]) / power
    p = num_parameters
    corrected = (raw * n + p) / max(n - p - 3, 1)
    return float(np.clip(corrected, 0.0, 0.95))


def local_scatter(y: Array) -> float:
    """Return the standard deviation of independent noise around a smooth curve, from second differences; robust to jumps."""
    if y.size < 4:
        return float(y.std())
    bend = np.sort(np.diff(y, 2) ** 2)
    kept = bend[: max(int(np.ceil(0.8 * bend.size)), 1)]
    return float(np.sqrt(kept.mean() / 0.4377 / 6.0))  # of a normal law's smallest 80 %, the mean square is 0.4377


def thin(columns: Sequence[Array], limit: int) -> list[Array]:
    """Return the columns averaged over blocks of equal size, so that at most `limit` values are left."""
    n = columns[0].size
    if n <= limit:
        return list(columns)
    edges = np.unique(np.linspace(0, n, limit + 1).astype(int))
    return [np.add.reduceat(c, edges[:-1]) / np.diff(edges) for c in columns]
