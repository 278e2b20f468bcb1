"""Parsing and minimal pairs: what is in the language is accepted, what is not is named."""

import json
import re

import numpy as np
import pytest

import absynth
from absynth import AbsynthError, Grammar
from absynth.pairs.interventions import KINDS
from reference.language import Listing
from reference.toys import TOYS


@pytest.fixture(scope="module")
def labelled():
    return absynth.Oracle(Grammar.preset("tiny", surface="labelled"))


@pytest.mark.parametrize(
    ("text", "kind", "position"),
    [
        ("noun0 blah noun1", "unknown word", 1),
        ("noun1s transitive_verb0s noun2", "agreement violation", 1),
        ("determiner0 noun1 preposition0 location1s transitive_verb1 noun0", "agreement violation", 4),
        ("noun0 conjunction0 noun1 transitive_verb1s noun3", "agreement violation", 3),
        ("noun1 transitive_verb0s", "missing argument", 2),
        ("transitive_verb0s noun1", "missing argument", 0),
        ("noun1 intransitive_verb0s noun2", "extra argument", 2),
        ("noun0 noun1 transitive_verb1s", "category impossible here", 1),
        ("noun1 determiner0 transitive_verb1s noun2", "category impossible here", 1),
        ("determiner0", "unfinished sentence", 1),
        ("", "unfinished sentence", 0),
    ],
)
def test_diagnoses(labelled, text, kind, position):
    parse = labelled.parse(text)
    assert not parse
    assert (parse.diagnosis.kind, parse.diagnosis.position) == (kind, position)
    assert parse.log2_probability == -np.inf
    assert parse.derivations == ()


def test_selectional_violation():
    grammar = Grammar.preset("tiny", surface="labelled", strength=1.0)
    corpus = absynth.generate(grammar, 300, seed=0)
    pairs = absynth.minimal_pairs(corpus, "role_violation")
    some = [p for p in pairs if p.expected == "selectional violation"]
    assert len(some) > 50
    for pair in some:
        diagnosis = corpus.oracle.parse(pair.bad.tokens).diagnosis
        assert (diagnosis.kind, diagnosis.position, diagnosis.log_odds) == (
            "selectional violation",
            pair.position,
            -np.inf,
        )


def test_threshold_flags_weak_selection():
    grammar = TOYS["relative"](strength=0.7)
    oracle = absynth.Oracle(grammar)
    flagged = 0
    for sentence in absynth.generate(grammar, 60, seed=1):
        assert oracle.parse(sentence.tokens)
        parse = oracle.parse(sentence.tokens, threshold=-0.5)
        if parse.diagnosis is not None:
            assert parse.diagnosis.kind == "selectional violation"
            assert -np.inf < parse.diagnosis.log_odds < -0.5
            assert parse.derivations
            flagged += 1
    assert 5 < flagged < 55


@pytest.mark.parametrize("settings", [{}, {"ambiguity": 0.3}, {"strength": 1.0}])
def test_generated_sentences_are_accepted(settings):
    grammar = Grammar.preset("small", **settings)
    corpus = absynth.generate(grammar, 500, seed=8)
    oracle = absynth.Oracle(grammar)
    for sentence in corpus[:300]:
        parse = oracle.parse(sentence.tokens)
        assert parse.accepted
        assert sum(d.probability for d in parse.derivations) == pytest.approx(1.0)
        top = parse.derivations[0].probability
        mine = [d.probability for d in parse.derivations if d.sentence == sentence]
        assert len(mine) == 1
        if not settings.get("ambiguity"):
            assert mine[0] == pytest.approx(top)
    assert np.isfinite(oracle.log2_probability(corpus)).all()


def test_derivations_are_those_of_the_listed_language():
    oracle = absynth.Oracle(TOYS["ambiguous"]())
    listing = Listing(oracle.grammar)
    rng = np.random.default_rng(0)
    strings = sorted(listing.strings)
    for i in rng.choice(len(strings), 40, replace=False):
        parse = oracle.parse(strings[i])
        truth = [(p / listing.strings[strings[i]], s) for p, s in listing.rows if s.tokens == strings[i]]
        assert len(truth) == len(parse.derivations)
        for derivation in parse.derivations:
            [p] = [p for p, s in truth if s == derivation.sentence]
            assert derivation.probability == pytest.approx(p, abs=1e-12)
    assert parse.log2_probability == pytest.approx(np.log2(listing.strings[strings[i]]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"strength": 1.0, "ambiguity": 0.2}])
def test_minimal_pairs(kind, settings):
    grammar = Grammar.preset("small", **settings)
    corpus = absynth.generate(grammar, 150, seed=2)
    oracle = corpus.oracle
    pairs = absynth.minimal_pairs(corpus, kind, seed=3)
    assert pairs.attempted == 150 == pairs.made + pairs.impossible
    assert pairs.made > 60
    good, bad = (oracle.log2_probability([getattr(p, x).tokens for p in pairs]) for x in ("good", "bad"))
    control = oracle.log2_probability([p.control.tokens for p in pairs])
    assert np.isfinite(good).all()
    assert np.isfinite(control).all()
    if kind == "synonym_substitution":
        assert np.isfinite(bad).all()
    elif kind != "role_swap":
        assert (bad == -np.inf).all()
    right = determined = 0
    for k, pair in enumerate(pairs):
        assert pair.good == corpus[pair.source]
        assert len(pair.control) == len(pair.bad)
        assert (
            pair.severity == pytest.approx(good[k] - bad[k], nan_ok=False)
            if np.isfinite(bad[k])
            else pair.severity == np.inf
        )
        for layer, values in pair.bad.labels.items():
            assert len(values) == len(pair.bad), layer
        assert pair.bad.heads.count(0) == 1
        assert tuple(word for _, word in re.findall(r"\((\S+) ([^()]+)\)", pair.bad.tree)) == pair.bad.tokens
        parse = oracle.parse(pair.bad.tokens)
        assert bool(parse) == bool(np.isfinite(bad[k]))
        if pair.expected is not None:
            determined += 1
            right += (parse.diagnosis.kind, parse.diagnosis.position) == (pair.expected, pair.position)
    assert right >= 0.99 * determined
    if kind in ("agreement_violation", "argument_elimination", "role_violation"):
        assert determined > 0.5 * pairs.made


