"""Which category every token of the vocabulary belongs to, so that the mass on a category can be summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lmtrace.text.sequences import special_id

if TYPE_CHECKING:
    from lmtrace.text.panel_content import PanelContent

END = "</s>"
LAYERS = ("category", "upos")


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Categories of tokens and of the panel's predictions.

    Attributes
    ----------
    names
        The categories; the end of sentence is one of them, where it is predicted.
    weights : [tokenizer vocabulary, categories]
        float32: share of each token that belongs to each category; a row of zeros for tokens of unknown category.
    gold : [predictions]
        Category of each prediction; -1 where it has none (continuation of a word, no label).
    source
        "oracle": exact. "panel": counted on the panel's own words, so mass on words that the panel lacks is in no category, and the
        mass on the right category is a lower bound.
    """

    names: tuple[str, ...]
    weights: np.ndarray
    gold: np.ndarray
    source: Literal["oracle", "panel"]

    def groups(self, width: int) -> np.ndarray:
        """Return [width, categories + 1] float32: shares of each logit's token; the last group is what is in no category.

        A model may have more logits than the tokenizer has ids, for alignment in memory.
        """
        groups = np.zeros((width, len(self.names) + 1), np.float32)
        size = min(width, len(self.weights))
        groups[:size, :-1] = self.weights[:size]
        groups[:, -1] = 1.0 - groups[:, :-1].sum(1)
        return groups


def build(panel: PanelContent) -> Lexicon | None:
    """Return the lexicon by the oracle, else by the panel's layer "category" or "upos", else None."""
    exact = panel.truth.token_category if panel.truth is not None else None
    if exact is not None:
        codes, names = exact
        weights = np.zeros((len(codes), len(names)), np.float32)
        known = np.flatnonzero(codes >= 0)
        weights[known, codes[known]] = 1.0
        return Lexicon(names, weights, codes[panel.predictions.target], "oracle")
    layer = next((name for name in LAYERS if name in panel.layers), None)
    if layer is None or panel.target == "logical form":
        return None
    predictions, labels = panel.predictions, panel.labels(layer)
    gold = np.where(predictions.first, panel.prediction_codes(layer), -1)
    names = labels.names
    eos = special_id(panel.tokenizer, "eos", "sep")
    ends = (predictions.word < 0) & (predictions.target == eos) if eos is not None else np.zeros(len(gold), bool)
    if ends.any():
        gold[ends], names = len(names), (*names, END)
    counts = np.zeros((len(panel.tokenizer), len(names)))
    if ends.any():
        counts[eos, -1] = 1.0
    # All words are counted, not only the predicted ones: a masked panel predicts few of them.
    opening = np.concatenate([np.where(e.first >= 0, e.ids[np.maximum(e.first, 0)], -1) for e in panel.encodings])
    known = (labels.codes >= 0) & (opening >= 0)
    np.add.at(counts, (opening[known], labels.codes[known]), 1.0)
    total = counts.sum(1, keepdims=True)
    return Lexicon(names, (counts / np.maximum(total, 1.0)).astype(np.float32), gold, "panel")
