"""What a corpus is, measured, against what its grammar asked for."""

from __future__ import annotations

import math

import numpy as np

from absynth.corpus import Corpus
from absynth.description.fits import chi_square_tail, fit_exponent
from absynth.description.report import Description, Entropy, Exponent, Shares
from absynth.errors import AbsynthError
from absynth.rules.categories import LEVELS
from absynth.rules.lexicon import Zipf


def describe(corpus: Corpus, scored: int = 20_000) -> Description:
    """Measure a corpus and compare it with what its grammar asks for.

    Parameters
    ----------
    corpus
        Generated or imported; what an imported corpus has no annotations for is left out.
    scored
        How many sentences the oracle scores for the entropy; 0 for none.

    Raises
    ------
    AbsynthError
        For a corpus without sentences.
    """
    if len(corpus) == 0:
        raise AbsynthError("corpus", "0 sentences", "at least one sentence")
    if isinstance(scored, bool) or not isinstance(scored, int) or scored < 0:
        raise AbsynthError("scored", scored, "a whole number, 0 or more")
    lengths = np.bincount(corpus.lengths)
    return Description(
        sentences=len(corpus),
        tokens=len(corpus.ids),
        types=len(np.unique(corpus.ids)),
        shares=_shares(corpus),
        zipf=_zipf(corpus),
        entropy=_entropy(corpus, scored),
        lengths={n: int(k) for n, k in enumerate(lengths) if k},
        length_by_level=_length_by_level(corpus),
        distances=_distances(corpus),
        duplicates=_duplicates(corpus),
        coverage=_coverage(corpus),
        ngrams={n: ngrams(corpus, n) for n in (1, 2, 3)},
        roles=_roles(corpus),
        provenance=corpus.provenance,
    )


# ---- shares ----
def _shares(corpus: Corpus) -> dict[str, Shares]:
    result = {}
    for name, layer in (("frame", "frame"), ("level", "complexity"), ("construction", "construction")):
        if corpus.grammar is None and layer not in corpus.sentence_layers:
            continue
        codes, names = corpus.sentence_column(layer)
        count = np.bincount(codes, minlength=len(names))
        counts = {value: int(k) for value, k in zip(names, count) if k or corpus.grammar is not None}
        if corpus.grammar is None:
            result[name] = Shares(None, counts, note="an imported corpus asks for nothing")
            continue
        requested = {value: p for value, p in corpus.grammar.shares[name].items() if p > 0}
        counts = {value: counts.get(value, 0) for value in {**requested, **{v: k for v, k in counts.items() if k}}}
        result[name] = _tested(requested, counts)
    return result


def _tested(requested: dict[str, float], counts: dict[str, int]) -> Shares:
    n = sum(counts.values())
    if any(k for name, k in counts.items() if name not in requested):
        return Shares(requested, counts, note="values that the grammar never gives")
    expected = np.array([requested[name] * n for name in requested])
    observed = np.array([counts[name] for name in requested], float)
    small = expected < 5
    if small.any():  # one pooled cell, and the smallest of the others with it until that holds 5
        order = np.argsort(expected)
        k = int(small.sum())
        while k < len(order) and expected[order[:k]].sum() < 5:
            k += 1
        rest, pool = order[k:], order[:k]
        expected = np.append(expected[rest], expected[pool].sum())
        observed = np.append(observed[rest], observed[pool].sum())
    if len(expected) < 2:
        return Shares(requested, counts, note="fewer than two cells with 5 expected sentences")
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    degrees = len(expected) - 1
    return Shares(requested, counts, statistic, degrees, chi_square_tail(statistic, degrees))


# ---- Zipf ----
def rank_counts(corpus: Corpus) -> dict[str, tuple[np.ndarray, Zipf]]:
    """Return category -> (occurrences of its words by rank, its law) of a generated corpus."""
    if corpus.grammar is None:
        raise AbsynthError("corpus.grammar", None, "a generated corpus; this one was imported")
    lexicon, laws = corpus.grammar.lexicon, corpus.grammar.zipf
    by_word = np.bincount(lexicon.entry_word[corpus.entries], minlength=len(lexicon.lemmas))
    result = {}
    for c, name in enumerate(lexicon.categories):
        words = np.flatnonzero(lexicon.word_category == c)
        by_rank = np.zeros(len(words), np.int64)
        by_rank[lexicon.word_rank[words] - 1] = by_word[words]
        result[name] = (by_rank, laws.get(name, laws[""]))
    return result


def _zipf(corpus: Corpus) -> dict[str, Exponent]:
    if corpus.grammar is not None:
        return {
            name: _exponent(counts, law.q, law.alpha)
            for name, (counts, law) in rank_counts(corpus).items()
            if not name.startswith("marker.") and name != "copula"
        }
    if "category" not in corpus.layer_names:
        return {}
    # Ranks are not known. Taken from the same tokens they would show a law where there is none: use the other half.
    codes, names = corpus.column("category")
    even = np.repeat(np.arange(len(corpus)) % 2 == 0, corpus.lengths)
    result = {}
    for c, name in enumerate(names):
        here = codes == c
        words, which = np.unique(corpus.ids[here], return_inverse=True)
        first = np.bincount(which[even[here]], minlength=len(words))
        second = np.bincount(which[~even[here]], minlength=len(words))
        seen = np.flatnonzero(first)  # words that only the second half has would lean the law
        result[name] = _exponent(second[seen[np.argsort(-first[seen], kind="stable")]], 0.0, None)
    return result


