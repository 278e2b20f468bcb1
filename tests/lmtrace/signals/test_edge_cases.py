"""Every linguistic signal in every awkward case: what the shared pass gives equals one unpadded sentence after the other.

Probes, trees and beliefs are measured again on activations that a loop has read, output, truth and ladder on a loop's log-probabilities;
errors and pairs, which ask the model themselves, on models whose answers are known.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

import absynth
from fake_view import FakeView
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.belief import Belief
from lmtrace.signals.errors import Errors
from lmtrace.signals.ladder import Ladder
from lmtrace.signals.output import Output
from lmtrace.signals.pairs import Pairs
from lmtrace.signals.probe import Probe
from lmtrace.signals.tree_probe import TreeProbe
from lmtrace.signals.truth import Truth
from lmtrace.text.pairs import MinimalPair
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import as_annotated
from lmtrace.text.tokenizer import WordTokenizer
from probe_views import PlantedView

WORDS = ("embed", "block.0")
SIGNALS = {
    "probe": Probe(labels=("role", "upos"), split="sentence", sites=WORDS),
    "tree_probe": TreeProbe(sites=WORDS, num_steps=1),  # more steps amplify rounding
    "belief": Belief(sites=WORDS),
    "output": Output(),
    "truth": Truth(),
    "ladder": Ladder(),
}


class Labelled(list):
    """Sentences with their oracle."""

    oracle = None


def relabelled(corpus, change):
    """The corpus with some label layers changed: (index, AnnotatedSentence) -> labels."""
    found = Labelled()
    found.oracle = corpus.oracle
    for i, sentence in enumerate(corpus):
        plain = as_annotated(sentence)
        labels = {**plain.labels, **change(i, plain)}
        found.append(
            type(plain)(tokens=plain.tokens, labels=labels, heads=plain.heads, deprels=plain.deprels, info=plain.info)
        )
    return found


@functools.cache
def corpus():
    return absynth.generate(absynth.Grammar.preset("tiny"), 160, seed=0)


@functools.cache
def byte_tokenizer():
    """Byte-level, nothing merged: every word has as many tokens as bytes, and the space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i + 3 for i, symbol in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab={"<pad>": 0, "<s>": 1, "<mask>": 2, **vocabulary}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = {
        "pad_token": "<pad>",
        "eos_token": "<s>",
        "bos_token": "<s>",
        "cls_token": "<s>",
        "sep_token": "<s>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def long_words():
    """The corpus with every word spelt in at least ten characters."""
    found = Labelled()
    for sentence in corpus()[:60]:
        plain = as_annotated(sentence)
        tokens = tuple((word * 10)[:10] for word in plain.tokens)
        found.append(type(plain)(tokens=tokens, labels=plain.labels, heads=plain.heads, deprels=plain.deprels))
    return found


def panel_of(case, objective):
    words = WordTokenizer.from_corpus(corpus())
    build = functools.partial(Panel.from_annotated, objective=objective)
    if case == "one sentence":
        return build(corpus()[:1], words, training=corpus()[1:])
    if case == "one class":
        return build(
            relabelled(corpus(), lambda i, s: {"role": ("X",) * len(s), "upos": ("Y",) * len(s)}), words, size=120
        )
    if case == "a class seen once":
        once = relabelled(corpus(), lambda i, s: {"role": ("RARE" if i == 7 else None, *s.labels["role"][1:])})
        return build(once, words, size=160)
    if case == "ten subwords":
        return build(long_words(), byte_tokenizer(), size=60)
    if case == "ten subwords, mean":
        return build(long_words(), byte_tokenizer(), size=60, policy="mean")
    if case == "longer than the context":
        return build(corpus(), words, size=160, max_length=7, training=corpus()[:100])
    if case == "subwords longer than the context":
        return build(long_words(), byte_tokenizer(), size=60, max_length=64, policy="first")
    return build(corpus(), words, size=120, training=corpus()[:100])


CASES = (
    "plain",
    "one sentence",
    "one class",
    "a class seen once",
    "ten subwords",
    "ten subwords, mean",
    "longer than the context",
    "subwords longer than the context",
    "left padding",
)


@functools.cache
def model_of(style, vocabulary):
    """Two blocks of width 32 that read 640 tokens at most."""
    import transformers as t

    torch.manual_seed(0)
    shared = {"vocab_size": vocabulary}
    if style == "gpt2":
        found = t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=640, **shared))
    elif style == "llama":
        found = t.LlamaForCausalLM(
            t.LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=640, **shared)
        )  # fmt: skip
    else:
        found = t.BertForMaskedLM(
            t.BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=640, **shared)
        )  # fmt: skip
    with torch.no_grad():  # far from the uniform law, so that a shifted row would be seen
        for parameter in found.parameters():
            parameter.mul_(3)
    return found.eval()


