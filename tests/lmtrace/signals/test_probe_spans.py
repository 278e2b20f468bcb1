"""Probes of spans and of the edges between a span and its predicate, through the public way in, against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import absynth
import lmtrace
from lmtrace.errors import ConfigError
from lmtrace.probing.edges import candidates
from lmtrace.probing.linear import linear_probe
from lmtrace.probing.spans import find_spans
from lmtrace.probing.splits import sentence_split
from lmtrace.signals.probe import Probe
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace_helpers import tiny
from probe_views import PlantedView, by, planted_activations
from text_corpora import fast_tokenizer


def slow_spans(sentence):
    """[(role, places)] of every word with a role and all that depends on it."""

    def inside(word, head):
        while word:
            if word == head:
                return True
            word = sentence.heads[word - 1]
        return False

    n = len(sentence)
    return [
        (role, [w for w in range(n) if inside(w + 1, i + 1)])
        for i, role in enumerate(sentence.labels["role"])
        if role is not None
    ]


def hidden_states(model, panel, tokenizer):
    """[sentence][word, d] of the last block by the model itself, one sentence at a time, the mean of a word's tokens."""
    result = []
    for i, ids in enumerate(panel.encoder.ids):
        with torch.no_grad():
            states = model(torch.as_tensor(ids)[None], output_hidden_states=True).hidden_states[-1][0]
        base = int(panel.encoder.offsets[i])
        rows = np.flatnonzero(panel.word_sentence == i)
        first, last = panel.encoder.word_first[rows] - base, panel.encoder.word_last[rows] - base
        result.append(torch.stack([states[a : b + 1].mean(0) for a, b in zip(first, last, strict=True)]))
    return result


@pytest.fixture(scope="module", params=["corpus", "conllu, subwords"])
def read(request, tmp_path_factory):
    """A panel of one language, from the corpus itself and from a CoNLL-U file with a subword tokenizer, and a model."""
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), 160, seed=3)
    if request.param == "corpus":
        source, tokenizer = corpus, lmtrace.WordTokenizer.from_corpus(corpus)
    else:
        source = tmp_path_factory.mktemp("spans") / "corpus.conllu"
        corpus.save(source)
        tokenizer = fast_tokenizer("gpt2")
    panel = lmtrace.Panel.from_annotated(source, tokenizer, size=160, policy="mean")
    words = lmtrace.WordTokenizer.from_corpus(corpus)
    model = tiny("gpt2", words) if request.param == "corpus" else _gpt2(len(tokenizer))
    return panel, tokenizer, model.eval()


def _gpt2(vocabulary):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=2, n_positions=256))


def test_a_conllu_file_of_a_corpus_keeps_its_semantic_layers(tmp_path):
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), 30, seed=0)
    corpus.save(tmp_path / "corpus.conllu")
    tokenizer = lmtrace.WordTokenizer.from_corpus(corpus)
    own = lmtrace.Panel.from_annotated(corpus, tokenizer, size=30)
    from_file = lmtrace.Panel.from_annotated(tmp_path / "corpus.conllu", tokenizer, size=30)
    for layer in ("role", "predicate", "frame", "category", "cluster"):
        a, b = own.labels(layer), from_file.labels(layer)
        assert a.names == b.names
        assert (a.codes == b.codes).all()


@pytest.mark.parametrize("how", ["mean", "first", "last"])
def test_spans_equal_a_loop_over_sentences(read, how, tmp_path):
    panel, tokenizer, model = read
    signals = [Probe(labels="role", span=how, sites=("embed", "final")), Probe(labels="role", sites=("embed", "final"))]
    run = lmtrace.analyze(model, panel, run=tmp_path / "run", signals=signals)
    x, y, groups = [], [], []
    for i, (sentence, states) in enumerate(zip(panel.sentences, hidden_states(model, panel, tokenizer), strict=True)):
        for role, places in slow_spans(sentence):
            x.append({"mean": states[places].mean(0), "first": states[places[0]], "last": states[places[-1]]}[how])
            y.append(role)
            groups.append(i)
    expected = linear_probe(torch.stack(x), y, groups=groups)
    series = run.series(signal="probe", metric="accuracy", label=f"role:span-{how}", split="sentence")
    assert series.values[0][series.sites.index("final")] == pytest.approx(expected.accuracy, abs=2.1 / expected.n_test)
    assert series.n[0][series.sites.index("final")] == expected.n_test
    alone = run.series(signal="probe", metric="accuracy", label="role", split="sentence")
    assert alone.values.shape == series.values.shape


