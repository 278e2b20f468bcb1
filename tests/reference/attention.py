"""Statistics of one attention map, one query at a time."""

from __future__ import annotations

import math

import numpy as np


def token_statistics(weights: np.ndarray, ids: list[int], causal: bool) -> dict[str, list[float]]:
    """Return every statistic's values over the queries of one head on one sequence; weights [length, length]."""
    found: dict[str, list[float]] = {k: [] for k in ("entropy", "distance", "previous", "first", "self", "same_token")}
    n = len(ids)
    for q in range(n):
        keys = range(q + 1) if causal else range(n)
        if len(keys) > 1:
            found["entropy"].append(-sum(weights[q, k] * math.log(weights[q, k]) for k in keys if weights[q, k] > 0))
            found["distance"].append(sum(weights[q, k] * abs(q - k) for k in keys))
            found["self"].append(weights[q, q])
        if q > 0:
            found["previous"].append(weights[q, q - 1])
            found["first"].append(weights[q, 0])
        twins = [k for k in keys if k != q and ids[k] == ids[q]]
        if twins:
            found["same_token"].append(sum(weights[q, k] for k in twins))
    return found


def word_weights(weights: np.ndarray, words: list[tuple[int, int]]) -> np.ndarray:
    """Return [words, words]: from the last token of a word to all tokens of another; words are (first, last)."""
    return np.array([[sum(weights[b, k] for k in range(c, d + 1)) for c, d in words] for _, b in words])
