"""Hutchinson's estimator of traces, of a whole operator and of its diagonal blocks, from the same products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import SignalError
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.lanczos import NotFiniteError, default_generator


def rademacher(size: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [size] independent entries, +1 or -1 with equal chance, the same on every device."""
    # One random word holds 64 signs: drawing them one by one would cost as much as a product.
    words = torch.randint(-(2**63), 2**63 - 1, (-(-size // 64),), generator=generator, device=generator.device)
    shifts = torch.arange(8, dtype=torch.uint8, device=generator.device)
    bits = (words.view(torch.uint8)[:, None] >> shifts).bitwise_and_(1).view(-1)[:size]
    return bits.to(device).to(dtype).mul_(2).sub_(1)


def quadratic_forms(
    product: Callable[[Tensor], Tensor],
    size: int,
    num_probes: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    *,
    dtype: torch.dtype | None = None,
    reduce: Callable[[Tensor], np.ndarray] | None = None,
) -> np.ndarray:
    """Return v' H v for random sign vectors v, as a whole or per block of entries.

    With blocks, v_b' (H v)_b is an unbiased estimate of the trace of the diagonal block H_bb, because
    E[v_b v_c'] = 0 for two different blocks. All blocks share the product; their sum is exactly v' H v.

    Parameters
    ----------
    product
        [P] -> [P].
    size
        P.
    num_probes
        Number of products.
    generator
        Source of the signs; a fixed seed by default.
    device
        Where vectors live.
    dtype
        Of the vectors; that of `product`, when it has one, by default float32.
    reduce
        [P] -> [blocks], sums of the entrywise products v * (H v); the sum of everything by default.

    Returns
    -------
    [num_probes, blocks] float64.

    Raises
    ------
    NotFiniteError
        Where a product is not finite.
    """
    generator = generator or default_generator()
    kind: torch.dtype = dtype or getattr(product, "dtype", torch.float32)
    reduce = reduce or _total
    samples = []
    for _ in range(num_probes):
        v = rademacher(size, generator, kind, torch.device(device))
        sums = reduce(v * product(v))
        if not np.all(np.isfinite(sums)):
            raise NotFiniteError("a Hessian-vector product is not finite")
        samples.append(sums)
    return np.stack(samples)


def mean_estimate(samples: Sequence[float] | np.ndarray) -> Estimate:
    """Return the mean of independent samples with its standard error (None for a single sample)."""
    x = np.asarray(samples, dtype=np.float64)
    if x.size == 0:
        raise SignalError("mean_estimate: expected at least one sample, got none")
    stderr = float(x.std(ddof=1)) / math.sqrt(x.size) if x.size > 1 else None
    return Estimate(float(x.mean()), stderr, int(x.size))


def _total(x: Tensor) -> np.ndarray:
    return np.array([float(x.sum(dtype=torch.float64))])
