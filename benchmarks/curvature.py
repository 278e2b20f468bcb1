"""Curvature in gradients: paired medians in one process, on the published quick start (2 blocks, d 96, batch 128 x 16).

One gradient is one forward and backward pass of the training batch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._timing import ratio
from lmtrace.numerics.hessian import hessian_spectrum, hessian_trace
from lmtrace.numerics.hessian_operator import HessianOperator
from lmtrace.signals.curvature import Curvature

VOCABULARY, LENGTH, BATCH = 300, 16, 128
PUBLISHED = ("spectrum", "trace", "components", "component_spectrum", "alignment", "landscape")


def model_and_data(steps: int) -> tuple[nn.Module, Callable[[int, int], Callable[[], Tensor]]]:
    """A GPT-2 of the quick start's size after some steps, and losses on slices of training data."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_embd": 96, "n_head": 4, "n_positions": LENGTH, "vocab_size": VOCABULARY}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    draws = torch.rand(40 * BATCH, LENGTH).pow(2).mul(VOCABULARY).long()  # a Zipf-like law

    def loss_on(start: int, num: int) -> Callable[[], Tensor]:
        ids = draws[start : start + num]

        def loss() -> Tensor:
            logits = model(ids).logits
            return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

        return loss

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        loss_on((step % 39) * BATCH, BATCH)().backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model, loss_on


def fake_view(model: nn.Module, loss_on: Callable[[int, int], Callable[[], Tensor]]) -> Any:
    """What the signal sees, without a tracer: held-out sequences as the panel, the last training batch."""

    def no_optimizer() -> None:
        raise AssertionError("not needed")

    return SimpleNamespace(
        step=0,
        model=model,
        memory={},
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        parameters=lambda: dict(model.named_parameters()),
        loss=lambda num: loss_on(39 * BATCH, num),
        train_loss=lambda num: loss_on(0, num),
        generator=lambda purpose="": torch.Generator().manual_seed(len(purpose)),
    )


def rows(repeats: int = 5) -> list[dict[str, Any]]:
    """Return name, value, unit, bound and note of every figure."""
    model, loss_on = model_and_data(steps=60)
    params = list(model.parameters())
    full = loss_on(0, BATCH)

    def gradient() -> None:
        torch.autograd.grad(full(), params)

    operator = HessianOperator(full, params)
    v = torch.randn(operator.size)
    found = []

    def row(name: str, value: float, bound: str, note: str = "", unit: str = "gradients") -> None:
        found.append({"name": name, "value": value, "unit": unit, "bound": bound, "note": note})

    row(
        "curvature: Hessian-vector product",
        ratio(lambda: operator(v), gradient, 4 * repeats),
        "<= 2.2",
        "kept gradient graph",
    )
    row("curvature: gradient graph, once", ratio(lambda: HessianOperator(full, params), gradient, repeats), "")
    operator.close()

    exact = hessian_spectrum(full, params, tol=1e-5, smallest=False).largest
    spectra = []

    def sharpness_and_trace() -> None:
        spectra.append(hessian_spectrum(full, params, tol=0.05, smallest=False))
        hessian_trace(full, params, num_probes=10)

    cost = ratio(sharpness_and_trace, gradient, repeats)
    error = abs(spectra[0].largest - exact) / exact
    row(
        "curvature: lambda_max to 1 % and trace, 10 probes",
        cost,
        "<= 43",
        f"error {error:.2%}, {spectra[0].num_products} + 10 products",
    )

    signal = Curvature(quantities=PUBLISHED, top=5)
    records = []

    def published() -> None:
        records[:] = list(signal.measure(fake_view(model, loss_on)))

    cost = ratio(published, gradient, repeats)
    missing = sorted({r.metric for r in records if r.missing})
    row(
        "curvature: published set (top 5, components, alignment, landscape)",
        cost,
        "<= 40",
        f"missing: {', '.join(missing) or 'none'}",
    )
    default = Curvature()
    cost = ratio(lambda: list(default.measure(fake_view(model, loss_on))), gradient, repeats)
    row("curvature: default quantities, 16 sequences, cold start", cost, "")
    return found


if __name__ == "__main__":
    for line in rows():
        print(f"{line['name']:60s} {line['value']:8.2f} {line['unit']} {line['bound']:8s} {line['note']}")
