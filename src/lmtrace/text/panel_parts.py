"""What a panel consists of, as plain arrays: label layers, predictions, token rows, padded batches, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lmtrace.errors import ConfigError

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
        The values, sorted by alphabet ("position" and "frequency": by size).
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
        Row of the panel word that the target belongs to; -1 for special tokens (end of sentence) and for targets that
        are not words of the sentence.
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
        One int64 array per sequence: the input ids, special tokens included, padding not, and without masks.
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
        What the model reads when it predicts (the encoder, for encoder-decoder models).
    decoder_input_ids, decoder_attention_mask : [sequences, decoder length] or None
        What the decoder reads.
    predict_row, predict_column : [predictions in the batch]
        Which positions of the logits predict something: row in the batch, column in the sequence.
    index : [predictions in the batch]
        Rows of `Panel.predictions`.
    targets : [predictions in the batch]
        Token ids that are right.
    position_ids : [sequences, length] or None
        Only with padding on the left, for models that count positions from the left edge; those that take none ignore
        it.
    plain_ids : [sequences, length] or None
        For masked models the same rows without masks, from which activations and attention maps are read.
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
    position_ids: np.ndarray | None = None
    plain_ids: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSettings:
    """How a panel reads its sentences; see `Panel.from_annotated`."""

    objective: Objective = "causal"
    policy: Policy = "last"
    max_length: int | None = None
    layers: tuple[str, ...] | None = None
    frequencies: Mapping[str, int] | None = None
    decoder_start_id: int | None = None
    mask_share: float = 0.15
    seed: int = 0
    end: bool | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("objective", get_args(Objective)), ("policy", get_args(Policy))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"panel: {name} is {getattr(self, name)!r}", f"Choose one of {', '.join(allowed)}")
        if self.max_length is not None and self.max_length < 4:
            raise ConfigError(f"panel: max_length is {self.max_length}", "At least 4 tokens are needed")
        if not 0 < self.mask_share < 1:
            raise ConfigError(f"panel: mask_share is {self.mask_share}", "It must lie between 0 and 1")