@functools.cache
def read_slowly(case, style):
    """(panel, {site: [words, d]}, [predictions, vocabulary]) of one unpadded sentence after the other."""
    panel = panel_of(case, "masked" if style == "bert" else "causal")
    model = model_of(style, len(panel.tokenizer))
    words = {site: torch.zeros(panel.num_words, 32) for site in WORDS}
    laws = []
    for i, ids in enumerate(panel.encoder.ids):
        with torch.no_grad():
            output = model(torch.as_tensor(ids)[None], output_hidden_states=True)
        base = int(panel.encoder.offsets[i])
        for word in np.flatnonzero(panel.word_sentence == i).tolist():
            first, last = int(panel.encoder.word_first[word]) - base, int(panel.encoder.word_last[word]) - base
            if panel.encoder.word_first[word] < 0:
                continue
            for site, states in zip(WORDS, output.hidden_states, strict=False):
                own = states[0, first : last + 1]
                words[site][word] = {"first": own[0], "last": own[-1], "mean": own.mean(0)}[panel.policy]
        read = ids if panel.masked_ids is None else panel.masked_ids[i]
        with torch.no_grad():  # words are read without masks, predictions are made at them
            law = model(torch.as_tensor(read)[None]).logits[0].log_softmax(-1)
        mine = panel.predictions.sentence == i
        masks = np.flatnonzero(read == panel.tokenizer.mask_token_id)
        columns = masks if style == "bert" else np.arange(len(ids) - 1)
        assert len(columns) == mine.sum()
        laws.append(law[columns])
    return panel, words, torch.cat(laws)


def comparable(records):
    return {(r.metric, r.label, r.site, r.split): r for r in records}


@pytest.mark.parametrize("style", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SIGNALS)
def test_the_pass_gives_what_single_sentences_give(name, case, style, monkeypatch):
    panel, words, law = read_slowly("plain" if case == "left padding" else case, style)
    if case == "left padding":
        monkeypatch.setattr(Panel, "batches", functools.partialmethod(Panel.batches, padding_side="left"))
    signal = SIGNALS[name]
    if name in ("output", "truth", "ladder"):
        view = FakeView(panel, signal, law)
        if not view.needs.logits:
            view.reduced = dict
    else:
        view = PlantedView(panel, words, truth=panel.truth)
    expected = comparable(signal.measure(view))
    model = model_of(style, len(panel.tokenizer))
    # Several batches of unequal lengths.
    instrument = Instrument(
        model, panel, [signal], on_error="raise", max_logits=8 * len(panel.tokenizer) * panel.longest
    )
    found = comparable(r for r in instrument.measure(0) if r.signal == name)
    assert found.keys() == expected.keys()
    for key, record in found.items():
        other = expected[key]
        assert record.missing == other.missing, key
        assert record.n == other.n, key
        if record.missing is None:
            # Near ties may fall to the other side: at most two words, one edge or one pair of distances.
            slack = 2.5 / record.n if name == "probe" and record.n else 1e-2 if name == "tree_probe" else 1e-4
            assert record.value == pytest.approx(other.value, abs=slack, rel=1e-4), key
            assert math.isfinite(record.value)


