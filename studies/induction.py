"""Induction heads (Olsson et al. 2022): they form in a trained two-layer model, and cannot in a one-layer one.

Sequences repeat a random run of 4 to 12 tokens, drawn anew for each; the score is measured at period 13, which none of them
divides, so that no fixed distance tells where to look (measured at 12, a one-layer model scores .73 by its distances alone):
the token after the last occurrence is found only by two heads in a row. Known: the induction score of the best head starts at that
of even attention in both models, rises towards 1 in the deeper one, and stays below a third of that in the other.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import torch

from lmtrace.jobs.models import build_model
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.attention import Attention
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer

WORDS, LENGTH, BATCH = 30, 32, 64


def sample(n: int, ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return [n, LENGTH] of the ids: a run of 4 to 12 random ones, over and over."""
    run = ids[torch.randint(len(ids), (n, 12), generator=generator)]
    period = torch.randint(4, 13, (n, 1), generator=generator)
    return run.gather(1, torch.arange(LENGTH).expand(n, -1) % period)


def scores(layers: int, steps: int, seed: int) -> tuple[list[float], float]:
    """Return the best head's induction score at steps 0, steps / 4, ... and that of even attention."""
    words = [f"t{i}" for i in range(WORDS)]
    sentences = [SimpleNamespace(tokens=words[i : i + 10], labels={}) for i in range(WORDS - 9)]
    tokenizer = WordTokenizer.from_corpus(sentences)
    panel = Panel.from_annotated(sentences, tokenizer, size=len(sentences), seed=0)
    known = torch.tensor(tokenizer.encode(words))
    specials = {"pad": tokenizer.pad_token_id, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    model = build_model("llama", f"{layers}x64", len(tokenizer), specials=specials, max_length=64, seed=seed)
    instrument = Instrument(model, panel, [Attention(num_sequences=64, period=13)], on_error="raise")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    found, null = [], 0.0
    for step in range(steps + 1):
        if step % (steps // 4) == 0:
            records = [r for r in instrument.measure(step) if r.metric == "induction"]
            found.append(max(r.value for r in records))
            null = records[0].null
            model.train()
        ids = sample(BATCH, known, generator)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{layers} layers: loss {loss.item():.3f} nats, induction " + " ".join(f"{s:.3f}" for s in found))
    return found, null


def main(seed: int = 0, steps: int = 400) -> int:
    """Train both, print the scores and the verdict."""
    start = time.perf_counter()
    one, null = scores(1, steps, seed)
    two, _ = scores(2, steps, seed)
    checks = {
        "both start at even attention": max(one[0], two[0]) < 2 * null,
        "an induction head forms in two layers": two[-1] > 0.5,
        "none forms in one layer": max(one) < two[-1] / 3,
    }
    print(f"even attention: {null:.3f}")
    for text, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {text}")
    print(f"VERDICT: {'holds' if all(checks.values()) else 'fails'} ({time.perf_counter() - start:.0f} s)")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
