"""The Hessian of a loss as an operator on flat vectors: products by double backward or by central differences.

`jvp(jacrev(.))` is not used: with the native LayerNorm of torch 2.13 it is silently wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmtrace.errors import ConfigError, ModelError
from lmtrace.numerics.lanczos import NotFiniteError
from lmtrace.numerics.vectors import norm

Loss = Callable[[], Tensor]
Parts = Sequence[tuple[float, Loss]]
"""A loss as a weighted sum of losses, such as those of micro-batches with the shares of their valid tokens."""
Parameters = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]
Method = Literal["auto", "double backward", "central differences"]

STEPS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Lengths of the step of central differences, in parameter space. The first is best for smooth models in float32."""

GOOD_AGREEMENT = 3e-3
"""Relative difference of the products of two neighbouring steps at which the longer one is taken without trying more."""


class HessianOperator:
    """The Hessian of `loss` with respect to `params`, as a product with flat vectors.

    Parameters
    ----------
    loss
        `() -> scalar tensor`; called once for double backward, twice per product for central differences. It has to be
        the same function at every call (dropout off). Or several with their weights: then one gradient graph at a time is
        held, built anew for every product, which bounds memory and costs about 3.2 gradients per product.
    params
        Parameters: a tensor, an iterable of tensors or of (name, tensor), or a mapping from names. Frozen ones are left out, tied ones count once.
    method
        "double backward" keeps the gradient graph: about 2.1 gradients per product. "central differences" moves the
        parameters by +-1e-2 along v (less where the loss has kinks) and puts them back bit for bit: 2 gradients per
        product, relative error about 1e-4 in float32 on smooth models. "auto" takes the first, and the second where
        the first fails.

    Attributes
    ----------
    params : dict[str, Tensor]
        The parameters that take part; `slices[name]` is where each lies in a flat vector.
    size : int
        P, their number of entries.
    gradient : Tensor
        [P], the gradient of the loss.
    loss : float
        The loss.
    method : str
        Which of the two methods is in use; `reason` says why, after a fall-back.
    num_products : int
        Products taken so far.
    step : float or None
        Length of the step of central differences, once it is chosen; `uncertainty` is how much the product by which it
        was chosen differs from that of a shorter step.

    Raises
    ------
    NotFiniteError
        Where the loss, the gradient or a product is not finite.

    Notes
    -----
    Memory: the gradient graph holds about three times the activations of one forward pass. `.grad` is never touched.
    Vectors are float32, or float64 where a parameter is float64.
    """

    def __init__(self, loss: Loss | Parts, params: Parameters, *, method: Method = "auto") -> None:
        if method not in ("auto", "double backward", "central differences"):
            raise ConfigError(f"method: expected auto, double backward or central differences, got {method!r}")
        self._parts: Parts = [(1.0, loss)] if callable(loss) else list(loss)
        if not self._parts:
            raise ConfigError("the loss has no parts")
        self.params = _trainable(params)
        self._tensors = list(self.params.values())
        if any(hasattr(p, "placements") for p in self._tensors):
            raise ModelError("parameters are sharded (DTensor): a product would see one rank's part only")
        self.device = self._tensors[0].device
        wide = any(p.dtype == torch.float64 for p in self._tensors)
        self.dtype = torch.float64 if wide else torch.float32
        self.slices: dict[str, slice] = {}
        end = 0
        for name, p in self.params.items():
            self.slices[name] = slice(end, end + p.numel())
            end += p.numel()
        self.size = end
        self.num_products = 0
        self.step: float | None = None
        self.uncertainty = math.inf
        self.reason = ""
        self._fixed = method != "auto"
        self._graph: list[Tensor | None] = []
        self.method = "double backward" if method == "auto" else method
        if self.method == "double backward":
            try:
                self.loss, self.gradient = self._build()
            except RuntimeError as error:
                self.fall_back(_first_line(error))
        if self.method == "central differences":
            self.loss, self.gradient = self._gradient()
        if not math.isfinite(self.loss):
            raise NotFiniteError(f"the loss is {self.loss}")
        if not bool(torch.isfinite(self.gradient).all()):
            raise NotFiniteError("the gradient is not finite")

    def __call__(self, vector: Tensor, only: Collection[str] | None = None) -> Tensor:
        """Return H v: [P] -> [P].

        With `only`, names of parameters: return their rows of H v for a `vector` that is zero elsewhere (and zero in
        the other rows), that is the product with a diagonal block, for less than a whole product.
        """
        self.num_products += 1
        if self.method == "double backward":
            if self.num_products > 1:
                return self._double_backward(vector, only)
            try:
                return self._double_backward(vector, only)
            except RuntimeError as error:
                self.fall_back(_first_line(error))
        return self.central_differences(vector, only)

    def fall_back(self, reason: str) -> None:
        """Use central differences from now on; the graph is freed. With a fixed method this is an error."""
        if self._fixed:
            raise ModelError(f"double backward through this loss is impossible: {reason}", "Pass method='auto'")
        self._graph = []
        self.method, self.reason = "central differences", reason

    def close(self) -> None:
        """Free the gradient graph; no product can be taken afterwards."""
        self._graph = []
        self.method = "closed"

    def _build(self) -> tuple[float, Tensor]:
        if len(self._parts) > 1:
            return self._gradient()
        loss, grads = self._differentiable(self._parts[0][1])
        self._graph = grads
        return loss, self._flat([None if g is None else g.detach() for g in grads])

    def _differentiable(self, part: Loss) -> tuple[float, list[Tensor | None]]:
        """Return a loss and its gradients with their graph."""
        # Fused attention kernels have no second derivative; the plain one is entered for this pass only.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss = _scalar(part)
            grads = torch.autograd.grad(loss, self._tensors, create_graph=True, allow_unused=True)
        _check_used(grads)
        return float(loss.detach()), list(grads)

    def _double_backward(self, vector: Tensor, only: Collection[str] | None) -> Tensor:
        if len(self._parts) == 1:
            return self._through(self._graph, vector, only, keep=True)
        total = torch.zeros_like(vector)
        for weight, part in self._parts:
            total.add_(self._through(self._differentiable(part)[1], vector, only, keep=False), alpha=weight)
        return total

    def _through(
        self, graph: list[Tensor | None], vector: Tensor, only: Collection[str] | None, *, keep: bool
    ) -> Tensor:
        wanted = [only is None or name in only for name in self.params]
        # A gradient without history (unused parameter, linear loss) is a zero block of H.
        pairs = [
            (g, part)
            for g, part, want in zip(graph, self._split(vector), wanted)
            if want and g is not None and g.requires_grad
        ]
        if not pairs:
            return torch.zeros_like(vector)
        grads, parts = zip(*pairs)
        inputs = [p for p, want in zip(self._tensors, wanted) if want]
        found = iter(torch.autograd.grad(grads, inputs, grad_outputs=parts, retain_graph=keep, allow_unused=True))
        return self._flat([next(found) if want else None for want in wanted])

    def central_differences(self, vector: Tensor, only: Collection[str] | None = None) -> Tensor:
        """Return H v from two gradients, whatever the method in use.

        The first call also chooses the step: the first one, unless kinks (ReLU, routing) lie within it, which shows in
        the difference to a shorter one. Then the step at which the product changes least.
        """
        if norm(vector) == 0.0:
            return torch.zeros_like(vector)
        if self.step is not None:
            return self._difference(vector, self.step, only)
        longer, best = self._difference(vector, STEPS[0], only), (math.inf, STEPS[0], vector)
        for step, shorter in itertools.pairwise(STEPS):
            product = self._difference(vector, shorter, only)
            disagreement = norm(longer - product) / max(norm(product), torch.finfo(self.dtype).tiny)
            best = min(best, (disagreement, step, longer), key=lambda found: found[0])
            if disagreement <= GOOD_AGREEMENT:
                break
            longer = product
        self.uncertainty, self.step = best[0], best[1]
        return best[2]

    def _difference(self, vector: Tensor, step: float, only: Collection[str] | None) -> Tensor:
        scale = step / norm(vector)
        saved = [p.detach().clone() for p in self._tensors]
        sides = []
        try:
            for sign in (scale, -scale):
                # `.data`: the values come back bit for bit, so no graph that was saved elsewhere has to be invalidated.
                for p, old, part in zip(self._tensors, saved, self._split(vector)):
                    p.data.copy_(torch.add(old, part, alpha=sign))
                sides.append(self._gradient(only)[1])
        finally:
            for p, old in zip(self._tensors, saved):
                p.data.copy_(old)
        return (sides[0] - sides[1]) / (2 * scale)

    def _gradient(self, only: Collection[str] | None = None) -> tuple[float, Tensor]:
        wanted = [only is None or name in only for name in self.params]
        inputs = [p for p, want in zip(self._tensors, wanted) if want]
        value, total = 0.0, torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for weight, part in self._parts:
            with torch.enable_grad():
                loss = _scalar(part)
                grads = torch.autograd.grad(loss, inputs, allow_unused=True)
            if only is None:
                _check_used(grads)
            found = iter(grads)
            value += weight * float(loss.detach())
            total.add_(self._flat([next(found) if want else None for want in wanted]), alpha=weight)
        return value, total

    def _split(self, vector: Tensor) -> list[Tensor]:
        return [vector[s].view(p.shape).to(p) for s, p in zip(self.slices.values(), self._tensors)]

    def _flat(self, tensors: Iterable[Tensor | None]) -> Tensor:
        return torch.cat(
            [
                torch.zeros(p.numel(), dtype=self.dtype, device=self.device)
                if t is None
                else t.detach().reshape(-1).to(self.device, self.dtype)
                for t, p in zip(tensors, self._tensors)
            ]
        )