def test_what_the_cases_give():
    """That the comparison above compared numbers, or the reasons that it should have."""

    def measured(name, case):
        panel, words, law = read_slowly(case, "gpt2")
        view = (
            FakeView(panel, SIGNALS[name], law)
            if name in ("output", "truth", "ladder")
            else PlantedView(panel, words, truth=panel.truth)
        )
        if isinstance(view, FakeView) and not view.needs.logits:
            view.reduced = dict
        return comparable(SIGNALS[name].measure(view)), panel

    for name, reason in (
        ("probe", "1 sentence cannot be split"),
        ("tree_probe", "1 sentences"),
        ("belief", "1 sentences"),
    ):
        records, _ = measured(name, "one sentence")
        assert all(reason in r.missing for r in records.values() if r.metric in ("accuracy", "uuas", "r2"))
    records, _ = measured("probe", "one sentence")
    ceilings = [r for r in records.values() if r.metric == "ceiling"]
    assert ceilings
    assert all(r.stderr is None for r in ceilings), "one sentence has no standard error"
    for name in ("output", "truth", "ladder"):
        records, panel = measured(name, "one sentence")
        first = next(r for r in records.values() if r.metric in ("loss", "kl"))
        assert first.value is not None
        assert first.stderr is None, "one sentence has no standard error"
        assert first.n == len(panel.predictions)
    records, _ = measured("probe", "one class")
    assert all(r.missing.startswith("only one class") for r in records.values() if r.metric == "accuracy")
    for name in ("output", "truth"):
        records, _ = measured(name, "one class")
        metric = "loss" if name == "output" else "kl"
        [same] = [r.value for r in records.values() if (r.metric, r.label) == (metric, "role=X")]
        [other] = [r.value for r in records.values() if (r.metric, r.label) == (metric, "upos=Y")]
        assert same == other, "every word has both"
    records, panel = measured("probe", "a class seen once")
    rare = [r for r in records.values() if r.label == "role=RARE"]
    assert rare
    assert all("RARE" in r.missing for r in rare)
    [accuracy] = [r for r in records.values() if (r.metric, r.label, r.site) == ("accuracy", "role", "embed")]
    assert accuracy.value is not None
    records, _ = measured("output", "a class seen once")
    [rare] = [r for r in records.values() if r.label == "role=RARE"]
    assert rare.n == 1
    assert "fewer than 5" in rare.missing
    records, panel = measured("truth", "ten subwords")
    assert all(r.missing for r in records.values())
    records, panel = measured("output", "ten subwords")
    kinds = {
        label: r.n
        for (metric, label, _, _), r in records.items()
        if metric == "loss" and str(label).startswith("token=")
    }
    assert kinds["token=first"] == panel.num_words
    assert kinds["token=continuation"] >= 9 * panel.num_words
    records, panel = measured("probe", "longer than the context")
    cut = panel.encoder.word_first < 0
    assert 50 < cut.sum() < panel.num_words
    from lmtrace.probing.splits import sentence_split

    role = panel.labels("role").codes
    [accuracy] = [r for r in records.values() if (r.metric, r.label, r.site) == ("accuracy", "role", "embed")]
    assert accuracy.n == (sentence_split(panel.word_sentence, 0) & (role >= 0)).sum()
    assert not (role[cut] >= 0).any()
    records, panel = measured("tree_probe", "longer than the context")
    whole = [
        i for i in range(panel.num_sentences) if not cut[panel.word_sentence == i].any() and len(panel.sentences[i]) > 2
    ]
    assert 0 < next(r.n for r in records.values() if r.metric == "uuas") < len(whole), "cut trees are no trees"


# -- signals that ask the model themselves ---------------------------------------------------------------------------------


def pair_records(tokenizer, pairs, style="gpt2", panel=None):
    model = model_of(style, len(tokenizer))
    panel = panel or Panel.from_annotated(corpus()[:20], tokenizer, objective="masked" if style == "bert" else "causal")
    signal = Pairs(pairs=tuple(pairs), masking="original")  # one token hidden in turn, as the loop does
    instrument = Instrument(model, panel, [signal], on_error="raise")
    return comparable(r for r in instrument.measure(0) if r.signal == "pairs"), model


def slow_log_likelihood(model, tokenizer, text, masked):
    """Nats of one sentence: the next token at each place; for masked models each token hidden in turn."""
    ids = (
        tokenizer.encode(list(text))
        if isinstance(tokenizer, WordTokenizer)
        else tokenizer(" ".join(text), add_special_tokens=False)["input_ids"]
    )
    begin = tokenizer.cls_token_id if masked and not isinstance(tokenizer, WordTokenizer) else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if masked and not isinstance(tokenizer, WordTokenizer) else tokenizer.eos_token_id
    row, total = [begin, *ids, end], 0.0
    for at in range(1, len(row)):
        if masked and at == len(row) - 1:
            continue
        seen = list(row)
        if masked:
            seen[at] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(torch.tensor([seen if masked else seen[:at]])).logits[0, at if masked else at - 1]
        total += float(logits.double().log_softmax(-1)[row[at]])
    return total


