"""Sufficient statistics of linear probes: n, mean, scatter and class means. They add across batches and ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_BLOCK = 4096


@dataclass(frozen=True)
class Moments:
    """Number, mean and centred second moment of rows.

    Attributes
    ----------
    n
        Number of rows.
    mean : [d]
        float64.
    scatter : [d, d]
        float64, sum of (x - mean)(x - mean)'.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @cached_property
    def scale(self) -> Tensor:
        """[d] standard deviation per feature; 1 where a feature is constant."""
        deviation = (self.scatter.diagonal() / max(self.n, 1)).clamp(min=0).sqrt()
        return torch.where(deviation > 1e-12 * self.mean.abs() + 1e-30, deviation, torch.ones_like(deviation))

    @cached_property
    def correlation(self) -> Tensor:
        """[d, d] scatter of the rows over their scale."""
        return self.scatter / torch.outer(self.scale, self.scale)

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Return the moments of x: [n, d]."""
        return cls.of_centred(*centred(x))

    @classmethod
    def of_centred(cls, mean: Tensor, rows: Tensor) -> Moments:
        """Return the moments of rows: [n, d] less their mean: [d]. Blocks of products are summed in float64."""
        blocks = rows.split(_BLOCK)
        scatter = _square(blocks[0])
        for block in blocks[1:]:
            scatter += _square(block)
        return cls(len(rows), mean, scatter)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows (Chan, Golub and LeVeque 1983)."""
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.n / n)
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.n * other.n / n)
        return Moments(n, mean, scatter)


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """Rows and mean per class.

    Attributes
    ----------
    counts : [classes]
        float64.
    means : [classes, d]
        float64; zero where a class has no rows.
    """

    counts: Tensor
    means: Tensor

    @classmethod
    def of(cls, x: Tensor, codes: Tensor, num_classes: int) -> ClassMeans:
        """Return the statistics of x: [n, d] with codes: [n] int64 in 0 ... num_classes - 1."""
        counts = torch.bincount(codes, minlength=num_classes).double()
        # A shift keeps the precision of rows far from the origin; which one it is does not matter.
        shift = x[:1].double().mean(0) if len(x) else x.new_zeros(x.shape[1], dtype=torch.float64)
        sums = x.new_zeros(num_classes, x.shape[1], dtype=torch.float64)
        for block, code in zip(x.split(_BLOCK), codes.split(_BLOCK), strict=True):
            sums.index_add_(0, code, block.double() - shift)
        present = (counts > 0).double()[:, None]
        return cls(counts, present * (sums / counts.clamp(min=1)[:, None] + shift))

    def __add__(self, other: ClassMeans) -> ClassMeans:
        """Return the statistics of both sets of rows."""
        counts = self.counts + other.counts
        share = (other.counts / counts.clamp(min=1))[:, None]
        return ClassMeans(counts, self.means * (1 - share) + other.means * share)


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean [d] float64, x - mean in its own precision) of x: [n, d], exact however far x is from the origin."""
    n = max(len(x), 1)
    near = x.sum(0) / n  # rounded, so what is left of the mean is taken away too
    rows = x - near
    left = rows.sum(0) / n
    return near.double() + left.double(), rows.sub_(left)


def standardise(x: Tensor) -> tuple[Moments, Tensor]:
    """Return the moments of x: [n, d], and its rows with mean 0 and deviation 1 in float32.

    float32 after centring loses nothing but the rounding of products.
    """
    mean, rows = centred(x)
    moments = Moments.of_centred(mean, rows)
    return moments, rows.div_(moments.scale.to(rows.dtype)).float()


def centre(x: Tensor, mean: Tensor) -> Tensor:
    """Return x - mean in the precision of x: [n, d], exact to its rounding however far x is from the origin."""
    near = mean.to(x.dtype)
    return (x - near).sub_((mean - near.double()).to(x.dtype))


def all_finite(x: Tensor) -> bool:
    """Return whether every number of x: [n, d] is finite. A sum that is finite says so at a tenth of the cost."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def _square(x: Tensor) -> Tensor:
    """Return x'x in float64. Not by another library's BLAS: its threads and torch's would fight for the cores."""
    return (x.T @ x).double()