def test_a_span_is_read_where_its_head_word_alone_says_nothing():
    """The label is the first word of a phrase of three; the head is the last."""
    rng = np.random.default_rng(0)
    sentences, kinds = [], []
    for i in range(150):
        kind = int(rng.integers(3))
        kinds.append(kind)
        tokens = (f"m{kind}", f"x{rng.integers(5)}", f"n{rng.integers(5)}", "v")
        sentences.append(
            AnnotatedSentence(
                tokens=tokens, heads=(3, 3, 4, 0), labels={"role": (None, None, "ABC"[kind], None)}, sent_id=str(i)
            )
        )
    tokenizer = lmtrace.WordTokenizer.from_words(sorted({t for s in sentences for t in s.tokens}))
    panel = lmtrace.Panel.from_annotated(sentences, tokenizer, size=150)
    table = torch.randn(len(panel.type_names), 16, generator=torch.Generator().manual_seed(0))
    view = PlantedView(panel, {"embed": table[torch.as_tensor(panel.word_types)]})
    found = {
        span: by(list(Probe(labels="role", span=span).measure(view)), "accuracy").value
        for span in ("", "mean", "first", "last")
    }
    assert found["mean"] > 0.95
    assert found["first"] > 0.95
    assert found[""] < 0.6
    assert found["last"] == found[""]


def test_chunks_are_labels_of_spans():
    rng = np.random.default_rng(1)
    sentences = []
    for i in range(120):
        kind = "PER" if rng.random() < 0.5 else "LOC"
        tokens = ("a", f"{kind}{rng.integers(4)}", f"y{rng.integers(4)}", "b", f"z{rng.integers(3)}")
        labels = {"ner": ("O", f"B-{kind}", f"I-{kind}", "O", "B-ORG")}
        sentences.append(AnnotatedSentence(tokens=tokens, labels=labels, sent_id=str(i)))
    tokenizer = lmtrace.WordTokenizer.from_words(sorted({t for s in sentences for t in s.tokens}))
    panel = lmtrace.Panel.from_annotated(sentences, tokenizer, size=120)
    table = torch.randn(len(panel.type_names), 16, generator=torch.Generator().manual_seed(0))
    records = list(
        Probe(labels="ner", span="mean").measure(
            PlantedView(panel, {"embed": table[torch.as_tensor(panel.word_types)]})
        )
    )
    accuracy = by(records, "accuracy")
    assert accuracy.value > 0.95
    held_out = sentence_split(panel.word_sentence, 0)
    assert accuracy.n == 2 * len(np.unique(panel.word_sentence[held_out]))
    assert {r.label for r in records if r.metric == "f1"} == {f"ner:span-mean={name}" for name in ("PER", "LOC", "ORG")}


def test_edges_of_spans_are_those_of_a_loop(read):
    panel, _, _ = read
    spans = find_spans(panel, panel.labels("role"))
    rows, heads, right = candidates(panel, panel.labels("predicate"), spans)
    expected = []
    for i, s in enumerate(panel.sentences):
        base = int(panel.word_offsets[i])
        governors = {int(p) - 1 for p in s.labels["predicate"] if p is not None}
        for w, places in [
            (w, p)
            for w in range(len(s))
            for role, p in slow_spans(s)
            if s.labels["role"][w] == role and _heads(s, p, w)
        ]:
            if w in governors or len(governors) < 2:
                continue
            asked = sorted(p for p in governors if p not in places)
            if len(asked) > 1:
                expected += [(base + w, base + p, int(s.labels["predicate"][w]) - 1 == p) for p in asked]
    assert list(zip(rows.tolist(), heads.tolist(), [bool(r) for r in right], strict=True)) == expected
    assert len(expected) > 20
    x = torch.randn(panel.num_words, 5, generator=torch.Generator().manual_seed(0))
    records = list(Probe(pair="predicate", span="mean").measure(PlantedView(panel, {"embed": x})))
    record = by(records, "accuracy")
    assert record.label == "predicate:span-mean"
    held_out = sentence_split(panel.word_sentence, 0)
    assert record.n == int(held_out[rows].sum())


