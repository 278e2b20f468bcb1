"""Splits: by sentence, by the words in each role, by construction, or by a draw of every sentence on its own."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from absynth.errors import AbsynthError
from absynth.rules.categories import CATEGORIES
from absynth.sentences.columns import Columns

C = TypeVar("C", bound=Columns)


def split_corpus(
    corpus: C, train: float, dev: float, test: float, seed: int = 0, disjoint: str = "sentence"
) -> tuple[C, C, C]:
    """Return (train, dev, test).

    Parameters
    ----------
    train, dev, test
        Shares; they sum to 1.
    seed
        Decides which sentence, word or construction goes where.
    disjoint
        "sentence": a random partition in which equal sentences belong to one part, so that no sentence of one part occurs
        in another. A sentence with its twins goes to a part with a probability that is the part's share (of what is
        left), so every part's expected mixture is that of the corpus.
        "lexical": no open-class word of one part occurs in the same role in another part. Each (word, role) is
        given to one
        part, sentences that mix parts are left out (their number is in `provenance["split"]["left_out"]`); the
        parts keep about the requested proportions.
        "construction": every construction belongs to one part; masses come as near to the shares as whole
        constructions allow.
        "draw": a random partition of the sentences, equal or not: every part is a sample of the language, and what is
        frequent lies in all of them. A model that has learned the language's law then reaches the entropy rate on every
        part; that it has not seen the sentences before cannot be said.

    Raises
    ------
    AbsynthError
        For shares that do not sum to 1, an unknown kind, or a part that would be empty although its share is not 0.
    """
    shares = {"train": train, "dev": dev, "test": test}
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0.0 <= share <= 1.0:
            raise AbsynthError(name, share, "a share from 0 to 1")
    if abs(train + dev + test - 1.0) > 1e-9:
        raise AbsynthError("train + dev + test", train + dev + test, "shares that sum to 1")
    stream = np.random.default_rng([seed, 5])
    wanted = np.array([train, dev, test], float)
    if disjoint == "sentence":
        part = _by_sentence(corpus, wanted, stream)
    elif disjoint == "draw":
        part = _by_draw(len(corpus), wanted, stream)
    elif disjoint == "lexical":
        part = _by_word(corpus, wanted, stream)
    elif disjoint == "construction":
        part = _by_construction(corpus, wanted, stream)
    else:
        raise AbsynthError("disjoint", disjoint, "one of sentence, lexical, construction, draw")
    parts = []
    for i, name in enumerate(shares):
        rows = np.flatnonzero(part == i)
        if wanted[i] > 0 and len(rows) == 0 and len(corpus) > 0:
            raise AbsynthError(
                name, shares[name], f"a larger corpus or share: the {disjoint} split leaves {name} empty"
            )
        chosen = corpus.select(rows)
        chosen.provenance["split"] = {
            "part": name,
            "seed": seed,
            "disjoint": disjoint,
            "shares": list(shares.values()),
            "left_out": int((part < 0).sum()),
        }
        parts.append(chosen)
    return parts[0], parts[1], parts[2]


def _by_draw(n: int, wanted: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Return the part of each of n sentences."""
    ends = np.round(np.cumsum(wanted) * n).astype(int)
    part = np.empty(n, np.int64)
    part[stream.permutation(n)] = np.searchsorted(ends, np.arange(n), side="right")
    return part


def _by_sentence(corpus: Columns, wanted: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Return the part of each sentence; the parts are filled exactly where enough sentences have no twin."""
    kind = _kinds(corpus)
    size = np.bincount(kind, minlength=1)
    single = np.flatnonzero(size == 1)
    twins = np.flatnonzero(size > 1)
    twins = twins[np.argsort(-size[twins], kind="stable")]
    room = np.diff(np.round(np.cumsum(wanted) * len(corpus)).astype(int), prepend=0)
    asked = room > 0
    shuffled = single[stream.permutation(len(single))]
    part = np.zeros(len(size), np.int64)
    # The most frequent sentences first, while all parts have room for them.
    for one, u in zip(twins, stream.random(len(twins))):
        fits = np.where(room >= size[one], room, 0)
        weight = np.cumsum(fits if fits.any() else np.maximum(room, 0))
        part[one] = min(int(np.searchsorted(weight, u * weight[-1], side="right")), len(room) - 1)
        room[part[one]] -= size[one]
    # Those without a twin take the room that is left.
    ends = np.cumsum(np.maximum(room, 0))
    last = int(np.flatnonzero(asked)[-1]) if asked.any() else 0
    part[shuffled] = np.minimum(np.searchsorted(ends, np.arange(len(single)), side="right"), last)
    _fill_empty(part, size, asked)
    return part[kind]


def _fill_empty(part: np.ndarray, size: np.ndarray, asked: np.ndarray) -> None:
    """Give an asked part that has nothing the rarest sentence of a part that has several."""
    for empty in np.flatnonzero(asked):
        counts = np.bincount(part, minlength=len(asked))
        if counts[empty] or counts.max() < 2:
            continue
        several = np.flatnonzero(counts[part] > 1)
        part[several[size[several].argmin()]] = empty


def _kinds(corpus: Columns) -> np.ndarray:
    """Return [sentences] int64: a number from 0 on that equal sentences share, in the order in which they first occur."""
    first: dict[bytes, int] = {}
    ids = np.ascontiguousarray(corpus.ids)
    bounds = zip(corpus.offsets[:-1].tolist(), corpus.offsets[1:].tolist())
    return np.array([first.setdefault(ids[start:end].tobytes(), len(first)) for start, end in bounds], np.int64)


def _by_word(corpus: Columns, wanted: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Return the part of each sentence, -1 where its words belong to different parts."""
    lemma, _ = corpus.column("lemma")
    role, roles = corpus.column("role")
    category, categories = corpus.column("category")
    is_open = np.array([name in CATEGORIES and CATEGORIES[name].open_class for name in categories])
    words = np.flatnonzero(is_open[category])
    pair = (lemma[words].astype(np.int64) * (len(roles) + 1) + role[words] + 1) * len(categories) + category[words]
    sentence = np.repeat(np.arange(len(corpus)), corpus.lengths)[words]
    kinds, which = np.unique(pair, return_inverse=True)
    # A sentence of m words stays whole in a part of word share q with probability q^m: shares are taken to the
    # power 1/m.
    m = max(1.0, len(words) / max(1, len(corpus)))
    q = np.where(wanted > 0, wanted ** (1.0 / m), 0.0)
    draw = np.searchsorted(np.cumsum(q / q.sum()), stream.random(len(kinds)), side="right")
    owner = np.minimum(draw, len(q) - 1)[which]
    low, high = np.full(len(corpus), 3), np.full(len(corpus), -1)
    np.minimum.at(low, sentence, owner)
    np.maximum.at(high, sentence, owner)
    return np.where(low == high, low, -1)


def _by_construction(corpus: Columns, wanted: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    codes, names = corpus.sentence_column("construction")
    mass = np.bincount(codes, minlength=len(names)) / max(1, len(corpus))
    owner = np.zeros(len(names), np.int64)
    order = stream.permutation(len(names))
    for part in (2, 1):  # held-out parts are filled first, never beyond their share
        room = wanted[part]
        for construction in order:
            if owner[construction] == 0 and 0 < mass[construction] <= room + 1e-12:
                owner[construction] = part
                room -= mass[construction]
        if wanted[part] > 0 and not (owner == part).any():
            free = [c for c in order if owner[c] == 0 and mass[c] > 0]
            if free:
                owner[min(free, key=lambda c: (mass[c], math.inf))] = part
    return owner[codes]
