"""What a panel holds, for the modules that the panel itself is built from: they read it and cannot import it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from lmtrace.text.alignment import Encoding
from lmtrace.text.panel_parts import LabelLayer, Objective, Predictions, Side
from lmtrace.text.sentences import AnnotatedSentence


class PanelContent(Protocol):
    """Sentences, their tokens, their labels and what is predicted; `lmtrace.text.panel.Panel` is one."""

    sentences: tuple[AnnotatedSentence, ...]
    encodings: tuple[Encoding, ...]
    tokenizer: Any
    encoder: Side
    predictions: Predictions
    target: str
    truth: Any
    truth_reason: str

    @property
    def objective(self) -> Objective:
        """Return "causal", "masked" or "seq2seq"."""
        ...

    @property
    def num_words(self) -> int:
        """Return the number of words, cut ones included."""
        ...

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the label layers."""
        ...

    def labels(self, layer: str) -> LabelLayer:
        """Return a label layer."""
        ...

    def prediction_codes(self, layer: str) -> np.ndarray:
        """Return [predictions] int64: the layer's code of each prediction's word; -1 where none."""
        ...
