"""Stable rank of a matrix, from its largest singular value by subspace iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from lmtrace.numerics.estimate import Estimate

MAX_ROUNDS = 100
BLOCK = 8


def stable_rank(weight: Tensor, generator: torch.Generator, tol: float = 1e-3) -> Estimate:
    """Return ``|W|_F^2 / |W|_2^2`` of `weight` [..., m, n], the mean over leading axes. Rudelson and Vershynin (2007).

    The spectral norm is the largest Ritz value of a growing Krylov subspace of blocks of vectors, which rises to it from
    below; it stops where a round raises it by less than ``tol / 10`` of itself, and is missing after `MAX_ROUNDS`.

    Parameters
    ----------
    weight
        Any floating type; computed in float32 or better.
    generator
        Of the starting vectors.
    tol
        Relative accuracy that is aimed at.

    Returns
    -------
    Estimate
        In dimensions, between 1 and min(m, n); no standard error.
    """
    matrices = weight.detach().reshape(-1, *weight.shape[-2:])
    matrices = matrices if matrices.dtype == torch.float64 else matrices.float()
    ranks = []
    for matrix in matrices:
        frobenius = float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
        if frobenius == 0:
            return Estimate(None, n=len(matrices), note="a matrix of zeros")
        spectral = _spectral_square(matrix / frobenius, generator, tol / 10)
        if spectral is None:
            return Estimate(None, n=len(matrices), note=f"the largest singular value needs over {MAX_ROUNDS} rounds")
        ranks.append(1 / spectral)
    return Estimate(sum(ranks) / len(ranks), n=len(ranks))


def _spectral_square(matrix: Tensor, generator: torch.Generator, tol: float) -> float | None:
    """Return the squared largest singular value."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    n = matrix.shape[1]
    if n <= 256:
        return float(torch.linalg.eigvalsh((matrix.T @ matrix).double())[-1])
    block = torch.randn(n, BLOCK, generator=generator).to(matrix)
    block = torch.linalg.qr(block)[0]
    before = 0.0
    for _ in range(MAX_ROUNDS):
        image = matrix.T @ (matrix @ block)
        # Ritz values of span(block, A'A block): a step of block Krylov, restarted from its best vectors.
        basis = torch.linalg.qr(torch.cat([block, image], dim=1))[0]
        half = matrix @ basis
        values, vectors = torch.linalg.eigh((half.T @ half).double())
        now = float(values[-1])
        if now - before <= tol * now:
            return now
        before = now
        block = basis @ vectors[:, -BLOCK:].to(matrix.dtype)
    return None
