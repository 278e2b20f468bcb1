"""Optimizers that are judged by other weights than those that train: which are measured, and that nothing is changed by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmtrace.live.tracer import Tracer
from lmtrace.observe.weights import judged_weights
from lmtrace.run import open_run
from lmtrace.signals.output import Output
from lmtrace_helpers import tiny


class Averaging(torch.optim.Optimizer):
    """Steps with y = .3 z + .7 x and is judged by x, the mean of all z: what schedule-free SGD does, in place and with rounding."""

    def __init__(self, params, lr, mixed=0.7, told=True):
        super().__init__(params, {"lr": lr, "mixed": mixed})
        self.told = told
        self.inside = True
        self.calls = []
        for group in self.param_groups:
            group["count"] = 0
            if told:
                group["train_mode"] = True
            for p in group["params"]:
                self.state[p]["z"] = p.detach().clone()

    def _mode(self, training):
        self.calls.append(training)
        for group in self.param_groups:
            if self.inside == training:
                continue
            weight = 1 - group["mixed"] if training else 1 - 1 / group["mixed"]
            for p in group["params"]:
                p.data.lerp_(self.state[p]["z"], weight)
            if self.told:
                group["train_mode"] = training
        self.inside = training

    def train(self):
        self._mode(True)

    def eval(self):
        self._mode(False)

    @torch.no_grad()
    def step(self, closure=None):
        assert self.inside
        for group in self.param_groups:
            group["count"] += 1
            for p in group["params"]:
                x = p.lerp(self.state[p]["z"], 1 - 1 / group["mixed"])
                self.state[p]["z"].sub_(p.grad, alpha=group["lr"])
                x.lerp_(self.state[p]["z"], 1 / group["count"])
                p.copy_(x.lerp(self.state[p]["z"], 1 - group["mixed"]))


def rows(tokenizer, sentences):
    found = [
        torch.tensor([tokenizer.bos_token_id, *tokenizer.encode(s.tokens), tokenizer.eos_token_id]) for s in sentences
    ]
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)


def train(tokenizer, sentences, steps, tracer_of=None, told=True):
    torch.manual_seed(0)  # dropout
    model = tiny("gpt2", tokenizer, seed=1)
    optimizer = Averaging(model.parameters(), 0.3, told=told)
    ids = rows(tokenizer, sentences[:64])
    tracer = None if tracer_of is None else tracer_of(model, optimizer).__enter__()
    for step in range(steps):
        part = ids[step * 8 % 64 :][:8]
        model.train()
        model(
            input_ids=part, attention_mask=(part > 0).long(), labels=part.masked_fill(part == 0, -100)
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if tracer is not None:
            tracer.step()
    if tracer is not None:
        tracer.__exit__(None, None, None)
    return model, optimizer


@pytest.mark.parametrize("told", [True, False])
def test_measured_are_the_averages_and_training_goes_on_bit_for_bit(told, panel, tokenizer, sentences, tmp_path):
    def traced(model, optimizer):
        return Tracer(model, panel, signals=[Output()], every=3, run=tmp_path / "r", optimizer=optimizer)

    model, optimizer = train(tokenizer, sentences, 11, traced, told)
    plain, other = train(tokenizer, sentences, 11, None, told)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(optimizer.state[p]["z"], other.state[q]["z"])
    assert optimizer.inside
    other.eval()
    with Tracer(plain.eval(), panel, signals=[Output()], run=tmp_path / "later") as later:
        assert later.instrument.weights == "those that train"
    run = open_run(tmp_path / "r")
    live, saved = (r.series(signal="output", metric="loss").values[-1, 0] for r in (run, open_run(tmp_path / "later")))
    assert live == pytest.approx(saved, rel=1e-6)
    assert run.header.model["weights"] == "averaged: those of optimizer.eval()"
    assert [e.step for e in run.events("weights")] == [0]
    assert not open_run(tmp_path / "later").events("weights")


def test_what_is_in_evaluation_already_is_left_so():
    p = torch.nn.Parameter(torch.randn(50))
    optimizer = Averaging([p], 0.1)
    p.grad = torch.randn(50)
    optimizer.step()
    optimizer.eval()
    before, calls = p.detach().clone(), len(optimizer.calls)
    with judged_weights(optimizer):
        assert torch.equal(p, before)
    assert torch.equal(p, before)
    assert len(optimizer.calls) == calls


def test_an_error_inside_puts_the_weights_back():
    p = torch.nn.Parameter(torch.randn(1000))
    optimizer = Averaging([p], 0.1)
    for _ in range(3):
        p.grad = torch.randn(1000)
        optimizer.step()
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match="no luck"), judged_weights(optimizer):
        assert not torch.equal(p, before)
        raise RuntimeError("no luck")
    assert torch.equal(p, before)
    assert optimizer.inside
    # Going there and back by the optimizer alone leaves rounding.
    optimizer.eval()
    optimizer.train()
    assert not torch.equal(p, before)
    np.testing.assert_allclose(p.detach(), before, rtol=1e-4, atol=1e-5)


def test_a_copy_that_is_averaged_says_so(panel, tokenizer, tmp_path):
    model = torch.optim.swa_utils.AveragedModel(tiny("gpt2", tokenizer))
    from lmtrace.observe.weights import measured_weights

    assert measured_weights(model) == "averaged: a copy that does not train"
    assert measured_weights(model.module, torch.optim.Adam(model.parameters())) == "those that train"
