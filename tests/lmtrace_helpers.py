"""Models and small things that several tests of lmtrace share."""

from __future__ import annotations

import torch
from torch import nn

from lmtrace.text.tokenizer import WordTokenizer


def tiny(style: str, tokenizer: WordTokenizer, size: str = "tiny", seed: int = 0) -> nn.Module:
    """Return a two-block model of a family."""
    from lmtrace.jobs.models import build_model

    specials = {"pad": tokenizer.pad_token_id, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    return build_model(style, size, len(tokenizer), specials=specials, max_length=32, seed=seed)


class PlainBlock(nn.Module):
    """A pre-norm block as people write them in one file."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device, dtype=x.dtype)
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class PlainModel(nn.Module):
    """A decoder that is nobody's subclass; its forward takes one tensor of ids and returns logits."""

    def __init__(self, vocabulary: int, width: int = 32, layers: int = 2, heads: int = 2, length: int = 64) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocabulary, width),
                "wpe": nn.Embedding(length, width),
                "h": nn.ModuleList([PlainBlock(width, heads) for _ in range(layers)]),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1], device=ids.device))
        for block in self.transformer["h"]:  # pyright: ignore[reportGeneralTypeIssues]
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))
