"""Stop when the curves have converged; and ask a finished run what another rule would have saved, and given up.

Run: python examples/10_stop_and_replay.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import absynth
import lmtrace
from lmtrace.analysis.replay import Replay, replay


def main(folder: Path = Path("runs/examples/10"), steps: int = 600, sentences: int = 20_000) -> tuple[int, Replay]:
    """Train until the rule fires; return the step at which it did, and the replay of an impatient rule."""
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), n=sentences, seed=0)
    train, _, test = corpus.split(train=0.9, dev=0.05, test=0.05, seed=0)
    tokenizer = lmtrace.WordTokenizer.from_corpus(corpus)
    panel = lmtrace.Panel.from_annotated(test, tokenizer, size=128, seed=0)
    torch.manual_seed(0)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = GPT2LMHeadModel(
        GPT2Config(**ends, vocab_size=len(tokenizer), n_layer=2, n_embd=32, n_head=2, n_positions=64)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    stop = lmtrace.Converged("output.loss", window=10, tolerance=0.05, patience=2)

    every = max(1, steps // 60)
    with lmtrace.Tracer(
        model, panel, signals=["output"], every=every, run=folder, optimizer=optimizer, stop=stop, overwrite=True
    ) as tracer:
        for step in range(steps):
            start = 32 * step % (len(train) - 32)
            rows = [
                [tokenizer.bos_token_id, *tokenizer.encode(s.tokens), tokenizer.eos_token_id]
                for s in train[start : start + 32]
            ]
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, tokenizer.pad_token_id)
            loss = model(input_ids=ids, labels=ids.masked_fill(ids == tokenizer.pad_token_id, -100)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tracer.step(loss=loss)
            if tracer.should_stop:
                break

    run = lmtrace.open_run(folder)
    print(f"{run.status} at step {run.steps[-1]} of {steps}")
    again = replay(run, "output.loss window=5 tolerance=0.5")
    print(again.finding().sentence)
    return int(run.steps[-1]), again


if __name__ == "__main__":
    main()