def _check_used(grads: Sequence[Tensor | None]) -> None:
    """Refuse a loss of other parameters than those given: its Hessian would be zero, silently."""
    if all(g is None for g in grads):
        raise ModelError("the loss does not depend on any of the parameters", "Pass those that the loss closure reads")


def _scalar(part: Loss) -> Tensor:
    loss = part()
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ModelError(f"the loss closure must return a scalar tensor, got {got}", "Average it over valid tokens")
    if not loss.requires_grad:
        raise ModelError(
            "the loss is detached: it has no gradient", "Compute it from the parameters, outside inference mode"
        )
    return loss.reshape(())


def _trainable(params: Parameters) -> dict[str, Tensor]:
    chosen: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, p in _named(params):
        if not isinstance(p, Tensor):
            raise ModelError(f"parameters must be tensors, got {type(p).__name__}", "Pass model.parameters()")
        if p.is_complex():
            raise ModelError(f"parameter {name} is complex: its Hessian is not defined here")
        if p.requires_grad and id(p) not in seen:
            seen.add(id(p))
            chosen[name] = p
    if not chosen:
        raise ModelError("no parameter requires a gradient", "Pass the trained parameters of the model")
    return chosen


def _named(params: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(params, Tensor):  # iterating it would give its rows, which no loss depends on
        params = [params]
    if isinstance(params, Mapping):
        yield from params.items()
        return
    for i, p in enumerate(params):
        yield p if isinstance(p, tuple) and len(p) == 2 else (str(i), p)


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
