"""Every signal that exists passes the contract; each way of breaking it is caught."""

from __future__ import annotations

import math

import pytest
import torch

from lmtrace.errors import SignalError
from lmtrace.observe.interface import Needs, Signal
from lmtrace.records.schema import Field
from lmtrace.signals import available
from lmtrace.testing import check_signal
from lmtrace_helpers import tiny

NAMES = sorted(available())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("style", ["gpt2", "bert", "t5"])
def test_every_signal_keeps_the_contract(name, style, panel, tokenizer):
    model = tiny(style, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    records = check_signal(available()[name](), model, panel, optimizer)
    assert {r.metric for r in records} <= {f.metric for f in available()[name].fields}


@pytest.mark.parametrize("name", NAMES)
def test_every_signal_tells_what_it_is(name):
    signal = available()[name]
    for field in signal.fields:
        assert field.title, field
        assert field.unit, field
        assert field.meaning, field
    assert signal.cost
    assert signal.source


class Bad(Signal):
    name, cost, source = "bad", "none", "test"
    fields = (Field(metric="x", title="x", low=0.0, high=1.0),)
    required: Needs = Needs(sites=("block.0",), model=True)

    def needs(self, panel):
        return self.required

    def measure(self, view):
        self.misbehave(view)
        yield self.record(view, "x", 0.5)

    def misbehave(self, view):
        raise AssertionError("each case defines it")


def case(action, match, needs=None):
    class Case(Bad):
        required = needs or Bad.required

        def misbehave(self, view):
            action(view)

    return pytest.param(Case(), match, id=match)


def change_weight(view):
    with torch.no_grad():
        next(iter(view.model.parameters())).add_(1.0)


def zero_gradients(view):
    view.model.zero_grad()


BROKEN = [
    case(lambda view: torch.rand(1), "drew from a global generator"),
    case(lambda view: view.model.register_forward_hook(print), "left a hook on"),
    case(change_weight, "changed the weight"),
    case(zero_gradients, "changed the gradient"),
    case(lambda view: view.tokens("block.1"), "without having declared it"),
    case(lambda view: view.model, "without having declared it", Needs()),
    case(lambda view: view.labels("upos"), "without having declared them"),
]


@pytest.mark.parametrize(("signal", "match"), BROKEN)
def test_each_breach_is_caught(signal, match, panel, gpt2):
    with pytest.raises(SignalError, match=match):
        check_signal(signal, gpt2, panel)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (math.nan, "value is nan"),
        (math.inf, "value is inf"),
        (1.5, "above the field's limit"),
        (-0.5, "below the field's"),
    ],
)
def test_bad_numbers_are_caught(value, match, panel, gpt2):
    class Number(Bad):
        def measure(self, view):
            yield self.record(view, "x", value)

    with pytest.raises(SignalError, match=match):
        check_signal(Number(), gpt2, panel)


def test_two_answers_for_one_model_are_caught(panel, gpt2):
    answers = iter([0.1, 0.2])

    class Fickle(Bad):
        def measure(self, view):
            yield self.record(view, "x", next(answers))

    with pytest.raises(SignalError, match="two measurements of the same model differ"):
        check_signal(Fickle(), gpt2, panel)


def test_silence_and_unknown_fields_are_caught(panel, gpt2):
    class Silent(Bad):
        def measure(self, view):
            yield from ()

    class Unknown(Bad):
        def measure(self, view):
            yield self.record(view, "y", 0.5)

    with pytest.raises(SignalError, match="gave no record"):
        check_signal(Silent(), gpt2, panel)
    with pytest.raises(SignalError, match="declares no such field"):
        check_signal(Unknown(), gpt2, panel)