def _exponent(counts: np.ndarray, q: float, requested: float | None) -> Exponent:
    tokens, words = int(counts.sum()), len(counts)
    note = "" if requested is not None else "ranks from the other half of the sentences"
    if words < 2 or tokens == 0:
        return Exponent(requested, q, None, None, tokens, words, "one word" if words < 2 else "no tokens")
    alpha, stderr = fit_exponent(counts, q)
    if not math.isfinite(alpha):
        return Exponent(requested, q, None, None, tokens, words, "all tokens are one word at the edge of the ranks")
    return Exponent(requested, q, alpha, stderr, tokens, words, note)


# ---- entropy ----
def _entropy(corpus: Corpus, scored: int) -> Entropy | None:
    if corpus.oracle is None or scored == 0:
        return None
    score = corpus.oracle.score(corpus[:scored])
    n = len(score.offsets) - 1
    difference = score.surprisal - score.entropy
    mean = float(difference.mean())
    rows = np.diff(score.offsets)
    by_sentence = np.add.reduceat(difference, score.offsets[:-1]) - mean * rows
    position = np.arange(len(difference)) - np.repeat(score.offsets[:-1], rows)
    by_position = np.bincount(position, score.entropy) / np.bincount(position)
    return Entropy(
        surprisal=float(score.surprisal.mean()),
        entropy=float(score.entropy.mean()),
        structural=float(score.structural.mean()),
        lexical=float(score.lexical.mean()),
        difference_stderr=float(np.sqrt((by_sentence**2).sum()) / len(difference)),
        by_position=tuple(by_position.tolist()),
        sentences=n,
    )


# ---- the rest ----
def _length_by_level(corpus: Corpus) -> dict[str, float]:
    if corpus.grammar is None and "complexity" not in corpus.sentence_layers:
        return {}
    codes, names = corpus.sentence_column("complexity")
    found = {name: float(corpus.lengths[codes == i].mean()) for i, name in enumerate(names) if (codes == i).any()}
    return {
        name: found[name]
        for name in sorted(found, key=lambda name: (name not in LEVELS, LEVELS.index(name) if name in LEVELS else 0))
    }


def _distances(corpus: Corpus) -> dict[int, int]:
    heads = corpus.head_column()
    if heads is None:
        return {}
    position = np.arange(len(corpus.ids)) - np.repeat(corpus.offsets[:-1], corpus.lengths) + 1
    count = np.bincount(np.abs(position - heads)[heads > 0])
    return {n: int(k) for n, k in enumerate(count) if k}


def _duplicates(corpus: Corpus) -> int:
    distinct = 0
    for length in np.unique(corpus.lengths):
        rows = np.flatnonzero(corpus.lengths == length)
        at = corpus.offsets[:-1][rows][:, None] + np.arange(length)
        words = np.ascontiguousarray(corpus.ids[at])
        distinct += len(np.unique(words.view([("", words.dtype)] * int(length)))) if length else 1
    return len(corpus) - distinct


def _coverage(corpus: Corpus) -> dict[str, tuple[int, int | None]]:
    if corpus.grammar is not None:
        return {name: (int((counts > 0).sum()), len(counts)) for name, (counts, _) in rank_counts(corpus).items()}
    if "category" not in corpus.layer_names:
        return {}
    codes, names = corpus.column("category")
    return {name: (len(np.unique(corpus.ids[codes == c])), None) for c, name in enumerate(names)}


def ngrams(corpus: Corpus, n: int) -> dict[str, int]:
    """Return how many n-grams within sentences there are, how many different ones, and how many that occur once."""
    keys = corpus.ids.astype(np.int64)
    starts = np.arange(len(corpus.ids))
    end = np.repeat(corpus.offsets[1:], corpus.lengths)
    for k in range(1, n):
        starts = starts[starts + k < end[starts]]
    width = len(corpus.vocabulary)
    found = keys[starts]
    for k in range(1, n):
        _, found = np.unique(found, return_inverse=True)  # small again, so that the next product fits
        found = found * width + keys[starts + k]
    _, counts = np.unique(found, return_counts=True)
    return {"tokens": len(found), "types": len(counts), "once": int((counts == 1).sum())}


def _roles(corpus: Corpus) -> dict[str, dict[str, int]]:
    if not {"role", "category"} <= set(corpus.layer_names):
        return {}
    role, roles = corpus.column("role")
    category, categories = corpus.column("category")
    here = (role >= 0) & (category >= 0)
    table = np.zeros((len(roles), len(categories)), np.int64)
    np.add.at(table, (role[here], category[here]), 1)
    return {
        name: {other: int(k) for other, k in zip(categories, row) if k} for name, row in zip(roles, table) if row.any()
    }
