"""The logit lens: the last block is the model itself, the depth is that of planted predictions, other heads are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from lmtrace.errors import ConfigError
from lmtrace.observe.forward import default_forward, inputs_of, logits_of
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.lens import Lens, prediction_rows
from lmtrace.signals.output import Output
from lmtrace_helpers import PlainModel, tiny
from planted_view import find

STYLES = ("gpt2", "llama", "gpt_neox", "mixtral", "bert", "t5", "plain")


def model_of(style, tokenizer):
    return PlainModel(len(tokenizer)) if style == "plain" else tiny(style, tokenizer)


def run(model, panel, **settings):
    instrument = Instrument(model, panel, [Lens(**settings)], on_error="raise")
    return [r for r in instrument.measure(0) if r.signal == "lens"], instrument.panel


@pytest.mark.parametrize("style", STYLES)
def test_the_last_block_reads_as_the_model_does(style, panel, tokenizer):
    model = model_of(style, tokenizer)
    records, panel = run(model, panel, num_predictions=10**6)
    losses, right = [], []
    for batch in panel.batches(16):
        inputs = inputs_of(batch, torch.device("cpu"))
        with torch.no_grad():
            logits = logits_of(default_forward(model.eval(), inputs), inputs)[batch.predict_row, batch.predict_column]
        targets = torch.as_tensor(batch.targets)
        losses.append(nn.functional.cross_entropy(logits, targets, reduction="none"))
        right.append(logits.argmax(dim=1) == targets)
    prefix = "decoder." if style == "t5" else ""
    last = find(records, "loss", site=f"{prefix}block.1")
    assert last.value == pytest.approx(float(torch.cat(losses).mean()), abs=1e-4)
    assert find(records, "accuracy", site=f"{prefix}block.1").value == pytest.approx(
        float(torch.cat(right).float().mean()), abs=0.01
    )
    assert find(records, "agreement", site=f"{prefix}block.1").value == 1.0
    assert last.n == len(panel.predictions)
    assert last.null == pytest.approx(math.log(len(tokenizer)))


def test_sentences_not_tokens_are_the_sampling_units(gpt2, panel):
    records, panel = run(gpt2, panel, num_predictions=10**6)
    sums, logits_loss = np.zeros(panel.num_sentences), []
    for batch in panel.batches(16):
        inputs = inputs_of(batch, torch.device("cpu"))
        with torch.no_grad():
            logits = gpt2.eval()(**inputs, use_cache=False).logits[batch.predict_row, batch.predict_column]
        loss = nn.functional.cross_entropy(logits, torch.as_tensor(batch.targets), reduction="none").double().numpy()
        logits_loss.append(loss)
        np.add.at(sums, batch.sequences[batch.predict_row], loss)
    mean, n = np.concatenate(logits_loss).mean(), len(panel.predictions)
    residual = sums - mean * np.bincount(panel.predictions.sentence, minlength=len(sums))
    expected = math.sqrt(len(sums) / (len(sums) - 1) * float((residual**2).sum())) / n
    assert find(records, "loss", site="block.1").stderr == pytest.approx(expected, rel=1e-3)


def test_an_earlier_block_is_the_model_cut_off_there(panel, tokenizer):
    model = tiny("gpt2", tokenizer)
    records, panel = run(model, panel, num_predictions=10**6)
    model.transformer.h = model.transformer.h[:1]
    losses = []
    for batch in panel.batches(16):
        inputs = inputs_of(batch, torch.device("cpu"))
        with torch.no_grad():
            logits = model.eval()(**inputs, use_cache=False).logits[batch.predict_row, batch.predict_column]
        losses.append(nn.functional.cross_entropy(logits, torch.as_tensor(batch.targets), reduction="none"))
    assert find(records, "loss", site="block.0").value == pytest.approx(float(torch.cat(losses).mean()), abs=1e-4)


def test_depth_is_one_where_later_blocks_add_nothing_and_last_where_they_decide(panel, tokenizer):
    model = tiny("gpt2", tokenizer)
    with torch.no_grad():
        for part in (model.transformer.h[1].attn.c_proj, model.transformer.h[1].mlp.c_proj):
            part.weight.zero_()
            part.bias.zero_()
    records, _ = run(model, panel)
    assert find(records, "depth").value == 1.0
    assert find(records, "agreement", site="block.0").value == 1.0
    target = tokenizer.words.index("noun3")
    with torch.no_grad():  # the last block decides for one word, against whatever came before
        head = model.lm_head.weight
        model.transformer.h[1].mlp.c_proj.bias.copy_(1e4 * (head[target] - head.mean(dim=0)))
    records, _ = run(model, panel)
    assert find(records, "depth").value == pytest.approx(2 - find(records, "agreement", site="block.0").value)
    assert find(records, "depth").value > 1.8
    assert find(records, "agreement", site="block.1").null == 1.0


def same_as_the_model(model, panel, last):
    """Whether the lens at the last block has the loss of the signal `output`, to 1e-5."""
    found = Instrument(model, panel, [Lens(num_predictions=10**6), Output()], on_error="raise").measure(0)
    own = next(r for r in found if r.signal == "output" and r.metric == "loss" and r.label is None)
    record = find(found, "loss", site=last, signal="lens")
    assert record.n == own.n
    return record.value == pytest.approx(own.value, abs=1e-5)


class Capped(PlainModel):
    def forward(self, ids):
        return torch.tanh(3 * super().forward(ids))


class Headless(PlainModel):
    def __init__(self, vocabulary):
        super().__init__(vocabulary)
        del self.lm_head

    def forward(self, ids):
        x = self.transformer["wte"](ids)
        for block in self.transformer["h"]:
            x = block(x)
        return self.transformer["ln_f"](x) @ self.transformer["wte"].weight.T


class Looped(PlainModel):
    def forward(self, ids):
        x = self.transformer["wte"](ids)
        for _ in range(2):
            for block in self.transformer["h"]:
                x = block(x)
        return 2 * self.lm_head(torch.tanh(x))


@pytest.mark.parametrize(("kind", "last"), [(Capped, 1), (Headless, 1), (Looped, 3)])
def test_whatever_follows_the_last_block_is_the_models_own(kind, last, panel, tokenizer):
    assert same_as_the_model(kind(len(tokenizer)), panel, f"block.{last}")


SMALL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
BARTS = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64, "decoder_start_token_id": 2, **SMALL,
}  # fmt: skip


def opt(vocabulary):
    """A projection between the last block and the output layer."""
    config = transformers.OPTConfig(
        vocab_size=vocabulary, hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
        max_position_embeddings=64, do_layer_norm_before=False, **SMALL,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config)


def recurrent_gemma(vocabulary):
    """A soft cap, with logits large enough for it to matter."""
    config = transformers.RecurrentGemmaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, lru_width=32, attention_window_size=16, block_types=["recurrent", "attention"], **SMALL,
    )  # fmt: skip
    model = transformers.RecurrentGemmaForCausalLM(config)
    with torch.no_grad():
        model.model.final_norm.weight.add_(400)
    return model


def pegasus(vocabulary):
    """A bias that is a buffer of the model."""
    model = transformers.PegasusForConditionalGeneration(transformers.PegasusConfig(vocab_size=vocabulary, **BARTS))
    model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    return model


def convbert(vocabulary):
    """A transform in one child and the output layer in another."""
    config = transformers.ConvBertConfig(
        vocab_size=vocabulary, embedding_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=64, **SMALL,
    )  # fmt: skip
    return transformers.ConvBertForMaskedLM(config)


@pytest.mark.parametrize(
    ("make", "last"),
    [(opt, "block.1"), (recurrent_gemma, "block.1"), (pegasus, "decoder.block.1"), (convbert, "block.1")],
)
def test_projections_caps_biases_and_transforms_are_part_of_the_head(make, last, panel, tokenizer):
    torch.manual_seed(0)
    assert same_as_the_model(make(len(tokenizer)), panel, last)


def test_a_head_that_reads_more_than_the_last_block_is_refused(panel, tokenizer):
    class Reminded(PlainModel):
        def forward(self, ids):
            return super().forward(ids) + self.lm_head(self.transformer["wte"](ids))

    records, _ = run(Reminded(len(tokenizer)), panel)
    assert len(records) == 4
    assert all("nor does what follows depend on the last block alone" in r.missing for r in records)


def test_the_sample_is_the_same_at_every_step(gpt2, panel):
    instrument = Instrument(gpt2, panel, [Lens(num_predictions=50)], on_error="raise")
    first, second = ([r.value for r in instrument.measure(step) if r.signal == "lens"] for step in (0, 1))
    assert first == second


def test_prediction_rows_point_at_the_token_before(panel):
    rows, targets = prediction_rows(panel)
    ids = np.concatenate(panel.encoder.ids)
    np.testing.assert_array_equal(ids[rows + 1], targets)
    np.testing.assert_array_equal(targets, panel.predictions.target)


def test_wrong_settings_are_errors():
    with pytest.raises(ConfigError, match="num_predictions must be at least 2, got 1"):
        Lens(num_predictions=1)


def test_a_model_that_broke_on_one_word_agrees_with_nothing(panel, tokenizer):
    """The last block is not finite after a word that the first sentence does not have: argmax would still name a token."""
    model = tiny("gpt2", tokenizer)
    word = next(i for i in range(5, len(tokenizer)) if i not in panel.encoder.ids[0])
    with torch.no_grad():
        model.transformer.wte.weight[word] = math.nan
    model.lm_head.weight = nn.Parameter(torch.randn(model.lm_head.weight.shape))
    records, _ = run(model, panel)
    assert {r.metric for r in records} == {"loss", "accuracy", "agreement", "depth"}
    assert all(r.missing == "the loss is not finite" for r in records)