def test_what_each_intervention_does():
    corpus = absynth.generate(Grammar.preset("small"), 400, seed=6)
    for pair in absynth.minimal_pairs(corpus, "synonym_substitution", limit=100):
        [at] = [i for i, (a, b) in enumerate(zip(pair.good.tokens, pair.bad.tokens)) if a != b]
        assert at == pair.position
        for layer in ("category", "cluster", "feats", "role"):
            assert pair.good.labels[layer] == pair.bad.labels[layer]
        assert pair.good.logical_form != pair.bad.logical_form
    attractors = 0
    for pair in absynth.minimal_pairs(corpus, "agreement_violation"):
        [at] = [i for i, (a, b) in enumerate(zip(pair.good.tokens, pair.bad.tokens)) if a != b]
        assert {pair.good.labels["number"][at], pair.bad.labels["number"][at]} == {"Sing", "Plur"}
        assert pair.good.labels["lemma"] == pair.bad.labels["lemma"]
        attractors += pair.attractor
    assert attractors > 5
    for pair in absynth.minimal_pairs(corpus, "argument_elimination", limit=150):
        assert len(pair.bad) < len(pair.good)
        assert pair.role in pair.good.labels["role"]
        assert pair.bad.labels["upos"][-1] not in ("ADP", "DET")
        assert f"{pair.role}(" in pair.good.logical_form
        assert len(pair.bad.logical_form) < len(pair.good.logical_form)
    for pair in absynth.minimal_pairs(corpus, "role_swap", limit=150):
        at = [i for i, (a, b) in enumerate(zip(pair.good.labels["lemma"], pair.bad.labels["lemma"])) if a != b]
        assert len(at) == 2
        assert pair.good.labels["number"] == pair.bad.labels["number"]
    for pair in absynth.minimal_pairs(corpus, "frame_violation", limit=100):
        root = pair.good.root
        assert pair.good.labels["category"][root] != pair.bad.labels["category"][root]
    for pair in absynth.minimal_pairs(corpus, "word_order_violation", limit=100):
        assert sorted(pair.good.tokens) == sorted(pair.bad.tokens)


def test_pairs_are_reproducible_and_saved(tmp_path):
    corpus = absynth.generate(Grammar.preset("tiny"), 60, seed=6)
    one, two = (absynth.minimal_pairs(corpus, "role_violation", seed=1) for _ in range(2))
    assert one == two
    assert absynth.minimal_pairs(corpus, "role_violation", seed=2) != one
    one.save(tmp_path / "pairs.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(lines) == len(one)
    assert {"sentence_good", "sentence_bad", "UID"} <= lines[0].keys()
    with pytest.raises(AbsynthError, match="kind: got 'rhyme'; allowed: one of synonym_substitution"):
        absynth.minimal_pairs(corpus, "rhyme")
    with pytest.raises(AbsynthError, match="a path that can be written"):
        one.save(tmp_path / "absent" / "pairs.jsonl")


def test_prefix_outside_the_language():
    oracle = absynth.Oracle(Grammar.preset("tiny", surface="labelled"))
    with pytest.raises(AbsynthError, match="word 2 cannot stand here"):
        oracle.next_token(["noun0", "noun1"])
    with pytest.raises(AbsynthError, match="word 1 is not in its vocabulary"):
        oracle.beliefs(["dog"])
    with pytest.raises(AbsynthError, match="layer: got 'mood'; allowed: one of category"):
        oracle.ceiling("mood")
    score = oracle.score([["noun0", "noun1", "noun0"], ["noun0", "intransitive_verb0s"]])
    assert score.surprisal[1] == np.inf
    assert np.isnan(score.surprisal[2:4]).all()
    assert np.isfinite(score.surprisal[4:]).all()
    assert score.log2_probability[0] == -np.inf


@pytest.mark.slow
def test_ten_thousand_are_accepted_and_ten_thousand_violations_rejected():
    grammar = Grammar.preset("small")
    corpus = absynth.generate(grammar, 12_500, seed=21)
    oracle = corpus.oracle
    accepted = corpus[:10_000]
    assert all(oracle.parse(s.tokens).derivations[0].sentence.template == s.template for s in accepted)
    kinds = [kind for kind in KINDS if kind not in ("synonym_substitution", "role_swap")]
    rejected = right = determined = 0
    for i, kind in enumerate(kinds):
        for pair in absynth.minimal_pairs(corpus[i * 2500 : (i + 1) * 2500], kind, seed=1):
            parse = oracle.parse(pair.bad.tokens)
            assert not parse
            rejected += 1
            if pair.expected is not None:
                determined += 1
                right += (parse.diagnosis.kind, parse.diagnosis.position) == (pair.expected, pair.position)
    assert rejected >= 10_000
    assert right >= 0.99 * determined
