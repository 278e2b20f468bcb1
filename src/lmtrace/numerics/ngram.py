"""Interpolated Kneser-Ney n-gram laws (Kneser and Ney 1995; Chen and Goodman 1998) up to trigrams, on token ids.

With c a count, D a discount and N1+ a number of distinct types:

    p(w | context) = max(c(context w) - D, 0) / c(context) + D N1+(context .) / c(context) * p(w | shorter context)

The longest context counts occurrences; shorter ones count the distinct tokens seen before, except after the beginning
of a sentence, where occurrences count (nothing varies before it). The unigram is interpolated with the uniform law. D
= n1 / (n1 + 2 n2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmtrace.numerics.sparse_rows import SparseRows


@dataclass(frozen=True, slots=True)
class Level:
    """Discounted laws of one context length: contexts sorted, each with a slice of tokens.

    Attributes
    ----------
    contexts : [contexts]
        Keys, rising.
    starts : [contexts + 1]
    tokens, values : [entries]
        Token, and max(count - D, 0) / count of its context.
    left : [contexts]
        Mass that is left for the shorter context.
    """

    contexts: np.ndarray
    starts: np.ndarray
    tokens: np.ndarray
    values: np.ndarray
    left: np.ndarray

    def rows(self, contexts: np.ndarray) -> tuple[SparseRows, np.ndarray]:
        """Return (discounted rows, mass left) for these context keys; an unseen context leaves everything."""
        at = np.searchsorted(self.contexts, contexts)
        at = np.minimum(at, len(self.contexts) - 1)
        seen = self.contexts[at] == contexts
        start = np.where(seen, self.starts[at], 0)
        stop = np.where(seen, self.starts[at + 1], 0)
        rows = SparseRows.from_slices(start, stop, self.tokens, self.values)
        return rows, np.where(seen, self.left[at], 1.0)


@dataclass(frozen=True, slots=True)
class NGram:
    """A fitted n-gram law: law = rows(context) + left(context) * base.

    Attributes
    ----------
    levels
        From the longest context to the shortest one of at least one token.
    base : [vocabulary]
        The unigram at the end of the chain.
    """

    levels: tuple[Level, ...]
    base: np.ndarray

    def rows(self, previous: np.ndarray, before: np.ndarray) -> tuple[SparseRows, np.ndarray]:
        """Return (rows, left) so that the law of each context is its row plus left times `base`.

        Parameters
        ----------
        previous, before : [n]
            The last token and the one before it; -1 where there is none.
        """
        left = np.ones(len(previous))
        parts = []
        for level, key in zip(self.levels, self._keys(previous, before), strict=True):
            rows, rest = level.rows(key)
            parts.append(rows.scaled(left))
            left = left * rest
        return (SparseRows.joined(parts) if parts else SparseRows.empty(len(previous))), left

    def _keys(self, previous: np.ndarray, before: np.ndarray) -> list[np.ndarray]:
        width = len(self.base) + 1
        keys = [(before + 1) * width + previous + 1, previous + 1]
        return keys[2 - len(self.levels) :]


def discount(counts: np.ndarray) -> float:
    """Return D = n1 / (n1 + 2 n2) with n_k the number of types seen k times, kept inside of [0.05, 0.95]."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return float(np.clip(once / (once + 2 * twice), 0.05, 0.95)) if once else 0.05


def smoothed_unigram(counts: np.ndarray) -> np.ndarray:
    """Return [vocabulary]: absolute discounting of counts, interpolated with the uniform law."""
    total, d = counts.sum(), discount(counts[counts > 0])
    return np.maximum(counts - d, 0) / total + d * np.count_nonzero(counts) / total / len(counts)


def fit(sequences: Sequence[Sequence[int]], vocabulary: int, order: int) -> NGram:
    """Fit an n-gram law of `order` 1, 2 or 3 on every token after the first of each sequence.

    Parameters
    ----------
    sequences
        Token ids, the beginning and end of sentence included.
    vocabulary
        Number of ids.
    """
    ids = np.concatenate([np.asarray(s, np.int64) for s in sequences])
    lengths = np.array([len(s) for s in sequences])
    place = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = np.flatnonzero(place >= 1)
    if not len(at):
        raise ValueError("no sequence has two tokens")
    word, previous = ids[at], ids[at - 1]
    before = np.where(place[at] >= 2, ids[at - 2], -1)
    if order == 1:
        return NGram((), smoothed_unigram(np.bincount(word, minlength=vocabulary).astype(np.float64)))
    width = vocabulary + 1
    pairs, pair_counts = np.unique((previous + 1) * width + word, return_counts=True)
    base = smoothed_unigram(np.bincount(pairs % width, minlength=vocabulary)[:vocabulary].astype(np.float64))
    if order == 2:
        return NGram((_level(pairs, pair_counts, width),), base)
    triples, counts = np.unique(((before + 1) * width + previous + 1) * width + word, return_counts=True)
    kinds = np.unique(triples % (width * width), return_counts=True)[1]
    # After the first token of a sentence nothing can vary before: occurrences count there.
    opening = np.isin(pairs, np.unique((previous[before < 0] + 1) * width + word[before < 0]))
    only = opening & (kinds == 1)
    middle = np.where(only, pair_counts, kinds)
    return NGram((_level(triples, counts, width), _level(pairs, middle, width)), base)


def _level(keys: np.ndarray, counts: np.ndarray, width: int) -> Level:
    contexts, starts = np.unique(keys // width, return_index=True)
    starts = np.append(starts, len(keys))
    sizes = np.diff(starts)
    total = np.add.reduceat(counts.astype(np.float64), starts[:-1])
    d = discount(counts)
    values = np.maximum(counts - d, 0) / np.repeat(total, sizes)
    return Level(contexts, starts, keys % width, values, d * sizes / total)