@pytest.mark.parametrize("style", ["gpt2", "bert"])
@pytest.mark.parametrize("case", ["words", "ten subwords"])
def test_pairs_of_unequal_length_equal_a_loop(style, case):
    sentences = corpus()[:24] if case == "words" else long_words()[:12]
    tokenizer = WordTokenizer.from_corpus(corpus()) if case == "words" else byte_tokenizer()
    texts = [tuple(s.tokens) for s in sentences]
    pairs = [MinimalPair(a, b, "k") for a, b in zip(texts[::2], texts[1::2], strict=True)]
    panel = Panel.from_annotated(sentences, tokenizer, objective="masked" if style == "bert" else "causal", end=True)
    records, model = pair_records(tokenizer, pairs, style, panel)
    margins = [
        slow_log_likelihood(model, tokenizer, p.good, style == "bert")
        - slow_log_likelihood(model, tokenizer, p.bad, style == "bert")
        for p in pairs
    ]
    assert records["margin", None, None, None].value == pytest.approx(np.mean(margins), rel=1e-5, abs=1e-4)
    assert records["accuracy", None, None, None].value == np.mean([m > 0 for m in margins])


def test_one_pair_a_kind_seen_once_and_pairs_beyond_the_context():
    tokenizer = WordTokenizer.from_corpus(corpus())
    a, b = tuple(corpus()[0].tokens), tuple(corpus()[1].tokens)
    records, _ = pair_records(tokenizer, [MinimalPair(a, b, "only")])
    assert all(r.value is None or math.isfinite(r.value) for r in records.values())
    assert all(r.value is not None or r.missing for r in records.values())
    twelve = [MinimalPair(a, b, "many")] * 12
    records, _ = pair_records(tokenizer, [*twelve, MinimalPair(a, b, "once")])
    assert records["accuracy", "kind=many", None, None].value in (0.0, 1.0)
    once = records["accuracy", "kind=once", None, None]
    assert once.missing or once.n == 1
    long = tuple(w for s in corpus() for w in s.tokens)
    assert len(long) > 640
    records, _ = pair_records(tokenizer, [*twelve, MinimalPair(long, b, "long")])
    assert records["left_out", None, None, None].value == pytest.approx(1 / 13)
    assert records["accuracy", None, None, None].n == 12
    assert records["accuracy", "kind=long", None, None].missing


def test_errors_of_a_panel_of_one_sentence_and_a_model_that_says_nothing_or_never_ends():
    words = WordTokenizer.from_corpus(corpus())
    one = Panel.from_annotated(corpus()[:1], words, training=corpus()[1:])

    class Saying(torch.nn.Module):
        """A model whose `generate` gives the same ids to all."""

        def __init__(self, ids):
            super().__init__()
            self.ids, self.head = ids, torch.nn.Linear(2, 2)

        def generate(self, start, max_new_tokens, **settings):
            rows = torch.tensor(self.ids * (1 + max_new_tokens))[:max_new_tokens]
            return torch.cat([start, rows.expand(len(start), -1)], 1)

    from types import SimpleNamespace

    def records(ids):
        notes = []
        view = SimpleNamespace(
            panel=one, truth=one.truth, model=Saying(ids), memory={}, step=0,
            generator=lambda purpose="": torch.Generator().manual_seed(1), note=lambda *note: notes.append(note),
        )  # fmt: skip
        return comparable(Errors(samples=8).measure(view)), notes

    found, notes = records([words.eos_token_id])
    assert found["well_formed", None, None, None].value == 0
    assert found["rate", "type=unfinished sentence", None, None].value == 1, "nothing at all is unfinished"
    assert notes[0][2]["examples"][0]["tokens"] == []
    found, notes = records([words.encode(list(corpus()[0].tokens))[0]])  # one word for ever
    limit = math.ceil(1.5 * len(corpus()[0].tokens))
    assert {len(e["tokens"]) for e in notes[0][2]["examples"]} == {limit + 1}
    assert found["well_formed", None, None, None].value == 0
    assert sum(r.value for (metric, *_), r in found.items() if metric == "rate") == 1
    found, _ = records([words.mask_token_id, words.eos_token_id])
    assert found["rate", "type=unknown word", None, None].value == 1
    found, _ = records([*words.encode(list(corpus()[0].tokens)), words.eos_token_id])
    if len(corpus()[0].tokens) <= limit:
        assert found["well_formed", None, None, None].value == 1
        assert found["diversity", None, None, None].value == 1 / 8
        assert found["diversity", None, None, None].null is None, "one sentence cannot be as many as the samples"
        assert found["novelty", None, None, None].value in (0.0, 1.0)


