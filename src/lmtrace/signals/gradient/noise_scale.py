"""Gradient noise scale from the gradients of micro-batches, and small sketches that keep inner products."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.estimate import Estimate

SKETCH = 65521
"""A prime, so that rows of no usual width fold onto each other."""


def noise_scale(products: np.ndarray, batch: int) -> Estimate:
    """Return the gradient noise scale ``tr(S) / |G|^2`` in examples, S the covariance of one example's gradient.

    From M micro-batches of b examples: with s the mean of ``|g_i|^2`` and c the mean of ``g_i.g_j`` over pairs,
    ``|G|^2`` is c and ``tr(S)`` is b (s - c), both without bias. McCandlish et al. (2018), appendix A. Batches much smaller than
    it waste little data, much larger ones little time.

    Parameters
    ----------
    products : [M, M]
        Inner products of the micro-batches' gradients; M at least 2.
    batch
        Examples b in each.

    Returns
    -------
    Estimate
        Standard error by the jackknife over micro-batches (M at least 3). `value` is None where c is not positive.
    """
    m = len(products)
    if m < 2:
        return Estimate(None, n=m, note=f"{m} micro-batches; at least 2 are needed")
    squares, pairs = float(np.trace(products)), float(products.sum() - np.trace(products))
    value = _scale(squares, pairs, m, batch)
    if value is None:
        return Estimate(
            None, n=m, note="the micro-batches' gradients do not agree: the noise scale is above what they show"
        )
    if m < 3:
        return Estimate(value, n=m)
    without = [
        _scale(squares - products[i, i], pairs - 2 * (products[i].sum() - products[i, i]), m - 1, batch)
        for i in range(m)
    ]
    found = [w for w in without if w is not None]
    if len(found) < m:
        return Estimate(value, n=m, note="no standard error: the gradients barely agree")
    return Estimate(value, math.sqrt((m - 1) * float(np.var(found))), m)


def _scale(squares: float, pairs: float, m: int, batch: int) -> float | None:
    mean_square, mean_product = squares / m, pairs / (m * (m - 1))
    if not mean_product > 0:
        return None
    return max(0.0, batch * (mean_square - mean_product) / mean_product)


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
