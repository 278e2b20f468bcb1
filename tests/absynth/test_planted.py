"""Texts with planted violations of every kind that the parser can name: found, named, placed; and no alarm without one."""

import itertools
from functools import cache

import numpy as np
import pytest

import absynth
from absynth import Grammar
from reference.toys import TOYS
from reference.violations import (
    AGREEMENT,
    CATEGORY,
    EXTRA,
    KINDS,
    MISSING,
    SELECTION,
    UNFINISHED,
    UNKNOWN,
    Truth,
    plant,
)

TEXT = 300
SHARES = (0.0, 0.01, 0.05, 0.2)
GRAMMARS = {
    "tiny": lambda: Grammar.preset("tiny"),
    "tiny, selection absolute, homographs": lambda: Grammar.preset("tiny", strength=1.0, ambiguity=0.3, seed=3),
    "small, other words, selection absolute": lambda: Grammar.preset(
        "small", strength=1.0, clusters=3, seed=5, plural=0.5, sizes={**Grammar.preset("small").sizes, "noun": 90}
    ),
    "toy with relative clauses": lambda: TOYS["relative"](strength=1.0),
}


@pytest.fixture(scope="module", params=GRAMMARS)
def language(request):
    """(truth, sentences, kind -> [(string, what explains it)])."""
    truth = Truth(GRAMMARS[request.param]())
    corpus = absynth.generate(truth.grammar, TEXT, seed=11)
    # Only where selection is absolute is a choice of words outside the language.
    kinds = [kind for kind in KINDS if kind != SELECTION or truth.grammar.strength[""] == 1.0]
    planted = {}
    for kind in kinds:
        strings = plant(truth, kind, corpus, round(max(SHARES) * TEXT), seed=7)
        planted[kind] = [(string, truth.explanations(string)) for string in strings]
    return truth, [sentence.tokens for sentence in corpus], planted


def test_what_was_planted_and_what_is_found(language):
    truth, sentences, planted = language
    parse = cache(truth.oracle.parse)
    for kind, share in itertools.product(planted, SHARES):
        bad = planted[kind][: round(share * TEXT)]
        text = [(s, {}) for s in sentences[: TEXT - len(bad)]] + bad
        rng = np.random.default_rng(int(1000 * share))
        text = [text[i] for i in rng.permutation(len(text))]
        found = [parse(string).diagnosis for string, _ in text]
        bad_ones = {string for string, _ in bad}
        assert [d is not None for d in found] == [string in bad_ones for string, _ in text], (kind, share)
        determined = [(d, why) for d, (_, why) in zip(found, text, strict=True) if set(why) == {kind}]
        right = sum(d.kind == kind for d, _ in determined)
        assert right > 0.95 * len(determined) or not determined, (kind, share, right, len(determined))
        named = [why for d, (_, why) in zip(found, text, strict=True) if d is not None and d.kind == kind]
        assert sum(kind in why for why in named) > 0.95 * len(named) or not named, (kind, share)


def test_all_kinds_in_one_text(language):
    """Precision and recall of every kind where one kind alone explains a string; elsewhere one of those that do."""
    truth, _, planted = language
    strings = [(string, why) for rows in planted.values() for string, why in rows if why]
    kinds = [truth.oracle.parse(string).diagnosis.kind for string, _ in strings]
    assert np.mean([kind in why for kind, (_, why) in zip(kinds, strings, strict=True)]) > 0.99
    alone = [(kind, next(iter(why))) for kind, (_, why) in zip(kinds, strings, strict=True) if len(why) == 1]
    assert len(alone) > 0.5 * len(strings)
    for kind in planted:
        told, true = [t for k, t in alone if k == kind], [k for k, t in alone if t == kind]
        assert len(true) >= 10, f"too few strings where {kind} alone explains"
        assert sum(t == kind for t in told) > 0.95 * len(told), kind
        assert sum(k == kind for k in true) > 0.95 * len(true), kind


def test_where_it_shows(language):
    truth, _, planted = language
    off = total = 0
    for kind, rows in planted.items():
        for string, why in rows:
            if set(why) != {kind}:
                continue
            at, places = truth.oracle.parse(string).diagnosis.position, why[kind]
            total += 1
            if kind in (UNKNOWN, MISSING, EXTRA, UNFINISHED):
                off += at not in places
            else:
                # Where it shows is where the string stops being the beginning of a sentence, or, for two words that do
                # not fit, the later one: never before the first word that could be the wrong one.
                off += at < min(places)
    assert off <= 0.02 * total


def test_most_violations_have_one_explanation_and_the_others_are_what_theory_says(language):
    """A missing object may be an unfinished sentence or another kind of verb; nothing else is that open."""
    _, _, planted = language
    for kind, rows in planted.items():
        share = np.mean([set(why) == {kind} for _, why in rows])
        assert share > (0.35 if kind == MISSING else 0.5), (kind, share)
        if kind in (AGREEMENT, CATEGORY, UNKNOWN):
            assert share > 0.75, (kind, share)


def test_features_that_the_language_never_uses_are_impossible():
    """A grammar without plurals: a plural noun that agrees with everything is outside the language all the same."""
    truth = Truth(Grammar.preset("tiny", surface="labelled", plural=0.0))
    with_plurals = absynth.generate(Grammar.preset("tiny", surface="labelled", plural=1.0), 40, seed=0)
    assert Truth(with_plurals.grammar).legal(s.tokens for s in with_plurals).all()
    for sentence in with_plurals:
        inside = truth.legal([sentence.tokens])[0]
        found = truth.oracle.parse(sentence.tokens).diagnosis
        assert (found is None) == inside
        assert inside or found.kind == "agreement violation"


@pytest.mark.parametrize("kind", ["agreement_violation", "argument_elimination", "role_violation"])
def test_pairs_state_a_diagnosis_only_where_it_is_the_only_one(kind):
    """`MinimalPair.expected` against the slow truth; a cut argument may also be an unfinished sentence or another verb's."""
    truth = Truth(Grammar.preset("tiny", strength=1.0, ambiguity=0.3, seed=3))
    corpus = absynth.generate(truth.grammar, 80, seed=4)
    stated = 0
    for pair in absynth.minimal_pairs(corpus, kind, seed=2):
        if pair.expected is None:
            continue
        stated += 1
        found = truth.oracle.parse(pair.bad.tokens).diagnosis
        assert (found.kind, found.position) == (pair.expected, pair.position)
        why = truth.explanations(pair.bad.tokens)
        assert pair.expected in why, (pair.bad.tokens, pair.expected, why)
        assert set(why) <= {pair.expected, *((UNFINISHED, CATEGORY) if pair.expected == MISSING else ())}
    assert stated > 20
