"""The structural probe: whether a linear map of the representation holds the distances of the syntax tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import shortest_path
from scipy.stats import rankdata
from torch import Tensor


def tree_distances(heads: np.ndarray) -> np.ndarray | None:
    """Return [n, n] float64 steps between the words of one sentence, or None where its heads are no single tree.

    Parameters
    ----------
    heads : [n]
        Index of the head within the sentence; -1 at the root.
    """
    n = len(heads)
    children = np.flatnonzero(heads >= 0)
    if len(children) != n - 1:
        return None
    graph = np.zeros((n, n))
    graph[children, heads[children]] = 1.0
    distance = shortest_path(graph, directed=False, unweighted=True)
    return distance if np.isfinite(distance).all() else None


NO_VARIANCE = 1e-2
"""A direction in which words differ by less than this share of the widest one is left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Sentences:
    """Sentences of different lengths as one padded index.

    Attributes
    ----------
    rows : [sentences, length]
        int64 row of every word; 0 where there is none.
    mask : [sentences, length]
        bool, True at words.
    distances : [sentences, length, length]
        float32 tree distances; 0 where there is none.
    """

    rows: Tensor
    mask: Tensor
    distances: Tensor

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], distances: Sequence[np.ndarray], device: torch.device) -> Sentences:
        """Pad sentences given by the rows of their words and their tree distances."""
        length = max(map(len, rows))
        index = np.zeros((len(rows), length), np.int64)
        mask = np.zeros((len(rows), length), bool)
        table = np.zeros((len(rows), length, length), np.float32)
        for i, (row, distance) in enumerate(zip(rows, distances, strict=True)):
            index[i, : len(row)], mask[i, : len(row)] = row, True
            table[i, : len(row), : len(row)] = distance
        return cls(*(torch.as_tensor(a, device=device) for a in (index, mask, table)))

    @classmethod
    def by_length(
        cls, rows: Sequence[np.ndarray], distances: Sequence[np.ndarray], device: torch.device, num: int = 6
    ) -> list[Sentences]:
        """Return up to `num` groups of sentences of similar length, so that little is padded."""
        order = np.argsort([len(row) for row in rows], kind="stable")
        parts = [part.tolist() for part in np.array_split(order, num) if len(part)]
        return [cls.of([rows[i] for i in part], [distances[i] for i in part], device) for part in parts]


@dataclass(frozen=True, slots=True, eq=False)
class StructuralProbe:
    """d(i, j) = ||(h_i - h_j) B||^2.

    Attributes
    ----------
    b : [d, rank]
        float32, the map.
    loss
        Mean absolute error of the distances per sentence, at the end.
    """

    b: Tensor
    loss: float

    def distances(self, x: Tensor) -> np.ndarray:
        """Return [..., n, n] float64 predicted distances between the words of sentences, x: [..., n, d]."""
        z = ((x - x.mean(-2, keepdim=True)) @ self.b).double()
        return (z[..., :, None, :] - z[..., None, :, :]).square().sum(-1).cpu().numpy()


