"""The Hessian of one batch, as the quantities of one measurement share it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.hessian import operator_spectrum
from lmtrace.numerics.hessian_operator import HessianOperator, Loss, Method, Parts
from lmtrace.numerics.hutchinson import quadratic_forms
from lmtrace.numerics.lanczos import NotFiniteError, Spectrum, random_start, warm_start
from lmtrace.observe.components import Part, parts_of
from lmtrace.observe.interface import View

logger = logging.getLogger(__name__)

MAX_DISAGREEMENT = 0.1
"""Between a product by double backward and by central differences along the sharpest direction, relative to
lambda_max; checked once per run. Some kernels' second derivatives are silently wrong."""


@dataclass(eq=False)
class CurvatureBatch:
    """What the quantities of one measurement share: one gradient graph, one spectrum, one set of probes."""

    view: View
    sequences: int
    top: int
    num_probes: int
    tolerance: float
    max_products: int
    warm_start: bool = False
    max_logits: int = 2**25
    max_basis: int = 2**28
    train: bool = False
    like: CurvatureBatch | None = None
    _done: dict[str, Any] = field(default_factory=dict)

    @property
    def operator(self) -> HessianOperator:
        """The Hessian; a failure is repeated, not retried."""
        if "operator" not in self._done:
            if "failure" in self._done:
                raise self._done["failure"]
            view = self._wide
            loss = self._losses()
            method: Method = "auto"
            known = view.memory.get("double_backward")
            if (self.like and self.like.method != "double backward") or (known is not None and not float(known)):
                method = "central differences"
            try:
                self._done["operator"] = HessianOperator(loss, view.parameters(), method=method)
            except (NotFiniteError, MemoryError, RuntimeError) as error:
                self._done["failure"] = error
                raise
        return self._done["operator"]

    @property
    def _wide(self) -> View:
        """The view that products are taken in: of a float32 copy of the model where its parameters are of half precision."""
        if {p.dtype for p in self.view.parameters().values()} & {torch.bfloat16, torch.float16}:
            return self.view.in_float32()
        return self.view

    def _losses(self) -> Loss | Parts:
        """Return the loss of the batch, in micro-batches where its logits would pass `max_logits`."""
        view, number, size = self._wide, self.sequences, self.micro_batch
        if size >= number:
            return view.train_loss(number) if self.train else view.loss(number)
        found = view.train_loss_parts(number, size) if self.train else view.loss_parts(number, size)
        self._done["num_parts"] = len(found)
        return found

    @property
    def num_parts(self) -> int:
        """Return in how many micro-batches the batch is read; with more than one, the graph is built anew for every product."""
        return self._done.get("num_parts", 1)

    @property
    def micro_batch(self) -> int:
        """Return how many sequences may be read at once."""
        vocabulary = getattr(getattr(self.view.model, "config", None), "vocab_size", None)
        if not isinstance(vocabulary, int):
            return self.sequences
        panel = self.view.panel
        side = panel.encoder if panel.decoder is None else panel.decoder
        longest = max((len(side.ids[i]) for i in panel.shuffled[: self.sequences]), default=1)
        return max(1, self.max_logits // max(1, vocabulary * longest))

    @property
    def num_vectors(self) -> int:
        """Return how many Lanczos vectors are held at a time; `lanczos` raises it to what it needs at least."""
        return min(48, self.max_basis // max(1, self.operator.size))

    @property
    def method(self) -> str:
        """How products were taken."""
        return self._done.get("method") or self.operator.method

    @property
    def size(self) -> int:
        """P."""
        return self.operator.size

    @property
    def spectrum(self) -> Spectrum:
        """Both ends of the spectrum (of a batch that is like another: the upper one), warm where that was asked for."""
        if "spectrum" not in self._done:
            start = self.like._done["start"] if self.like else self._start()
            self._done["start"] = start
            found = self._solve(start)
            unchecked = "double_backward" not in self.view.memory and not self.like
            if unchecked and self.operator.method == "double backward" and found.largest:
                v = found.vectors[0]
                differences = self.operator.central_differences(v)
                error = abs(float(v @ differences) - found.largest) / abs(found.largest)
                # Differences that depend on the step (kinks) are no witness against double backward.
                if error > MAX_DISAGREEMENT and self.operator.uncertainty < error / 10:
                    self.operator.fall_back(f"double backward disagrees with central differences by {error:.0%}")
                    found = self._solve(start)
            if self.operator.reason:
                logger.info("curvature takes central differences: %s", self.operator.reason)
            self._done["spectrum"] = found
        return self._done["spectrum"]

    def _solve(self, start: Tensor) -> Spectrum:
        return operator_spectrum(
            self.operator, self.top, self.tolerance, tol_smallest=2.5 * self.tolerance, smallest=self.like is None, start=start,
            generator=self.view.generator("fresh"), max_products=self.max_products, max_basis=self.num_vectors,
        )  # fmt: skip

    def _start(self) -> Tensor:
        operator, generator = self.operator, self.view.generator("lanczos")
        before = self.view.memory.get("start") if self.warm_start else None
        if before is None or before.numel() != operator.size:
            return random_start(operator.size, generator, operator.dtype, operator.device)
        return warm_start(before.reshape(1, -1).to(operator.device, operator.dtype), generator)

    @property
    def parts(self) -> list[Part]:
        """Where every entry of the parameters belongs."""
        if "parts" not in self._done:
            self._done["parts"] = self.like.parts if self.like else parts_of(self.view.model, self.operator.params)
        return self._done["parts"]

    @property
    def forms(self) -> np.ndarray:
        """[probes, parts]: v_b' (H v)_b of the fixed probes."""
        if "forms" not in self._done:
            self._done["forms"] = quadratic_forms(
                self.operator, self.size, self.num_probes, self.view.generator("probes"),
                self.operator.device, reduce=self._sums,
            )  # fmt: skip
        return self._done["forms"]

    def _sums(self, x: Tensor) -> np.ndarray:
        operator = self.operator
        pieces = [
            x[operator.slices[part.parameter]].view(operator.params[part.parameter].shape)[part.index]
            for part in self.parts
        ]
        return torch.stack([piece.sum(dtype=torch.float64) for piece in pieces]).cpu().numpy()

    def entries(self, chosen: list[Part]) -> Tensor:
        """[entries] int64: where the chosen parts lie in a flat vector."""
        operator = self.operator
        inside = torch.zeros(operator.size, dtype=torch.bool, device=operator.device)
        for part in chosen:
            inside[operator.slices[part.parameter]].view(operator.params[part.parameter].shape)[part.index] = True
        return inside.nonzero().squeeze(1)

    def shares(self, vector: Tensor) -> dict[str, float]:
        """Parameter -> share of a vector's square [P] that lies in it."""
        square = vector.double().square()
        square = square / square.sum()
        return {name: float(square[place].sum()) for name, place in self.operator.slices.items()}

    def close(self) -> None:
        """Free the gradient graph; results stay."""
        self._done["method"] = self.operator.method
        self.operator.close()

    def remember(self) -> None:
        """Keep, for the next measurement, a start vector in half precision and how products are taken."""
        found: Spectrum | None = self._done.get("spectrum")
        if found is None or found.largest is None:
            return
        total = found.vectors.sum(0) if found.smallest_vector is None else found.vectors.sum(0) + found.smallest_vector
        if self.warm_start:
            self.view.memory["start"] = (total * math.sqrt(total.numel())).half().cpu()
        self.view.memory["double_backward"] = torch.tensor(float(self.method == "double backward"))
