"""Small models from configurations, by style and size: what `lmtrace train` and the tests train from scratch."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from lmtrace.errors import ConfigError

SIZES = {"tiny": (2, 64), "small": (4, 128), "medium": (4, 256), "large": (8, 512)}
"""Name -> (blocks, width). "6x192" works as well."""

STYLES: dict[str, tuple[str, str]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM"),
    "opt": ("OPTConfig", "OPTForCausalLM"),
    "qwen": ("Qwen2Config", "Qwen2ForCausalLM"),
    "gemma": ("GemmaConfig", "GemmaForCausalLM"),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM"),
    "mamba": ("MambaConfig", "MambaForCausalLM"),
    "bert": ("BertConfig", "BertForMaskedLM"),
    "t5": ("T5Config", "T5ForConditionalGeneration"),
}
"""Style -> configuration and model class of transformers."""


def build_model(
    style: str, size: str, vocabulary: int, *, specials: dict[str, int], max_length: int = 128, seed: int = 0
) -> PreTrainedModel:
    """Return a freshly initialised model.

    Parameters
    ----------
    style
        One of `STYLES`.
    size
        One of `SIZES`, or "LAYERSxWIDTH".
    vocabulary
        Number of token ids.
    specials
        "pad", "bos", "eos" token ids.
    seed
        Of the initial weights; the global generators are left as they were.

    Raises
    ------
    ConfigError
        For a style or size that does not exist.
    """
    layers, width = check_size(style, size)
    heads = max(1, width // 32)
    names = STYLES[style]
    config_class, model_class = getattr(transformers, names[0]), getattr(transformers, names[1])
    ids = {f"{name}_token_id": value for name, value in specials.items()}
    config = config_class(**_settings(style, layers, width, heads, max_length), vocab_size=vocabulary, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    if style == "gpt2":
        model.loss_type = "ForCausalLM"  # the class name does not tell transformers which loss it has
    return model


def check_size(style: str, size: str) -> tuple[int, int]:
    """Return (blocks, width); `ConfigError` for a style or size that does not exist."""
    if style not in STYLES:
        raise ConfigError(f"no model style {style!r}", f"Choose from: {', '.join(STYLES)}")
    if size in SIZES:
        return SIZES[size]
    if match := re.fullmatch(r"(\d+)x(\d+)", size):
        layers, width = int(match[1]), int(match[2])
        if layers >= 1 and width >= 32 and width % 32 == 0:
            return layers, width
    raise ConfigError(
        f"no model size {size!r}",
        f"Choose from {', '.join(SIZES)}, or LAYERSxWIDTH such as 2x64, the width a multiple of 32",
    )


def _settings(style: str, layers: int, width: int, heads: int, max_length: int) -> dict[str, Any]:
    """Return what each family calls its sizes."""
    if style == "gpt2":
        return {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": max_length}
    if style == "t5":
        return {
            "num_layers": layers,
            "num_decoder_layers": layers,
            "d_model": width,
            "d_ff": 4 * width,
            "d_kv": width // heads,
            "num_heads": heads,
            "decoder_start_token_id": 0,
            "tie_word_embeddings": True,
        }
    if style == "mamba":
        return {"num_hidden_layers": layers, "hidden_size": width}
    settings: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "max_position_embeddings": max_length,
        "intermediate_size": 4 * width,
    }
    if style == "opt":
        settings = {
            **settings,
            "ffn_dim": settings.pop("intermediate_size"),
            "word_embed_proj_dim": width,
        }
    if style in ("llama", "qwen", "mixtral", "gemma"):
        settings["num_key_value_heads"] = max(1, heads // 2)
    if style in ("gemma",):
        settings["head_dim"] = width // heads
    if style == "mixtral":
        settings |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    return settings
