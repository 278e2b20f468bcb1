"""The structural probe: whether a linear map of the representation holds the distances of the syntax tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
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


@dataclass(frozen=True, slots=True, eq=False)
class StructuralProbe:
    """d(i, j) = ||B (h_i - h_j)||^2.

    Attributes
    ----------
    mean, scale : [d]
        Standardisation of the rows, from the training part.
    b : [d, rank]
        The map, on standardised rows.
    loss
        Mean absolute error of the distances per sentence, at the end.
    """

    mean: Tensor
    scale: Tensor
    b: Tensor
    loss: float

    def distances(self, x: Tensor) -> np.ndarray:
        """Return [n, n] float64 predicted distances between the words of one sentence, x: [n, d]."""
        z = ((x - self.mean) / self.scale @ self.b).double()
        return (z[:, None] - z[None]).square().sum(2).cpu().numpy()


def structural_probe(
    x: Tensor, sentences: Sentences, rank: int, generator: torch.Generator, num_steps: int = 150, rate: float = 0.02
) -> StructuralProbe:
    """Return the probe that minimises sum over sentences of (1 / n^2) sum_ij |d_tree(i, j) - ||B (h_i - h_j)||^2|.

    Full-batch Adam, the learning rate falling linearly to zero.
    Source: Hewitt and Manning 2019 (doi:10.18653/v1/N19-1419).

    Parameters
    ----------
    x : [rows, d]
        Representations, all words of the panel.
    sentences
        The training part.
    rank
        Rows of B.
    generator
        Of the first B.
    """
    x = x.float()
    used = x[sentences.rows[sentences.mask]]
    mean, deviation = used.mean(0), used.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1.0)
    z = torch.zeros_like(x)
    z[sentences.rows[sentences.mask]] = (used - mean) / scale
    rank = min(rank, x.shape[1])
    start = torch.randn(x.shape[1], rank, generator=generator) / (x.shape[1] * rank) ** 0.5
    pairs = sentences.mask[:, :, None] & sentences.mask[:, None, :]
    size = sentences.mask.sum(1).float().square()[:, None, None]
    weight = pairs / size / len(sentences.rows)
    value = float("nan")
    with torch.enable_grad():
        b = start.to(x.device).requires_grad_()
        optimizer = torch.optim.Adam([b], lr=rate)
        for step in range(num_steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / num_steps)
            h = (z @ b)[sentences.rows]
            square = h.square().sum(2)
            predicted = square[:, :, None] + square[:, None, :] - 2 * h @ h.transpose(1, 2)
            loss = ((predicted - sentences.distances).abs() * weight).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            value = float(loss.detach())
    return StructuralProbe(mean, scale, b.detach(), value)


def spanning_edges(distance: np.ndarray) -> set[tuple[int, int]]:
    """Return the edges (i < j) of the minimum spanning tree of a full distance matrix [n, n]."""
    # csgraph reads 0 as "no edge"; a shift leaves the tree as it is.
    tree = minimum_spanning_tree(np.triu(distance - distance.min() + 1.0, 1)).tocoo()
    return {(min(i, j), max(i, j)) for i, j in zip(tree.row.tolist(), tree.col.tolist(), strict=True)}


def uuas(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Return the share of the gold tree's edges in the minimum spanning tree of the predicted distances, both [n, n]."""
    edges = {(i, j) for i, j in np.argwhere(np.triu(gold == 1)).tolist()}
    return len(edges & spanning_edges(predicted)) / len(edges)


def distance_spearman(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Return the mean over words of Spearman's correlation between predicted and gold distances to the other words.

    Words whose gold (or predicted) distances are all equal have no correlation and count 0.
    """
    n = len(gold)
    others = ~np.eye(n, dtype=bool)
    a, b = (rankdata(d[others].reshape(n, n - 1), axis=1) for d in (predicted, gold))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return float(np.divide((a * b).sum(1), norm, out=np.zeros(n), where=norm > 0).mean())


def linear_chain(n: int) -> np.ndarray:
    """Return [n, n]: the distance in words, the baseline that knows no syntax."""
    place = np.arange(n, dtype=np.float64)
    return np.abs(place[:, None] - place[None])
