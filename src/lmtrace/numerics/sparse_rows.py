"""Rows of few non-zero numbers over a vocabulary, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class SparseRows:
    """Compressed rows.

    Attributes
    ----------
    offsets : [rows + 1]
        Where each row starts in the two lists.
    tokens : [entries]
        Column of each entry; a column that comes twice in a row counts as the sum.
    values : [entries]
        float64.
    """

    offsets: np.ndarray
    tokens: np.ndarray
    values: np.ndarray

    @classmethod
    def empty(cls, rows: int) -> SparseRows:
        """Return rows of nothing."""
        return cls(np.zeros(rows + 1, np.int64), np.empty(0, np.int64), np.empty(0))

    @classmethod
    def from_slices(cls, start: np.ndarray, stop: np.ndarray, tokens: np.ndarray, values: np.ndarray) -> SparseRows:
        """Return rows that are slices of shared lists: row i is entries start[i] to stop[i]."""
        counts = stop - start
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        at = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], counts)
        return cls(offsets, tokens[at], values[at])

    @classmethod
    def joined(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """Return row by row all entries of several with equal numbers of rows: their sum."""
        row = np.concatenate([np.repeat(np.arange(len(p)), np.diff(p.offsets)) for p in parts])
        order = np.argsort(row, kind="stable")
        counts = np.bincount(row, minlength=len(parts[0])) if len(row) else np.zeros(len(parts[0]), np.int64)
        return cls(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([p.tokens for p in parts])[order],
            np.concatenate([p.values for p in parts])[order],
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def scaled(self, factor: np.ndarray) -> SparseRows:
        """Return every row times its factor [rows]."""
        return SparseRows(self.offsets, self.tokens, self.values * np.repeat(factor, np.diff(self.offsets)))

    def take(self, index: np.ndarray) -> SparseRows:
        """Return these rows; runs of rows that follow each other are copied whole."""
        if not len(index):
            return SparseRows.empty(0)
        cuts = np.flatnonzero(np.diff(index) != 1) + 1
        first, last = index[np.append(0, cuts)], index[np.append(cuts, len(index)) - 1]
        runs = [slice(a, b) for a, b in zip(self.offsets[first].tolist(), self.offsets[last + 1].tolist(), strict=True)]
        return SparseRows(
            np.concatenate([[0], np.cumsum(self.offsets[index + 1] - self.offsets[index])]),
            np.concatenate([self.tokens[run] for run in runs]),
            np.concatenate([self.values[run] for run in runs]),
        )

    @property
    def row(self) -> np.ndarray:
        """Return [entries]: the row of each entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def dense(self, width: int) -> np.ndarray:
        """Return [rows, width] float64."""
        cells = self.row * width + self.tokens
        return np.bincount(cells, self.values, len(self) * width).reshape(len(self), width)

    def at(self, tokens: np.ndarray) -> np.ndarray:
        """Return [rows]: the value of each row at one token, zero where it has none."""
        hits = self.tokens == np.repeat(tokens, np.diff(self.offsets))
        return np.bincount(self.row[hits], self.values[hits], len(self))