def structural_probe(
    x: Tensor, sentences: Sequence[Sentences], rank: int, num_steps: int = 30, rate: float = 0.02
) -> StructuralProbe:
    """Return a probe that makes sum over sentences of (1 / n^2) sum_ij |d_tree(i, j) - ||(h_i - h_j) B||^2| small.

    Squared distances are linear in A = BB', and classical scaling (Torgerson 1952) turns the tree distances of a sentence
    into the inner products G that its words must have. So the start is closed: A = W M W with M = sum H'GH over
    sentences whose words H are centred, and W the inverse of their scatter, shrunk half-way to its mean eigenvalue. Then
    a few steps of full-batch Adam on the loss itself, within the 2 rank directions of the largest eigenvalues of A.
    Both restrict the map, and it generalises better than after 150 steps from a random start in all directions.
    Source: Hewitt and Manning 2019 (doi:10.18653/v1/N19-1419).

    Parameters
    ----------
    x : [rows, d]
        Representations, all words of the panel.
    sentences
        The training part, in groups.
    rank
        Rows of B.
    num_steps, rate
        Of Adam; the learning rate falls linearly to zero.
    """
    groups = [_Group.of(x, part) for part in sentences]
    total = sum(len(part.rows) for part in sentences)
    directions, values = _closed_form(groups)
    rank = min(rank, x.shape[1])
    size = min(2 * rank, x.shape[1])
    directions = directions[:, :size]
    words = torch.cat([group.words for group in groups]) @ directions.float()
    unit = words.square().mean(0).sqrt()
    # What a layer norm has taken away holds rounding only; on one scale with the rest, the last bit would decide the tree.
    alive = unit > NO_VARIANCE * unit.max()
    unit = torch.where(alive, unit, torch.ones_like(unit))
    words = words / unit * alive
    # A direction of no or negative value still begins a little away from zero, where the gradient is none.
    kept = values[:rank].clamp(min=1e-4 * float(values.abs().max().clamp(min=1e-12)))
    b = torch.zeros(size, rank, device=x.device)
    b[:rank] = torch.diag(kept.sqrt().float() * (unit * alive)[:rank])
    b = b * _scale(words, b, groups) ** 0.5
    mean, square = torch.zeros_like(b), torch.zeros_like(b)
    value = float("nan")
    for step in range(1, num_steps + 1):
        value, slope = _loss(words, b, groups, total)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope.square()
        move = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        b = b - rate * (1 - (step - 1) / num_steps) * move
    return StructuralProbe((directions / unit.double() * alive).float() @ b, value)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Sentences with their words packed: [words, d], centred by sentence."""

    part: Sentences
    words: Tensor
    size: Tensor
    """[sentences] number of words."""

    @classmethod
    def of(cls, x: Tensor, part: Sentences) -> _Group:
        size = part.mask.sum(1)
        h = x[part.rows].float() * part.mask[:, :, None]
        h = (h - (h.sum(1) / size[:, None])[:, None])[part.mask]
        return cls(part, h, size)

    def padded(self, packed: Tensor) -> Tensor:
        """Return [sentences, length, columns] of [words, columns]; zero where there is no word."""
        full = packed.new_zeros(*self.part.mask.shape, packed.shape[1])
        full[self.part.mask] = packed
        return full

    def weight(self) -> Tensor:
        """Return [sentences, length, length]: 1 / n^2 at pairs of words."""
        pairs = self.part.mask[:, :, None] & self.part.mask[:, None, :]
        return pairs / self.size.float().square()[:, None, None]

    def inner_products(self) -> Tensor:
        """Return [sentences, length, length]: classical scaling of the tree distances, -JDJ / 2."""
        d, n = self.part.distances, self.size.float()
        row = d.sum(2) / n[:, None]
        centred = d - row[:, :, None] - row[:, None, :] + (row.sum(1) / n)[:, None, None]
        return -0.5 * centred * (self.part.mask[:, :, None] & self.part.mask[:, None, :])


def _closed_form(groups: list[_Group]) -> tuple[Tensor, Tensor]:
    """Return directions [d, d] and values [d], falling, float64: A = sum of values v v'."""
    d = groups[0].words.shape[1]
    scatter = groups[0].words.new_zeros(d, d, dtype=torch.float64)
    moment = torch.zeros_like(scatter)
    for group in groups:
        share = (1 / group.size.float())[:, None].expand_as(group.part.mask)[group.part.mask][:, None]
        weighted = (group.words * share).T
        scatter += (weighted @ group.words).double()
        moment += (weighted @ (group.inner_products() @ group.padded(group.words))[group.part.mask]).double()
    unit = scatter.diagonal().clamp(min=0).sqrt()
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    values, vectors = torch.linalg.eigh(scatter / torch.outer(unit, unit))
    shrunk = values.clamp(min=0) + values.mean().clamp(min=1e-12)
    white = vectors / shrunk.sqrt() / unit[:, None]
    values, vectors = torch.linalg.eigh(white.T @ (moment + moment.T) @ white / 2)
    return white @ vectors.flip(1), values.flip(0)


