"""Ends of sentences: averaged where the model is trained on them, as it was told or as a measurement shows, and told apart always."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import lmtrace
from lmtrace.live.tracer import Tracer
from lmtrace.observe.ends import EndLosses
from lmtrace.observe.instrument import Instrument
from lmtrace.run import open_run
from lmtrace.signals.gradient import Gradient
from lmtrace.signals.ladder import Ladder
from lmtrace.signals.lens import Lens
from lmtrace.signals.output import Output
from lmtrace.text.panel import Panel
from lmtrace_helpers import tiny
from text_corpora import english, fast_tokenizer, toy


def rows(tokenizer, sentences, ends):
    """Return training rows: one sentence each, with ends, or pieces of packed text without."""
    if ends:
        ids = [[tokenizer.bos_token_id, *tokenizer.encode(s.tokens), tokenizer.eos_token_id] for s in sentences]
        return [torch.tensor(r) for r in ids]
    stream = [i for s in sentences for i in tokenizer.encode(s.tokens)]
    return [torch.tensor([tokenizer.bos_token_id, *stream[at : at + 11]]) for at in range(0, len(stream) - 11, 11)]


def batches(tokenizer, sentences, ends, num, size=16):
    found = rows(tokenizer, sentences, ends)
    for i in range(num):
        part = [found[(i * size + j) % len(found)] for j in range(size)]
        ids = nn.utils.rnn.pad_sequence(part, batch_first=True)
        yield ids, (ids > 0).long(), ids.masked_fill(ids == 0, -100)


def train(model, tokenizer, sentences, ends, num, tracer=None):
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for ids, mask, labels in batches(tokenizer, sentences, ends, num):
        model.train()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if tracer is not None:
            tracer.step(loss=loss)
    return model.eval()


def plain_losses(model, panel):
    """Return (losses of the words, losses of the ends), sequence after sequence."""
    words, ends = [], []
    with torch.no_grad():
        for ids in panel.encoder.ids:
            x = torch.as_tensor(ids)
            loss = nn.functional.cross_entropy(model(input_ids=x[None]).logits[0, :-1], x[1:], reduction="none")
            words += loss[:-1].tolist()
            ends.append(float(loss[-1]))
    return words, ends


def values(run, signal, metric, label=None):
    return run.series(signal=signal, metric=metric, label=label).values[:, 0]


@pytest.mark.parametrize("ends", [False, True])
def test_loss_and_perplexity_are_those_of_a_plain_loop(ends, panel, tokenizer, sentences, tmp_path):
    model = tiny("gpt2", tokenizer, seed=3)
    with Tracer(model, panel, signals=[Output()], every=25, run=tmp_path / "r") as tracer:
        train(model, tokenizer, sentences, ends, 75, tracer)
    words, last = plain_losses(model, panel)
    run = open_run(tmp_path / "r")
    expected = np.mean(words + last if ends else words)
    assert values(run, "output", "loss")[-1] == pytest.approx(expected, rel=1e-5)
    assert values(run, "output", "perplexity")[-1] == pytest.approx(math.exp(expected), rel=1e-5)
    assert values(run, "output", "loss", "token=end")[-1] == pytest.approx(np.mean(last), rel=1e-5)
    assert (np.mean(last) > np.mean(words)) != ends
    told = [e for e in run.events() if e.kind == "panel"]
    assert len(told) == 1
    assert told[0].data["end"] is ends
    assert run.header.panel["end"] is True
    assert run.header.panel["end_told"] is False


@pytest.mark.parametrize("told", [False, True])
def test_what_the_user_told_is_left_as_it_is(told, tokenizer, sentences, tmp_path):
    panel = Panel.from_annotated(sentences[:60], tokenizer, end=told)
    model = train(tiny("gpt2", tokenizer), tokenizer, sentences, not told, 40)
    run = lmtrace.analyze(model, panel, signals=[Output()], run=tmp_path / "r")
    words, last = plain_losses(model, panel)
    assert values(run, "output", "loss")[-1] == pytest.approx(np.mean(words + last if told else words), rel=1e-5)
    assert run.header.panel["end"] is told
    assert not [e for e in run.events() if e.kind == "panel"]


def test_a_resume_knows_what_was_found(panel, tokenizer, sentences, tmp_path):
    model = tiny("gpt2", tokenizer)
    with Tracer(model, panel, signals=[Output()], every=20, run=tmp_path / "r") as tracer:
        train(model, tokenizer, sentences, False, 60, tracer)
        assert tracer.instrument.end_known is False
    fresh = tiny("gpt2", tokenizer)  # an untrained model shows nothing: what is known must come from the run
    with Tracer(fresh, panel, signals=[Output()], every=20, run=tmp_path / "r", resume=True, start_step=60) as again:
        assert again.instrument.end_known is False
        assert again.instrument.panel.end is False
        train(fresh, tokenizer, sentences, False, 1, again)
    assert len([e for e in open_run(tmp_path / "r").events() if e.kind == "panel"]) == 1


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (EndLosses(words=8.9, end=9.4, uniform=9.2, share=0.07), None),  # it knows nothing yet
        (EndLosses(words=6.1, end=11.8, uniform=9.2, share=0.07), False),
        (EndLosses(words=4.2, end=6.9, uniform=10.8, share=0.05), False),  # ends of documents only
        (EndLosses(words=8.1, end=3.3, uniform=9.2, share=0.07), True),
        (EndLosses(words=0.6, end=1.4, uniform=4.0, share=0.2), True),  # words of a simple language: ends are less sure
    ],
)
def test_the_rule(losses, expected):
    assert losses.trained is expected


def test_what_is_guessed_before_a_model_is_trained(panel, tokenizer, sentences):
    assert panel.end is True
    assert Panel.from_annotated(english(), fast_tokenizer("gpt2")).end is False
    assert Panel.from_annotated(sentences[:20], tokenizer, objective="masked").end is True
    corpus = toy()
    assert Panel.from_annotated(corpus, lmtrace.WordTokenizer.from_words(corpus.oracle.vocabulary)).end is True


def test_the_hash_does_not_depend_on_it(panel):
    other = panel.with_end(False)
    assert other.hash == panel.hash
    assert other.averaged.sum() == len(panel.predictions) - panel.num_sentences
    assert panel.averaged.all()
    assert panel.end is True


def test_every_signal_of_losses_leaves_the_same_out(panel, tokenizer, sentences):
    model = train(tiny("gpt2", tokenizer), tokenizer, sentences, False, 30)
    words = panel.with_end(False)
    norms = []
    for read in (panel, words):
        instrument = Instrument(model, read, [Gradient()], on_error="raise")
        instrument.end_known = read.end
        norms.append(next(r.value for r in instrument.measure(0) if r.metric == "norm"))
    assert norms[0] > 1.2 * norms[1]  # an end that is never trained on has the largest gradient
    instrument = Instrument(model, words, [Lens(num_predictions=10_000)], on_error="raise")
    instrument.end_known = False
    last = [r for r in instrument.measure(0) if r.metric == "loss"][-1]
    assert last.value == pytest.approx(np.mean(plain_losses(model, panel)[0]), rel=1e-5)


def test_the_ladder_leaves_the_same_out(tokenizer, sentences):
    panel = Panel.from_annotated(sentences[:60], tokenizer, training=sentences[60:], end=False)
    model = train(tiny("gpt2", tokenizer), tokenizer, sentences, False, 30)
    records = Instrument(model, panel, [Ladder()], on_error="raise").measure(0)
    [found] = [r for r in records if r.metric == "reference_loss" and r.split == "unigram"]
    reference = panel.references[0]["unigram"]
    assert found.value == pytest.approx(reference.surprisal[~panel.ends].mean())
    assert found.n == (~panel.ends).sum()
