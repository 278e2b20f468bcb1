"""Models that are odd in one way: the rest is measured, the numbers are those of a plain loop, and training is not changed."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import nn

import lmtrace
from lmtrace.errors import ModelError
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.isolation import undisturbed
from lmtrace.signals.dimension import Dimension
from lmtrace.signals.lens import Lens
from lmtrace.signals.output import Output
from lmtrace.signals.weights import Weights
from lmtrace_helpers import PlainModel
from planted_view import find

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip


def loss_of(records):
    return next(r for r in records if r.signal == "output" and r.metric == "loss" and r.label is None)


def alone(model, panel):
    """Return the mean loss (nats) of the panel's predictions, every sentence by itself, without padding or mask."""
    model = copy.deepcopy(model).eval()
    total, number = 0.0, 0
    for i in range(panel.num_sentences):
        [batch] = panel.batches(1, indices=[i])
        with torch.no_grad():
            output = model(torch.as_tensor(batch.input_ids).long())
        logits = getattr(output, "logits", output)[batch.predict_row, batch.predict_column]
        losses = nn.functional.cross_entropy(logits, torch.as_tensor(batch.targets).long(), reduction="sum")
        total, number = total + float(losses), number + len(batch.targets)
    return total / number


# Nothing is asked that no signal needs


@pytest.mark.parametrize(
    "make",
    [
        lambda v: transformers.MistralModel(transformers.MistralConfig(vocab_size=v, num_key_value_heads=2, **SMALL)),
        lambda v: transformers.RobertaForSequenceClassification(
            transformers.RobertaConfig(vocab_size=v, num_labels=3, **SMALL)
        ),
        lambda v: transformers.Qwen2ForTokenClassification(
            transformers.Qwen2Config(vocab_size=v, num_key_value_heads=2, num_labels=3, **SMALL)
        ),
    ],
    ids=["no head", "classifier", "classifier of tokens"],
)
def test_models_without_logits_over_words_give_what_needs_none(make, panel, tokenizer):
    model = make(len(tokenizer))
    records = Instrument(model, panel, [Output(), Dimension(), Weights()]).measure(0)
    assert "forward=" in loss_of(records).missing
    assert find(records, "participation_ratio", site="block.1", signal="dimension").value > 1
    assert any(r.value is not None for r in records if r.signal == "weights")


def test_a_model_without_blocks_gives_what_needs_none(panel, tokenizer):
    class Recurrent(nn.Module):
        def __init__(self, vocabulary):
            super().__init__()
            self.emb = nn.Embedding(vocabulary, 16)
            self.cells = nn.GRU(16, 16, 2, batch_first=True)
            self.out = nn.Linear(16, vocabulary)

        def forward(self, ids):
            return self.out(self.cells(self.emb(ids))[0])

    model = Recurrent(len(tokenizer))
    instrument = Instrument(model, panel, [Output(), Dimension(), Lens()])
    records = instrument.measure(0)
    assert loss_of(records).value == pytest.approx(alone(model, instrument.panel), abs=1e-5)
    assert {r.missing for r in records if r.signal in ("dimension", "lens")} == {instrument.lost_sites[""]}


def test_a_model_that_cannot_be_called_costs_what_needs_a_pass_and_not_the_run(panel, tokenizer, tmp_path):
    class Wants(PlainModel):
        def forward(self, ids, other):
            return super().forward(ids + other)

    model = Wants(len(tokenizer))
    with lmtrace.Tracer(model, panel, run=tmp_path / "run", every=1, signals=[Output(), Weights(), Dimension()]):
        pass
    with lmtrace.open_run(tmp_path / "run") as run:
        records = list(run.records())
    assert "missing a required argument: 'other'" in loss_of(records).missing
    assert any(r.value is not None for r in records if r.signal == "weights")
    assert all(r.missing for r in records if r.signal == "dimension")
    with pytest.raises(ModelError, match="missing a required argument"):
        Instrument(model, panel, [Output()], on_error="raise").measure(0)


def test_a_lost_site_has_its_reason_in_every_signal_that_reads_it(panel, tokenizer):
    class Idle(PlainModel):
        def forward(self, ids):
            x = self.transformer["wte"](ids)
            return self.lm_head(self.transformer["ln_f"](self.transformer["h"][0](x)))

    records = Instrument(Idle(len(tokenizer)), panel, [Dimension()]).measure(0)
    assert find(records, "participation_ratio", site="block.0").value > 1
    assert "does not run" in find(records, "participation_ratio", site="block.1").missing


def test_what_a_class_says_nothing_of_is_what_the_panel_says(panel, tokenizer):
    masked = panel.with_objective("masked")
    assert Instrument(PlainModel(len(tokenizer)), masked, [Output()]).panel.objective == "masked"


def test_composite_configurations_bound_ids_and_memory(panel, tokenizer):
    config = transformers.Mistral3Config(
        text_config={
            "model_type": "mistral", "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 32,
        },
        vision_config={
            "model_type": "pixtral", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
            "intermediate_size": 256, "image_size": 32, "patch_size": 16,
        },
    )  # fmt: skip
    model = transformers.Mistral3ForConditionalGeneration(config)
    largest = []
    handle = model.lm_head.register_forward_hook(lambda module, args, output: largest.append(output.numel()))
    instrument = Instrument(model, panel, [Output()], max_logits=len(tokenizer) * panel.longest * 3)
    records = instrument.measure(0)
    handle.remove()
    assert max(largest) <= len(tokenizer) * panel.longest * 3
    assert instrument.known_sites["block.1"].path.startswith("model.language_model.")
    assert loss_of(records).value == pytest.approx(alone(model, instrument.panel), abs=1e-5)


# Padding


