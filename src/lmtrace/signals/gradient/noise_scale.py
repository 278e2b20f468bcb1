"""Gradient noise scale from the gradients of micro-batches, and small sketches that keep inner products."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.estimate import Estimate

SKETCH = 65521
"""A prime, so that rows of no usual width fold onto each other."""


def inverse_noise_scale(products: np.ndarray, batch: int) -> Estimate:
    """Return ``|G|^2 / tr(S)``, one over the gradient noise scale, per example; negative where the gradients do not agree.

    From M micro-batches of b examples: with s the mean of ``|g_i|^2`` and c the mean of ``g_i.g_j`` over pairs, ``|G|^2`` is c
    and ``tr(S)`` is b (s - c), both without bias (McCandlish et al. 2018, appendix A). c is as often too small as too large, and
    below zero where noise is much larger than the gradient: averages over measurements are those of this number, of which none is
    left out.

    Parameters
    ----------
    products : [M, M]
        Inner products of the micro-batches' gradients; M at least 2.
    batch
        Examples b in each.

    Returns
    -------
    Estimate
        Standard error by the jackknife over micro-batches (M at least 3). `value` is None where all gradients are equal.
    """
    m = len(products)
    if m < 2:
        return Estimate(None, n=m, note=f"{m} micro-batches; at least 2 are needed")
    squares, total = np.diag(products), products.sum()
    value = _inverse(squares.sum(), total - squares.sum(), m, batch)
    if not math.isfinite(value):
        return Estimate(None, n=m, note="the micro-batches' gradients are equal: there is no noise")
    if m < 3:
        return Estimate(value, n=m)
    left = squares.sum() - squares
    pairs = total - 2 * products.sum(1) + squares - left
    without = [_inverse(s, p, m - 1, batch) for s, p in zip(left, pairs, strict=True)]
    stderr = math.sqrt((m - 1) * float(np.var(without)))
    return Estimate(value, stderr if math.isfinite(stderr) else None, m)


def noise_scale(products: np.ndarray, batch: int) -> Estimate:
    """Return the gradient noise scale ``tr(S) / |G|^2`` in examples, S the covariance of one example's gradient.

    One over `inverse_noise_scale`, and its error carried over. Batches much smaller than it waste little data, much larger ones
    little time. Where it is far above the sample, what is found scatters from below it to infinity, and half of it may be
    missing: averages are those of the inverse.

    Parameters
    ----------
    products, batch
        As for `inverse_noise_scale`.

    Returns
    -------
    Estimate
        `value` is None where the gradients do not agree; `note` then says from where on the scale lies.
    """
    inverse = inverse_noise_scale(products, batch)
    if inverse.value is None:
        return Estimate(0.0, n=inverse.n) if inverse.n > 1 else inverse
    if not inverse.value > 0:
        return Estimate(None, n=inverse.n, note=f"the micro-batches' gradients do not agree: {_above(inverse)}")
    value = 1 / inverse.value
    return Estimate(value, None if inverse.stderr is None else inverse.stderr * value**2, inverse.n)


def _above(inverse: Estimate) -> str:
    """Return in words from where on the noise scale lies, at two standard errors."""
    highest = (inverse.value or 0.0) + 2 * (inverse.stderr or 0.0)
    return (
        f"the noise scale is above {1 / highest:.0f} sequences"
        if highest > 0
        else "the noise scale is above what they show"
    )


def _inverse(squares: float, pairs: float, m: int, batch: int) -> float:
    """Return |G|^2 / tr(S) from the sums of |g_i|^2 and of g_i.g_j, i != j; NaN where there is no noise."""
    mean_square, mean_product = squares / m, pairs / (m * (m - 1))
    noise = batch * (mean_square - mean_product)
    return mean_product / noise if noise > 0 else math.nan


def sketch(gradients: list[Tensor], generator: torch.Generator) -> Tensor:
    """Return [`SKETCH`] float64: the gradients with random signs, folded; inner products keep to about 1/256.

    Charikar, Chen and Farach-Colton (2002). The same generator state must be used for vectors that are to be compared.
    Up to `SKETCH` numbers nothing is folded and inner products are exact.
    """
    total = torch.zeros(SKETCH, dtype=torch.float64)
    offset = 0
    for gradient in gradients:
        flat = gradient.detach().reshape(-1).to("cpu", torch.float64)
        signs = torch.randint(0, 2, flat.shape, generator=generator, dtype=torch.int8)
        flat = flat * (2 * signs - 1)
        start = offset % SKETCH
        padded = torch.cat([flat.new_zeros(start), flat, flat.new_zeros(-(start + len(flat)) % SKETCH)])
        total += padded.view(-1, SKETCH).sum(dim=0)
        offset += len(flat)
    return total
