"""Spans of several words: against a walk through the tree and a reading of chunks, word by word."""

import numpy as np
import pytest
import torch

import absynth
from lmtrace.probing.spans import find_spans
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer
from text_corpora import fast_tokenizer


def slow_subtrees(sentence, layer):
    """[(label, head place, places)] of every labelled word with all that depends on it."""
    children = {i: [] for i in range(len(sentence) + 1)}
    for i, head in enumerate(sentence.heads):
        children[head].append(i + 1)

    def below(word):
        return sorted([word, *(w for child in children[word] for w in below(child))])

    return [
        (value, i, [w - 1 for w in below(i + 1)]) for i, value in enumerate(sentence.labels[layer]) if value is not None
    ]


def slow_chunks(values):
    """[(label, places)] in the reading of the CoNLL shared tasks."""
    found, current = [], None
    for i, value in enumerate(values):
        if value is None or value == "O":
            current = None
        elif value.startswith("I-") and current is not None and current[0] == value[2:]:
            current[1].append(i)
        else:
            current = (value[2:], [i])
            found.append(current)
    return found


def flat(panel, spans):
    """[(sentence, label, head place, places)] of what was found."""
    rows = []
    for k in range(len(spans)):
        member = spans.member[spans.offsets[k] : spans.offsets[k + 1]]
        assert len(set(panel.word_sentence[member])) == 1
        place = panel.word_position
        rows.append(
            (
                int(panel.word_sentence[member[0]]),
                spans.names[spans.codes[k]],
                int(place[spans.head[k]]),
                place[member].tolist(),
            )
        )
    return rows


def test_subtrees_of_a_corpus_are_its_phrases():
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), 60, seed=0)
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus), size=60)
    found = flat(panel, find_spans(panel, panel.labels("role")))
    expected = [(i, *row) for i, s in enumerate(panel.sentences) for row in slow_subtrees(s, "role")]
    assert found == expected
    assert max(len(places) for *_, places in found) > 3
    assert any(len(places) == 1 for *_, places in found)


def test_a_span_with_a_gap_holds_its_own_words_only():
    """A hearing is scheduled on the issue: "on the issue" belongs to the hearing."""
    sentence = AnnotatedSentence(
        tokens=tuple(["a", "hearing", "is", "scheduled", "on", "the", "issue"]),
        heads=(2, 4, 4, 0, 7, 7, 2),
        labels={"role": (None, "Theme", None, None, None, None, None)},
    )
    panel = Panel.from_annotated([sentence], WordTokenizer.from_words(sentence.tokens))
    assert flat(panel, find_spans(panel, panel.labels("role"))) == [(0, "Theme", 1, [0, 1, 4, 5, 6])]


@pytest.mark.parametrize("tree", [True, False])
def test_chunks_are_those_of_a_reading_word_by_word(tree):
    rng = np.random.default_rng(0)
    sentences = []
    for k in range(80):
        n = int(rng.integers(1, 9))
        values = [str(v) for v in rng.choice(["O", "B-X", "I-X", "B-Y", "I-Y", ""], n)]
        heads = tuple([0, *(int(rng.integers(1, j + 1)) for j in range(1, n))]) if tree else None
        labels = {"ner": tuple(v or None for v in values)}
        sentences.append(
            AnnotatedSentence(tokens=tuple(f"w{j}" for j in range(n)), labels=labels, heads=heads, sent_id=str(k))
        )
    panel = Panel.from_annotated(sentences, WordTokenizer.from_words([f"w{j}" for j in range(9)]), size=80)
    found = flat(panel, find_spans(panel, panel.labels("ner")))
    expected = []
    for i, s in enumerate(panel.sentences):
        for label, places in slow_chunks(s.labels["ner"]):
            heads = [p for p in places if not tree or s.heads[p] - 1 not in places]
            expected.append((i, label, heads[0], places))
    assert found == expected
    assert {label for _, label, *_ in found} == {"X", "Y"}


def test_pooling_is_a_loop_over_words():
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), 30, seed=1)
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus), size=30)
    spans = find_spans(panel, panel.labels("role"))
    x = torch.randn(panel.num_words, 7, generator=torch.Generator().manual_seed(0)) + 1000
    members = [spans.member[a:b] for a, b in zip(spans.offsets[:-1], spans.offsets[1:], strict=True)]
    for how, one in (
        ("mean", lambda m: x[m].double().mean(0).float()),
        ("first", lambda m: x[m[0]]),
        ("last", lambda m: x[m[-1]]),
    ):
        torch.testing.assert_close(spans.pool(x, how), torch.stack([one(m) for m in members]), rtol=0, atol=1e-4)


def test_a_span_that_loses_a_word_is_left_out():
    words = ["the", "dog", "that", "sees", "the", "cat", "runs"]
    sentence = AnnotatedSentence(
        tokens=tuple(words),
        heads=(2, 7, 4, 2, 6, 4, 0),
        labels={
            "role": (None, "Agent", "Agent", None, None, "Patient", None),
            "ner": ("O", "B-D", "I-D", "O", "B-C", "I-C", "I-C"),
        },
    )
    tokenizer = WordTokenizer.from_words(words)
    whole = Panel.from_annotated([sentence], tokenizer)
    assert len(find_spans(whole, whole.labels("role"))) == 3
    cut = Panel.from_annotated([sentence], tokenizer, max_length=5)  # <s> and four words
    assert [label for _, label, *_ in flat(cut, find_spans(cut, cut.labels("role")))] == ["Agent"]  # "that"
    assert [label for _, label, *_ in flat(cut, find_spans(cut, cut.labels("ner")))] == ["D"]
    cut = Panel.from_annotated([sentence], tokenizer, max_length=7)  # the second chunk goes on after the cut
    assert [label for _, label, *_ in flat(cut, find_spans(cut, cut.labels("ner")))] == ["D"]


def test_words_of_many_subtokens_are_members_like_any_other():
    """A span is made of words: each counts once in its mean, however many tokens it has."""
    corpus = [
        AnnotatedSentence(
            tokens=("the", "unbelievably", "big", "dog", "runs"),
            heads=(4, 3, 4, 5, 0),
            labels={"role": (None, None, None, "Agent", None)},
        )
    ]
    panel = Panel.from_annotated(corpus, fast_tokenizer("gpt2"))
    spans = find_spans(panel, panel.labels("role"))
    assert flat(panel, spans) == [(0, "Agent", 3, [0, 1, 2, 3])]


def test_no_tree_is_a_reason():
    sentence = AnnotatedSentence(tokens=("a", "b"), labels={"role": ("X", None), "ner": ("O", "O")})
    panel = Panel.from_annotated([sentence], WordTokenizer.from_words(["a", "b"]))
    assert (
        find_spans(panel, panel.labels("role"))
        == "the panel has no syntactic heads to take spans from, and the layer no B- and I-"
    )
    assert find_spans(panel, panel.labels("ner")) == "no word is in a chunk"
