"""Two lines in a loop of your own: a plain nn.Module, nobody's subclass, traced while it trains.

Run: python examples/01_plain_loop.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import absynth
import lmtrace


class Block(nn.Module):
    """Attention and perceptron, each after a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [sequences, length, width] to the same shape; no position sees a later one."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, is_causal=True, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Model(nn.Module):
    """A small decoder: ids to logits."""

    def __init__(self, vocabulary: int, width: int = 64, blocks: int = 2, length: int = 64) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map [sequences, length] ids to [sequences, length, vocabulary] logits."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def main(folder: Path = Path("runs/examples/01"), steps: int = 300, sentences: int = 20_000) -> lmtrace.run.Run:
    """Train, trace, and print the loss beside the best possible one."""
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), n=sentences, seed=0)
    train, _, test = corpus.split(train=0.9, dev=0.05, test=0.05, seed=0)
    tokenizer = lmtrace.WordTokenizer.from_corpus(corpus)
    panel = lmtrace.Panel.from_annotated(test, tokenizer, size=256, seed=0)
    torch.manual_seed(0)
    model = Model(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pad = tokenizer.pad_token_id

    with lmtrace.Tracer(model, panel, every=max(1, steps // 6), run=folder, optimizer=optimizer) as tracer:
        for step in range(steps):
            start = 64 * step % (len(train) - 64)
            rows = [
                [tokenizer.bos_token_id, *tokenizer.encode(s.tokens), tokenizer.eos_token_id]
                for s in train[start : start + 64]
            ]
            ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, pad)
            logits = model(ids[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tracer.step(loss=loss)

    run = lmtrace.open_run(folder)
    loss = run.series(signal="output", metric="loss", label=None)
    floor = absynth.Oracle(corpus.grammar).entropy_rate(unit="nats")
    for step, value in zip(run.steps, loss.values[:, 0], strict=True):
        print(
            f"step {step:>4}: panel loss {value:.3f} nats, {value - float(floor):.3f} above the entropy of the language"
        )
    return run


if __name__ == "__main__":
    main()
