"""How alike two representations of the same points are: linear CKA, and the drift of principal subspaces."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError, DataError
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.neighbours import as_points, largest_magnitude, unit_of

MIN_POINTS = 4


def linear_cka(x: np.ndarray | Tensor, y: np.ndarray | Tensor, debiased: bool = True) -> Estimate:
    """Return the linear centred kernel alignment of two representations of the same points.

    ``CKA = HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y))`` with the linear kernel: Kornblith et al. (2019), ICML. Debiased: the
    unbiased estimator of HSIC (Song et al. 2012; Nguyen, Raghu and Kornblith 2021), which is about 0 for independent
    representations however wide they are, and may be slightly negative; the plain one tends to 1 as widths outgrow n.

    Parameters
    ----------
    x : [n, d]
        First representation.
    y : [n, e]
        Second representation, rows in the same order.

    Returns
    -------
    Estimate
        1 for equal representations up to rotation, scale and translation. The standard error is that of the influence
        function over points. `value` is None below 4 points, or where one of them has no variance that is shared by points.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((500, 4))
    >>> turned = 2 * x[:, ::-1] + 1
    >>> round(linear_cka(x, turned).value, 6)
    1.0
    >>> abs(linear_cka(x, rng.standard_normal((500, 4))).value) < 0.02
    True
    """
    first, second = as_points(x).double(), as_points(y).double()
    n = len(first)
    if len(second) != n:
        raise DataError(f"linear_cka: x has {n} points, y has {len(second)}", "Rows must be the same points")
    problem = _problem(n, math.isfinite(largest_magnitude(first)) and math.isfinite(largest_magnitude(second)))
    if problem:
        return Estimate(None, n=n, note=problem)
    first, second = _scaled(first), _scaled(second)
    terms = [_products(a, b, debiased) for a, b in ((first, second), (first, first), (second, second))]
    return _ratio(terms, n)


def gram(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """Return the U-centred Gram matrix [n, n] of `x` [n, d] with norm 1, for `cka_of_grams`; None without variance.

    Compute it once per representation where many are compared: a comparison is then n^2 products.
    """
    if _problem(len(x), math.isfinite(largest_magnitude(x))):
        return None
    n = len(x)
    points = _scaled(x.detach().double()).to(dtype)
    inner = points @ points.T
    inner.fill_diagonal_(0)
    sums = inner.sum(dim=1, dtype=torch.float64)
    rows = sums / (n - 2)
    total = float(sums.sum()) / ((n - 1) * (n - 2))
    inner += (total - rows[:, None] - rows[None, :]).to(dtype)
    inner.fill_diagonal_(0)
    norm = torch.linalg.vector_norm(inner)
    return inner / norm if float(norm) > n * torch.finfo(dtype).eps else None


def cka_of_grams(first: Tensor, second: Tensor) -> Estimate:
    """Return the debiased `linear_cka` of two representations from their `gram` matrices."""
    n = len(first)
    # Products of whole rows (no n x n number is written); each is summed in blocks, so float32 is exact to 1e-6.
    rows = [torch.linalg.vecdot(a, b).double() for a, b in ((first, second), (first, first), (second, second))]
    return _ratio([(float(row.sum()), row * n) for row in rows], n)


def principal_directions(x: Tensor, k: int) -> Tensor | None:
    """Return the orthonormal basis [d, k] of the k directions of largest variance of `x` [n, d]; None where it has fewer."""
    n, d = x.shape
    centred = _scaled(x.detach().double())
    if not 1 <= k <= min(n - 1, d) or not bool(torch.isfinite(centred.sum())):
        return None
    if n >= d:
        variances, vectors = torch.linalg.eigh(centred.T @ centred)
        basis = vectors[:, -k:]
    else:
        variances, vectors = torch.linalg.eigh(centred @ centred.T)
        basis = torch.linalg.qr(centred.T @ vectors[:, -k:])[0]
    floor = max(n, d) * torch.finfo(torch.float32).eps * float(variances[-1])
    return basis if float(variances[-k]) > floor else None


def subspace_drift(first: Tensor, second: Tensor) -> float:
    """Return ``1 - |U'V|_F^2 / k``, one minus the mean squared cosine of the principal angles of two bases [d, k].

    0 for equal subspaces, 1 for orthogonal ones, ``1 - k / d`` for random ones. Bjoerck and Golub (1973).
    """
    if first.shape != second.shape:
        raise ConfigError(f"subspace_drift: bases of shape {tuple(first.shape)} and {tuple(second.shape)}")
    return min(1.0, max(0.0, 1.0 - float((first.T @ second).square().sum()) / first.shape[1]))


def _problem(n: int, finite: bool) -> str:
    if n < MIN_POINTS:
        return f"{n} points; at least {MIN_POINTS} are needed"
    return "" if finite else "points hold numbers that are not finite"


def _scaled(points: Tensor) -> Tensor:
    """Return the points centred, with mean square norm 1: CKA does not depend on either, rounding does."""
    if not points.numel():
        return points
    largest = largest_magnitude(points)
    unit = unit_of(points, largest)
    points = points if unit == 1.0 else points / unit
    centred = points - points.mean(dim=0)
    scale = float(torch.linalg.vector_norm(centred)) / math.sqrt(len(points))
    rounding = torch.finfo(points.dtype).eps * largest / unit * math.sqrt(points.shape[1])
    return centred / scale if scale > 4 * rounding else torch.zeros_like(centred)


def _products(a: Tensor, b: Tensor, debiased: bool) -> tuple[float, Tensor]:
    """Return HSIC(a, b) up to a common factor, and each point's contribution [n] to it (their mean is the HSIC).

    With K = aa' and L = bb' without their diagonals, HSIC = (sum K*L + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)) / (n(n-3)),
    computed from products of width d and e, never n x n.
    """
    n = len(a)
    cross = a.T @ b / n
    points = (a @ cross * b).sum(dim=1)  # centred points: the rows of K*L sum to this, diagonal included
    if not debiased:
        return float(points.sum()) / n, points
    own_a, own_b = a.square().sum(dim=1), b.square().sum(dim=1)
    rows_a, rows_b = -own_a, -own_b  # row sums of K and L: a is centred, only the diagonal was taken out
    product = n * points - own_a * own_b
    correction = rows_a.sum() * rows_b.sum() / ((n - 1) * (n - 2)) / n - 2 * rows_a * rows_b / (n - 2)
    total = (product + correction) / (n - 3)
    return float(total.sum()) / n, total


def _ratio(terms: list[tuple[float, Tensor]], n: int) -> Estimate:
    (cross, cross_points), (own_a, points_a), (own_b, points_b) = terms
    if own_a <= 0 or own_b <= 0:
        return Estimate(None, n=n, note="a representation has no variance that points share")
    scale = math.sqrt(own_a) * math.sqrt(own_b)
    value = cross / scale
    # HSIC is a mean over pairs: the influence of a point is twice its own contribution's deviation.
    influence = 2 * (cross_points / scale - value * (points_a / own_a + points_b / own_b) / 2)
    return Estimate(value, float(influence.std()) / math.sqrt(n), n)
