"""The structural probe: whether a linear map of the representation holds the distances of the syntax tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import shortest_path
from scipy.stats import rankdata
from torch import Tensor

from lmtrace.numerics.moments import symmetric_product


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
    weight : [sentences, length, length]
        float32, 1 / n^2 at pairs of words of a sentence of n; 0 where there is none.
    inner_products : [sentences, length, length]
        float32, classical scaling of the tree distances, -JDJ / 2.
    """

    rows: Tensor
    mask: Tensor
    distances: Tensor
    weight: Tensor
    inner_products: Tensor

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], distances: Sequence[np.ndarray], device: torch.device) -> Sentences:
        """Pad sentences given by the rows of their words and their tree distances."""
        length = max(map(len, rows))
        index = np.zeros((len(rows), length), np.int64)
        mask = np.zeros((len(rows), length), bool)
        table, weight, products = np.zeros((3, len(rows), length, length), np.float32)
        for i, (row, distance) in enumerate(zip(rows, distances, strict=True)):
            n = len(row)
            index[i, :n], mask[i, :n] = row, True
            table[i, :n, :n], weight[i, :n, :n] = distance, 1 / n**2
            row_mean = distance.mean(1)
            products[i, :n, :n] = -0.5 * (distance - row_mean[:, None] - row_mean + row_mean.mean())
        return cls(*(torch.as_tensor(a, device=device) for a in (index, mask, table, weight, products)))

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
    """

    b: Tensor

    def distances(self, x: Tensor) -> np.ndarray:
        """Return [..., n, n] float64 predicted distances between the words of sentences, x: [..., n, d]."""
        z = ((x - x.mean(-2, keepdim=True)) @ self.b).double()
        return (z[..., :, None, :] - z[..., None, :, :]).square().sum(-1).cpu().numpy()


def structural_probes(
    xs: Sequence[Tensor], sentences: Sequence[Sentences], rank: int, num_steps: int = 30, rate: float = 0.02
) -> list[StructuralProbe]:
    """Return probes that make sum over sentences of (1 / n^2) sum_ij |d_tree(i, j) - ||(h_i - h_j) B||^2| small.

    Squared distances are linear in A = BB', and classical scaling (Torgerson 1952) turns the tree distances of a sentence
    into the inner products G that its words must have. So the start is closed: A = W M W with M = sum H'GH over
    sentences whose words H are centred, and W the inverse of their scatter, shrunk half-way to its mean eigenvalue. Then
    a few steps of full-batch Adam on the loss itself, within the 2 rank directions of the largest eigenvalues of A.
    Both restrict the map, and it generalises better than after 150 steps from a random start in all directions.
    Source: Hewitt and Manning 2019 (doi:10.18653/v1/N19-1419).

    Parameters
    ----------
    xs : [rows, d] each
        Representations of all words of the panel, searched side by side.
    sentences
        The training part, in groups.
    rank
        Rows of B.
    num_steps, rate
        Of Adam; the learning rate falls linearly to zero.
    """
    starts = [_Start.of(x, sentences, rank) for x in xs]
    found: dict[int, StructuralProbe] = {}
    for shape in dict.fromkeys(start.b.shape for start in starts):
        alike = [i for i, start in enumerate(starts) if start.b.shape == shape]
        words = [torch.stack(group) for group in zip(*(starts[i].words for i in alike), strict=True)]
        b = _adam(words, torch.stack([starts[i].b for i in alike]), sentences, num_steps, rate)
        found |= {i: StructuralProbe(starts[i].back @ own) for i, own in zip(alike, b, strict=True)}
    return [found[i] for i in range(len(xs))]


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """Where the search begins.

    Attributes
    ----------
    words : [words of a group, padded, directions] each
        float32, centred by sentence, of size 1 along each direction; zero where there is no word.
    b : [directions, rank]
        float32.
    back : [d, directions]
        float32, from representations to directions.
    """

    words: list[Tensor]
    b: Tensor
    back: Tensor

    @classmethod
    def of(cls, x: Tensor, sentences: Sequence[Sentences], rank: int) -> _Start:
        groups = [_centred(x, part) for part in sentences]
        directions, values = _closed_form(groups, sentences)
        rank = min(rank, x.shape[1])
        directions = directions[:, : 2 * rank].float()
        words = [group.flatten(0, 1) @ directions for group in groups]
        num_words = sum(int(part.mask.sum()) for part in sentences)
        unit = (torch.stack([group.square().sum(0) for group in words]).sum(0) / num_words).sqrt()
        # What a layer norm has taken away holds rounding only; on one scale with the rest, the last bit would decide the tree.
        alive = unit > NO_VARIANCE * unit.max()
        factor = alive / torch.where(alive, unit, torch.ones_like(unit))
        words = [group * factor for group in words]
        # A direction of no or negative value still begins a little away from zero, where the gradient is none.
        kept = values[:rank].clamp(min=1e-4 * float(values.abs().max().clamp(min=1e-12)))
        b = torch.zeros(directions.shape[1], rank, device=x.device)
        b[:rank] = torch.diag(kept.sqrt().float() * (unit * alive)[:rank])
        return cls(words, b * _scale(words, b, sentences) ** 0.5, directions * factor)


def _adam(words: Sequence[Tensor], b: Tensor, sentences: Sequence[Sentences], num_steps: int, rate: float) -> Tensor:
    """Return b: [probes, directions, rank] after Adam on the loss of words: [probes, words, directions] per group."""
    total = sum(len(part.rows) for part in sentences)
    mean, square = torch.zeros_like(b), torch.zeros_like(b)
    for step in range(1, num_steps + 1):
        slope = _slope(words, b, sentences) / total
        mean.lerp_(slope, 0.1)
        square.lerp_(slope.square(), 0.001)
        move = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        b = b - rate * (1 - (step - 1) / num_steps) * move
    return b


def _centred(x: Tensor, part: Sentences) -> Tensor:
    """Return [sentences, length, d] float32: the words, centred by sentence; zero where there is none."""
    there = part.mask[:, :, None]
    h = x[part.rows].float() * there
    return (h - h.sum(1, keepdim=True) / there.sum(1, keepdim=True)) * there


def _closed_form(groups: Sequence[Tensor], sentences: Sequence[Sentences]) -> tuple[Tensor, Tensor]:
    """Return directions [d, d] and values [d], falling, float64: A = sum of values v v'."""
    shared = [words / part.mask.sum(1)[:, None, None] for words, part in zip(groups, sentences, strict=True)]
    moved = [part.inner_products @ words for words, part in zip(shared, sentences, strict=True)]
    flat, *others = (torch.cat([words.flatten(0, 1) for words in parts]) for parts in (groups, shared, moved))
    scatter, moment = (symmetric_product(flat, other) for other in others)
    unit = scatter.diagonal().clamp(min=0).sqrt()
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    scatter = scatter / torch.outer(unit, unit)
    # Half-way to the mean eigenvalue, which is the mean of the diagonal.
    scatter.diagonal().add_(scatter.diagonal().mean().clamp(min=1e-12))
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter), torch.diag(1 / unit), upper=False)
    inner = white @ moment @ white.T
    values, vectors = torch.linalg.eigh(inner + inner.T)
    return (white.T @ vectors).flip(1), values.flip(0) / 2


