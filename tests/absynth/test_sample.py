"""What is drawn follows the law, and nothing but grammar, seed and index decides a sentence."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize, stats

import absynth
from absynth import AbsynthError, Grammar
from absynth.sample import BLOCK
from reference.toys import TOYS


@pytest.fixture(scope="module")
def small():
    grammar = Grammar.preset("small")
    return grammar, absynth.generate(grammar, 100_000, seed=11)


def test_a_sentence_does_not_depend_on_n_chunk_or_workers():
    grammar = Grammar.preset("tiny")
    whole = absynth.generate(grammar, 3 * BLOCK + 10, seed=5)
    for n in (0, 1, BLOCK - 1, BLOCK + 1):
        part = absynth.generate(grammar, n, seed=5)
        assert len(part) == n
        assert part.fingerprint == whole[:n].fingerprint
    for chunk in (1, BLOCK, 3 * BLOCK):
        parts = list(absynth.stream(grammar, len(whole), seed=5, chunk=chunk))
        assert absynth.Corpus.concatenate(parts).fingerprint == whole.fingerprint
    assert absynth.generate(grammar, 100, seed=6).fingerprint != whole[:100].fingerprint


@pytest.mark.parametrize("exact", [False, True])
def test_several_processes_draw_the_same(exact):
    grammar, n = Grammar.preset("tiny"), 20 * BLOCK + 7
    one = absynth.generate(grammar, n, seed=5, exact=exact)
    assert absynth.generate(grammar, n, seed=5, workers=2, exact=exact).fingerprint == one.fingerprint


def test_hash_seed_changes_nothing(tmp_path):
    code = (
        "import absynth, sys; c = absynth.generate(absynth.Grammar.preset('tiny', ambiguity=0.2), 3000, seed=1);"
        "c.save(sys.argv[1] + '.parquet'); c.save(sys.argv[1] + '.jsonl')"
    )
    found = set()
    for hash_seed in ("0", "1", "77"):
        path = tmp_path / hash_seed
        subprocess.run(
            [sys.executable, "-c", code, str(path)], check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}
        )
        found.add(
            tuple(
                hashlib.sha256((tmp_path / f"{hash_seed}.{s}").read_bytes()).hexdigest() for s in ("parquet", "jsonl")
            )
        )
    assert len(found) == 1


@pytest.mark.parametrize(
    ("layer", "name"), [("frame", "frame"), ("complexity", "level"), ("construction", "construction")]
)
def test_shares_pass_chi_square(small, layer, name):
    grammar, corpus = small
    codes, names = corpus.sentence_column(layer)
    expected = np.array([grammar.shares[name][value] for value in names]) * len(corpus)
    result = stats.chisquare(np.bincount(codes, minlength=len(names)), expected)
    assert result.pvalue > 0.01


def test_template_shares_are_independent_between_neighbours(small):
    _, corpus = small
    codes, _ = corpus.sentence_column("frame")
    table = np.zeros((codes.max() + 1,) * 2)
    np.add.at(table, (codes[:-1], codes[1:]), 1)
    assert stats.chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_zipf_exponents_come_back(strength):
    """Maximum likelihood on the known ranks, at 50,000 sentences; within 0.02 where there are enough tokens to tell."""
    grammar = Grammar.preset("small", strength=strength)
    corpus = absynth.generate(grammar, 50_000, seed=2)
    lexicon = grammar.lexicon
    word = lexicon.entry_word[corpus.entries]
    for c, name in enumerate(lexicon.categories):
        if lexicon.num_words[c] < 20:
            continue
        mine = word[lexicon.word_category[word] == c]
        logs = np.log(np.arange(1, lexicon.num_words[c] + 1) + 2.7)
        seen = logs[lexicon.word_rank[mine] - 1].mean()

        def loss(alpha, logs=logs, seen=seen):
            return alpha * seen + np.log(np.exp(-alpha * logs).sum())

        alpha = optimize.minimize_scalar(loss, bounds=(0, 4), method="bounded").x
        p = np.exp(-1.05 * logs) / np.exp(-1.05 * logs).sum()
        stderr = 1 / np.sqrt(len(mine) * (p @ logs**2 - (p @ logs) ** 2))
        # Selection ties the words of a sentence, so the effective number is a little smaller than the count.
        assert abs(alpha - 1.05) < max(0.02, 4.5 * stderr), name
        if name == "noun":
            assert abs(alpha - 1.05) < 0.02


def test_selection_reaches_the_words():
    grammar = TOYS["relative"](strength=0.7)
    corpus = absynth.generate(grammar, 60_000, seed=1)
    program = grammar.program
    row = grammar.templates.index(next(t for t in grammar.templates if t.name == "hit/c0"))
    some = corpus.select(np.flatnonzero(corpus.templates == row))
    cluster = grammar.lexicon.word_cluster[grammar.lexicon.entry_word[some.entries]].reshape(-1, 3)
    table = np.zeros((2, 2))
    np.add.at(table, (cluster[:, 1], cluster[:, 0]), 1)
    joint = program.joints[program.joint_names.index(("transitive_verb", "noun", "Agent"))]
    assert stats.chisquare(table.ravel(), joint.ravel() * len(some)).pvalue > 0.001


def test_exact_quotas():
    grammar = Grammar.preset("tiny")
    corpus = absynth.generate(grammar, 10_000, seed=3, exact=True)
    counts = np.bincount(corpus.templates, minlength=len(grammar.templates))
    assert np.abs(counts - grammar.program.probability * 10_000).max() < 1
    assert len(np.unique(corpus.templates[:100])) > 20  # shuffled


def test_mean_surprisal_is_mean_entropy(small):
    grammar, corpus = small
    oracle = absynth.Oracle(grammar)
    score = oracle.score(corpus)
    assert np.isfinite(score.surprisal).all()
    difference = np.add.reduceat(score.surprisal - score.entropy, score.offsets[:-1])
    stderr = difference.std() / np.sqrt(len(corpus))
    assert abs(difference.mean()) < 3 * stderr
    assert abs(difference.sum() / len(score.surprisal)) < 0.01
    per_token = score.surprisal.mean()
    assert per_token == pytest.approx(float(oracle.entropy_rate(samples=10)), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("target", [4.0, 6.0])
def test_with_entropy_is_measured(target):
    grammar = Grammar.preset("small").with_entropy(target)
    corpus = absynth.generate(grammar, 100_000, seed=4)
    assert absynth.Oracle(grammar).score(corpus).surprisal.mean() == pytest.approx(target, abs=0.02)


def test_ambiguous_language_keeps_the_law():
    grammar = Grammar.preset("tiny", ambiguity=0.5)
    corpus = absynth.generate(grammar, 20_000, seed=4)
    score = absynth.Oracle(grammar).score(corpus)
    difference = np.add.reduceat(score.surprisal - score.entropy, score.offsets[:-1])
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(corpus))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (dict(n=-1), "n: got -1"),
        (dict(n=2.5), "n: got 2.5"),
        (dict(n=5, seed=-1), "seed: got -1"),
        (dict(n=5, workers=0), "workers: got 0"),
        (dict(n=5, seed="x"), "seed: got 'x'"),
    ],
)
def test_wrong_requests_are_named(call, text):
    with pytest.raises(AbsynthError, match=text):
        absynth.generate(Grammar.preset("tiny"), **call)
