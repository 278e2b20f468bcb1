"""The gradient of the panel's loss: how large it is where, how noisy, and whether it still points where it did.

On a fixed random sample of panel sequences, in micro-batches: the norm of the mean gradient, whole, per component and per block; the gradient
noise scale ``tr(S) / |G|^2`` in sequences (equation: `lmtrace.signals.gradient.noise_scale`); the cosine with the gradient of the
measurement before. Gradients are taken with `torch.autograd.grad`; `.grad` is not touched.

When it misleads: where the noise scale is far above the sample, half of the measurements have none, and those that have one are
too low; the inverse has no such bias, so average that. It is the gradient of the loss on held-out sentences in evaluation mode, not the one the optimizer saw; the norm
contains noise, about ``tr(S) / num_sequences`` in its square; the cosine is measured on a sketch, to about 0.004.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.estimate import Estimate
from lmtrace.observe.components import COMPONENTS, parts_of
from lmtrace.observe.interface import Needs, Signal, View
from lmtrace.records.schema import Field, Record
from lmtrace.signals.gradient.noise_scale import inverse_noise_scale, noise_scale, sketch
from lmtrace.text.panel import Panel


@dataclass(frozen=True, kw_only=True)
class Gradient(Signal):
    """Norm, noise scale and direction of the panel's gradient.

    Parameters
    ----------
    num_sequences
        Panel sequences, drawn at random; the same ones at every step.
    num_batches
        Micro-batches that they are divided into.
    """

    num_sequences: int = 32
    num_batches: int = 4

    name = "gradient"
    cost = "one gradient of num_sequences panel sequences"
    source = "McCandlish et al. 2018 (gradient noise scale)"
    fields = (
        Field(
            metric="norm",
            title="Gradient norm",
            unit="nats",
            low=0.0,
            meaning="Euclidean norm of the loss's gradient: whole, per component (label), per block (site).",
        ),
        Field(
            metric="noise_scale",
            title="Gradient noise scale",
            unit="sequences",
            low=0.0,
            meaning="Variance of one sequence's gradient over the squared mean gradient; average its inverse instead.",
        ),
        Field(
            metric="inverse_noise_scale",
            title="Inverse gradient noise scale",
            unit="1/sequences",
            null="no common gradient: zero",
            meaning="Squared mean gradient over the variance of one sequence's gradient: without bias, so that it may be negative.",
        ),
        Field(
            metric="cosine_previous",
            title="Cosine with the previous gradient",
            low=-1.0,
            high=1.0,
            null="unrelated directions: zero",
            meaning="Cosine of the gradient now and at the measurement before, on the same sequences.",
        ),
    )

    def __post_init__(self) -> None:
        if self.num_batches < 2 or self.num_sequences < self.num_batches:
            raise ConfigError(
                f"gradient: num_batches must be from 2 to num_sequences, got {self.num_batches} and {self.num_sequences}"
            )

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the model."""
        return Needs(model=True)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield the norms, the noise scale and the cosine."""
        size = min(self.num_sequences, view.panel.num_sentences) // self.num_batches
        if size < 1:
            for field in self.fields:
                yield self.record(view, field.metric, missing=f"the panel has fewer than {self.num_batches} sequences")
            return
        parameters = view.parameters()
        if not parameters:
            for field in self.fields:
                yield self.record(view, field.metric, missing="no parameter requires a gradient")
            return
        mean = {name: torch.zeros_like(p) for name, p in parameters.items()}
        squares, sketches = [], []
        for i in range(self.num_batches):
            gradients = _gradients(view, list(parameters.values()), size, i * size)
            squares.append(_square(gradients))
            sketches.append(sketch(gradients, view.generator("sketch")))
            for total, gradient in zip(mean.values(), gradients):
                total += gradient / self.num_batches
        total = _square(list(mean.values()))
        if not (math.isfinite(total) and all(map(math.isfinite, squares))):
            for field in self.fields:
                yield self.record(view, field.metric, missing="the gradient is not finite")
            return
        products = torch.stack(sketches) @ torch.stack(sketches).T
        products = _exact(products.numpy(), np.array(squares), total * self.num_batches**2)
        yield from self._norms(view, parameters, mean, total, products)
        yield self._estimate(view, "noise_scale", noise_scale(products, size))
        yield self._estimate(view, "inverse_noise_scale", inverse_noise_scale(products, size), null=0.0)
        yield self._cosine(view, torch.stack(sketches).mean(dim=0), size * self.num_batches)

    def _estimate(self, view: View, metric: str, found: Estimate, null: float | None = None) -> Record:
        if found.value is None:
            return self.record(view, metric, missing=found.note)
        return self.record(view, metric, found.value, stderr=found.stderr, n=found.n, null=null)

    def _norms(
        self, view: View, parameters: dict, mean: dict[str, Tensor], total: float, products: np.ndarray
    ) -> Iterator[Record]:
        m = len(products)
        norm = math.sqrt(total)
        along = products.mean(axis=1) / norm if norm > 0 else np.zeros(m)  # g_i . G / |G|
        yield self.record(view, "norm", norm, stderr=float(along.std(ddof=1) / math.sqrt(m)), n=m)
        components: dict[str, float] = {}
        blocks: dict[str, float] = {}
        for part in parts_of(view.model, parameters):
            square = _square([mean[part.parameter][part.index]])
            components[part.component] = components.get(part.component, 0.0) + square
            if part.block is not None:
                blocks[part.block] = blocks.get(part.block, 0.0) + square
        for component in COMPONENTS:
            if component in components:
                yield self.record(view, "norm", math.sqrt(components[component]), label=component, n=m)
        for block, square in blocks.items():
            yield self.record(view, "norm", math.sqrt(square), site=block, n=m)

    def _cosine(self, view: View, now: Tensor, n: int) -> Record:
        before = view.memory.get("sketch")
        view.memory["sketch"] = now.float()
        if before is None or before.shape != now.shape:
            return self.record(view, "cosine_previous", missing="nothing to compare with yet")
        before = before.double()
        scale = float(before.norm() * now.norm())
        if scale == 0:
            return self.record(view, "cosine_previous", missing="a gradient is zero and has no direction")
        return self.record(view, "cosine_previous", float(before @ now) / scale, n=n, null=0.0)


def _gradients(view: View, parameters: list[torch.nn.Parameter], size: int, start: int) -> list[Tensor]:
    loss = view.loss(size, start)()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)]


def _square(tensors: list[Tensor]) -> float:
    return sum(float(torch.linalg.vector_norm(t, dtype=torch.float64)) ** 2 for t in tensors)


def _exact(products: np.ndarray, squares: np.ndarray, total: float) -> np.ndarray:
    """Return the sketched inner products with the diagonal, and the sum of all, put to their exact values.

    The noise scale depends on these two only; its standard error may rest on the sketch.
    """
    m = len(squares)
    products = products.copy()
    np.fill_diagonal(products, 0.0)
    products += (total - squares.sum() - products.sum()) / (m * (m - 1))
    np.fill_diagonal(products, squares)
    return products
