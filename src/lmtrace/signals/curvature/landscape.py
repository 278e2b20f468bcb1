"""Scalars that compare gradients with curvature, and the curvature of two batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.vectors import dot, inner, norm


@dataclass(frozen=True, slots=True)
class Alignment:
    """How the gradient g lies in the Hessian H; all from one product H g.

    Attributes
    ----------
    gradient_norm
        ||g||.
    amplification
        ||H g|| / ||g||.
    cosine
        cos(g, H g).
    rayleigh
        g' H g / g' g: the curvature along the gradient.
    cosines : [k]
        |cos(g, v_i)| with the top eigenvectors (their sign means nothing).
    top_share
        sum_i cos^2(g, v_i): share of the squared gradient in the top eigenspace (Gur-Ari, Roberts and Dyer 2018).
    weighted
        sum_i |lambda_i| cos^2(g, v_i) / sum_i |lambda_i|.
    """

    gradient_norm: float
    amplification: float
    cosine: float | None
    rayleigh: float
    cosines: np.ndarray
    top_share: float | None
    weighted: float | None


def alignment(gradient: Tensor, image: Tensor, eigenvalues: np.ndarray, vectors: Tensor) -> Alignment | None:
    """Return the `Alignment` of a gradient; None where the gradient is zero.

    Parameters
    ----------
    gradient, image
        g and H g, [P].
    eigenvalues, vectors
        The top k of H, [k] and [k, P]; may be empty.
    """
    g, hg = norm(gradient), norm(image)
    if g == 0.0:
        return None
    along = dot(gradient, image)
    cosines = np.zeros(0)
    if len(eigenvalues):
        cosines = np.minimum(np.abs((inner(vectors, gradient[None]) / g)[:, 0].cpu().numpy()), 1.0)
    magnitude = np.abs(eigenvalues)
    return Alignment(
        gradient_norm=g,
        amplification=hg / g,
        cosine=max(-1.0, min(1.0, along / (g * hg))) if hg > 0 else None,
        rayleigh=along / g**2,
        cosines=cosines,
        top_share=min(1.0, float((cosines**2).sum())) if len(cosines) else None,
        weighted=float(magnitude @ cosines**2 / magnitude.sum()) if magnitude.sum() > 0 else None,
    )


def random_cosine(size: int) -> float:
    """Return the mean of |cos| between a fixed and a random direction: sqrt(2 / (pi P)) for large P."""
    return math.sqrt(2 / (math.pi * size))


def subspace_overlap(a: Tensor, b: Tensor) -> float | None:
    """Return ||A B'||_F^2 / k for orthonormal rows [k, P]: 1 for the same subspace, k / P for random ones.

    Where the numbers of rows differ, the smaller one of both is compared.
    """
    k = min(len(a), len(b))
    if k == 0:
        return None
    if torch.equal(a[:k], b[:k]):
        return 1.0  # exactly, whatever the rounding
    return min(1.0, float((inner(a[:k], b[:k]) ** 2).sum()) / k)
