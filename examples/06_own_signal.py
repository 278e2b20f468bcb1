"""A signal of your own: declare what it needs, reduce each batch, yield records with their nulls.

docs/add_a_signal.md explains each part. Run: python examples/06_own_signal.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import absynth
import lmtrace
from lmtrace import Field, Needs, Record, Signal
from lmtrace.testing import check_signal


@dataclass(frozen=True, kw_only=True)
class Surprise(Signal):
    """How many predictions the model finds less probable than a uniform guess."""

    name = "surprise"
    cost = "the shared pass"
    source = "this example"
    fields = (Field(metric="share", title="Below chance", low=0.0, high=1.0, better="down", null="one half", meaning="Share of "
                    "predictions whose right token has less than the uniform probability."),)  # fmt: skip

    def needs(self, panel: lmtrace.Panel) -> Needs:
        """Return the need of the predictions."""
        return Needs(logits=True)

    def reduce(self, batch: Any) -> dict[str, Tensor]:
        """Keep one truth value per prediction."""
        right = batch.log_probs.gather(1, batch.targets[:, None])[:, 0]
        return {"below": right.exp() * batch.log_probs.shape[1] < 1}

    def measure(self, view: Any) -> Iterator[Record]:
        """Yield the share, with the standard error of a proportion."""
        below = view.reduced()["below"].double()
        share, n = float(below.mean()), len(below)
        yield self.record(view, "share", share, stderr=(share * (1 - share) / n) ** 0.5, n=n, null=0.5)


def main(folder: Path = Path("runs/examples/06")) -> list[Record]:
    """Check the contract, then use it beside the others."""
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), n=400, seed=0)
    tokenizer = lmtrace.WordTokenizer.from_corpus(corpus)
    panel = lmtrace.Panel.from_annotated(corpus, tokenizer, size=64, seed=0)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = GPT2LMHeadModel(
        GPT2Config(**ends, vocab_size=len(tokenizer), n_layer=2, n_embd=32, n_head=2, n_positions=64)
    )
    records = check_signal(Surprise(), model, panel)  # raises where it leaks, draws or disturbs
    run = lmtrace.analyze(model, panel, signals=["output", Surprise()], run=folder, overwrite=True)
    print(
        run.series(signal="surprise", metric="share").values,
        run.series(signal="output", metric="loss", label=None).values,
    )
    return records


if __name__ == "__main__":
    main()
