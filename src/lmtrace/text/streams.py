"""The token streams of a panel under each objective: input ids, where words are, and what is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lmtrace.text.alignment import Encoding
from lmtrace.text.panel_parts import PanelBatch, PanelSettings, Predictions, Side
from lmtrace.text.sequences import (
    bidirectional_affixes,
    causal_affixes,
    decoder_start,
    mask_id,
    special_id,
    target_ids,
)

if TYPE_CHECKING:
    from lmtrace.text.sentences import AnnotatedSentence


@dataclass(frozen=True, slots=True)
class Streams:
    """Both sides, the predictions, and for each of those the column of the logits that predicts it.

    `masked` holds, for masked models only, the encoder's rows with the masks that the predictions are made at.
    """

    encoder: Side
    decoder: Side | None
    predictions: Predictions
    column: np.ndarray
    prediction_offsets: np.ndarray
    target: str = ""
    masked: tuple[np.ndarray, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """One sequence: its ids, and how many special tokens stand before the `kept` tokens of its sentence."""

    ids: np.ndarray
    prefix: int
    kept: int


def build(
    sentences: Sequence[AnnotatedSentence],
    encodings: Sequence[Encoding],
    tokenizer: Any,
    settings: PanelSettings,
    word_offsets: np.ndarray,
) -> Streams:
    """Return the streams for the settings' objective."""
    make = {"causal": _causal, "masked": _masked, "seq2seq": _seq2seq}[settings.objective]
    return make(sentences, encodings, tokenizer, settings, word_offsets)


def _causal(sentences, encodings, tokenizer, settings, word_offsets) -> Streams:
    begin, end = causal_affixes(tokenizer)
    rows, predicted = [], _Predicted(word_offsets)
    for i, e in enumerate(encodings):
        row = _row(e, begin, end, settings.max_length, cut_end=True)
        rows.append(row)
        columns = np.arange(1, len(row.ids))
        predicted.add(i, e, row.ids[columns], columns - row.prefix, columns - 1)
    predictions, column, offsets = predicted.finish()
    return Streams(_side(rows, encodings, word_offsets), None, predictions, column, offsets)


def _masked(sentences, encodings, tokenizer, settings, word_offsets) -> Streams:
    begin, end = bidirectional_affixes(tokenizer)
    mask = mask_id(tokenizer)
    rows, masked, predicted = [], [], _Predicted(word_offsets)
    for i, e in enumerate(encodings):
        row = _row(e, begin, end, settings.max_length, cut_end=False)
        candidates = np.flatnonzero(e.owner[: row.kept] >= 0)
        wanted = min(len(candidates), max(1, round(settings.mask_share * len(candidates))))
        # One generator per sentence: a sentence keeps its mask whatever else is in the panel.
        generator = np.random.default_rng([settings.seed, i, 0x6D61736B])
        tokens = np.sort(generator.choice(candidates, wanted, replace=False)) if wanted else candidates
        columns = tokens + row.prefix
        predicted.add(i, e, row.ids[columns], tokens, columns)
        ids = row.ids.copy()
        ids[columns] = mask
        masked.append(ids)
        rows.append(row)
    predictions, column, offsets = predicted.finish()
    side = _side(rows, encodings, word_offsets)
    return Streams(side, None, predictions, column, offsets, masked=tuple(masked))


def _seq2seq(sentences, encodings, tokenizer, settings, word_offsets) -> Streams:
    begin, end = bidirectional_affixes(tokenizer)
    start = settings.decoder_start_id if settings.decoder_start_id is not None else decoder_start(tokenizer)
    encoder_rows = [_row(e, begin, end, settings.max_length, cut_end=False) for e in encodings]
    targets = None
    if all(s.target for s in sentences):
        targets = target_ids([s.target for s in sentences], tokenizer)
    final = [] if (eos := special_id(tokenizer, "eos", "sep")) is None else [eos]
    decoder_rows, predicted = [], _Predicted(word_offsets)
    for i, e in enumerate(encodings):
        # Without a logical form the sentence answers itself, and its words are found in the decoder too.
        answer = e if targets is None else _unaligned(targets[i])
        row = _row(
            answer, [start], final, None if settings.max_length is None else settings.max_length + 1, cut_end=True
        )
        columns = np.arange(1, len(row.ids))
        predicted.add(i, answer, row.ids[columns], columns - 1, columns - 1)
        decoder_rows.append(_Row(row.ids[:-1], 1, min(row.kept, len(row.ids) - 2)))
    predictions, column, offsets = predicted.finish()
    aligned = encodings if targets is None else [_no_words(e) for e in encodings]
    return Streams(
        _side(encoder_rows, encodings, word_offsets),
        _side(decoder_rows, aligned, word_offsets),
        predictions, column, offsets, "sentence" if targets is None else "logical form",
    )  # fmt: skip


def _row(e: Encoding, begin: list[int], end: list[int], max_length: int | None, cut_end: bool) -> _Row:
    """Return begin + ids + end, no longer than `max_length`; a cut sequence has no end where `cut_end`.

    The end of sentence after half a sentence would be a wrong target, so streams that predict it leave it out.
    """
    kept = len(e.ids)
    if max_length is not None and len(begin) + kept + len(end) > max_length:
        end = [] if cut_end else end
        kept = min(kept, max_length - len(begin) - len(end))
    return _Row(np.concatenate([begin, e.ids[:kept], end]).astype(np.int64), len(begin), kept)


