"""A small decoder in one piece, with or without feed-forward layers, for studies whose model must be known to the last line."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Pre-norm attention, then (unless attention_only) a feed-forward layer, each added to the residual stream."""

    def __init__(self, width: int, heads: int, attention_only: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = (
            None
            if attention_only
            else nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [sequences, length, width]."""
        n, length, width = x.shape
        q, k, v = (
            part.view(n, length, self.heads, -1).transpose(1, 2) for part in self.qkv(self.ln_1(x)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return x if self.mlp is None else x + self.mlp(x)


class Decoder(nn.Module):
    """Token and position embeddings, blocks, a final norm, an untied head."""

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        attention_only: bool = False,
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList([Block(width, heads, attention_only) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for parameter in (self.tokens.weight, self.positions.weight, self.head.weight):
            nn.init.normal_(parameter, std=0.02)

    def residuals(self, ids: Tensor) -> list[Tensor]:
        """Return the residual stream before block 0 and after every block, each [sequences, length, width]."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        found = [x]
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [sequences, length, vocabulary]."""
        return self.head(self.norm(self.residuals(ids)[-1]))