@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_errors_of_a_model_whose_context_is_shorter_than_the_sentences(style):
    import transformers as t

    words = WordTokenizer.from_corpus(corpus())
    panel = Panel.from_annotated(corpus(), words, size=50, max_length=6, training=corpus()[:100])
    shared = {"vocab_size": len(words), "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    if style == "gpt2":
        model = t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=6, **shared))
    else:
        model = t.LlamaForCausalLM(
            t.LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=6, **shared)
        )  # fmt: skip
    instrument = Instrument(model.eval(), panel, [Errors(samples=64, examples=64)], on_error="raise")
    found = comparable(r for r in instrument.measure(0) if r.signal == "errors")
    assert found["well_formed", None, None, None].n == 64
    examples = instrument.notes[0][2]["examples"]
    assert 4 < max(len(e["tokens"]) for e in examples) <= 6


def test_a_text_that_does_not_end_is_no_sentence():
    from lmtrace.signals.errors import diagnose

    sentence = list(corpus()[0].tokens)
    assert diagnose(corpus().oracle, [sentence, sentence], [True, True]) == [None, None]
    [fine, endless] = diagnose(corpus().oracle, [sentence, sentence], [True, False])
    assert fine is None
    assert (endless.kind, endless.position) == ("unfinished sentence", len(sentence))


@pytest.mark.parametrize("case", ["plain", "one sentence", "ten subwords", "longer than the context"])
def test_an_encoder_and_its_decoder_read_the_same_in_any_batch_and_on_either_side(case, monkeypatch):
    """T5, which answers with the sentence itself: one sentence at a time, several, and padded on the left."""
    import transformers as t

    panel = panel_of(case, "seq2seq")
    torch.manual_seed(0)
    pad = panel.tokenizer.pad_token_id
    model = t.T5ForConditionalGeneration(
        t.T5Config(
            vocab_size=len(panel.tokenizer), d_model=32, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=2, d_kv=16,
            pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=panel.tokenizer.eos_token_id,
        )
    ).eval()  # fmt: skip
    signals = [
        Probe(labels=("role", "upos"), split="sentence", control=False),
        TreeProbe(num_steps=1),
        Belief(),
        Output(),
        Ladder(),
    ]
    found = []
    for max_logits, side in ((1, "right"), (10**8, "right"), (10**8, "left")):
        monkeypatch.setattr(Panel, "batches", functools.partialmethod(_BATCHES, padding_side=side))
        instrument = Instrument(model, panel, signals, on_error="raise", max_logits=max_logits)
        records = [r for r in instrument.measure(0) if r.signal != "cost"]
        found.append({(r.signal, *key): r for r in records for key in comparable([r])})
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for key, record in other.items():
            assert record.missing == found[0][key].missing, key
            assert record.n == found[0][key].n, key
            if record.missing is None:
                slack = {"probe": 1.5 / max(1, record.n or 1), "tree_probe": 2e-2}.get(record.signal, 1e-4)
                assert record.value == pytest.approx(found[0][key].value, abs=slack, rel=1e-4), key
    assert any(r.signal == "output" and r.metric == "exact_match" and r.value is not None for r in found[0].values())
    if case not in ("one sentence",):
        assert any(
            r.signal == "probe" and r.site == "decoder.block.1" and r.value is not None for r in found[0].values()
        )


_BATCHES = Panel.batches
