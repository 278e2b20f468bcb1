"""Nearest neighbours of a cloud of points, exact, with duplicates merged.

Candidates come from blocked matrix products, ``|x - y|^2 = |x|^2 + |y|^2 - 2 x.y``, on centred points; each product
serves its rows and its columns, so only half of them are computed. The winning distances are then recomputed
from differences in float64. Cost: about ``n^2 d`` floating-point operations; memory: one tile and ``O(n k)``.
"""

from __future__ import annotations

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
    points = x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))
    if points.ndim != 2:
        raise DataError(f"points must be an array [n, d], got shape {tuple(points.shape)}", "Pass one row per point")
    if points.is_complex():
        raise DataError(f"points must be real numbers, got {points.dtype}")
    if points.device.type == "mps":  # has no float64
        points = points.cpu()
    if points.dtype in (torch.float16, torch.bfloat16):
        points = points.float()
    return points if points.dtype in (torch.float32, torch.float64) else points.double()


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
        Relative distance under which points are the same; 0 merges exact twins only (up to rounding).

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
    broken = int((~torch.isfinite(points).all(dim=1)).sum()) if n else 0
    if broken:
        return _empty(n, f"{broken} of {n} points hold numbers that are not finite")
    rows = torch.arange(n, device=points.device)
    twins_dropped = False
    while True:
        distances, indices = _search(points[rows] if len(rows) < n else points, max(k, 2))
        if not distances.numel():
            return _empty(n, "", rows)
        close = distances <= _same(points, distances, tolerance)
        if not bool(close[:, 0].any()):
            k = min(k, distances.shape[1])
            return Neighbours(
                distances[:, :k].cpu().numpy(), indices[:, :k].cpu().numpy(), rows.cpu().numpy(), num_points=n
            )
        # Groups larger than k + 1 need more than one round; exact twins, the usual case, never do.
        keep = _merge(close, indices) if twins_dropped else _without_twins(points)
        twins_dropped = True
        rows = rows[keep]


def _empty(n: int, problem: str, rows: Tensor | None = None) -> Neighbours:
    kept = np.empty(0, np.int64) if rows is None else rows.cpu().numpy()
    return Neighbours(np.empty((len(kept), 0)), np.empty((len(kept), 0), np.int64), kept, n, problem)


def _same(points: Tensor, distances: Tensor, tolerance: float) -> float:
    """Return the distance under which two points are one."""
    spacing = float(distances[:, min(1, distances.shape[1] - 1)].mean())
    largest = float(torch.linalg.vector_norm(points, dim=1, dtype=torch.float64).max())
    return max(tolerance * spacing, 8 * torch.finfo(points.dtype).eps * largest)


def _without_twins(points: Tensor) -> Tensor:
    """Return the first row of every group of equal rows, in order."""
    plain = np.ascontiguousarray((points + 0.0).cpu().numpy())  # + 0.0 makes -0.0 and 0.0 the same bytes
    keys = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).ravel()
    _, first = np.unique(keys, return_index=True)
    return torch.from_numpy(np.sort(first)).to(points.device)


def _merge(close: Tensor, indices: Tensor) -> Tensor:
    """Return the first row of every connected group of close points, in order."""
    n = len(close)
    rows, columns = close.nonzero(as_tuple=True)
    ends = (rows.cpu().numpy(), indices[rows, columns].cpu().numpy())
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    _, first = np.unique(group, return_index=True)
    return torch.from_numpy(np.sort(first)).to(close.device)


