"""Which measurements a figure keeps when there are more than it can hold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def thin(values: np.ndarray, limit: int) -> np.ndarray:
    """Return at most about `limit` row indices of `values` [rows, columns], rising, first and last kept.

    A quarter is spread evenly in the logarithm of the row (the early steps of a training matter), a quarter evenly, and
    half are the rows of the lowest and highest mean of each bucket, so that a spike is never lost.
    """
    rows = len(values)
    if rows <= max(limit, 4):
        return np.arange(rows)
    quarter = max(limit // 4, 1)
    even = np.linspace(0, rows - 1, quarter)
    early = np.geomspace(1, rows, quarter) - 1
    mean = _row_mean(values)
    edges = np.unique(np.linspace(0, rows, quarter + 1).astype(np.int64))
    low = np.where(np.isfinite(mean), mean, np.inf)
    high = np.where(np.isfinite(mean), mean, -np.inf)
    extremes = [
        start + pick(part[start:stop])
        for start, stop in pairwise(edges.tolist())
        for part, pick in ((low, np.argmin), (high, np.argmax))
    ]
    chosen = np.unique(np.concatenate([even, early, extremes, [0, rows - 1]]).astype(np.int64))
    return chosen


def _row_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of every row over its finite columns, each column standardised so that no site outweighs the others."""
    finite = np.isfinite(values)
    filled = np.where(finite, values, 0.0)
    count = np.maximum(finite.sum(axis=0), 1)
    centre = filled.sum(axis=0) / count
    spread = np.sqrt(np.where(finite, (values - centre) ** 2, 0.0).sum(axis=0) / count)
    scaled = np.where(finite, (filled - centre) / np.where(spread > 0, spread, 1.0), 0.0)
    seen = finite.sum(axis=1)
    return np.where(seen > 0, scaled.sum(axis=1) / np.maximum(seen, 1), np.nan)
