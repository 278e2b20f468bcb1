"""The oracle against the whole language, listed."""

from collections import defaultdict

import numpy as np
import pytest

import absynth
from absynth.language import language_size
from absynth.law.beliefs import ceiling
from absynth.law.entropy import derivation_entropy
from absynth.rules.categories import END
from reference.language import Listing, entropy
from reference.toys import TOYS


@pytest.fixture(scope="module", params=list(TOYS))
def toy(request):
    grammar = TOYS[request.param]()
    assert language_size(grammar) < 60_000
    return grammar, absynth.Oracle(grammar), Listing(grammar)


def test_the_language_sums_to_one(toy):
    _, _, listing = toy
    assert sum(listing.strings.values()) == pytest.approx(1.0, abs=1e-12)


def test_next_token_equals_enumeration(toy):
    grammar, oracle, listing = toy
    rng = np.random.default_rng(0)
    prefixes = sorted(listing.prefixes())
    for i in rng.choice(len(prefixes), min(60, len(prefixes)), replace=False):
        law = oracle.next_token(prefixes[i])
        assert set(law) == {*grammar.vocabulary, END}
        assert sum(law.values()) == pytest.approx(1.0, abs=1e-12)
        truth = listing.next_token(prefixes[i])
        for token, p in law.items():
            assert p == pytest.approx(truth.get(token, 0.0), abs=1e-12)


def test_sentence_probabilities_equal_enumeration(toy):
    _, oracle, listing = toy
    strings = sorted(listing.strings)
    found = 2.0 ** oracle.log2_probability(strings)
    np.testing.assert_allclose(found, [listing.strings[s] for s in strings], rtol=1e-10)
    np.testing.assert_allclose(2.0 ** oracle.score(strings).log2_probability, found, rtol=1e-10)


def test_score_and_laws_equal_enumeration(toy):
    grammar, oracle, listing = toy
    rng = np.random.default_rng(1)
    strings = sorted(listing.strings)
    some = [strings[i] for i in rng.choice(len(strings), 15, replace=False)]
    score = oracle.score(some)
    np.testing.assert_allclose(score.entropy, score.structural + score.lexical, atol=1e-12)
    for i, (string, law) in enumerate(zip(some, oracle.laws(some))):
        assert law.shape == (len(string) + 1, len(grammar.vocabulary) + 1)
        for t in range(len(string) + 1):
            truth = listing.next_token(string[:t])
            token = string[t] if t < len(string) else END
            row = score.offsets[i] + t
            assert score.surprisal[row] == pytest.approx(-np.log2(truth[token]), abs=1e-10)
            assert score.entropy[row] == pytest.approx(entropy(truth), abs=1e-10)
            np.testing.assert_allclose(law[t], [truth.get(x, 0.0) for x in (*grammar.vocabulary, END)], atol=1e-12)


def test_structural_entropy_is_the_entropy_of_the_category(toy):
    _, oracle, listing = toy
    rng = np.random.default_rng(2)
    strings = sorted(listing.strings)
    for i in rng.choice(len(strings), 8, replace=False):
        string = strings[i]
        score = oracle.score([string])
        for t in range(len(string) + 1):
            law = listing.belief(string[:t], lambda s, t=t: s.labels["category"][t] if len(s) > t else END)
            assert score.structural[t] == pytest.approx(entropy(law), abs=1e-10)


def test_beliefs_equal_enumeration(toy):
    _, oracle, listing = toy
    rng = np.random.default_rng(3)
    prefixes = sorted(listing.prefixes())
    for i in rng.choice(len(prefixes), min(20, len(prefixes)), replace=False):
        prefix, size = prefixes[i], len(prefixes[i])
        found = oracle.beliefs(prefix)
        _same(found.construction, listing.belief(prefix, lambda s: s.construction))
        _same(found.template, listing.belief(prefix, lambda s: s.template))
        for layer in ("category", "role", "frame", "cluster"):
            for t in range(len(prefix)):
                _same(found.words[t][layer], listing.belief(prefix, lambda s, t=t, layer=layer: s.labels[layer][t]))
            end = END if layer == "category" else None

            def upcoming(s, layer=layer, n=size, end=end):
                return s.labels[layer][n] if len(s) > n else end

            _same(found.next[layer], listing.belief(prefix, upcoming))


def test_construction_beliefs_of_a_corpus(toy):
    grammar, oracle, listing = toy
    corpus = absynth.generate(grammar, 40, seed=9)
    found = oracle.construction_beliefs(corpus)
    assert found.shape == (len(corpus.ids), len(grammar.constructions))
    for i in (0, 7, 23):
        for t in range(corpus.lengths[i]):
            truth = listing.belief(corpus[i].tokens[: t + 1], lambda s: s.construction)
            row = dict(zip(grammar.constructions, found[corpus.offsets[i] + t]))
            _same({k: p for k, p in row.items() if p > 0}, truth)


@pytest.mark.parametrize("layer", ["role", "frame", "category", "cluster", "deprel"])
def test_ceilings_equal_enumeration(toy, layer):
    _, oracle, listing = toy
    found = ceiling(oracle, layer, listing.corpus, listing.probabilities)
    np.testing.assert_allclose([found.prefix, found.sentence, found.next], listing.ceiling(layer), atol=1e-12)
    if language_size(oracle.grammar) <= 20_000:
        assert oracle.ceiling(layer) == found
    sampled = oracle.ceiling(layer, absynth.generate(oracle.grammar, 4_000, seed=4))
    for name in ("prefix", "sentence", "next"):
        error = getattr(sampled, f"{name}_stderr")
        assert abs(getattr(sampled, name) - getattr(found, name)) <= 5 * error + 1e-12


def test_entropy_rate_equals_enumeration(toy):
    grammar, oracle, listing = toy
    truth = entropy(listing.strings)
    per_token = truth / sum(p * (len(s) + 1) for s, p in listing.strings.items())
    derivations = defaultdict(float)
    for i, (p, _) in enumerate(listing.rows):
        derivations[i] = p
    assert derivation_entropy(grammar) == pytest.approx(entropy(derivations), abs=1e-9)
    rate = oracle.entropy_rate(samples=4_000)
    if rate.exact:
        assert rate.value == pytest.approx(per_token, abs=1e-10)
    else:
        assert abs(rate.value - per_token) < 5 * rate.stderr
    assert oracle.entropy_rate("nats", samples=10).value == pytest.approx(
        per_token * np.log(2), abs=5 * rate.stderr + 1e-2
    )


def _same(found, truth):
    assert set(found) == set(truth)
    for key, p in truth.items():
        assert found[key] == pytest.approx(p, abs=1e-12)
