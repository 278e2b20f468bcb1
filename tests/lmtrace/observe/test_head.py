"""The output layer that reads chosen positions only: the same logits, or all of them."""

import copy

import pytest
import torch
from torch import nn

from lmtrace.jobs.models import STYLES
from lmtrace.observe.capture import capture, head_of
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Needs, Signal
from lmtrace.observe.isolation import undisturbed
from lmtrace.records.schema import Field
from lmtrace_helpers import PlainModel, tiny


class Reader(Signal):
    """Keeps what laws say of every prediction."""

    name, cost, source = "reader", "none", "test"
    fields = (Field(metric="x", title="x"),)

    def needs(self, panel):
        return Needs(logits=True)

    def reduce(self, batch):
        laws = batch.laws
        own = laws.log_probs.gather(1, batch.targets[:, None])[:, 0]
        return {"own": own, "entropy": laws.entropy, "confidence": laws.confidence}

    def measure(self, view):
        yield self.record(view, "x", 0.0)


def prepared(model, panel):
    """The model's output layer, found as an instrument finds it, and what a pass is given."""
    instrument = Instrument(model, panel, [Reader()])
    with undisturbed(model):
        return head_of(instrument.model, instrument.panel), instrument


def reduced(model, instrument, head, batch_size=16):
    with undisturbed(model):
        found = capture(
            model, instrument.panel, {}, [(0, instrument.signals[0], instrument.needs[0])], head=head, batch_size=batch_size
        )  # fmt: skip
    return found.reduced[0]


@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_family_gives_predictions_the_logits_that_they_have_among_all(style, panel, tokenizer):
    model = tiny(style, tokenizer)
    head, instrument = prepared(model, panel)
    assert head is not None
    some, every = reduced(model, instrument, head), reduced(model, instrument, None)
    for name, values in every.items():
        torch.testing.assert_close(some[name], values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype, panel, tokenizer):
    model = tiny("gpt2", tokenizer).to(dtype)
    head, instrument = prepared(model, panel)
    some, every = reduced(model, instrument, head), reduced(model, instrument, None)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(some["own"], every["own"], atol=tolerance, rtol=tolerance)


def test_the_layer_reads_predictions_only_and_nothing_where_no_signal_asks(panel, tokenizer):
    """Rows that reach the layer, by its forward: of 15 % of the positions in a masked model, of none without logits."""
    for style, least, most in (("bert", 0.05, 0.3), ("gpt2", 0.5, 0.95)):
        model = tiny(style, tokenizer)
        _, instrument = prepared(model, panel)
        layer, seen = model.get_output_embeddings(), []
        own = layer.forward
        layer.forward = lambda x, own=own, seen=seen: (seen.append(x.shape[0] * x.shape[1]), own(x))[1]
        head, _ = prepared(model, panel)
        slots = sum(batch.input_ids.size for batch in instrument.panel.batches(16, price=16))
        seen.clear()
        reduced(model, instrument, head)
        assert sum(seen) == len(instrument.panel.predictions)
        assert least < sum(seen) / slots < most
        seen.clear()
        with undisturbed(model):
            capture(model, instrument.panel, instrument.known_sites, [], head=head)
        assert len(seen) > 0
        assert sum(seen) == 0


class Sums(nn.Module):
    """A wrapper of a model that wants the logits of all positions: it adds their mean to each."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def forward(self, input_ids, attention_mask=None, **rest):
        logits = self.inner(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits + logits.mean((0, 1))


class Reshapes(Sums):
    """One that breaks on fewer logits than positions."""

    def forward(self, input_ids, attention_mask=None, **rest):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits.view(*input_ids.shape, -1)


@pytest.mark.parametrize("wrapper", [Sums, Reshapes])
def test_models_that_want_all_positions_get_them(wrapper, panel, tokenizer):
    model = wrapper(tiny("gpt2", tokenizer)).eval()
    with torch.no_grad():
        assert head_of(model, panel) is None
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_no_layer_or_one_with_hooks_is_left_alone(panel, tokenizer):
    assert head_of(PlainModel(len(tokenizer)).eval(), panel) is None
    model = tiny("gpt2", tokenizer).eval()
    watched = copy.deepcopy(model)
    watched.get_output_embeddings().register_forward_hook(lambda module, args, output: None)
    with torch.no_grad():
        assert head_of(model, panel) is not None
        assert head_of(watched, panel) is None


def test_hooks_that_come_later_see_all_positions(panel, tokenizer):
    model, seen = tiny("gpt2", tokenizer), []
    instrument = Instrument(model, panel, [Reader()])
    instrument.end_known = True  # no look at ends of sentences: the pass alone is counted
    instrument.measure(0)
    handle = model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(output.shape))
    instrument.measure(1)
    handle.remove()
    assert sum(shape[0] for shape in seen) == panel.num_sentences
    assert min(shape[1] for shape in seen) > 1


def test_a_model_of_no_numbers_is_read_whole(panel, tokenizer):
    model = tiny("gpt2", tokenizer).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
        assert head_of(model, panel) is None