def _heads(sentence, places, word):
    return word in places and all(sentence.heads[word] - 1 != p for p in places)


def test_an_edge_reads_the_span_beside_the_head():
    """Which label a phrase has is said by its first word and by its governor together."""
    rng = np.random.default_rng(2)
    sentences = []
    for i in range(200):
        a, b = rng.integers(2, size=2)
        tokens = (f"m{a}", f"n{rng.integers(4)}", f"v{b}")
        role = "same" if a == b else "other"
        sentences.append(
            AnnotatedSentence(tokens=tokens, heads=(2, 3, 0), labels={"role": (None, role, None)}, sent_id=str(i))
        )
    tokenizer = lmtrace.WordTokenizer.from_words(sorted({t for s in sentences for t in s.tokens}))
    panel = lmtrace.Panel.from_annotated(sentences, tokenizer, size=200)
    x = torch.randn(panel.num_words, 6, generator=torch.Generator().manual_seed(0))
    # The first word of the phrase and the verb carry bits whose product is the label, and the verb says it aloud.
    bit = torch.tensor([[float(s.tokens[0][1]), float(s.tokens[2][1])] for s in panel.sentences])
    x[0::3, 0] += 6 * bit[:, 0]
    x[2::3, 1] += 6 * (bit[:, 0] == bit[:, 1]).float()
    found = [
        by(
            list(Probe(labels="role", pair=pair, span="first").measure(PlantedView(panel, {"embed": x}))), "accuracy"
        ).value
        for pair in ("", "head")
    ]
    assert found[0] < 0.65
    assert found[1] > 0.9


def test_wrong_spans_are_told():
    with pytest.raises(ConfigError, match="probe: span is 'max'"):
        Probe(labels="role", span="max")
    sentence = AnnotatedSentence(tokens=("a", "b"), labels={"role": ("X", "Y")})
    panel = lmtrace.Panel.from_annotated([sentence], lmtrace.WordTokenizer.from_words(["a", "b"]))
    (record,) = Probe(labels="role", span="mean").measure(PlantedView(panel, {"embed": torch.zeros(2, 3)}))
    assert "no syntactic heads" in record.missing
    assert record.label == "role:span-mean"


def test_spans_of_two_layers_with_the_same_heads_are_read_each_as_it_is():
    """One layer's spans reach a word further than the other's: side by side they are read as they are alone."""
    rng = np.random.default_rng(0)
    sentences = []
    for i in range(150):
        types = rng.integers(40, size=6)
        kinds = ["XY"[t % 2] for t in types[1::2]]  # what the second word of each pair is
        long = tuple(f"{place}-{kind}" for kind in kinds for place in "BI")
        short = tuple(tag for kind in kinds for tag in (f"B-{kind}", "O"))
        tokens = tuple(f"w{t}" for t in types)
        sentences.append(AnnotatedSentence(tokens=tokens, labels={"long": long, "short": short}, sent_id=str(i)))
    tokenizer = lmtrace.WordTokenizer.from_words([f"w{t}" for t in range(40)])
    panel = lmtrace.Panel.from_annotated(sentences, tokenizer, size=150)
    x = planted_activations(panel)["embed"]

    def accuracies(labels):
        records = Probe(labels=labels, span="mean", split="sentence", control=0).measure(
            PlantedView(panel, {"embed": x})
        )
        return {r.label: r.value for r in records if r.metric == "accuracy"}

    together = accuracies(("long", "short"))
    assert together == {**accuracies("long"), **accuracies("short")}
    assert together["long:span-mean"] > together["short:span-mean"] + 0.1
