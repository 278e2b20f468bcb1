"""Linear dimension of a cloud of points: what its covariance and its directions say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.neighbours import as_points, largest_magnitude, not_finite, unit_of


@dataclass(frozen=True, slots=True, eq=False)
class Covariance:
    """The principal components of a cloud; compute it once and hand it to the functions below.

    Attributes
    ----------
    variances : [components]
        float64, falling, larger than zero: eigenvalues of X'X / n of the centred points; up to a factor where the
        points are so large or small that their squares are not float64 numbers.
    scores : [n, components]
        The points along the components, in their own precision; for standard errors only.
    n
        Number of points.
    problem
        Why there is none; empty otherwise.
    """

    variances: Tensor
    scores: Tensor
    n: int
    problem: str = ""


def covariance(x: np.ndarray | Tensor) -> Covariance:
    """Return the principal components of `x` [n, d]; directions without variance (to rounding) are left out."""
    points = as_points(x)
    n = len(points)
    empty = points.new_zeros(0, dtype=torch.float64)
    if n < 2:
        return Covariance(empty, empty, n, f"{n} points; at least 2 are needed")
    largest = largest_magnitude(points)
    if not math.isfinite(largest):
        return Covariance(empty, empty, n, not_finite(points))
    if largest == 0:
        return Covariance(empty, empty, n, "all points are equal")
    rounding = torch.finfo(points.dtype).eps
    centred = points.double().div_(largest) if points.dtype == torch.float32 else points / largest
    centred -= centred.mean(dim=0)
    # The smaller of the two Gram matrices; float64 squares stay accurate to 1e-8 of the largest singular value.
    if n >= points.shape[1]:
        variances, vectors = torch.linalg.eigh(centred.T @ centred / n)
        scores = centred.to(points.dtype) @ vectors.to(points.dtype)
    else:
        variances, vectors = torch.linalg.eigh(centred @ centred.T / n)
        scores = vectors * (variances.clamp_min(0) * n).sqrt()
    # Below this a direction holds rounding: of the products, and of the input around its mean.
    floor = max(n, points.shape[1]) * torch.finfo(torch.float64).eps * variances[-1] + rounding**2
    kept = (variances > floor).nonzero().ravel().flip(0)
    if not len(kept):
        return Covariance(empty, empty, n, "all points are equal")
    if unit_of(points, largest) != 1.0:
        return Covariance(variances[kept], scores[:, kept], n)
    return Covariance(variances[kept] * largest**2, scores[:, kept] * largest, n)


def participation_ratio(x: np.ndarray | Tensor | Covariance) -> Estimate:
    """Return ``(tr C)^2 / tr C^2`` of the covariance C of `x` [n, d], in dimensions: d where variances are equal.

    The standard error is that of the influence function over points. Abbott, Rajan and Sompolinsky (2011).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 10))  # 3 dimensions in 10
    >>> round(participation_ratio(x).value, 1)
    2.5
    """
    c = _covariance(x)
    if c.problem:
        return Estimate(None, n=c.n, note=c.problem)
    share = c.variances / c.variances[0]  # relative: squares of raw variances may overflow
    trace, trace_square = share.sum(), share.square().sum()
    value = trace**2 / trace_square
    influence = _along(c, 2 * value * (1 / trace - share / trace_square))
    return Estimate(float(value), _stderr(influence), c.n)


def effective_rank(x: np.ndarray | Tensor | Covariance) -> Estimate:
    """Return exp of the entropy of the singular values of the centred `x` [n, d], normalised to sum 1, in dimensions.

    Roy and Vetterli (2007), EUSIPCO. The standard error is that of the influence function over points.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 10))  # 3 dimensions in 10
    >>> round(effective_rank(x).value, 1)
    2.9
    """
    c = _covariance(x)
    if c.problem:
        return Estimate(None, n=c.n, note=c.problem)
    singular = c.variances.sqrt()
    share = singular / singular.sum()
    entropy = -(share * share.log()).sum()
    value = entropy.exp()
    slope = -value * (share.log() + entropy) * share * c.variances[0] / (2 * c.variances)
    influence = _along(c, slope)
    return Estimate(float(value), _stderr(influence), c.n)


def pca_dimension(x: np.ndarray | Tensor | Covariance, variance: float = 0.95) -> Estimate:
    """Return how many principal components of `x` [n, d] hold the share `variance`; without a standard error.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 10))  # 3 dimensions in 10
    >>> pca_dimension(x).value
    3.0
    """
    if not 0 < variance <= 1:
        raise ConfigError(f"pca_dimension: variance must be in (0, 1], got {variance}")
    c = _covariance(x)
    if c.problem:
        return Estimate(None, n=c.n, note=c.problem)
    held = c.variances.cumsum(0) / c.variances.sum()
    missing = int((held < variance - 1e-12).sum())
    return Estimate(float(min(missing + 1, len(held))), n=c.n)


def anisotropy(x: np.ndarray | Tensor) -> Estimate:
    """Return the mean cosine between two different rows of `x` [n, d], not centred: 0 for no common direction.

    Ethayarajh (2019), EMNLP. The standard error is that of a mean over pairs that share rows (Hoeffding 1948).

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((1000, 10))
    >>> abs(anisotropy(x).value) < 0.01, anisotropy(x + 5).value > 0.9
    (True, True)
    """
    points = as_points(x)
    n = len(points)
    if n < 3:
        return Estimate(None, n=n, note=f"{n} points; at least 3 are needed")
    largest = largest_magnitude(points)
    if not math.isfinite(largest):
        return Estimate(None, n=n, note=not_finite(points))
    unit = unit_of(points, largest)
    directions = points.double() if unit == 1.0 else points.double() / unit
    norms = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    zeros = int((norms == 0).sum())
    if zeros:
        return Estimate(None, n=n, note=f"{zeros} of {n} points are zero and have no direction")
    directions = directions / norms
    # Mean cosine of each row with the others; a row's own cosine is 1.
    cosines = (directions @ directions.sum(dim=0) - 1) / (n - 1)
    return Estimate(float(cosines.mean()), 2 * _stderr(cosines), n)


def _covariance(x: np.ndarray | Tensor | Covariance) -> Covariance:
    return x if isinstance(x, Covariance) else covariance(x)


def _stderr(influence: Tensor) -> float:
    return float(influence.std()) / math.sqrt(len(influence))


def _along(c: Covariance, slope: Tensor) -> Tensor:
    """Return [n], up to a constant: each point's share in what moves with `slope` per relative variance of a component."""
    return ((c.scores / c.variances[0].sqrt().to(c.scores)).square() @ slope.to(c.scores)).double()