def _scale(words: Sequence[Tensor], b: Tensor, sentences: Sequence[Sentences]) -> float:
    """Return the factor of the predicted distances with the least weighted squared error."""
    above = below = 0.0
    for packed, part in zip(words, sentences, strict=True):
        predicted = _distances((packed @ b).view(*part.mask.shape, -1))
        above += float((predicted * part.distances * part.weight).sum())
        below += float((predicted.square() * part.weight).sum())
    return above / below if above > 0 and below > 0 else 1.0


def _slope(words: Sequence[Tensor], b: Tensor, sentences: Sequence[Sentences]) -> Tensor:
    """Return the gradient [probes, directions, rank] of sum over sentences of (1 / n^2) sum_ij |d_tree(i, j) - d_b(i, j)|."""
    slope = torch.zeros_like(b)
    for packed, part in zip(words, sentences, strict=True):
        projected = packed @ b
        h = projected.view(-1, part.mask.shape[1], b.shape[2])
        gap = _distances(h).view(len(b), *part.distances.shape) - part.distances
        # Pairs that are too close push each other away: with the Laplacian of the pushes, that is one product.
        push = gap.sign_().mul_(part.weight).neg_().view(-1, *part.distances.shape[1:])
        push.diagonal(dim1=1, dim2=2).sub_(push.sum(2))
        slope.baddbmm_(packed.mT, (push @ h).view(projected.shape))
    return 4 * slope


def _distances(h: Tensor) -> Tensor:
    """Return [sentences, length, length] squared distances between rows of h: [sentences, length, columns]."""
    inner = h @ h.mT
    square = inner.diagonal(dim1=1, dim2=2)
    return (square[:, :, None] + square[:, None, :]).sub_(inner, alpha=2)


def spanning_trees(distance: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return [sentences, n, n] bool, the edges (i < j) of minimum spanning trees of full distance matrices of that shape.

    Prim's algorithm, all sentences side by side.

    Parameters
    ----------
    counted : [sentences, n] or None
        bool, the words that the tree spans; all by default.
    """
    num, n, _ = distance.shape
    every = np.arange(num)
    edges = np.zeros(distance.shape, bool)
    inside = np.zeros((num, n), bool) if counted is None else ~counted
    first = inside.argmin(1)
    nearest = np.repeat(first[:, None], n, axis=1)
    cost = distance[every, first].copy()
    inside[every, first] = True
    for _ in range(n - 1):
        new = np.where(inside, np.inf, cost).argmin(1)
        old = nearest[every, new]
        edges[every, np.minimum(old, new), np.maximum(old, new)] = ~inside[every, new]
        inside[every, new] = True
        closer = distance[every, new] < cost
        cost = np.where(closer, distance[every, new], cost)
        nearest = np.where(closer, new[:, None], nearest)
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
    return rank_correlation(distance_ranks(predicted), distance_ranks(gold))


def distance_ranks(distance: np.ndarray) -> np.ndarray:
    """Return [..., n, n - 1]: ranks of the distances of every word to the others, centred, of length 1 or 0."""
    n = distance.shape[-1]
    ranks = rankdata(distance[..., ~np.eye(n, dtype=bool)].reshape(*distance.shape[:-1], n - 1), axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    norm = np.sqrt(np.square(ranks).sum(-1, keepdims=True))
    return np.divide(ranks, norm, out=ranks, where=norm > 0)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return [...], the mean over words of the correlation of two `distance_ranks`."""
    return (a * b).sum(-1).mean(-1)


def linear_chain(n: int) -> np.ndarray:
    """Return [n, n]: the distance in words, the baseline that knows no syntax."""
    place = np.arange(n, dtype=np.float64)
    return np.abs(place[:, None] - place[None])
