"""Stable rank of a matrix, with its largest singular value by Lanczos."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.lanczos import lanczos, random_start


def stable_rank(weight: Tensor, generator: torch.Generator, tol: float = 3e-3) -> Estimate:
    """Return ``|W|_F^2 / |W|_2^2`` of `weight` [..., m, n], the mean over leading axes. Rudelson and Vershynin (2007).

    Parameters
    ----------
    weight
        Any floating type; computed in float32 or better.
    generator
        Of the start vectors.
    tol
        Bound on the relative residual of the largest eigenvalue of W'W; the value's own error is far smaller, and never above.

    Returns
    -------
    Estimate
        In dimensions, between 1 and min(m, n); no standard error. Missing for a matrix of zeros or without entries.
    """
    matrices = weight.detach().reshape(math.prod(weight.shape[:-2]), *weight.shape[-2:])
    if matrices.numel() == 0:
        return Estimate(None, n=0, note="a matrix without entries")
    matrices = matrices if matrices.dtype == torch.float64 else matrices.float()
    ranks = []
    for matrix in matrices:
        frobenius = float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
        if frobenius == 0:
            return Estimate(None, n=len(matrices), note="a matrix of zeros")
        spectral = _spectral_square(matrix / frobenius, generator, tol)
        if spectral is None:
            return Estimate(None, n=len(matrices), note="the largest singular value did not converge")
        ranks.append(1 / spectral)
    return Estimate(sum(ranks) / len(ranks), n=len(ranks))


def _spectral_square(matrix: Tensor, generator: torch.Generator, tol: float) -> float | None:
    """Return the squared largest singular value."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    if matrix.shape[1] <= 256:
        return float(torch.linalg.eigvalsh(matrix.T @ matrix)[-1])  # to the precision of the weights
    start = random_start(matrix.shape[1], generator, matrix.dtype, matrix.device)
    return lanczos(lambda v: matrix.T @ (matrix @ v), start, tol=tol, smallest=False, generator=generator).largest
