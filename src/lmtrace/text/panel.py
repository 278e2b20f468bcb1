"""The panel: a fixed, annotated, tokenized set of sentences that is never trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from lmtrace.text.sentences import AnnotatedSentence
    from lmtrace.text.truth import Truth

Objective = Literal["causal", "masked", "seq2seq"]
Policy = Literal["last", "first", "mean"]


@dataclass(frozen=True, slots=True)
class LabelLayer:
    """One annotation layer over the panel's words.

    Attributes
    ----------
    name
        "upos", "role", ...
    codes : [words]
        int64 index into `names`; -1 where a word has no label or was cut off.
    names
        The values, sorted.
    """

    name: str
    codes: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Every (context, target) pair of the panel under its objective; rows in panel order.

    Attributes
    ----------
    target : [predictions]
        Token id that is right.
    sentence : [predictions]
        Index of the panel sentence.
    position : [predictions]
        0 for the first predicted token of its sequence, and so on.
    word : [predictions]
        Row of the panel word that the target belongs to; -1 for special tokens (end of sentence) and for targets that are not
        words of the sentence.
    first : [predictions]
        True where the target is the first subtoken of its word (or a special token).
    """

    target: np.ndarray
    sentence: np.ndarray
    position: np.ndarray
    word: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, slots=True)
class Side:
    """The token rows of one stream (the encoder's or the decoder's input) and how words reach them.

    Attributes
    ----------
    ids
        One int64 array per sequence: the input ids, special tokens included, padding not.
    offsets : [sequences + 1]
        Where each sequence starts in the flat list of token rows.
    word_first, word_last : [words]
        First and last flat token row of every panel word; -1 where it has none (cut off, or not part of this stream).
    """

    ids: tuple[np.ndarray, ...]
    offsets: np.ndarray
    word_first: np.ndarray
    word_last: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Return the number of token rows."""
        return int(self.offsets[-1])


@dataclass(frozen=True, slots=True)
class PanelBatch:
    """Some sequences of the panel, padded.

    Attributes
    ----------
    sequences : [sequences]
        Panel indices of the rows.
    input_ids, attention_mask : [sequences, length]
        What the model reads (the encoder, for encoder-decoder models).
    decoder_input_ids, decoder_attention_mask : [sequences, decoder length] or None
        What the decoder reads.
    predict_row, predict_column : [predictions in the batch]
        Which positions of the logits predict something: row in the batch, column in the sequence.
    index : [predictions in the batch]
        Rows of `Panel.predictions`.
    targets : [predictions in the batch]
        Token ids that are right.
    """

    sequences: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray
    decoder_input_ids: np.ndarray | None
    decoder_attention_mask: np.ndarray | None
    predict_row: np.ndarray
    predict_column: np.ndarray
    index: np.ndarray
    targets: np.ndarray
