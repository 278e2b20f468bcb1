"""The probability of a word whose tokens tell only at the next one that it has ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def word_log_probabilities(
    token_log_probs: np.ndarray, boundary: np.ndarray, words: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Return [words] log-probabilities in nats, each given all that stands before it.

    Where a space belongs to the token that follows it, the product of a word's tokens is the probability that the text goes on
    with these letters, not that the word ends there. Dividing by the mass of the tokens that can begin a word before, and
    multiplying by the same after the word, gives the probability of the word itself, so that words sum to at most 1 (Pimentel and
    Meister 2024; Oh and Schuler 2024). The first word of a text begins whatever its tokens are.

    Parameters
    ----------
    token_log_probs : [tokens]
        log p(token | all before).
    boundary : [tokens + 1]
        log mass of what can begin a word, or end the text, before each token and after the last.
    words : [words]
        First token of each, and the one after its last.

    Examples
    --------
    >>> half = np.log(0.5)
    >>> np.exp(word_log_probabilities(np.array([half, half]), np.array([half, half, half]), [(0, 1), (1, 2)])).round(3).tolist()
    [0.25, 0.5]
    """
    result = np.empty(len(words))
    for i, (first, end) in enumerate(words):
        before = boundary[first] if first > 0 else 0.0
        result[i] = token_log_probs[first:end].sum() + boundary[end] - before
    return result
