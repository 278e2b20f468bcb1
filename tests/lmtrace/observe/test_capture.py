"""The captured pass against the model's own outputs, computed one sentence at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from lmtrace.errors import ModelError, SignalError
from lmtrace.jobs.models import STYLES
from lmtrace.observe.capture import capture
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Needs, Signal
from lmtrace.observe.isolation import undisturbed
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.records.schema import Field
from lmtrace_helpers import PlainModel, tiny

DECODERS = sorted(set(STYLES) - {"bert", "t5"})


class Watcher(Signal):
    """Keeps the log-probability of the right token and, for each site, nothing more."""

    name, cost, source = "watcher", "none", "test"
    fields = (Field(metric="x", title="x"),)

    def needs(self, panel):
        return Needs(sites="all", logits=True)

    def reduce(self, batch):
        return {"log_prob": batch.log_probs.gather(1, batch.targets[:, None])[:, 0]}

    def measure(self, view):
        yield self.record(view, "x", 0.0)


def captured(model, panel, batch_size=16, **settings):
    instrument = Instrument(model, panel, [Watcher()], **settings)
    with undisturbed(model):
        result = capture(
            instrument.model, instrument.panel, instrument.known_sites,
            [(0, instrument.signals[0], instrument.needs[0])],
            batch_size=batch_size, forward=instrument.forward,
        )  # fmt: skip
    return instrument, result


@pytest.mark.parametrize("style", DECODERS)
def test_activations_and_log_probs_equal_a_plain_loop(style, panel, tokenizer):
    model = tiny(style, tokenizer).eval()
    instrument, result = captured(model, panel)
    side, predictions = instrument.panel.encoder, instrument.panel.predictions
    row = 0
    for s in range(8):
        ids = torch.as_tensor(side.ids[s])[None]
        with torch.no_grad():
            output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        hidden = output.hidden_states
        if style == "mamba":  # its list starts with the output of block 0
            hidden = (model.get_input_embeddings()(ids), *hidden)
        rows = slice(int(side.offsets[s]), int(side.offsets[s + 1]))
        torch.testing.assert_close(result.activations["embed"][rows], hidden[0][0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(result.activations["block.0"][rows], hidden[1][0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(result.activations["final"][rows], hidden[-1][0], atol=2e-5, rtol=1e-4)
        log_probs = output.logits[0].log_softmax(-1)
        for position in range(len(ids[0]) - 1):
            assert predictions.sentence[row] == s
            assert predictions.target[row] == ids[0, position + 1]
            expected = log_probs[position, ids[0, position + 1]]
            assert float(result.reduced[0]["log_prob"][row]) == pytest.approx(float(expected), abs=1e-4)
            row += 1


@pytest.mark.parametrize("style", ["gpt2", "llama", "bert", "t5"])
def test_batch_size_does_not_matter(style, panel, tokenizer):
    model = tiny(style, tokenizer)
    _, small = captured(model, panel, batch_size=3)
    _, large = captured(model, panel, batch_size=64)
    for site, values in small.activations.items():
        torch.testing.assert_close(values, large.activations[site], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(small.reduced[0]["log_prob"], large.reduced[0]["log_prob"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("style", DECODERS)
def test_a_future_token_moves_no_earlier_logit(style, tokenizer):
    model = tiny(style, tokenizer).eval()
    first = torch.randint(5, len(tokenizer), (4, 10), generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[:, 6] = (second[:, 6] - 5 + 1) % (len(tokenizer) - 5) + 5
    with torch.no_grad():
        a, b = model(input_ids=first).logits, model(input_ids=second).logits
    torch.testing.assert_close(a[:, :6], b[:, :6], atol=1e-6, rtol=0)
    assert (a[:, 6:] - b[:, 6:]).abs().max() > 1e-3, "the changed token must matter from its own position on"


def test_a_plain_module_is_observed_as_it_is(panel, tokenizer):
    model = PlainModel(len(tokenizer)).eval()
    _, result = captured(model, panel)
    side = panel.encoder
    with torch.no_grad():
        x = model.transformer["wte"](torch.as_tensor(side.ids[0])) + model.transformer["wpe"].weight[: len(side.ids[0])]
    torch.testing.assert_close(result.activations["embed"][: len(side.ids[0])], x, atol=1e-5, rtol=1e-5)


def test_a_block_that_does_not_run_costs_its_site_and_no_other(panel, tokenizer):
    class Skips(PlainModel):
        def forward(self, ids):
            x = self.transformer["wte"](ids)
            return self.lm_head(self.transformer["h"][0](x))

    instrument, result = captured(Skips(len(tokenizer)), panel)
    assert list(result.activations) == ["embed", "block.0"]
    assert instrument.lost_sites == {"block.1": "the block does not run when the model reads the panel"}


def test_a_block_that_runs_for_some_sentences_only_costs_its_site(panel, tokenizer):
    class Moody(PlainModel):
        calls = 0

        def forward(self, ids):
            self.calls += 1
            x = self.transformer["wte"](ids)
            for i, block in enumerate(self.transformer["h"]):
                if i == 0 or self.calls < 3:
                    x = block(x)
            return self.lm_head(x)

    _, result = captured(Moody(len(tokenizer)), panel, batch_size=8)
    assert list(result.activations) == ["embed", "block.0"]
    assert "site block.1 fired 0 times in one pass, expected 1" in result.lost["block.1"]


def test_logits_of_the_last_position_only_are_refused(panel, tokenizer):
    class LastOnly(PlainModel):
        def forward(self, ids):
            return super().forward(ids)[:, -1:]

    with pytest.raises(ModelError, match=r"expected logits for all .* positions.*forward="):
        captured(LastOnly(len(tokenizer)), panel)


def test_forward_callable_serves_unusual_models(panel, tokenizer):
    class Unusual(PlainModel):
        def forward(self, ids):
            return {"scores": super().forward(ids)}

    _, result = captured(
        Unusual(len(tokenizer)), panel, forward=lambda model, inputs: model(inputs["input_ids"])["scores"]
    )
    assert len(result.reduced[0]["log_prob"]) == len(panel.predictions)


def test_the_view_refuses_what_was_not_declared(panel, gpt2):
    class Shy(Watcher):
        def needs(self, panel):
            return Needs(sites=("block.0",), labels=("upos",))

    instrument, result = captured(gpt2, panel)
    measurement = Measurement(0, gpt2, instrument.panel, instrument.known_sites, result)
    view = MeasurementView(measurement, Shy(), 0, Shy().needs(panel))
    assert view.sites == ("block.0",)
    assert view.words("block.0").shape[0] == panel.num_words
    rows = np.array([7, 2, 30])
    assert torch.equal(view.words("block.0", rows), view.words("block.0")[rows])
    view.labels("upos")
    for read in (
        lambda: view.tokens("block.1"),
        lambda: view.words("final"),
        lambda: view.labels("role"),
        view.reduced,
        lambda: view.truth,
        lambda: view.model,
        lambda: view.loss(4),
        lambda: view.optimizer,
        view.train_loss,
        view.parameters,
    ):
        with pytest.raises(SignalError, match="[Dd]eclare"):
            read()


def test_loss_closure_equals_the_models_own_loss(panel, tokenizer):
    class Needy(Watcher):
        def needs(self, panel):
            return Needs(model=True)

    model = tiny("gpt2", tokenizer)
    instrument = Instrument(model, panel, [Needy()])
    with undisturbed(model):
        measurement = Measurement(0, model, panel, instrument.known_sites, captured(model, panel)[1])
        loss = MeasurementView(measurement, Needy(), 0, Needy().needs(panel)).loss(5)()
        assert loss.requires_grad
        total, count = 0.0, 0
        for ids in [panel.encoder.ids[i] for i in panel.shuffled[:5]]:
            row = torch.as_tensor(ids)[None]
            total += float(model(input_ids=row, labels=row).loss.detach()) * (len(ids) - 1)
            count += len(ids) - 1
    assert float(loss.detach()) == pytest.approx(total / count, abs=1e-5)


def test_tied_weights_stay_one_parameter(tokenizer):
    model = PlainModel(len(tokenizer))
    assert isinstance(model.lm_head, nn.Linear)
    assert sum(p is model.lm_head.weight for p in model.parameters()) == 1
