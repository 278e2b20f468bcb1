"""Masked models: activations and maps are of the sentences as they are, losses and the lens of those with masks."""

import numpy as np
import pytest
import torch

import lmtrace
from lmtrace.observe.capture import capture
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Needs, Signal
from lmtrace.observe.isolation import undisturbed
from lmtrace.records.schema import Field
from lmtrace.signals import resolve
from lmtrace.signals.probe import Probe
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace_helpers import tiny


class Reader(Signal):
    """Asks for whatever it was built with."""

    name, cost, source = "reader", "none", "test"
    fields = (Field(metric="x", title="x"),)

    def __init__(self, **needs):
        object.__setattr__(self, "wanted", Needs(**needs))

    def needs(self, panel):
        return self.wanted

    def reduce(self, batch):
        found = {}
        if self.wanted.logits:
            found["log_prob"] = batch.log_probs.gather(1, batch.targets[:, None])[:, 0]
        if self.wanted.attention:
            # Attention to the first token, averaged over heads and queries.
            found["sequence_first"] = torch.stack(
                [m[:, v, 0].mean() for m, v in zip(batch.attentions["block.0"], batch.valid, strict=True)]
            )
        return found

    def measure(self, view):
        yield self.record(view, "x", 0.0)


def captured(model, panel, *signals):
    instrument = Instrument(model, panel, list(signals))
    chosen = [(i, s, instrument.needs[i]) for i, s in enumerate(instrument.signals)]
    with undisturbed(model):
        maps = instrument._maps if any(need.attention for need in instrument.needs) else None
        found = capture(instrument.model, instrument.panel, instrument.known_sites, chosen, batch_size=16, maps=maps)
        return instrument, found


@pytest.fixture
def model(tokenizer):
    return tiny("bert", tokenizer, seed=3).eval()


def test_each_is_read_from_its_own_pass(model, panel, tokenizer):
    instrument, found = captured(
        model, panel, Reader(sites="all"), Reader(sites="all", masks=True), Reader(logits=True)
    )
    side, predictions = instrument.panel.encoder, instrument.panel.predictions
    assert not (np.concatenate(side.ids) == tokenizer.mask_token_id).any()
    row = 0
    for s in range(6):
        masked = torch.as_tensor(instrument.panel.masked_ids[s])[None]
        rows = slice(int(side.offsets[s]), int(side.offsets[s + 1]))
        with torch.no_grad():
            plain = model(input_ids=torch.as_tensor(side.ids[s])[None], output_hidden_states=True)
            at_masks = model(input_ids=masked, output_hidden_states=True)
        for site, block in (("embed", 0), ("block.0", 1)):
            torch.testing.assert_close(
                found.activations[site][rows], plain.hidden_states[block][0], atol=2e-5, rtol=1e-4
            )
            torch.testing.assert_close(found.masked[site][rows], at_masks.hidden_states[block][0], atol=2e-5, rtol=1e-4)
        columns = (masked[0] == tokenizer.mask_token_id).nonzero()[:, 0]
        assert len(columns) == (predictions.sentence == s).sum() > 0
        right = at_masks.logits[0].log_softmax(-1)[columns, torch.as_tensor(side.ids[s])[columns]]
        got = found.reduced[2]["log_prob"][row : row + len(columns)]
        torch.testing.assert_close(got, right, atol=1e-4, rtol=1e-4)
        row += len(columns)


def test_attention_maps_are_of_the_sentence_as_it_is(model, panel):
    instrument, found = captured(model, panel, Reader(attention=True))
    ids = torch.as_tensor(instrument.panel.encoder.ids[2])[None]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(input_ids=ids, output_attentions=True).attentions[0]
    expected = maps[0, :, :, 0].mean()
    assert float(found.reduced[0]["sequence_first"][2]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("needs", "passes"),
    [
        ([{"sites": "all"}], 1),
        ([{"logits": True}], 1),
        ([{"sites": "all", "masks": True}, {"logits": True}], 1),
        ([{"sites": ("embed",)}, {"logits": True}], 2),
    ],
)
def test_a_second_pass_is_made_only_where_both_are_due(model, panel, needs, passes):
    instrument = Instrument(model, panel, [Reader(**n) for n in needs])
    chosen = [(i, s, instrument.needs[i]) for i, s in enumerate(instrument.signals)]
    calls = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    with undisturbed(model):
        capture(model, instrument.panel, instrument.known_sites, chosen, batch_size=len(panel.sentences))
    handle.remove()
    batches = len(list(instrument.panel.batches(len(panel.sentences), price=16)))
    assert len(calls) == passes * batches


def test_a_causal_model_reads_everything_in_one_pass(panel, tokenizer):
    instrument, found = captured(tiny("gpt2", tokenizer).eval(), panel, Reader(sites="all", masks=True))
    assert instrument.panel.masked_ids is None
    assert found.masked is found.activations


def test_a_probe_of_a_masked_model_reads_what_the_words_say(tmp_path):
    rng = np.random.default_rng(5)
    words = [f"{kind}{i}" for kind in ("ka", "lo", "mu", "ti") for i in range(6)]
    sentences = [
        AnnotatedSentence(tokens=tuple(row), labels={"upos": tuple(word[:2].upper() for word in row)})
        for row in rng.choice(words, (160, 7))
    ]
    tokenizer = lmtrace.WordTokenizer(words)
    panel = lmtrace.Panel.from_annotated(sentences, tokenizer, objective="masked", seed=4)
    signals = [*resolve(["lens"]), Probe(split="sentence")]
    run = lmtrace.analyze(tiny("bert", tokenizer), panel, run=tmp_path / "run", signals=signals)
    accuracy = run.series(signal="probe", metric="accuracy", label="upos", split="sentence")
    assert accuracy.values[-1].tolist() == [1.0] * len(accuracy.sites)
    lens = run.series(signal="lens", metric="agreement")
    assert lens.values[-1][-1] == 1.0  # the last block's reading is the model's own prediction at the masks
    assert "masks" in run.header.panel["activations"]
