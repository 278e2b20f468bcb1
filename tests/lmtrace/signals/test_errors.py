"""Structural errors: planted violations are found, the language itself raises no alarm, sampling follows the model's law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import absynth
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.signals.errors import Errors, diagnose, sample_sentences
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import PlainModel, tiny
from reference.violations import KINDS, Truth, plant


@pytest.fixture(scope="module")
def language():
    grammar = absynth.Grammar.preset("tiny")
    corpus = absynth.generate(grammar, n=2000, seed=0)
    return corpus, absynth.Oracle(grammar), WordTokenizer.from_corpus(corpus)


@pytest.fixture(scope="module")
def panel(language):
    corpus, _, tokenizer = language
    return Panel.from_annotated(corpus[:200], tokenizer, training=corpus[200:])


def view_of(model, panel, signal):
    instrument = Instrument(model.eval(), panel, [signal], on_error="raise")
    measurement = Measurement(0, instrument.model, instrument.panel, instrument.known_sites, None)
    return MeasurementView(measurement, signal, 0, instrument.needs[0])


def test_the_language_itself_raises_no_alarm(language):
    corpus, oracle, _ = language
    assert diagnose(oracle, [corpus[i].tokens for i in range(1000)]) == [None] * 1000


class Scripted(PlainModel):
    """A model whose `generate` says a given text, and looks whether it is asked for all of it."""

    def __init__(self, text, tokenizer):
        super().__init__(len(tokenizer))
        rows = [tokenizer.encode(list(sentence)) for sentence in text]
        self.rows = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in rows]
        self.pad = tokenizer.pad_token_id

    def generate(self, start, **settings):
        assert len(start) == len(self.rows)
        longest = max(map(len, self.rows))
        assert settings["max_new_tokens"] + 1 >= longest
        return torch.tensor([row + [self.pad] * (longest - len(row)) for row in self.rows])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.2])
def test_planted_errors_are_recovered_through_the_signal(share):
    """A text of the language with violations of every kind the parser can name: the rates are those that were planted."""
    truth = Truth(absynth.Grammar.preset("tiny", strength=1.0, seed=2))
    corpus = absynth.generate(truth.grammar, n=500, seed=0)
    tokenizer = WordTokenizer.from_corpus(corpus)
    panel = Panel.from_annotated(corpus[:100], tokenizer, training=corpus[100:])
    total = 400
    each = round(share * total / len(KINDS))
    text, planted = [s.tokens for s in corpus[100:]][: total - each * len(KINDS)], {}
    for kind in KINDS:
        strings = [s for s in plant(truth, kind, corpus, 4 * each, seed=3) if set(truth.explanations(s)) == {kind}]
        planted[kind] = strings[:each]
        assert len(planted[kind]) == each
        text += planted[kind]
    view = view_of(Scripted(text, tokenizer), panel, Errors(samples=total, examples=10_000))
    by = {(r.metric, r.label): r for r in view.signal.measure(view)}
    assert by["well_formed", None].value == pytest.approx(1 - each * len(KINDS) / total)
    for kind in KINDS:
        assert by["rate", f"type={kind}"].value == pytest.approx(each / total, abs=0.05 * each / total), kind
    examples = [e for _, _, data in view.measurement.notes for e in data["examples"]]
    assert len(examples) == each * len(KINDS), "0 % gives no alarm"
    unknown = {tuple("<unk>" if w == "zzz" else w for w in s) for strings in planted.values() for s in strings}
    assert {tuple(e["tokens"]) for e in examples} == unknown


def test_samples_follow_the_models_law(language, panel):
    """A model whose law does not depend on the context is sampled in its own proportions, by either way."""
    _, _, tokenizer = language
    law = torch.zeros(len(tokenizer))
    law[tokenizer.eos_token_id], law[7], law[8] = 0.25, 0.5, 0.25

    class Fixed(PlainModel):
        def forward(self, ids):
            return super().forward(ids) * 0 + torch.log(law.clamp(min=1e-9))

    sentences, _ = sample_sentences(view_of(Fixed(len(tokenizer)), panel, Errors()), 4000, 20)
    words = np.concatenate([list(s) for s in sentences if s])
    assert np.mean(words == tokenizer.words[7]) == pytest.approx(2 / 3, abs=0.02)
    assert np.mean([len(s) == 0 for s in sentences]) == pytest.approx(0.25, abs=0.03)

    model = tiny("gpt2", tokenizer)
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.zero_()
    uniform, _ = sample_sentences(view_of(model, panel, Errors()), 3000, 8)
    first = [s[0] if s else "</s>" for s in uniform]
    share = np.array([first.count(w) for w in tokenizer.words[5:]]) / len(first)
    assert share.max() < 3.5 / len(tokenizer), "no top-k, no top-p, temperature 1"
    again, _ = sample_sentences(view_of(model, panel, Errors()), 3000, 8)
    assert again == uniform


def test_records_of_an_untrained_model(language, panel):
    tokenizer = language[2]
    signal = Errors(samples=64)
    view = view_of(tiny("gpt2", tokenizer), panel, signal)
    by = {(r.metric, r.label): r for r in signal.measure(view)}
    assert by["well_formed", None].value <= 0.2
    assert 0 <= by["well_formed", None].null <= 0.2
    rates = [r.value for (metric, _), r in by.items() if metric == "rate"]
    assert sum(rates) == pytest.approx(1 - by["well_formed", None].value)
    (kind, _, data) = view.measurement.notes[0]
    assert kind == "examples"
    assert all(0 <= e["position"] <= len(e["tokens"]) for e in data["examples"])


@pytest.mark.parametrize("extra", [0, 50])
def test_a_model_with_a_short_context_or_a_wide_vocabulary_is_sampled(extra, language, panel):
    tokenizer = language[2]
    longest = max(len(ids) for ids in panel.encoder.ids)
    config = GPT2Config(
        vocab_size=len(tokenizer) + extra,
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=longest,
        bos_token_id=2,
        eos_token_id=3,
    )
    signal = Errors(samples=64)
    by = {(r.metric, r.label): r for r in signal.measure(view_of(GPT2LMHeadModel(config), panel, signal))}
    assert by["well_formed", None].value is not None
    assert (by["rate", "type=unknown word"].value > 0.3) or not extra


@pytest.mark.parametrize("style", ["bert", "t5"])
def test_other_families_give_a_reason(style, language, panel):
    tokenizer = language[2]
    records = list(Errors().measure(view_of(tiny(style, tokenizer), panel, Errors())))
    assert all("causal models only" in r.missing for r in records)


def test_no_grammar_is_a_reason(language, sentences, tokenizer):
    plain = Panel.from_annotated(sentences[:20], tokenizer)
    records = list(Errors().measure(view_of(tiny("gpt2", tokenizer), plain, Errors())))
    assert all("no grammar to parse with" in r.missing for r in records)
