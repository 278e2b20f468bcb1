"""Nearest neighbours of a cloud of points, exact, with duplicates merged.

Candidates come from blocked matrix products, ``|x - y|^2 = |x|^2 + |y|^2 - 2 x.y``, on centred points; each product
serves its rows and its columns, so only half of them are computed. The winning distances are then recomputed
from differences in float64. Cost: about ``n^2 d`` floating-point operations; memory: one tile and ``O(n k)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lmtrace.errors import ConfigError, DataError

TILE = 1024
GROUP = 8
SPARE = 2
STRIP = 4 * TILE
EXACT = 2**18


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The nearest neighbours of every distinct point.

    Attributes
    ----------
    distances : [distinct, k]
        float64, rising along each row, larger than zero; Euclidean.
    indices : [distinct, k]
        int64 positions among the distinct points.
    rows : [distinct]
        int64: which rows of the input the distinct points are (the first one of each merged group).
    num_points
        Number of rows of the input.
    problem
        Why there are no neighbours at all ("3 rows hold numbers that are not finite"); empty otherwise.
    """

    distances: np.ndarray
    indices: np.ndarray
    rows: np.ndarray
    num_points: int
    problem: str = ""

    @property
    def merged(self) -> float:
        """Return the fraction of the input's rows that were merged into another one."""
        return 1.0 - len(self.rows) / self.num_points if self.num_points else 0.0

    @property
    def k(self) -> int:
        """Return how many neighbours each point has."""
        return self.distances.shape[1]


def as_points(x: np.ndarray | Tensor) -> Tensor:
    """Return `x` as a detached float32 or float64 tensor [n, d]; raise `DataError` where it is no such array."""
    points = x.detach() if isinstance(x, Tensor) else _tensor_of(np.asarray(x))
    if points.ndim != 2:
        raise DataError(f"points must be an array [n, d], got shape {tuple(points.shape)}", "Pass one row per point")
    if points.is_complex():
        raise DataError(f"points must be real numbers, got {points.dtype}")
    if points.device.type == "mps":  # has no float64
        points = points.cpu()
    if points.dtype in (torch.float16, torch.bfloat16):
        points = points.float()
    return points if points.dtype in (torch.float32, torch.float64) else points.double()


