"""Errors where there is little to take them from: never 0 for want of units."""

import numpy as np
import pytest

import lmtrace
from lmtrace.analysis.findings import findings
from lmtrace.numerics.clustered import clustered_mean, grouped_means
from lmtrace.probing.scores import ONE_UNIT, Bootstrap, Tally, bootstrap_weights
from lmtrace.signals.probe import Probe
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import tiny


def bootstrap(sizes):
    return Bootstrap(np.asarray(sizes, float), bootstrap_weights(len(sizes)))


def tally(groups, seed=0, right=None):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), 20)
    gold = rng.integers(3, size=len(group))
    predicted = rng.integers(3, size=len(group)) if right is None else (gold if right else (gold + 1) % 3)
    return Tally.of(gold, predicted, np.full(len(group), 0.5), group, 3)


def test_one_group_gives_no_error_of_a_gain():
    estimate, low = bootstrap([45]).gain(np.array([30.0]), np.array([24.0]))
    assert (estimate.value, estimate.stderr, estimate.note) == (pytest.approx(6 / 45), None, ONE_UNIT)
    assert low == -np.inf


def test_one_group_gives_no_error_of_f1():
    counts = tally(1)
    per_class, macro = bootstrap(counts.total).f1_scores(counts, ("a", "b", "c"), 1)
    assert macro.value is not None
    assert (macro.stderr, macro.note) == (None, ONE_UNIT)
    assert [f1.stderr for f1 in per_class.values()] == [None] * 3


@pytest.mark.parametrize("groups", [2, 5, 50])
def test_groups_that_agree_on_a_gain_are_counted(groups):
    """Every group gains a quarter: by hand, with p10 = (G / 4 + 1/2) / (G + 2), p01 = (1/2) / (G + 2)."""
    estimate, low = bootstrap([8] * groups).gain(np.full(groups, 6.0), np.full(groups, 4.0))
    better, worse = (groups / 4 + 0.5) / (groups + 2), 0.5 / (groups + 2)
    expected = np.sqrt((better + worse - (better - worse) ** 2) / (groups + 2))
    assert estimate.stderr == pytest.approx(expected)
    assert (low > 0) == (groups == 50)
    loss, low = bootstrap([8] * groups).gain(np.full(groups, 4.0), np.full(groups, 6.0))
    assert loss.stderr == pytest.approx(expected)
    assert low < 0


@pytest.mark.parametrize("right", [True, False])
def test_f1_that_is_the_same_in_all_groups_has_the_binomial_error_of_the_groups(right):
    counts = tally(12, right=right)
    per_class, macro = bootstrap(counts.total).f1_scores(counts, ("a", "b", "c"))
    centre = (12 * right + 2) / 16
    one = np.sqrt(centre * (1 - centre) / 16)
    assert macro.value == float(right)
    assert [f1.stderr for f1 in per_class.values()] == [pytest.approx(one)] * 3
    assert macro.stderr == pytest.approx(one / np.sqrt(3))


def test_clusters_of_one_mean_give_no_error_and_constants_one_of_zero():
    clusters = np.array([4, 4, 9, 9, 7, 7])
    same = clustered_mean(np.array([0.3, 0.7, 0.7, 0.3, 0.5, 0.5]), clusters)
    assert (same.value, same.stderr) == (pytest.approx(0.5), None)
    assert "one mean" in same.note
    assert clustered_mean(np.full(6, 0.1), clusters).stderr == pytest.approx(0.0, abs=1e-15)
    values = np.stack([[0.3, 0.7, 0.7, 0.3, 0.5, 0.5], [0.3, 0.7, 0.7, 0.3, 0.5, 0.6]], 1)
    grouped = grouped_means(values, np.zeros(6, np.int64), clusters, 1)
    assert np.isnan(grouped.stderr[0, 0])
    assert grouped.stderr[0, 1] == pytest.approx(clustered_mean(values[:, 1], clusters).stderr)


def test_a_test_part_of_one_sentence_resolves_nothing(tmp_path):
    rng = np.random.default_rng(2)
    words = [f"w{i}" for i in range(9)]
    sentences = [
        AnnotatedSentence(tokens=tuple(row), labels={"upos": tuple("PQR"[int(w[1:]) % 3] for w in row)})
        for row in rng.choice(words, (4, 25))
    ]
    tokenizer = WordTokenizer(words)
    panel = Panel.from_annotated(sentences, tokenizer)
    run = lmtrace.analyze(tiny("gpt2", tokenizer), panel, run=tmp_path / "run", signals=[Probe(split="sentence")])
    for metric in ("macro_f1", "selectivity", "gain_over_embed"):
        series = run.series(signal="probe", metric=metric, label="upos")
        assert np.isfinite(series.values[-1]).all()
        assert series.stderr is None or np.isnan(series.stderr[-1]).all(), metric
    verdicts = [r for r in run.records() if r.metric == "contextual"]
    assert {(r.value, r.missing) for r in verdicts} == {(None, ONE_UNIT)}
    for finding in findings(run):
        if "selectivity" in finding.kind or "contextual" in finding.kind:
            assert "clear of zero" not in finding.sentence
