"""What a few very large points or coordinates cannot decide: directions around the spatial median."""

from __future__ import annotations

import torch
from torch import Tensor

from lmtrace.numerics.neighbours import largest_magnitude

ROUNDS = 30


def spatial_median(x: Tensor) -> Tensor:
    """Return [d] float64, the point with the least sum of distances to the rows of `x` [n, d] (Weiszfeld 1937).

    Half of the points have to move before it does, however far they go.
    """
    points = x.double()
    centre = points.median(dim=0).values
    for _ in range(ROUNDS):
        distance = torch.linalg.vector_norm(points - centre, dim=1)
        weight = 1 / distance.clamp_min(1e-6 * float(distance.median()) + torch.finfo(torch.float64).tiny)
        moved = (weight @ points) / weight.sum()
        step = float((moved - centre).norm())
        centre = moved
        if step <= 1e-6 * float(distance.median()):
            break
    return centre


def spatial_signs(x: Tensor) -> Tensor:
    """Return [n, d]: the rows' directions from their spatial median, of unit length; zero where a row is the median.

    The covariance of these is the spatial sign covariance (Visuri, Koivunen and Oja 2000): it has the principal directions of
    elliptical clouds, and a point of any size weighs as much as any other. Activations of a thousand times the usual size at
    one token (massive activations: Sun, Chen, Kolter and Liu 2024) otherwise own the variance of all.
    """
    largest = largest_magnitude(x)
    if not len(x) or not 0 < largest < float("inf"):
        return x
    points = x.double() / largest
    centred = points - spatial_median(points)
    norm = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    rounding = torch.finfo(x.dtype).eps * x.shape[1] ** 0.5
    return torch.where(norm > rounding, centred / norm.clamp_min(1e-300), torch.zeros_like(centred)).to(x.dtype)


def coordinate_shares(x: Tensor) -> Tensor:
    """Return [d] float64: the share of the variance of the rows of `x` [n, d] that each coordinate holds; zeros without variance."""
    variance = x.double().var(dim=0, correction=0)
    total = variance.sum()
    return variance / total if bool(total > 0) else torch.zeros_like(variance)
