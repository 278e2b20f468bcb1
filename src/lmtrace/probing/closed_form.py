"""Closed-form linear classifiers from sufficient statistics: ridge regression to one-hot targets, and LDA.

One eigendecomposition of the training part's correlation matrix (`Basis`) serves every label layer and every
penalty at that site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmtrace.numerics.moments import ClassMeans, Moments, product

GRID = tuple(10.0 ** (k / 2) for k in range(-14, 3))
"""Penalties per training row, on standardised features: 1e-7 ... 10."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear classifier: scores = x @ weight + bias.

    Attributes
    ----------
    weight : [d, classes]
        float64.
    bias : [classes]
        float64.
    penalty
        Per training row; of a discriminant in units of the mean variance, else on standardised features.
    names
        Of the classes, where they are known: what column of the scores stands for what.
    iterated
        Whether a discriminant was refuted and went on as softmax regression.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    names: tuple[str, ...] = ()
    iterated: bool = False

    def scores(self, x: Tensor) -> Tensor:
        """Return [n, classes] in the precision of x: [n, d]."""
        # The bias absorbs the mean; adding it in float64 keeps rows far from the origin precise.
        if x.dtype == torch.float64:
            return x @ self.weight + self.bias
        centre = x[:1].float() if len(x) else x.float()
        offset = (centre.double() @ self.weight + self.bias).float() if len(x) else self.bias.float()
        return (x.float() - centre) @ self.weight.float() + offset


@dataclass(frozen=True, slots=True)
class Basis:
    """Eigenbasis of the correlation matrix of training rows.

    Attributes
    ----------
    moments
        Of the training rows.
    values : [d]
        Eigenvalues of the standardised scatter matrix, rising, not negative.
    vectors : [d, d]
        Eigenvectors in columns.
    """

    moments: Moments
    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, moments: Moments) -> Basis:
        """Return the basis; features are standardised first, so that the penalty does not depend on their units."""
        values, vectors = torch.linalg.eigh(moments.correlation)
        return cls(moments, values.clamp(min=0), vectors)


def ridge(basis: Basis, classes: ClassMeans, grid: tuple[float, ...] = GRID) -> Linear:
    """Return the ridge regression to one-hot targets; the penalty minimises the generalised cross-validation error.

    W = argmin ||Y - 1 b' - X W||^2 + lambda ||W||^2 on standardised X, and GCV(lambda) = (RSS / n) / (1 - dof / n)^2
    (Golub, Heath and Wahba 1979), all from the statistics of the training part.

    Parameters
    ----------
    basis
        Of the training rows.
    classes
        Class means of the same rows.
    grid
        Penalties per row; lambda = penalty x n.
    """
    n, counts, moments = basis.moments.n, classes.counts, basis.moments
    prior = counts / n
    cross = counts * ((classes.means - moments.mean) / moments.scale).T  # X'Y
    total = (n * (prior * (1 - prior))).sum()
    return _solve(basis, cross, prior, [len(counts)], total[None], grid)[0]


class RealTargets:
    """Several targets of the same rows, in the forms that `ridge_regressions` reads.

    Parameters
    ----------
    targets : [n, ...] each
        float64, with any number of columns each.
    """

    def __init__(self, targets: Sequence[Tensor]) -> None:
        y = torch.cat(list(targets), 1)
        self.sizes, self.mean = [target.shape[1] for target in targets], y.mean(0)
        centred = y - self.mean
        self.totals = torch.stack([part.sum() for part in centred.square().split(self.sizes, 1)])
        self.centred = centred.float()


def ridge_regressions(basis: Basis, rows: Tensor, targets: RealTargets, grid: tuple[float, ...] = GRID) -> list[Linear]:
    """Return ridge regressions of the same rows to real targets, each under a penalty of its own, chosen as in `ridge`.

    Parameters
    ----------
    basis
        Of the training rows.
    rows : [n, d]
        Those rows, less any origin near their mean.
    """
    cross = product(rows, targets.centred.to(rows.dtype)) / basis.moments.scale[:, None]
    cross = cross.to(rows.dtype)
    return _solve(basis, cross, targets.mean, targets.sizes, targets.totals, grid)


def _solve(
    basis: Basis, cross: Tensor, target_mean: Tensor, sizes: list[int], totals: Tensor, grid: tuple[float, ...]
) -> list[Linear]:
    """Solve several tasks, each for its penalty of least GCV.

    Parameters
    ----------
    cross : [d, targets of all tasks]
        X'Y; float32 where the rows are, which its products then are too.
    sizes
        Targets of each task.
    totals : [tasks]
        ||Y - mean||^2.
    """
    n, values, vectors = basis.moments.n, basis.values, basis.vectors.to(cross.dtype)
    z = (vectors.T @ cross).double()
    z2 = torch.stack([part.sum(1) for part in z.square().split(sizes, 1)], 1)
    penalties = torch.tensor(grid, dtype=values.dtype, device=values.device) * n
    shrunk = values + penalties[:, None]
    rss = totals - ((values + 2 * penalties[:, None]) / shrunk.square()) @ z2
    dof = (values / shrunk).sum(1) + 1
    # A fit that uses up the rows has no residual left to judge it by.
    usable = dof < 0.95 * n
    gcv = torch.where(usable, 1 / (1 - dof / n).square(), torch.inf)[:, None] * rss.clamp(min=1e-300)
    best = gcv.argmin(0) if bool(usable.any()) else torch.full_like(totals, len(grid) - 1, dtype=torch.int64)
    shrink = torch.cat([shrunk[i][:, None].expand(-1, size) for i, size in zip(best.tolist(), sizes, strict=True)], 1)
    weight = (vectors @ (z / shrink).to(cross.dtype)).double() / basis.moments.scale[:, None]
    bias = target_mean - basis.moments.mean @ weight
    return [
        Linear(w, b, float(grid[i]))
        for w, b, i in zip(weight.split(sizes, 1), bias.split(sizes), best.tolist(), strict=True)
    ]


def lda(basis: Basis, classes: ClassMeans, grid: tuple[float, ...] = GRID) -> Linear:
    """Return linear discriminant analysis: Gaussian classes with one covariance; scores are log posteriors up to a constant.

    score_k(x) = m_k' S^-1 x - m_k' S^-1 m_k / 2 + log prior_k with S = (within-class scatter + lambda I) / n on
    standardised features; lambda is the one that `ridge` chooses (penalised discriminant analysis, Hastie, Buja and
    Tibshirani 1995). Priors are smoothed by half a row per class.
    """
    moments, penalty = basis.moments, ridge(basis, classes, grid).penalty
    counts, n = classes.counts, moments.n
    offsets = torch.where(counts[:, None] > 0, (classes.means - moments.mean) / moments.scale, 0.0)
    # Within = C - M'NM with C diagonal in the eigenbasis, so that its inverse is one of size classes x classes (Woodbury).
    turned = basis.vectors.T @ offsets.T
    solved = turned / (basis.values + penalty * n)[:, None]
    inner = torch.eye(len(counts), dtype=solved.dtype, device=solved.device) - counts[:, None] * (turned.T @ solved)
    directions = n * (basis.vectors @ torch.linalg.solve(inner, solved, left=False))
    prior = (counts + 0.5) / (n + 0.5 * len(counts))
    bias = prior.log() - 0.5 * (offsets.T * directions).sum(0)
    weight = directions / moments.scale[:, None]
    return Linear(weight, bias - moments.mean @ weight, penalty)