def _scale(words: Tensor, b: Tensor, groups: list[_Group]) -> float:
    """Return the factor of the predicted distances with the least weighted squared error."""
    above = below = 0.0
    for group, h in zip(groups, (words @ b).split([len(g.words) for g in groups]), strict=True):
        predicted, weight = _distances(group.padded(h)), group.weight()
        above += float((predicted * group.part.distances * weight).sum())
        below += float((predicted.square() * weight).sum())
    return above / below if above > 0 and below > 0 else 1.0


def _loss(words: Tensor, b: Tensor, groups: list[_Group], total: int) -> tuple[float, Tensor]:
    """Return the mean loss per sentence, and its gradient [directions, rank]."""
    value, slopes = 0.0, []
    for group, packed in zip(groups, (words @ b).split([len(g.words) for g in groups]), strict=True):
        h, weight = group.padded(packed), group.weight() / total
        gap = _distances(h) - group.part.distances
        value += float((gap.abs() * weight).sum())
        pull = gap.sign_().mul_(weight)
        slopes.append((4 * (pull.sum(2)[:, :, None] * h - pull @ h))[group.part.mask])
    return value, words.T @ torch.cat(slopes)


def _distances(h: Tensor) -> Tensor:
    """Return [sentences, length, length] squared distances between rows of h: [sentences, length, columns]."""
    square = h.square().sum(2)
    return square[:, :, None] + square[:, None, :] - 2 * h @ h.mT


def spanning_trees(distance: np.ndarray) -> np.ndarray:
    """Return [sentences, n, n] bool, the edges (i < j) of minimum spanning trees of full distance matrices of that shape.

    Prim's algorithm, all sentences side by side.
    """
    num, n, _ = distance.shape
    every = np.arange(num)
    edges, inside = np.zeros(distance.shape, bool), np.zeros((num, n), bool)
    inside[:, 0] = True
    nearest, cost = np.zeros((num, n), np.int64), distance[:, 0].copy()
    for _ in range(n - 1):
        new = np.where(inside, np.inf, cost).argmin(1)
        old = nearest[every, new]
        edges[every, np.minimum(old, new), np.maximum(old, new)] = True
        inside[every, new] = True
        closer = distance[every, new] < cost
        cost, nearest = np.where(closer, distance[every, new], cost), np.where(closer, new[:, None], nearest)
    return edges


def uuas(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return [...], the share of a gold tree's edges in the minimum spanning tree of predicted distances, [..., n, n]."""
    n = gold.shape[-1]
    edges = np.triu(gold == 1).reshape(-1, n, n)
    found = edges & spanning_trees(predicted.reshape(-1, n, n))
    return (found.sum((1, 2)) / edges.sum((1, 2))).reshape(gold.shape[:-2])


def distance_spearman(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return [...], the mean over words of Spearman's correlation of predicted and gold distances to the others, [..., n, n].

    Words whose gold (or predicted) distances are all equal have no correlation and count 0.
    """
    n = gold.shape[-1]
    others = ~np.eye(n, dtype=bool)
    a, b = (rankdata(d[..., others].reshape(-1, n - 1), axis=1) for d in (predicted, gold))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    each = np.divide((a * b).sum(1), norm, out=np.zeros(len(a)), where=norm > 0)
    return each.reshape(*gold.shape[:-2], n).mean(-1)


def linear_chain(n: int) -> np.ndarray:
    """Return [n, n]: the distance in words, the baseline that knows no syntax."""
    place = np.arange(n, dtype=np.float64)
    return np.abs(place[:, None] - place[None])
