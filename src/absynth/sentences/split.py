"""Splits: by sentence, by the words in each role, by construction."""

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
        "sentence": a random partition of the sentences.
        "lexical": no open-class word of one part occurs in the same role in another part. Each (word, role) is
        given to one
        part, sentences that mix parts are left out (their number is in `provenance["split"]["left_out"]`); the
        parts keep about the requested proportions.
        "construction": every construction belongs to one part; masses come as near to the shares as whole
        constructions allow.

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
        part = _by_sentence(len(corpus), wanted, stream)
    elif disjoint == "lexical":
        part = _by_word(corpus, wanted, stream)
    elif disjoint == "construction":
        part = _by_construction(corpus, wanted, stream)
    else:
        raise AbsynthError("disjoint", disjoint, "one of sentence, lexical, construction")
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


def _by_sentence(n: int, wanted: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    ends = np.round(np.cumsum(wanted) * n).astype(int)
    part = np.empty(n, np.int64)
    part[stream.permutation(n)] = np.searchsorted(ends, np.arange(n), side="right")
    return part


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
