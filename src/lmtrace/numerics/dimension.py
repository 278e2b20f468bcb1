"""Intrinsic dimension from distances to nearest neighbours.

All estimators assume that the density is about constant over the distance to the neighbours used. Where the
dimension is high this fails for any affordable number of points, and the estimate is a lower bound
(`is_lower_bound`): a 50-dimensional normal reads 32 at n = 2,000. Compare estimates at equal n only.

`x` is always an array or tensor [n, d], or `Neighbours` found before; duplicates are merged first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.sparse import csr_array
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.neighbours import Neighbours, nearest

MIN_POINTS = 200

Points = np.ndarray | Tensor | Neighbours


def two_nn(x: Points, discard: float = 0.1) -> Estimate:
    """Estimate the dimension from the ratio of the second to the first neighbour's distance, by a line.

    With ``mu = r2 / r1`` and its empirical distribution F, the slope through the origin of ``-log(1 - F(mu))`` on
    ``log mu``. Facco, d'Errico, Rodriguez and Laio (2017), Scientific Reports 7.

    Parameters
    ----------
    x : [n, d]
        Points, or their neighbours.
    discard
        Share of the largest ratios that the line leaves out; at least the largest one is.

    Returns
    -------
    Estimate
        In dimensions. The standard error is that of the line through ordered exponentials, widened for
        points that are each other's neighbours. `value` is None below
        `MIN_POINTS` distinct points.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 10))  # 3 dimensions in 10
    >>> estimate = two_nn(x)
    >>> round(estimate.value, 1), round(estimate.stderr, 2)
    (3.0, 0.13)
    """
    _check_discard(discard)
    neighbours = _neighbours(x, 2)
    problem = _problem(neighbours, 2)
    if problem:
        return Estimate(None, n=len(neighbours.rows), note=problem)
    log_mu = np.log(neighbours.distances[:, 1] / neighbours.distances[:, 0])
    n = len(log_mu)
    kept = min(int(n * (1 - discard)), n - 1)
    x_, y = np.sort(log_mu)[:kept], -np.log1p(-np.arange(1, kept + 1) / n)
    xx, xy = float(x_ @ x_), float(x_ @ y)
    if kept < 2 or xx == 0:
        return Estimate(None, n=n, note="first and second neighbours are equally far everywhere (a lattice)")
    value = xy / xx
    # Ordered log-ratios are sums of independent spacings E_j / (d (n - j + 1)) (Renyi 1953): delta method on those.
    influence = (y * xx - 2 * x_ * xy) / xx**2
    spacings = np.cumsum(influence[::-1])[::-1] / (value * (n - np.arange(kept)))
    stderr = float(np.linalg.norm(spacings)) * _overlap(log_mu, neighbours.indices[:, :2])
    return Estimate(value, stderr, n, lower_bound_note(value, n))


def two_nn_ml(x: Points, discard: float = 0.0) -> Estimate:
    """Estimate the dimension from the same ratios by maximum likelihood.

    ``log mu`` is exponential with rate d, so d = (k - 1) / (sum of the k smallest + (n - k) times the largest of them),
    unbiased also where the largest ratios are discarded. Facco et al. (2017); Denti et al. (2022), Scientific Reports 12.

    Parameters
    ----------
    x : [n, d]
        Points, or their neighbours.
    discard
        Share of the largest ratios that are treated as censored.

    Returns
    -------
    Estimate
        In dimensions; standard error from the Fisher information, ``d / sqrt(k)``, widened like that of `two_nn`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 10))  # 3 dimensions in 10
    >>> round(two_nn_ml(x).value, 1)
    3.0
    """
    _check_discard(discard)
    neighbours = _neighbours(x, 2)
    problem = _problem(neighbours, 2)
    if problem:
        return Estimate(None, n=len(neighbours.rows), note=problem)
    log_mu = np.log(neighbours.distances[:, 1] / neighbours.distances[:, 0])
    n, kept = len(log_mu), int(len(log_mu) * (1 - discard))
    smallest = np.sort(log_mu)[:kept]
    total = float(smallest.sum() + (n - kept) * smallest[-1]) if kept >= 2 else 0.0
    if total == 0:
        return Estimate(None, n=n, note="first and second neighbours are equally far everywhere (a lattice)")
    value = (kept - 1) / total
    stderr = value / math.sqrt(kept) * _overlap(log_mu, neighbours.indices[:, :2])
    return Estimate(value, stderr, n, lower_bound_note(value, n))


def mle(x: Points, k: int = 20, average: Literal["harmonic", "arithmetic"] = "harmonic") -> Estimate:
    """Estimate the dimension from the distances to the `k` nearest neighbours by maximum likelihood.

    Per point ``1 / d_i = sum over j < k of log(r_k / r_j), divided by k - 1``, which is unbiased for 1 / d: the mean of the
    inverses ("harmonic") is the maximum-likelihood estimate of all points together (MacKay and Ghahramani 2005). Levina and
    Bickel (2005) average the d_i themselves ("arithmetic"), which are unbiased for d with k - 2 in the place of k - 1.

    Parameters
    ----------
    x : [n, d]
        Points, or their neighbours (at least `k` of them).
    k
        Number of neighbours; more of them average over a larger, less uniform ball.
    average
        How the points' estimates are combined.

    Returns
    -------
    Estimate
        In dimensions. The standard error is that of a mean, widened for points that are neighbours.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 10))  # 3 dimensions in 10
    >>> round(mle(x, k=20).value, 1)
    3.0
    """
    if k < 3:
        raise ConfigError(f"mle: k must be at least 3, got {k}")
    if average not in ("harmonic", "arithmetic"):
        raise ConfigError(f"mle: average must be 'harmonic' or 'arithmetic', got {average!r}")
    neighbours = _neighbours(x, k)
    problem = _problem(neighbours, k)
    if problem:
        return Estimate(None, n=len(neighbours.rows), note=problem)
    r = neighbours.distances[:, :k]
    unbiased = k - 1 if average == "harmonic" else k - 2
    inverse = np.log(r[:, -1:] / r[:, :-1]).sum(axis=1) / unbiased
    n = len(inverse)
    if average == "arithmetic" and inverse.min() == 0:
        return Estimate(None, n=n, note="all neighbours of a point are equally far (a lattice)")
    values = inverse if average == "harmonic" else 1 / inverse
    mean = float(values.mean())
    if mean == 0:
        return Estimate(None, n=n, note="all neighbours are equally far (a lattice)")
    stderr = float(values.std()) / math.sqrt(n) * _overlap(values, neighbours.indices[:, :k])
    if average == "harmonic":
        mean, stderr = 1 / mean, stderr / mean**2
    return Estimate(mean, stderr, n, lower_bound_note(mean, n))


@dataclass(frozen=True, slots=True, eq=False)
class Gride:
    """Dimension against scale.

    Attributes
    ----------
    scales : [scales]
        int64: the order s of the nearer neighbour; the farther one is 2 s.
    dimension, stderr : [scales]
        The estimate of each scale and its standard error.
    distance : [scales]
        Mean distance to the farther neighbour: the length at which the cloud was looked at.
    n
        Number of distinct points.
    note
        Why scales are missing; empty otherwise.
    """

    scales: np.ndarray
    dimension: np.ndarray
    stderr: np.ndarray
    distance: np.ndarray
    n: int
    note: str = ""


def gride(x: Points, scales: Sequence[int] = (1, 2, 4, 8, 16, 32)) -> Gride:
    """Estimate the dimension at growing scales from ratios of distant neighbours, ``mu = r_2s / r_s``.

    Maximum likelihood under ``mu^-d ~ Beta(s, s)``; s = 1 is `two_nn_ml` up to its factor (n - 1) / n. A curve that
    falls with scale says that small scales see noise; Denti, Doimo, Laio and Mira (2022), Scientific Reports 12.

    Parameters
    ----------
    x : [n, d]
        Points, or their neighbours (twice the largest scale).
    scales
        Orders s, rising.

    Returns
    -------
    Gride
        Scales that need more neighbours than there are points are left out, with a note; all below `MIN_POINTS`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 10))  # 3 dimensions in 10
    >>> gride(x).dimension.round(1)[:3]
    array([3. , 2.9, 3. ])
    """
    if not scales or min(scales) < 1 or list(scales) != sorted(set(scales)):
        raise ConfigError(f"gride: scales must be rising integers from 1, got {tuple(scales)}")
    neighbours = _neighbours(x, 2 * max(scales))
    problem = _problem(neighbours, 2)
    possible = [] if problem else [s for s in scales if 2 * s <= neighbours.k]
    if not problem and len(possible) < len(scales):
        problem = f"scales above {neighbours.k // 2} need more than {neighbours.k} neighbours"
    rows = [_gride_scale(neighbours, s) for s in possible]
    solved = [(s, *row) for s, row in zip(possible, rows) if row is not None]
    if len(solved) < len(possible):
        problem = problem or "neighbours are equally far everywhere (a lattice)"
    columns = np.array(solved, dtype=np.float64).reshape(-1, 4).T
    order, value, stderr, distance = columns
    return Gride(order.astype(np.int64), value, stderr, distance, len(neighbours.rows), problem)


def _gride_scale(neighbours: Neighbours, s: int) -> tuple[float, float, float] | None:
    """Return (dimension, stderr, distance) at one scale, or None on a lattice."""
    far = neighbours.distances[:, 2 * s - 1]
    log_mu = np.log(far / neighbours.distances[:, s - 1])
    n, total = len(log_mu), float(log_mu.sum())
    if total == 0:
        return None
    positive = log_mu[log_mu > 0]  # at mu = 1 the term of the score tends to 1/d

    def score(d: float) -> float:
        ties = (n - len(positive)) / d
        return n / d + (s - 1) * (float((positive / -np.expm1(-d * positive)).sum()) + ties) - (2 * s - 1) * total

    if s == 1:
        value = n / total
    else:
        # The score falls in d, from +inf at 0 to (s - 1 - (2s - 1)) total < 0.
        high = n / total
        while score(high) > 0:
            high *= 2
        low = high / 2
        while score(low) < 0:
            low /= 2
        value = float(brentq(score, low, high, xtol=1e-12))  # pyright: ignore[reportArgumentType]
    half = value * positive / 2
    curvature = float((positive**2 / (4 * np.sinh(half) ** 2)).sum()) + (n - len(positive)) / value**2
    information = n / value**2 + (s - 1) * curvature
    stderr = _overlap(log_mu, neighbours.indices[:, : 2 * s]) / math.sqrt(information)
    return value, stderr, float(far.mean())


def lower_bound_limit(n: int) -> float:
    """Return the dimension above which an estimate from `n` points is only a lower bound: 20 at n = 2,000, as log n."""
    return 20 * math.log(n) / math.log(2000)


def lower_bound_note(value: float, n: int) -> str:
    """Return the caveat of an estimate that the number of points cannot resolve, or an empty string."""
    limit = lower_bound_limit(n)
    return f"lower bound: above {limit:.0f} dimensions {n} points are too few" if value > limit else ""


def _neighbours(x: Points, k: int) -> Neighbours:
    return x if isinstance(x, Neighbours) else nearest(x, k)


def _problem(neighbours: Neighbours, k: int) -> str:
    if neighbours.problem:
        return neighbours.problem
    distinct = len(neighbours.rows)
    if distinct < MIN_POINTS:
        return f"{distinct} distinct points of {neighbours.num_points}; at least {MIN_POINTS} are needed"
    if neighbours.k < k:
        return f"{neighbours.k} neighbours of each point were found; {k} are needed"
    return ""


def _check_discard(discard: float) -> None:
    if not 0 <= discard < 1:
        raise ConfigError(f"discard must be in [0, 1), got {discard}")


def _overlap(values: np.ndarray, indices: np.ndarray) -> float:
    """Return by how much the standard error of a mean grows as points that are neighbours are not independent.

    The sum of ``e_i e_j`` over i = j and over pairs where one is a neighbour of the other, relative to that over i = j.
    """
    centred = values - values.mean()
    n, k = indices.shape
    variance = float(centred @ centred)
    if variance == 0:
        return 1.0
    graph = csr_array((np.ones(n * k), indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    covariance = float(centred @ (graph.maximum(graph.T.tocsr()) @ centred))
    return math.sqrt(max(1.0, 1 + covariance / variance))
