"""Which component a parameter belongs to, by family."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmtrace.observe.components import parts_of
from lmtrace_helpers import PlainModel, tiny


def components(model: nn.Module) -> dict[str, set[tuple[str, str | None]]]:
    found: dict[str, set[tuple[str, str | None]]] = {}
    for part in parts_of(model, dict(model.named_parameters())):
        found.setdefault(part.parameter, set()).add((part.component, part.block))
    return found


@pytest.mark.parametrize(
    "style", ["gpt2", "llama", "gpt_neox", "opt", "qwen", "gemma", "mixtral", "bert", "t5", "plain"]
)
def test_every_entry_is_in_exactly_one_part(style, tokenizer):
    model = PlainModel(len(tokenizer)) if style == "plain" else tiny(style, tokenizer)
    named = dict(model.named_parameters())
    counts = {name: torch.zeros_like(p, dtype=torch.int64) for name, p in named.items()}
    parts = parts_of(model, named)
    for part in parts:
        counts[part.parameter][part.index] += 1
    assert all(bool((c == 1).all()) for c in counts.values())
    known = {part.component for part in parts}
    assert "other" not in known
    assert "attention.other" not in known or style == "t5"
    blocks = {part.block for part in parts} - {None}
    assert len(blocks) == (4 if style == "t5" else 2)


def test_gpt2_has_its_fused_projection_split(tokenizer):
    got = components(tiny("gpt2", tokenizer))
    fused = {("attention.q", "block.1"), ("attention.k", "block.1"), ("attention.v", "block.1")}
    assert got["transformer.h.1.attn.c_attn.weight"] == fused
    assert got["transformer.h.1.attn.c_attn.bias"] == fused
    assert got["transformer.h.1.attn.c_proj.weight"] == {("attention.o", "block.1")}
    assert got["transformer.h.1.mlp.c_proj.weight"] == {("mlp", "block.1")}
    assert got["transformer.wte.weight"] == {("embedding", None)}
    assert got["transformer.ln_f.weight"] == {("norm", None)}


def test_a_fused_projection_is_split_where_it_is_applied(tokenizer):
    model = tiny("gpt2", tokenizer)
    named = dict(model.named_parameters())
    weight = "transformer.h.0.attn.c_attn.weight"
    index = {p.component: p.index for p in parts_of(model, named) if p.parameter == weight}
    x = torch.randn(5, named[weight].shape[0])
    q, k, v = model.transformer.h[0].attn.c_attn(x).split(named[weight].shape[0], dim=1)
    for letter, expected in zip("qkv", (q, k, v)):
        torch.testing.assert_close(x @ named[weight][index[f"attention.{letter}"]], expected)  # biases start at zero


def test_names_of_other_families(tokenizer):
    bert = components(tiny("bert", tokenizer))
    assert bert["bert.encoder.layer.0.attention.self.query.weight"] == {("attention.q", "block.0")}
    assert bert["bert.encoder.layer.0.attention.output.dense.weight"] == {("attention.o", "block.0")}
    assert bert["bert.encoder.layer.0.attention.output.LayerNorm.weight"] == {("norm", "block.0")}
    assert bert["bert.encoder.layer.0.output.dense.weight"] == {("mlp", "block.0")}
    assert bert["cls.predictions.transform.dense.weight"] == {("head", None)}
    t5 = components(tiny("t5", tokenizer))
    assert t5["decoder.block.0.layer.1.EncDecAttention.k.weight"] == {("attention.k", "decoder.block.0")}
    assert t5["encoder.block.1.layer.1.DenseReluDense.wo.weight"] == {("mlp", "encoder.block.1")}
    llama = components(tiny("llama", tokenizer))
    assert llama["lm_head.weight"] == {("head", None)}
    assert llama["model.layers.0.mlp.gate_proj.weight"] == {("mlp", "block.0")}
    neox = components(tiny("gpt_neox", tokenizer))
    assert neox["gpt_neox.layers.0.attention.query_key_value.weight"] == {("attention.qkv", "block.0")}


def test_a_model_without_blocks_has_none():
    model = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert components(model) == {
        "0.weight": {("embedding", None)}, "1.weight": {("norm", None)}, "1.bias": {("norm", None)},
        "2.weight": {("other", None)}, "2.bias": {("other", None)},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["out", "output", "decoder", "fc_out", "to_logits", "lm_head"])
def test_the_last_map_of_a_plain_model_is_its_head(name):
    model = nn.Module()
    model.emb, model.layers = nn.Embedding(9, 4), nn.ModuleList([nn.TransformerEncoderLayer(4, 2, 8)])
    model.add_module(name, nn.Linear(4, 9))
    got = components(model)
    assert got[f"{name}.weight"] == got[f"{name}.bias"] == {("head", None)}
    assert got["layers.0.self_attn.out_proj.weight"] == {("attention.o", "block.0")}


def test_a_model_without_attention_has_no_part_of_it(tokenizer):
    found = {component for parts in components(tiny("mamba", tokenizer)).values() for component, _ in parts}
    assert not any(component.startswith("attention") for component in found)
