"""Structural errors: planted violations are found, the language itself raises no alarm, sampling follows the model's law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import absynth
from lmtrace.instrument import Instrument
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.signals.errors import Errors, diagnose, sample_sentences
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import PlainModel, tiny


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


@pytest.mark.parametrize(
    "kind", ["role_violation", "argument_elimination", "agreement_violation", "word_order_violation"]
)
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_planted_errors_are_recovered(kind, share, language):
    corpus, oracle, _ = language
    pairs = [p for p in absynth.minimal_pairs(corpus[:600], kind=kind, seed=1) if not np.isfinite(p.log2_bad)]
    assert len(pairs) > 20
    total = 600
    planted = pairs[: max(1, round(share * total))]
    text = [list(corpus[600 + i].tokens) for i in range(total - len(planted))] + [list(p.bad.tokens) for p in planted]
    found = diagnose(oracle, text)
    alarms = {i for i, d in enumerate(found) if d is not None}
    truth = set(range(total - len(planted), total))
    assert len(alarms & truth) / len(alarms) > 0.95
    assert len(alarms & truth) / len(truth) > 0.95
    typed = [d.kind == p.expected for d, p in zip(found[total - len(planted) :], planted, strict=True) if p.expected]
    assert sum(typed) >= 0.95 * len(typed)


def test_samples_follow_the_models_law(language, panel):
    """A model whose law does not depend on the context is sampled in its own proportions, by either way."""
    _, _, tokenizer = language
    law = torch.zeros(len(tokenizer))
    law[tokenizer.eos_token_id], law[7], law[8] = 0.25, 0.5, 0.25

    class Fixed(PlainModel):
        def forward(self, ids):
            return super().forward(ids) * 0 + torch.log(law.clamp(min=1e-9))

    sentences = sample_sentences(view_of(Fixed(len(tokenizer)), panel, Errors()), 4000, 20)
    words = np.concatenate([list(s) for s in sentences if s])
    assert np.mean(words == tokenizer.words[7]) == pytest.approx(2 / 3, abs=0.02)
    assert np.mean([len(s) == 0 for s in sentences]) == pytest.approx(0.25, abs=0.03)

    model = tiny("gpt2", tokenizer)
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.zero_()
    uniform = sample_sentences(view_of(model, panel, Errors()), 3000, 8)
    first = [s[0] if s else "</s>" for s in uniform]
    share = np.array([first.count(w) for w in tokenizer.words[5:]]) / len(first)
    assert share.max() < 3.5 / len(tokenizer), "no top-k, no top-p, temperature 1"
    again = sample_sentences(view_of(model, panel, Errors()), 3000, 8)
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
