"""Slow and obvious versions of what `lmtrace.numerics` computes for probes."""

from __future__ import annotations

import numpy as np


def ridge_by_normal_equations(x, onehot, penalty_per_row):
    """Standardise, append nothing, solve (X'X + lambda I) W = X'Y with a dense solver."""
    mean, scale = x.mean(0), x.std(0)
    z = (x - mean) / scale
    target = onehot - onehot.mean(0)
    lam = penalty_per_row * len(x)
    weight = np.linalg.solve(z.T @ z + lam * np.eye(z.shape[1]), z.T @ target)
    return lambda q: ((q - mean) / scale) @ weight + onehot.mean(0)


def gcv_by_hat_matrix(x, onehot, penalty_per_row):
    """GCV error from the n x n hat matrix, the constant included."""
    z = (x - x.mean(0)) / x.std(0)
    n = len(z)
    hat = z @ np.linalg.solve(z.T @ z + penalty_per_row * n * np.eye(z.shape[1]), z.T) + np.full((n, n), 1 / n)
    residual = onehot - hat @ onehot
    return (residual**2).sum() / (1 - np.trace(hat) / n) ** 2


def prequential_bits(fit_and_price, sentence_rank, ends, codes, num_classes):
    """Sum of the price of each portion under a model of all portions before it."""
    bits, start = 0.0, 0
    for end in ends:
        known, fresh = sentence_rank < start, (sentence_rank >= start) & (sentence_rank < end)
        if start == 0:
            bits += fresh.sum() * np.log2(num_classes)
        else:
            bits += fit_and_price(known, fresh)
        start = end
    return bits


def bootstrap_stderr_loop(part, whole, draws):
    """Standard error of sum(part) / sum(whole) over explicit lists of drawn groups."""
    values = [sum(part[g] for g in draw) / sum(whole[g] for g in draw) for draw in draws]
    return np.std(values, ddof=1)


def uuas_by_hand(distance, gold_edges):
    """Kruskal's minimum spanning tree over words; share of gold edges in it."""
    n = len(distance)
    parent = list(range(n))

    def find(i):
        while parent[i] != i:
            i = parent[i]
        return i

    edges = sorted((distance[i, j], i, j) for i in range(n) for j in range(i + 1, n))
    tree = set()
    for _, i, j in edges:
        if find(i) != find(j):
            parent[find(i)] = find(j)
            tree.add((i, j))
    return len(tree & gold_edges) / len(gold_edges)


def tree_distance_by_walk(heads):
    """Steps between all words of a sentence, by breadth-first walks; heads: local index or -1."""
    n = len(heads)
    near = [[] for _ in range(n)]
    for i, h in enumerate(heads):
        if h >= 0:
            near[i].append(h)
            near[h].append(i)
    result = np.full((n, n), -1)
    for start in range(n):
        frontier, steps = [start], 0
        while frontier:
            for i in frontier:
                result[start, i] = steps
            frontier = [j for i in frontier for j in near[i] if result[start, j] < 0]
            frontier = list(dict.fromkeys(frontier))
            steps += 1
    return result