def _search(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return exact distances [n, k] (float64) and indices [n, k] of the nearest neighbours, the point itself left out."""
    n = len(points)
    k = min(k, n - 1)
    if k < 1:
        return points.new_empty((n, 0), dtype=torch.float64), points.new_empty((n, 0), dtype=torch.int64)
    centred = (points - points.mean(dim=0, dtype=torch.float64)).to(points.dtype)
    squares, indices = _candidates(centred, min(k + SPARE, n - 1))
    distances = _exact(centred, torch.arange(n, device=points.device), indices)
    distances, order = distances.sort(dim=1)
    indices = indices.gather(1, order)
    if points.dtype == torch.float32 and squares.shape[1] < n - 1:
        doubtful = _doubtful(centred, squares, distances[:, k - 1])
        if len(doubtful):
            distances[doubtful, :k], indices[doubtful, :k] = _brute(centred.double(), doubtful, k)
    return distances[:, :k], indices[:, :k]


def _doubtful(centred: Tensor, squares: Tensor, kth: Tensor) -> Tensor:
    """Return the rows whose true neighbours rounding of the products may have hidden."""
    # |error| of n_i + n_j - 2 x.y in float32 is a few roundings of the largest term; 8 covers blocked summation.
    norms = centred.square().sum(dim=1, dtype=torch.float64)
    error = 8 * torch.finfo(centred.dtype).eps * (norms + norms.max())
    return (squares[:, -1].double() - error <= kth.square()).nonzero().ravel()


def _exact(points: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
    """Return the distances [rows, k] from each row to its candidates, from differences."""
    out = points.new_empty(indices.shape, dtype=torch.float64)
    step = max(1, 2**20 // max(1, indices.shape[1] * points.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = points[indices[part]] - points[rows[part], None]
        out[part] = difference.square_().sum(dim=2, dtype=torch.float64).sqrt_()
    return out


def _brute(points: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Search for some rows in float64."""
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


def _candidates(centred: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return squared distances and indices [n, k] of the nearest points, up to the rounding of the products."""
    n, tiles = len(centred), -(-len(centred) // TILE)
    norms = centred.square().sum(dim=1, keepdim=True)
    ones = torch.ones_like(norms)
    # The norms ride along as two more columns: a product is then a squared distance, with no pass over the tile.
    left = torch.cat([centred * -2, norms, ones], dim=1)
    right = torch.cat([centred, ones, norms], dim=1)
    blocks = [slice(i * TILE, min(n, (i + 1) * TILE)) for i in range(tiles)]
    best: list[tuple[Tensor, Tensor] | None] = [None] * tiles
    for i, rows in enumerate(blocks):
        for j in range(i, tiles):
            tile = left[rows] @ right[blocks[j]].T
            if i == j:
                tile.fill_diagonal_(torch.inf)
            best[j] = _best(best[j], _smallest(tile, k), rows.start, k)
            if i != j:
                best[i] = _best(best[i], _smallest(tile.T.contiguous(), k), blocks[j].start, k)
    values = torch.cat([b[0] for b in best if b is not None], dim=1)
    indices = torch.cat([b[1] for b in best if b is not None], dim=1)
    return values.T.contiguous(), indices.T.contiguous()


def _best(
    old: tuple[Tensor, Tensor] | None, new: tuple[Tensor, Tensor], start: int, k: int
) -> tuple[Tensor, Tensor]:
    """Merge the best of a further tile, whose rows begin at `start`, into the best so far; both [k, columns]."""
    values, indices = new[0], new[1] + start
    if old is None:
        return values, indices
    values, indices = torch.cat([old[0], values]), torch.cat([old[1], indices])
    values, order = values.topk(min(k, len(values)), dim=0, largest=False)
    return values, indices.gather(0, order)


def _smallest(tile: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest numbers of each column and their rows, [k, columns]; fewer where the tile has fewer rows.

    The k smallest numbers lie in the k groups of rows with the smallest minima, and minima of groups are cheap.
    """
    num_rows, columns = tile.shape
    groups = num_rows // GROUP
    if groups <= 2 * k:
        values, indices = tile.topk(min(k, num_rows), dim=0, largest=False)
        return values, indices
    whole = tile[: groups * GROUP].view(groups, GROUP, columns)
    group = whole.amin(dim=1).topk(k, dim=0, largest=False, sorted=False).indices
    members = (group[:, None] * GROUP + torch.arange(GROUP, device=tile.device)[None, :, None]).view(-1, columns)
    if num_rows > groups * GROUP:
        rest = torch.arange(groups * GROUP, num_rows, device=tile.device)
        members = torch.cat([members, rest[:, None].expand(-1, columns)])
    values, order = tile.gather(0, members).topk(k, dim=0, largest=False)
    return values, members.gather(0, order)