def _tensor_of(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise DataError(f"points must be an array of numbers [n, d], got {array.dtype}", "Pass one row per point")
    wide = array.dtype.itemsize > 8 and array.dtype.kind == "f"
    plain = array.astype(np.float64 if wide else array.dtype.newbyteorder("="), copy=False)
    plain = np.ascontiguousarray(plain)
    return torch.from_numpy(plain if plain.flags.writeable else plain.copy())


def largest_magnitude(points: Tensor) -> float:
    """Return the largest absolute value, in one pass: 0 for no numbers, not finite where one of them is not."""
    if not points.numel():
        return 0.0
    low, high = torch.aminmax(points)
    return max(-float(low), float(high)) if not torch.isnan(high) else math.nan


def unit_of(points: Tensor, largest: float | None = None) -> float:
    """Return a power of two by which to divide finite `points` so that their squares neither overflow nor vanish.

    1 for anything ordinary; the division is exact.
    """
    largest = largest_magnitude(points) if largest is None else largest
    limit = 1e12 if points.dtype == torch.float32 else 1e120
    if largest == 0.0 or not math.isfinite(largest) or 1 / limit < largest < limit:
        return 1.0
    return 2.0 ** math.frexp(largest)[1]


def not_finite(points: Tensor) -> str:
    """Return the reason that says how many points are not finite."""
    return f"{int((~torch.isfinite(points).all(dim=1)).sum())} of {len(points)} points hold numbers that are not finite"


def nearest(x: np.ndarray | Tensor, k: int, *, tolerance: float = 3e-5) -> Neighbours:
    """Find the `k` nearest neighbours of every distinct point.

    Two points are one where they are closer than `tolerance` times the mean distance to the second neighbour, or
    closer than the rounding error of the input. Chains of close points become one point, the first of them.

    Parameters
    ----------
    x : [n, d]
        Points.
    k
        Number of neighbours; where fewer than ``k + 1`` distinct points exist, all there are.
    tolerance
        Relative distance under which points are the same; 0 merges twins up to rounding only.

    Returns
    -------
    Neighbours
        `problem` says why where `x` holds numbers that are not finite.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if not tolerance >= 0:
        raise ConfigError(f"tolerance must not be negative, got {tolerance}")
    points = as_points(x)
    n = len(points)
    largest = largest_magnitude(points)
    if not math.isfinite(largest):
        return _empty(n, not_finite(points))
    unit = unit_of(points, largest)
    points = points if unit == 1.0 else points / unit
    norms = torch.linalg.vector_norm(points, dim=1)
    rounding = 8 * torch.finfo(points.dtype).eps * float(norms.max()) if n else 0.0
    rows = _without_twins(points, rounding)
    while True:
        distances, indices = _search(points[rows] if len(rows) < n else points, max(k, 2))
        if not distances.numel():
            return _empty(n, "", rows)
        spacing = float(distances[:, min(1, distances.shape[1] - 1)].mean())
        close = distances <= max(tolerance * spacing, rounding)
        if not bool(close[:, 0].any()):
            k = min(k, distances.shape[1])
            found = distances[:, :k].cpu().numpy()
            found = found if unit == 1.0 else found * unit
            return Neighbours(found, indices[:, :k].cpu().numpy(), rows.cpu().numpy(), num_points=n)
        first, second = close.nonzero(as_tuple=True)  # a group of more than k + 1 points takes another round
        rows = rows[_merge(len(rows), first, indices[first, second])]


def _empty(n: int, problem: str, rows: Tensor | None = None) -> Neighbours:
    kept = np.empty(0, np.int64) if rows is None else rows.cpu().numpy()
    return Neighbours(np.empty((len(kept), 0)), np.empty((len(kept), 0), np.int64), kept, n, problem)


def _without_twins(points: Tensor, rounding: float) -> Tensor:
    """Return the first row of every group of points that are equal up to rounding, in order.

    Twins are next to each other in the order along any direction; `nearest` finds those that a stranger separates.
    """
    direction = torch.cos(torch.arange(points.shape[1], dtype=points.dtype, device=points.device) ** 2)
    along, order = (points @ direction).sort()
    step = (along.diff() <= rounding * float(torch.linalg.vector_norm(direction))).nonzero().ravel()
    first, second = order[step], order[step + 1]
    twins = torch.linalg.vector_norm(points[first] - points[second], dim=1) <= rounding
    return _merge(len(points), first[twins], second[twins])


def _merge(n: int, first: Tensor, second: Tensor) -> Tensor:
    """Return the first row of every connected group, in order; the edges are (first, second)."""
    if not len(first):
        return torch.arange(n, device=first.device)
    ends = (first.cpu().numpy(), second.cpu().numpy())
    graph = coo_array((np.ones(len(first), np.int8), ends), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    _, rows = np.unique(group, return_index=True)
    return torch.from_numpy(np.sort(rows)).to(first.device)


def _search(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances (float64) and indices [n, k] of the nearest neighbours, the point itself left out."""
    n = len(points)
    k = min(k, n - 1)
    if k < 1:
        return points.new_empty((n, 0), dtype=torch.float64), points.new_empty((n, 0), dtype=torch.int64)
    centred = points - points.mean(dim=0, dtype=torch.float64).to(points.dtype)
    norms = centred.square().sum(dim=1)
    squares, indices = _candidates(centred, norms, min(k + SPARE, n - 1))
    distances = _exact(points, torch.arange(n, device=points.device), indices)
    distances, order = distances.sort(dim=1)
    indices = indices.gather(1, order)
    if points.dtype == torch.float32 and squares.shape[1] < n - 1:
        # The error of n_i + n_j - 2 x.y is a few roundings of its largest term; it may hide a true neighbour.
        error = 8 * torch.finfo(torch.float32).eps * (norms + norms.max()).double()
        doubtful = (squares[:, -1] - error <= distances[:, k - 1].square()).nonzero().ravel()
        if len(doubtful):
            distances[doubtful, :k], indices[doubtful, :k] = _brute(points.double(), doubtful, k)
    return distances[:, :k], indices[:, :k]


def _exact(points: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
    """Return the distances [rows, k] (float64) from each row to its candidates, from differences."""
    out = points.new_empty(indices.shape, dtype=torch.float64)
    step = max(1, EXACT // max(1, indices.shape[1] * points.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        candidates = points.index_select(0, indices[part].ravel()).view(*indices[part].shape, -1)
        out[part] = torch.linalg.vector_norm(candidates.sub_(points[rows[part], None]), dim=2)
    return out


def _brute(points: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Search for some rows in float64."""
    points = points - points.mean(dim=0)
    norms = points.square().sum(dim=1)
    distances = points.new_empty((len(rows), k))
    found = rows.new_empty((len(rows), k))
    step = max(1, 2**22 // len(points))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        squares = norms[part, None] + norms - 2 * points[part] @ points.T
        squares[torch.arange(len(part)), part] = torch.inf
        indices = squares.topk(k, largest=False).indices
        exact, order = _exact(points, part, indices).sort(dim=1)
        distances[start : start + step], found[start : start + step] = exact, indices.gather(1, order)
    return distances, found


def _candidates(centred: Tensor, norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return squared distances and indices [n, k], rising, of the nearest points, up to the products' rounding."""
    n = len(centred)
    ones = torch.ones_like(norms)[:, None]
    # The norms ride along as two more columns: a product is then a squared distance, with no pass over the tile.
    left = torch.cat([centred * -2, norms[:, None], ones], dim=1)
    right = torch.cat([centred, ones, norms[:, None]], dim=1)
    best = [_Best(k) for _ in range(0, n, TILE)]
    buffer = centred.new_empty(min(n, TILE) * min(n, STRIP))
    for i, above in enumerate(range(0, n, TILE)):
        rows = left[above : above + TILE]
        for start in range(above, n, STRIP):
            stop = min(n, start + STRIP)
            strip = buffer[: len(rows) * (stop - start)].view(len(rows), stop - start)
            torch.mm(rows, right[start:stop].T, out=strip)
            if start == above:
                strip.fill_diagonal_(torch.inf)
            best[i].add(*_smallest_of_rows(strip, k), start)
            for j, column in enumerate(range(start, stop, TILE), start // TILE):
                if j > i:
                    tile = strip[:, column - start : column - start + TILE]
                    best[j].add(*_smallest_of_columns(tile, k), above)
    values, indices = zip(*(b.rising() for b in best), strict=True)
    return torch.cat(values), torch.cat(indices)


class _Best:
    """The k smallest numbers of every row over the tiles seen so far, and where they are; rising at the end."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.values = self.indices = torch.empty(0)

    def add(self, values: Tensor, indices: Tensor, start: int) -> None:
        """Merge the best of a further tile, whose numbering begins at `start`."""
        indices = indices + start
        if self.values.numel():
            values, indices = torch.cat([self.values, values], 1), torch.cat([self.indices, indices], 1)
            values, order = _smallest(values, self.k)
            indices = indices.gather(1, order)
        self.values, self.indices = values, indices

    def rising(self) -> tuple[Tensor, Tensor]:
        """Return values and indices, [rows, k]."""
        values, order = self.values.sort(dim=1)
        return values, self.indices.gather(1, order)


def _smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest numbers of each row and their columns, in no order; all where there are fewer."""
    if k >= values.shape[1]:
        return values, torch.arange(values.shape[1], device=values.device).expand_as(values)
    if values.device.type != "cpu":
        return values.topk(k, dim=1, largest=False, sorted=False)
    # NumPy's partition uses the vector unit and takes a quarter to a half of the time of torch's topk.
    columns = torch.from_numpy(np.argpartition(values.numpy(), k - 1, axis=1)[:, :k])
    return values.gather(1, columns), columns


# The k smallest numbers lie in the k groups with the smallest minima, and minima of groups are cheap. The two functions
# differ in what is contiguous: groups are taken so that each is one pass over memory.


def _smallest_of_rows(strip: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest numbers of each row and their columns, [rows, k]; fewer where there are fewer columns."""
    num_rows, columns = strip.shape
    groups = columns // GROUP
    if groups <= 2 * k:
        return _smallest(strip, k)
    whole = groups * GROUP
    minima = strip[:, :whole].unflatten(1, (GROUP, groups)).amin(dim=1)
    inside = torch.arange(0, whole, groups, device=strip.device)
    members = (_smallest(minima, k)[1][:, None] + inside[:, None]).view(num_rows, -1)
    return _of_members(strip, members, whole, k)


def _smallest_of_columns(tile: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest numbers of each column and their rows, [columns, k]; fewer where there are fewer rows."""
    num_rows, columns = tile.shape
    groups = num_rows // GROUP
    if groups <= 2 * k:
        return _smallest(tile.T.contiguous(), k)
    whole = groups * GROUP
    minima = tile[:whole].unflatten(0, (groups, GROUP)).amin(dim=1).T.contiguous()
    inside = torch.arange(GROUP, device=tile.device)
    members = (_smallest(minima, k)[1][:, :, None] * GROUP + inside).view(columns, -1)
    return _of_members(tile.T, members, whole, k)


def _of_members(values: Tensor, members: Tensor, whole: int, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest of each row's members and of the columns from `whole` on, which are in no group."""
    if whole < values.shape[1]:
        rest = torch.arange(whole, values.shape[1], device=values.device)
        members = torch.cat([members, rest.expand(len(members), -1)], dim=1)
    found, order = _smallest(values.gather(1, members), k)
    return found, members.gather(1, order)
