"""Pairs of words that an annotation may join: which predicate governs which argument."""

from __future__ import annotations

import numpy as np

from lmtrace.text.panel import LabelLayer, Panel


def candidates(panel: Panel, layer: LabelLayer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for every argument and every predicate of its sentence: both words' rows, and whether they belong together.

    Parameters
    ----------
    layer
        Its values are places in the sentence, from 1: of the predicate that governs the word.
    """
    roles = panel.labels("role").codes if "role" in panel.layers else layer.codes
    place = np.array([int(name) - 1 if name.isdigit() else -1 for name in layer.names] or [-1])
    own = np.where(layer.codes >= 0, place[layer.codes], -1)
    reached = panel.encoder.word_first >= 0
    starts = np.searchsorted(panel.word_sentence, np.arange(panel.num_sentences + 1))
    rows: list[tuple[int, int, bool]] = []
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        heads = [first + p for p in np.unique(own[first:last]).tolist() if p >= 0 and first + p < last]
        heads = [p for p in heads if reached[p]]
        if len(heads) > 1:
            rows += [
                (i, p, first + int(own[i]) == p)
                for i in range(first, last)
                if roles[i] >= 0 and own[i] >= 0 and reached[i] and i not in heads
                for p in heads
            ]
    table = np.array(rows, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
