"""What `describe` measures, against slow and obvious counts."""

import json
import math
from collections import Counter

import numpy as np
import pytest

import absynth
from absynth.description.fits import chi_square_tail, fit_exponent
from absynth.description.quality import ngrams
from reference.toys import agreement


@pytest.fixture(scope="module")
def corpus():
    return absynth.generate(absynth.Grammar.preset("small"), n=20_000, seed=0)


@pytest.fixture(scope="module")
def described(corpus):
    return absynth.describe(corpus, scored=4000)


def test_chi_square_tail_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 2, 3, 10, 117, 1000):
        for x in (0.0, 1e-6, 0.1, 1.0, 5.0, degrees * 0.5, degrees, degrees * 1.5, degrees * 3.0, 2000.0):
            assert chi_square_tail(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("alpha", "q"), [(0.0, 2.7), (0.7, 0.0), (1.05, 2.7), (2.5, 5.0)])
def test_exponent_is_recovered_and_maximises_the_likelihood(alpha, q):
    law = absynth.Zipf(alpha, q)
    rng = np.random.default_rng(1)
    estimates = []
    for _ in range(60):
        counts = rng.multinomial(4000, law.probabilities(50))
        found, stderr = fit_exponent(counts, q)
        estimates.append((found - alpha) / stderr)

        def likelihood(a, counts=counts):
            return float(counts @ np.log(absynth.Zipf(a, q).probabilities(50)))

        assert likelihood(found) >= max(likelihood(found + 1e-4), likelihood(found - 1e-4))
    assert abs(np.mean(estimates)) < 3.5 / math.sqrt(60)  # unbiased to its standard error
    assert 0.7 < np.std(estimates) < 1.35  # which has the right size


def test_exponent_at_the_edge_is_infinite_not_a_number():
    assert fit_exponent(np.array([5, 0, 0]), 0.0)[0] == math.inf
    assert fit_exponent(np.array([0, 0, 5]), 0.0)[0] == -math.inf


def test_counts_equal_slow_counts(corpus, described):
    part = corpus[:700]
    found = absynth.describe(part, scored=0)
    sentences = list(part)
    assert found.sentences == 700
    assert found.tokens == sum(len(s) for s in sentences)
    assert found.types == len({t for s in sentences for t in s.tokens})
    assert found.lengths == dict(sorted(Counter(len(s) for s in sentences).items()))
    assert found.duplicates == 700 - len({s.tokens for s in sentences})
    for n in (1, 2, 3):
        grams = Counter(s.tokens[i : i + n] for s in sentences for i in range(len(s) - n + 1))
        slow = {"tokens": sum(grams.values()), "types": len(grams), "once": sum(k == 1 for k in grams.values())}
        assert ngrams(part, n) == found.ngrams[n] == slow
    distances = Counter(abs(i + 1 - h) for s in sentences for i, h in enumerate(s.heads) if h)
    assert found.distances == dict(sorted(distances.items()))
    roles = Counter((r, c) for s in sentences for r, c in zip(s.labels["role"], s.labels["category"]) if r)
    assert {(r, c): k for r, row in found.roles.items() for c, k in row.items()} == roles
    assert found.shares["frame"].counts == {
        f: sum(s.frame == f for s in sentences) for f in part.grammar.shares["frame"]
    }
    for level, mean in found.length_by_level.items():
        assert mean == pytest.approx(np.mean([len(s) for s in sentences if s.complexity == level]))
    for category in ("noun", "adverb"):
        words = {w for s in sentences for w, k in zip(s.labels["lemma"], s.labels["category"]) if k == category}
        assert found.coverage[category] == (len(words), part.grammar.sizes[category])
    assert found.entropy is None


def test_a_generated_corpus_is_what_was_requested(corpus, described):
    for shares in described.shares.values():
        assert sum(shares.counts.values()) == len(corpus)
        assert sum(shares.requested.values()) == pytest.approx(1.0)
        assert shares.p > 0.01
    for exponent in described.zipf.values():
        assert abs(exponent.alpha - exponent.requested) < 4 * exponent.stderr
    assert described.zipf["noun"].stderr < 0.005
    entropy = described.entropy
    assert entropy.sentences == 4000
    assert abs(entropy.surprisal - entropy.entropy) < 4 * entropy.difference_stderr
    assert entropy.entropy == pytest.approx(entropy.structural + entropy.lexical)
    score = corpus.oracle.score(corpus[:4000])
    assert entropy.surprisal == pytest.approx(score.surprisal.mean())
    first = [score.entropy[a] for a in score.offsets[:-1]]
    assert entropy.by_position[0] == pytest.approx(np.mean(first))