class Blurred(PlainModel):
    """Sees padding: adds the mean over all positions, and has no mask."""

    def forward(self, ids):
        x = self.transformer["wte"](ids)
        x = x + x.mean(dim=1, keepdim=True)
        return self.lm_head(self.transformer["h"][1](self.transformer["h"][0](x)))


def test_a_model_that_sees_padding_is_read_without_any_and_it_is_said(panel, tokenizer):
    model = Blurred(len(tokenizer))
    losses = []
    for limit in (2**25, 1):
        instrument = Instrument(model, panel.with_objective("masked"), [Output()], max_logits=limit)
        losses.append(loss_of(instrument.measure(0)).value)
        assert "padding" in [kind for kind, _, _ in instrument.notes]
    assert losses[0] == pytest.approx(alone(model, instrument.panel), abs=1e-5)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_models_that_do_not_see_padding_are_read_as_before(gpt2, panel):
    instrument = Instrument(gpt2, panel, [Output()])
    instrument.measure(0)
    assert not instrument.same_length
    assert not instrument.notes


class TorchEncoder(nn.Module):
    """PyTorch's own encoder, post-norm: in evaluation mode it makes nested tensors of what a padding mask leaves."""

    def __init__(self, vocabulary, **settings):
        super().__init__()
        self.emb = nn.Embedding(vocabulary, 16)
        nested = settings["batch_first"] and not settings["norm_first"]
        self.body = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 24, **settings), 2, enable_nested_tensor=nested
        )
        self.out = nn.Linear(16, vocabulary)


class BatchFirst(TorchEncoder):
    def forward(self, input_ids, attention_mask=None):
        hidden = None if attention_mask is None else attention_mask == 0
        return self.out(self.body(self.emb(input_ids), src_key_padding_mask=hidden))


class SequenceFirst(TorchEncoder):
    def forward(self, input_ids, attention_mask=None):
        hidden = None if attention_mask is None else attention_mask == 0
        return self.out(self.body(self.emb(input_ids).transpose(0, 1), src_key_padding_mask=hidden).transpose(0, 1))


class OtherName(TorchEncoder):
    def forward(self, tokens, src_key_padding_mask=None):
        return self.out(self.body(self.emb(tokens), src_key_padding_mask=src_key_padding_mask))


class RealOnes(TorchEncoder):
    """Says mask, and means what is real."""

    def forward(self, tokens, mask=None):
        hidden = None if mask is None else ~mask.bool()
        return self.out(self.body(self.emb(tokens), src_key_padding_mask=hidden))


@pytest.mark.parametrize(
    ("kind", "first"), [(BatchFirst, True), (SequenceFirst, False), (OtherName, True), (RealOnes, True)]
)
@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_own_encoder_reads_as_a_plain_loop(kind, first, norm_first, panel, tokenizer):
    model = kind(len(tokenizer), batch_first=first, norm_first=norm_first)
    instrument = Instrument(model, panel.with_objective("masked"), [Output(), Dimension()])
    records = instrument.measure(0)
    assert loss_of(records).value == pytest.approx(alone(model, instrument.panel), abs=1e-5)
    assert find(records, "participation_ratio", site="block.1", signal="dimension").value > 1
    assert not instrument.same_length
    assert torch.backends.mha.get_fastpath_enabled()


# Nothing changed


def test_attributes_submodules_and_caches_are_put_back():
    class Shifty(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.kind, self.steps, self.seen = nn.Linear(4, 4), "sparse", 0, {}
            self.register_buffer("cache", torch.zeros(2))

        def forward(self, x):
            if not self.training:
                self.kind, self.inner = "full", nn.Linear(4, 4)
                self.cache = torch.ones(3)
            self.steps += 1
            self.seen[self.steps] = x
            self.added = x
            return self.inner(x)

    model = Shifty().train()
    inner, cache = model.inner, model.cache
    with undisturbed(model):
        model(torch.ones(1, 4))
    assert (model.kind, model.steps, model.seen) == ("sparse", 0, {})
    assert model.inner is inner
    assert model.cache is cache
    assert not hasattr(model, "added")
    assert list(model._modules) == ["inner"]
    model(torch.ones(1, 4))
    assert model.steps == 1


def test_a_pegasus_that_turns_its_attention_dense_trains_on_as_it_was(panel, tokenizer):
    config = transformers.BigBirdPegasusConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=512, block_size=4,
        num_random_blocks=1, attention_type="block_sparse", pad_token_id=0, bos_token_id=2, eos_token_id=3,
        decoder_start_token_id=2,
    )  # fmt: skip
    model = transformers.BigBirdPegasusForConditionalGeneration(config).train()
    before = [(name, type(module)) for name, module in model.named_modules()]
    Instrument(model, panel, [Output()]).measure(0)
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert {m.attention_type for m in model.modules() if hasattr(m, "attention_type")} == {"block_sparse"}
    assert all(module.training for module in model.modules())


def test_a_weight_that_is_changed_is_named(gpt2):
    from lmtrace.errors import SignalError

    model = copy.deepcopy(gpt2)
    with (
        pytest.raises(SignalError, match=r"the weight transformer\.h\.1\.ln_2\.weight was changed"),
        undisturbed(model),
    ):
        model.transformer.h[1].ln_2.weight.add_(1)


def test_rwkv_keeps_its_weights_and_its_function(panel, tokenizer):
    config = transformers.RwkvConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=4, attention_hidden_size=16, intermediate_size=24,
        context_length=64, rescale_every=2, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    model = transformers.RwkvForCausalLM(config).train()
    before = copy.deepcopy(model.state_dict())
    records = Instrument(model, panel, [Output()]).measure(0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.rescale_every == 2
    assert not model.rwkv.layers_are_rescaled
    assert loss_of(records).value == pytest.approx(alone(model, panel), abs=1e-4)
