"""Sufficient statistics of linear probes: n, mean, scatter and class means. They add across batches and ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_BLOCK = 4096
_FEW = 256


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
        return Sample.of(x).moments

    @classmethod
    def of_rows(cls, rows: Tensor, origin: Tensor) -> Moments:
        """Return the moments of rows: [n, d] that are given less an origin: [d] float64.

        The rows are centred on their own mean before they are multiplied, so a feature that is constant among them has
        no variance whatever its value, and one that hardly varies keeps its digits.
        """
        n, d = rows.shape
        offset = column_sums(rows) / max(n, 1)
        near = offset.to(rows.dtype)
        scatter = rows.new_zeros(d, d, dtype=torch.float64)
        for block in rows.split(_BLOCK):
            scatter += square(block - near)
        left = offset - near  # what rounding has left of the mean
        return cls(n, origin + offset, scatter.addr_(left, left, alpha=-n))

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


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Rows and their moments.

    Attributes
    ----------
    rows : [n, d]
        Less an origin, in the precision that they came in.
    origin : [d]
        float64, near their mean.
    moments
        Of the rows themselves.
    """

    rows: Tensor
    origin: Tensor
    moments: Moments

    @classmethod
    def of(cls, x: Tensor) -> Sample:
        """Return the sample of x: [n, d]."""
        rows = x.clone()
        origin = centre_(rows)
        return cls(rows, origin, Moments.of_rows(rows, origin))

    @property
    def offset(self) -> Tensor:
        """[d] mean of the rows less the origin."""
        return self.moments.mean - self.origin


def centre_(rows: Tensor) -> Tensor:
    """Take what is near their mean from rows: [n, d], and return it: [d] float64. How near it is does not matter."""
    near = rows.sum(0) / max(len(rows), 1)
    rows.sub_(near)
    return near.double()


def column_sums(rows: Tensor) -> Tensor:
    """Return [d] float64, the sum of rows: [n, d]; in blocks, because a copy of all of them in float64 costs more than the sum."""
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    for block in rows.split(_FEW):
        total += block.double().sum(0)
    return total


def all_finite(x: Tensor) -> bool:
    """Return whether every number of x: [n, d] is finite. A sum that is finite says so at a tenth of the cost."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a'b in float64 of a: [n, d], b: [n, e]. Blocks of rows are multiplied in their own precision."""
    found = a.new_zeros(a.shape[1], b.shape[1], dtype=torch.float64)
    for left, right in zip(a.split(_BLOCK), b.split(_BLOCK), strict=True):
        found += left.T @ right
    return found


def square(rows: Tensor) -> Tensor:
    """Return x'x in float64 of rows x: [n, d].

    The diagonal, which is the scale of every feature, is summed in float64. Off it are products of float32 in blocks of
    k = 4,096 rows, whose sums err by at most k u |x_i| |x_j|, u = 6e-8 half a unit of rounding, in whatever order a
    processor adds them; errors of random sign, as of all but constant rows, are about sqrt(k) u = 4e-6 of that.
    """
    found = symmetric_product(rows, rows)
    diagonal = torch.zeros_like(found.diagonal())
    for block in rows.split(_FEW):
        diagonal += block.double().square_().sum(0)
    found.diagonal().copy_(diagonal)
    return found


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a'b in float64 of a, b: [n, d], which is known to be symmetric.

    Blocks of rows are multiplied in their own precision, and of their products only what lies on the diagonal and above
    it: five eighths. Not by another library's BLAS: its threads and torch's would fight for the cores.
    """
    d = a.shape[1]
    found, step = a.new_zeros(d, d, dtype=torch.float64), max(64, -(-d // 4))
    for left, right in zip(a.split(_BLOCK), b.split(_BLOCK), strict=True):
        upper = a.new_zeros(d, d)
        for at in range(0, d, step):
            torch.mm(left[:, at : at + step].T, right[:, at:], out=upper[at : at + step, at:])
        found += upper.double()
    for at in range(step, d, step):
        found[at:, at - step : at] = found[at - step : at, at:].T
    return found
