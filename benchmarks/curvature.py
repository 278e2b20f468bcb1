"""Curvature in gradients: paired medians in one process, on the published quick start (2 blocks, d 96, batch 128 x 16).

One gradient is one forward and backward pass of the training batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks._timing import ratio
from lmtrace.numerics.hessian import hessian_spectrum, operator_spectrum
from lmtrace.numerics.hessian_operator import HessianOperator
from lmtrace.numerics.hutchinson import quadratic_forms
from lmtrace.observe.instrument import Instrument
from lmtrace.signals import resolve
from lmtrace.signals.curvature import Curvature
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer

WORDS, LENGTH, BATCH = 300, 16, 128
PUBLISHED = ("spectrum", "trace", "components", "component_spectrum", "alignment", "landscape")


class QuickStart:
    """A GPT-2 of the quick start's size after some steps on words of a Zipf-like law, and a panel of the same kind."""

    def __init__(self, num_steps: int = 60) -> None:
        torch.manual_seed(0)
        words = [f"w{i}" for i in range(WORDS)]
        tokenizer = WordTokenizer.from_words(words)
        drawn = torch.rand(4 * BATCH, LENGTH - 2).pow(2).mul(WORDS).long().tolist()
        sentences = [
            AnnotatedSentence(tokens=tuple(words[i] for i in row), labels={"third": tuple(f"t{i % 3}" for i in row)})
            for row in drawn
        ]
        self.panel = Panel.from_annotated(sentences, tokenizer, size=len(sentences), seed=0)
        sizes = {"n_layer": 2, "n_embd": 96, "n_head": 4, "n_positions": LENGTH, "vocab_size": len(tokenizer)}
        self.model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
        known = torch.tensor(tokenizer.encode(words))
        self.data = known[torch.rand(num_steps * BATCH, LENGTH).pow(2).mul(WORDS).long()]
        self.params = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.params, lr=1e-3)
        for step in range(num_steps):
            self.optimizer.zero_grad()
            self.loss(step)().backward()
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def batch(self, step: int) -> Tensor:
        """Return [BATCH, LENGTH] token ids."""
        return self.data[step * BATCH : (step + 1) * BATCH]

    def loss(self, step: int) -> Callable[[], Tensor]:
        """Return the closure of a training batch's loss."""
        ids = self.batch(step)

        def loss() -> Tensor:
            logits = self.model(ids).logits
            return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

        return loss

    def instrument(self, signals: Any) -> Instrument:
        """Return an instrument with the last training batch, warmed up."""
        ids = self.data[-BATCH:]
        found = Instrument(self.model, self.panel, signals, self.optimizer, on_error="raise")
        found.train_batches[:] = [{"input_ids": ids, "labels": ids}]
        found.measure(0)
        return found


def rows(repeats: int = 3) -> list[dict[str, Any]]:
    """Return name, value, unit, bound and note of every figure."""
    start = QuickStart()
    params, full = start.params, start.loss(0)

    def gradient() -> None:
        torch.autograd.grad(full(), params)

    operator = HessianOperator(full, params)
    v = torch.randn(operator.size)
    found = []

    def row(name: str, value: float, bound: str = "", note: str = "", unit: str = "gradients") -> None:
        found.append({"name": name, "value": value, "unit": unit, "bound": bound, "note": note})

    product = ratio(lambda: operator(v), gradient, 5 * repeats)
    row("Hessian-vector product", product, "<= 2.2", "kept gradient graph; the limit is 2")
    row("gradient graph, once", ratio(lambda: HessianOperator(full, params), gradient, repeats))
    operator.close()

    exact = hessian_spectrum(full, params, tol=1e-5, smallest=False).largest
    spectra = []

    def sharpness_and_trace() -> None:
        shared = HessianOperator(full, params)  # one gradient graph for both, as in the signal
        spectra.append(operator_spectrum(shared, tol=0.05, smallest=False))
        quadratic_forms(shared, shared.size, 10)

    cost = ratio(sharpness_and_trace, gradient, repeats, warmup=0)
    error = abs(spectra[0].largest - exact) / exact
    note = f"error {error:.2%}, {spectra[0].num_products} + 10 products"
    row("lambda_max to 1 % and trace, 10 probes", cost, "<= 43", note)

    published = start.instrument([Curvature(quantities=PUBLISHED, top=5)])
    cost = ratio(lambda: published.measure(1), gradient, repeats, warmup=0)
    missing = sorted({r.metric for r in published.measure(1) if r.missing})
    note = f"missing: {', '.join(missing) or 'none'}"
    row("published set (top 5, components, alignment, landscape)", cost, "<= 40", note)
    everything = [s for s in resolve("standard") if s.name != "curvature"]
    whole = start.instrument([*everything, Curvature(quantities=PUBLISHED, top=5)])
    cost = ratio(lambda: whole.measure(1), gradient, repeats, warmup=0)
    row("the default set with the published set in one measurement", cost, "", "panel of 512 sentences of 16 tokens")
    default = start.instrument([Curvature()])
    row("default quantities, 16 sequences", ratio(lambda: default.measure(1), gradient, repeats, warmup=0))
    return found


if __name__ == "__main__":
    for line in rows():
        print(f"{line['name']:60s} {line['value']:8.2f} {line['unit']} {line['bound']:8s} {line['note']}")
