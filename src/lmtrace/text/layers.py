"""Label layers of a panel: the annotation of its sentences, and what follows from word order and frequency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from lmtrace.errors import DataError
from lmtrace.text.chunks import as_bio
from lmtrace.text.panel_parts import LabelLayer
from lmtrace.text.sentences import AnnotatedSentence

POSITIONS = ("0", "1", "2", "3", "4-7", "8-15", "16-31", "32+")
BANDS = ("rank 1-10", "rank 11-100", "rank 101-1000", "rank 1001+", "unseen")
_POSITION_STARTS = np.array([0, 1, 2, 3, 4, 8, 16, 32])
_BAND_STARTS = np.array([1, 11, 101, 1001])


def layer_values(sentences: Sequence[AnnotatedSentence]) -> dict[str, list[str | None]]:
    """Return layer -> one value per word over all sentences.

    Dependency relations become the layer "deprel"; labels of whole sentences are repeated over their words, unless a
    word layer of that name exists. Layers of chunks are in BIO, whatever coding they came in (`lmtrace.text.chunks`).
    """
    total = sum(map(len, sentences))
    columns: dict[str, list[str | None]] = {}
    done = 0
    for sentence in sentences:
        rows: dict[str, Sequence[str | None]] = {
            name: (value,) * len(sentence) for name, value in sentence.info.items()
        }
        if sentence.deprels is not None:
            rows["deprel"] = sentence.deprels
        rows.update(sentence.labels)
        for name, values in rows.items():
            columns.setdefault(name, [None] * total)[done : done + len(sentence)] = values
        done += len(sentence)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sentences])]).astype(np.int64)
    return {name: as_bio(name, values, offsets) for name, values in columns.items()}


def encode_layer(name: str, values: Sequence[str | None], keep: np.ndarray) -> LabelLayer:
    """Return a layer with sorted names; -1 where `keep` [words] is False or a value is None."""
    names = tuple(sorted({v for v, kept in zip(values, keep, strict=True) if kept and v is not None}))
    code = {value: i for i, value in enumerate(names)}
    codes = np.fromiter((-1 if v is None else code.get(v, -1) for v in values), np.int64, len(values))
    return LabelLayer(name, np.where(keep, codes, -1), names)


def position_layer(word_position: np.ndarray, keep: np.ndarray) -> LabelLayer:
    """Return the layer "position": where the word stands in its sentence (0 is the first), in rising buckets."""
    codes = np.searchsorted(_POSITION_STARTS, word_position, side="right") - 1
    return _ordinal("position", codes, POSITIONS, keep)


def frequency_layer(forms: Sequence[str], keep: np.ndarray, counts: Mapping[str, int] | None) -> LabelLayer:
    """Return the layer "frequency": the band of the word's rank by falling count ("rank 1-10": the ten most frequent words).

    Counts are those of `counts` (the training corpus), where absent words are "unseen"; without it, those of the
    panel itself. Ties rank in alphabetical order.
    """
    if counts is None:
        counts = Counter(forms)
    ranked = sorted((w for w, n in counts.items() if n > 0), key=lambda w: (-counts[w], w))
    rank = {word: i + 1 for i, word in enumerate(ranked)}
    unseen = len(BANDS) - 1
    band = {word: int(np.searchsorted(_BAND_STARTS, at, side="right")) - 1 for word, at in rank.items()}
    codes = np.fromiter((band.get(word, unseen) for word in forms), np.int64, len(forms))
    return _ordinal("frequency", codes, BANDS, keep)


def _ordinal(name: str, codes: np.ndarray, names: tuple[str, ...], keep: np.ndarray) -> LabelLayer:
    """Drop names that no word has; the others keep their order (by size, not by alphabet)."""
    codes = np.where(keep, codes, -1).astype(np.int64)
    used = np.unique(codes[codes >= 0])
    renumber = np.full(len(names), -1, np.int64)
    renumber[used] = np.arange(len(used))
    return LabelLayer(name, np.where(codes >= 0, renumber[codes], -1), tuple(names[i] for i in used))


def select_layers(available: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the wanted layer names, all of them for None; raise `DataError` for one that there is not."""
    if wanted is None:
        return list(available)
    for name in wanted:
        if name not in available:
            raise unknown_layer(name, available)
    return list(dict.fromkeys(wanted))


def unknown_layer(name: str, available: Sequence[str]) -> DataError:
    """Return the error for a layer that the panel does not have."""
    return DataError(f"the panel has no label layer {name!r}", f"It has: {', '.join(sorted(available)) or 'none'}")
