"""Pairs of words that an annotation may join: which predicate governs which argument."""

from __future__ import annotations

import numpy as np

from lmtrace.probing.spans import Spans
from lmtrace.text.panel import LabelLayer, Panel


def candidates(
    panel: Panel, layer: LabelLayer, spans: Spans | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for every argument and every predicate of its sentence: both words' rows, and whether they belong together.

    Parameters
    ----------
    layer
        Its values are places in the sentence, from 1: of the predicate that governs the word, or of several ("3,7").
    spans
        The arguments as spans: only words that stand for one are asked about, and predicates inside of a span are no
        candidates for it, because they would answer by their place.
    """
    roles = panel.labels("role").codes if "role" in panel.layers else layer.codes
    named = [_places(name) for name in layer.names]
    own = [named[code] if code >= 0 else () for code in layer.codes.tolist()]
    reached = panel.encoder.word_first >= 0
    starts = np.searchsorted(panel.word_sentence, np.arange(panel.num_sentences + 1))
    inside: dict[int, frozenset[int]] = dict.fromkeys(range(panel.num_words), frozenset())
    if spans is not None:
        inside = {
            head: frozenset(spans.member[a:b].tolist())
            for head, a, b in zip(
                spans.head.tolist(), spans.offsets[:-1].tolist(), spans.offsets[1:].tolist(), strict=True
            )
        }
    rows: list[tuple[int, int, bool]] = []
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        heads = [first + p for p in sorted({p for places in own[first:last] for p in places}) if first + p < last]
        heads = [p for p in heads if reached[p]]
        for i in range(first, last):
            if roles[i] < 0 or not own[i] or not reached[i] or i in heads or i not in inside:
                continue
            asked = [p for p in heads if p not in inside[i]]
            if len(asked) > 1:
                rows += [(i, p, p - first in own[i]) for p in asked]
    table = np.array(rows, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _places(name: str) -> tuple[int, ...]:
    """Return the places from 0 that a label names; none where it is no place."""
    parts = name.split(",")
    return tuple(int(part) - 1 for part in parts) if all(part.isdigit() and part != "0" for part in parts) else ()