def test_a_corpus_that_is_not_what_was_requested_is_noticed(corpus):
    codes, names = corpus.sentence_column("complexity")
    lean = absynth.describe(corpus.select(np.flatnonzero(codes != names.index("medium"))[:3000]), scored=0)
    assert lean.shares["level"].p < 1e-6
    other = corpus.grammar.replace(zipf=absynth.Zipf(1.4, 2.7))
    wrong = absynth.Corpus(corpus.ids, corpus.offsets, corpus.vocabulary, grammar=other, templates=corpus.templates)
    noun = absynth.describe(wrong, scored=0).zipf["noun"]
    assert abs(noun.alpha - noun.requested) > 20 * noun.stderr


def test_exact_quotas_have_p_near_one():
    corpus = absynth.generate(absynth.Grammar.preset("small"), n=5000, seed=0, exact=True)
    assert absynth.describe(corpus, scored=0).shares["construction"].p > 0.999


@pytest.mark.statistical
def test_p_values_are_uniform():
    grammar = absynth.Grammar.preset("tiny")
    values = [
        absynth.describe(absynth.generate(grammar, n=4000, seed=s), scored=0).shares["construction"].p
        for s in range(40)
    ]
    ordered = np.sort(values)
    distance = np.abs(ordered - (np.arange(40) + 0.5) / 40).max()
    assert distance < 1.63 / math.sqrt(40)  # Kolmogorov-Smirnov at 1 %


def test_ranks_of_an_imported_corpus_come_from_the_other_half():
    rng = np.random.default_rng(0)
    n = 20_000

    def imported(words):
        layers = {"category": (np.zeros(n, np.int32), ("noun",))}
        return absynth.Corpus(words, np.arange(n + 1), tuple(f"noun{i}" for i in range(300)), layers=layers)

    flat = absynth.describe(imported(rng.integers(0, 300, n))).zipf["noun"]
    assert abs(flat.alpha) < 4 * flat.stderr  # uniform words have no law, although their counts are not equal
    steep = absynth.describe(imported(rng.choice(300, n, p=absynth.Zipf(1.0, 0.0).probabilities(300)))).zipf["noun"]
    assert steep.alpha == pytest.approx(1.0, abs=0.05)
    assert "other half" in steep.note


def test_text_and_plain_data(described):
    text = str(described)
    for part in ("20,000 sentences", "transitive_action", "chi-square", "Zipf", "mean surprisal", "Agent"):
        assert part in text
    data = json.loads(json.dumps(described.to_dict()))
    assert data["tokens"] == described.tokens
    assert data["shares"]["level"]["requested"]["simple"] == pytest.approx(0.55)


def test_nothing_to_describe_is_an_error(corpus):
    with pytest.raises(absynth.AbsynthError, match="at least one"):
        absynth.describe(corpus[:0])
    with pytest.raises(absynth.AbsynthError, match="scored"):
        absynth.describe(corpus[:5], scored=-1)


def test_plot_writes_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    corpus = absynth.generate(agreement(), n=300, seed=0)
    paths = absynth.plot(corpus, tmp_path / "figures", scored=100)
    assert [p.stem for p in paths] == [
        "rank_frequency",
        "entropy_by_position",
        "shares",
        "constructions",
        "lengths",
        "roles",
    ]
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size > 5000 for p in paths)
    (tmp_path / "file").write_text("x")
    with pytest.raises(absynth.AbsynthError, match="folder"):
        absynth.plot(corpus[:50], tmp_path / "file", scored=0)
    plain = absynth.Corpus(corpus.ids[:10], np.array([0, 4, 10]), corpus.vocabulary)
    assert [p.stem for p in absynth.plot(plain, tmp_path / "plain")] == ["lengths"]
