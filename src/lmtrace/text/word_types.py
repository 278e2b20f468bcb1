"""Which words of a panel are one to the model: word types by token ids, sentences by token ids, words that share a place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lmtrace.text.alignment import Encoding
from lmtrace.text.panel_parts import Policy, Side
from lmtrace.text.sentences import AnnotatedSentence


def word_types(
    sentences: Sequence[AnnotatedSentence], encodings: Sequence[Encoding]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return [words] int64 the type of every word, and per type its first spelling in the order of the alphabet.

    Words of equal token ids are of one type: an uncased tokenizer reads "The" and "the" alike, and every unknown word as the
    same. So are words of one spelling, with and without a space before it, as long as no token of theirs reaches into another
    word: the parts of a fused form are of the type of its tokens, whatever they are spelt like elsewhere.
    """
    forms: dict[str, int] = {}
    readings: dict[object, int] = {}
    spelt: list[int] = []
    read: list[int] = []
    own: list[bool] = []
    for sentence, e in zip(sentences, encodings, strict=True):
        alone = _alone(e)
        for form, first, last, mine in zip(sentence.tokens, e.first.tolist(), e.last.tolist(), alone, strict=True):
            # A word without a token is told by its spelling: nothing is read of it anyway.
            key = form if first < 0 else tuple(e.ids[first : last + 1].tolist())
            spelt.append(forms.setdefault(form, len(forms)))
            read.append(readings.setdefault(key, len(readings)))
            own.append(mine)
    if not spelt:
        return np.zeros(0, np.int64), ()
    spelling = np.array(spelt)
    reading = np.array(read)
    linked = np.array(own)
    nodes = len(readings) + len(forms)
    links = (np.ones(int(linked.sum())), (reading[linked], len(readings) + spelling[linked]))
    _, component = connected_components(coo_array(links, shape=(nodes, nodes)), directed=False)
    found, first_word, of = np.unique(component[reading], return_index=True, return_inverse=True)
    names = [""] * len(found)
    every = list(forms)
    for kind, form in sorted({(int(k), every[f]) for k, f in zip(of, spelling, strict=True)}, reverse=True):
        names[kind] = form
    order = sorted(range(len(found)), key=lambda kind: (names[kind], int(first_word[kind])))
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    return rank[of], tuple(names[kind] for kind in order)


def _alone(e: Encoding) -> list[bool]:
    """Return [words]: the word has tokens, and no other word of the sentence reaches any of them."""
    there = e.first >= 0
    reached = np.zeros(len(e.ids) + 1, np.int64)
    np.add.at(reached, e.first[there], 1)
    np.add.at(reached, e.last[there] + 1, -1)
    crowded = np.concatenate([[0], np.cumsum(np.cumsum(reached) > 1)])
    return (there & (crowded[e.last + 1] == crowded[np.maximum(e.first, 0)])).tolist()


def sentence_twins(ids: Sequence[np.ndarray]) -> np.ndarray:
    """Return [sequences] int64: the first sequence with the same token ids; its own place for one without a twin."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(ids)], np.int64)


def word_places(side: Side, policy: Policy) -> np.ndarray:
    """Return [words] int64: words of one number are read as one and the same vector; -1 where a word is not read.

    Under "last" (or "first") it is the row of the word's last (first) token; under "mean" both together count.
    """
    if policy in ("last", "first"):
        return side.word_last if policy == "last" else side.word_first
    _, place = np.unique(np.stack([side.word_first, side.word_last]), axis=1, return_inverse=True)
    return np.where(side.word_first < 0, -1, place.reshape(-1))


def shared_share(places: np.ndarray) -> float:
    """Return the share of the words read that share their vector with another word; 0.0 where none is read."""
    read = places[places >= 0]
    if not len(read):
        return 0.0
    _, index, counts = np.unique(read, return_inverse=True, return_counts=True)
    return float((counts[index] > 1).mean())


def best_accuracy(places: np.ndarray, codes: np.ndarray) -> float:
    """Return the highest accuracy of a reader that names one class per place: the most frequent one there.

    Parameters
    ----------
    places, codes : [n]
        Place and class of every row, non-negative.
    """
    num_classes = int(codes.max()) + 1
    _, index = np.unique(places, return_inverse=True)
    cells, counts = np.unique(index * num_classes + codes, return_counts=True)
    best = np.zeros(int(index.max()) + 1, np.int64)
    np.maximum.at(best, cells // num_classes, counts)
    return float(best.sum() / len(codes))
