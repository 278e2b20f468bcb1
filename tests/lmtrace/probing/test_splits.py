"""Splits without twins: equal sentences are on one side, shares stay, and without twins nothing changes."""

from collections import Counter

import numpy as np
import pytest

import lmtrace
from lmtrace.probing.splits import held_out, sentence_split
from lmtrace.probing.tasks import probe_task
from lmtrace.signals.probe import Probe
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import tiny

WORDS = [f"w{i}" for i in range(30)]


def diced(copies, num=60, seed=0):
    """Sentences of labels drawn by dice (three classes), each one `copies` times."""
    rng = np.random.default_rng(seed)
    once = [
        AnnotatedSentence(tokens=tuple(rng.choice(WORDS, 8)), labels={"upos": tuple(rng.choice(list("XYZ"), 8))})
        for _ in range(num)
    ]
    order = rng.permutation(num * copies)
    return [(once * copies)[i] for i in order]


def sides(panel, test):
    found = {}
    for i, s in enumerate(panel.sentences):
        found.setdefault(s.tokens, set()).add(bool(test[panel.word_offsets[i]]))
    return found


@pytest.mark.parametrize("copies", [2, 3, 7])
def test_equal_sentences_are_on_one_side(copies):
    panel = Panel.from_annotated(diced(copies), WordTokenizer(WORDS), size=10_000)
    for seed in range(5):
        test = held_out(panel, "sentence", seed)
        assert max(len(s) for s in sides(panel, test).values()) == 1
        assert test.mean() == pytest.approx(0.25, abs=0.03)


def test_twins_are_equal_tokens_whatever_the_spelling():
    """Cut at six tokens, begin and end among them, the sentences of one beginning are one to the model."""
    sentences = [AnnotatedSentence(tokens=("w1", "w2", "w3", "w4", "w5", f"w{i}")) for i in range(6, 12)]
    sentences += [AnnotatedSentence(tokens=(f"w{i}", "w0")) for i in range(12, 24)]
    panel = Panel.from_annotated(sentences, WordTokenizer(WORDS), max_length=6)
    assert panel.sentence_twins.tolist() == [0] * 6 + list(range(6, 18))
    assert len(set(held_out(panel, "sentence")[panel.word_sentence < 6])) == 1


def test_without_twins_the_split_is_the_old_one():
    groups = np.repeat(np.arange(40), 3)
    for seed in range(4):
        expected = np.zeros(40, bool)
        expected[np.random.default_rng([seed, 1]).permutation(40)[:10]] = True
        assert np.array_equal(sentence_split(groups, seed), expected[groups])
        assert np.array_equal(sentence_split(groups, seed, twins=groups + 7), expected[groups])


def test_a_sentence_more_frequent_than_the_test_part_leaves_a_training_part():
    groups = np.arange(30)
    twins = np.where(groups < 20, 0, 1)
    for seed in range(6):
        test = sentence_split(groups, seed, twins=twins)
        assert 0 < test.sum() < 30
        assert not test[:20].any()


def test_labels_that_nothing_tells_are_read_at_chance_whatever_the_copies(tmp_path):
    """Without the fix the second copy is learned by heart: 0.6 and more where chance is a third."""
    tokenizer = WordTokenizer(WORDS)
    accuracies = []
    for seed in range(3):
        panel = Panel.from_annotated(diced(2, num=50, seed=seed), tokenizer, size=10_000)
        signal = Probe(labels="upos", split="sentence", control=0, kind="logistic")
        model = tiny("gpt2", tokenizer, seed=seed)
        run = lmtrace.analyze(model, panel, run=tmp_path / f"{seed}", signals=[signal])
        accuracies.append(run.series(signal="probe", metric="accuracy", label="upos").values[-1])
    assert np.mean(accuracies) == pytest.approx(1 / 3, abs=0.06)


def test_twins_are_one_unit_of_the_error():
    panel = Panel.from_annotated(diced(4, num=40), WordTokenizer(WORDS), size=10_000)
    task = probe_task(panel, panel.labels("upos"), "upos", "sentence", 0, "", "")
    tested = Counter(
        s.tokens for s, out in zip(panel.sentences, task.test[panel.word_offsets[:-1]], strict=True) if out
    )
    assert set(tested.values()) == {4}
    assert len(task.bootstrap.total) == len(tested) == 10