def _unaligned(ids: np.ndarray) -> Encoding:
    none = np.empty(0, np.int64)
    return Encoding(ids, none, none, np.full(len(ids), -1, np.int64))


def _no_words(e: Encoding) -> Encoding:
    none = np.full(len(e.first), -1, np.int64)
    return Encoding(e.ids, none, none, np.full(len(e.ids), -1, np.int64))


def _side(rows: Sequence[_Row], encodings: Sequence[Encoding], word_offsets: np.ndarray) -> Side:
    offsets = np.concatenate([[0], np.cumsum([len(row.ids) for row in rows])]).astype(np.int64)
    first, last = np.full((2, int(word_offsets[-1])), -1, np.int64)
    for i, (row, e) in enumerate(zip(rows, encodings, strict=True)):
        words = slice(int(word_offsets[i]), int(word_offsets[i + 1]))
        whole = (e.first >= 0) & (e.last < row.kept)
        base = offsets[i] + row.prefix
        first[words] = np.where(whole, base + e.first, -1)
        last[words] = np.where(whole, base + e.last, -1)
    return Side(tuple(row.ids for row in rows), offsets, first, last)


class _Predicted:
    """Collects the predictions of one sequence after the other."""

    def __init__(self, word_offsets: np.ndarray) -> None:
        self.word_offsets = word_offsets
        self.parts: list[tuple[np.ndarray, ...]] = []

    def add(self, i: int, e: Encoding, target: np.ndarray, token: np.ndarray, column: np.ndarray) -> None:
        """Add sequence i: target ids, index into `e.ids` of each (outside of it for special tokens), logits column."""
        inside = (token >= 0) & (token < len(e.ids))
        at = np.where(inside, token, 0)
        owner = np.where(inside, e.owner[at], -1) if len(e.ids) else np.full(len(token), -1)
        opens = np.where(inside, e.opens_word[at], True) if len(e.ids) else np.ones(len(token), bool)
        word = np.where(owner >= 0, owner + self.word_offsets[i], -1)
        self.parts.append((target, np.full(len(target), i), np.arange(len(target)), word, opens, column))

    def finish(self) -> tuple[Predictions, np.ndarray, np.ndarray]:
        target, sentence, position, word, opens, column = (np.concatenate(c) for c in zip(*self.parts, strict=True))
        offsets = np.concatenate([[0], np.cumsum([len(part[0]) for part in self.parts])])
        predictions = Predictions(
            target.astype(np.int64), sentence.astype(np.int64), position.astype(np.int64), word.astype(np.int64),
            opens.astype(bool),
        )  # fmt: skip
        return predictions, column.astype(np.int64), offsets.astype(np.int64)


def cuts(lengths: np.ndarray, size: int, price: int) -> np.ndarray:
    """Return where batches of at most `size` sequences begin, the first left out, for the fewest tokens, padding included.

    Parameters
    ----------
    lengths : [sequences]
        Tokens of each, rising.
    price
        Of one batch, in tokens.
    """
    best, begin = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, np.int64)
    for end in range(1, len(best)):
        first = np.arange(max(0, end - size), end)
        costs = best[first] + price + (end - first) * lengths[end - 1]
        begin[end] = first[costs.argmin()]
        best[end] = costs.min()
    found, end = [], int(begin[-1])
    while end:
        found.append(end)
        end = int(begin[end])
    return np.array(found[::-1], np.int64)


def pad(streams: Streams, sequences: np.ndarray, tokenizer: Any, side: Literal["left", "right"]) -> PanelBatch:
    """Return these sequences as one padded batch."""
    fill = special_id(tokenizer, "pad", "eos") or 0
    read = streams.encoder.ids if streams.masked is None else streams.masked
    ids, mask, shift = _padded([read[i] for i in sequences], fill, side)
    plain = None
    if streams.masked is not None:
        plain, _, _ = _padded([streams.encoder.ids[i] for i in sequences], fill, side)
    decoder_ids = decoder_mask = None
    if streams.decoder is not None:
        # A decoder starts at its first column; only what it reads from may be padded on the left.
        decoder_ids, decoder_mask, _ = _padded([streams.decoder.ids[i] for i in sequences], fill, "right")
        shift = np.zeros(len(sequences), np.int64)
    offsets = streams.prediction_offsets
    index = np.concatenate([np.arange(int(offsets[i]), int(offsets[i + 1])) for i in sequences])
    row = np.repeat(np.arange(len(sequences)), offsets[sequences + 1] - offsets[sequences])
    positions = None
    if side == "left":
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    return PanelBatch(
        sequences=sequences, input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids,
        decoder_attention_mask=decoder_mask, predict_row=row, predict_column=streams.column[index] + shift[row],
        index=index, targets=streams.predictions.target[index], position_ids=positions,
        plain_ids=plain,
    )  # fmt: skip


def _padded(rows: Sequence[np.ndarray], fill: int, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    length = max(map(len, rows))
    ids = np.full((len(rows), length), fill, np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    shift = np.zeros(len(rows), np.int64)
    for i, row in enumerate(rows):
        shift[i] = length - len(row) if side == "left" else 0
        ids[i, shift[i] : shift[i] + len(row)] = row
        mask[i, shift[i] : shift[i] + len(row)] = 1
    return ids, mask, shift
