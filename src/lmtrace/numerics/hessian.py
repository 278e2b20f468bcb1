"""Curvature of a loss: Hessian-vector products, extreme eigenvalues, trace and spectral density.

The Hessian of a loss with P parameters is never formed. Everything rests on products `H v`, which
`HessianOperator` takes by double backward through a gradient graph that is built once, or by central differences of
gradients where double backward is impossible. `jvp(jacrev(.))` is not used: with the native LayerNorm of torch 2.13 it
is silently wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmtrace.errors import ConfigError, ModelError
from lmtrace.numerics.density import Density, density_of, quadrature
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.hutchinson import mean_estimate, quadratic_forms
from lmtrace.numerics.lanczos import (
    NotFiniteError,
    Spectrum,
    default_generator,
    lanczos,
    missing_spectrum,
    random_start,
)

Loss = Callable[[], Tensor]
Parameters = Iterable[Tensor] | Mapping[str, Tensor]
Method = Literal["auto", "double backward", "central differences"]

STEPS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Lengths of the step of central differences, in parameter space. The first is best for smooth models in float32."""

GOOD_AGREEMENT = 3e-3
"""Relative difference of the products of two neighbouring steps at which the longer one is taken without trying more."""

MAX_ASYMMETRY = 2e-2
"""Above this, relative to the norm of H, products by double backward are not those of a Hessian."""


class HessianOperator:
    """The Hessian of `loss` with respect to `params`, as a product with flat vectors.

    Parameters
    ----------
    loss
        `() -> scalar tensor`; called once for double backward, twice per product for central differences. It has to be
        the same function at every call (dropout off).
    params
        Parameters, as an iterable or a mapping from names. Frozen ones are left out, tied ones count once.
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
        Length of the step of central differences, once it is chosen.

    Raises
    ------
    NotFiniteError
        Where the loss, the gradient or a product is not finite.

    Notes
    -----
    Memory: the gradient graph holds about three times the activations of one forward pass. `.grad` is never touched.
    Vectors are float32, or float64 where a parameter is float64.
    """

    def __init__(self, loss: Loss, params: Parameters, *, method: Method = "auto") -> None:
        if method not in ("auto", "double backward", "central differences"):
            raise ConfigError(f"method: expected auto, double backward or central differences, got {method!r}")
        self._loss = loss
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
        # Fused attention kernels have no second derivative; the plain one is entered for this pass only.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss = self._scalar()
            grads = torch.autograd.grad(loss, self._tensors, create_graph=True, allow_unused=True)
        # A gradient without history (unused parameter, linear loss) is a zero block of H.
        self._graph = [g if g is not None and g.requires_grad else None for g in grads]
        return float(loss.detach()), self._flat([None if g is None else g.detach() for g in grads])

    def _double_backward(self, vector: Tensor, only: Collection[str] | None) -> Tensor:
        wanted = [only is None or name in only for name in self.params]
        pairs = [(g, part) for g, part, want in zip(self._graph, self._split(vector), wanted) if want and g is not None]
        if not pairs:
            return torch.zeros_like(vector)
        grads, parts = zip(*pairs)
        inputs = [p for p, want in zip(self._tensors, wanted) if want]
        found = iter(torch.autograd.grad(grads, inputs, grad_outputs=parts, retain_graph=True, allow_unused=True))
        return self._flat([next(found) if want else None for want in wanted])

    def central_differences(self, vector: Tensor, only: Collection[str] | None = None) -> Tensor:
        """Return H v from two gradients, whatever the method in use.

        The first call also chooses the step: the first one, unless kinks (ReLU, routing) lie within it, which shows in
        the difference to a shorter one. Then the step at which the product changes least.
        """
        if float(vector.norm()) == 0.0:
            return torch.zeros_like(vector)
        if self.step is not None:
            return self._difference(vector, self.step, only)
        longer, best = self._difference(vector, STEPS[0], only), (math.inf, STEPS[0], vector)
        for step, shorter in itertools.pairwise(STEPS):
            product = self._difference(vector, shorter, only)
            disagreement = float((longer - product).norm()) / max(float(product.norm()), torch.finfo(self.dtype).tiny)
            best = min(best, (disagreement, step, longer), key=lambda found: found[0])
            if disagreement <= GOOD_AGREEMENT:
                break
            longer = product
        self.step = best[1]
        return best[2]

    def _difference(self, vector: Tensor, step: float, only: Collection[str] | None) -> Tensor:
        scale = step / float(vector.norm())
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
        with torch.enable_grad():
            loss = self._scalar()
            inputs = [p for p, want in zip(self._tensors, wanted) if want]
            found = iter(torch.autograd.grad(loss, inputs, allow_unused=True))
        return float(loss.detach()), self._flat([next(found) if want else None for want in wanted])

    def _scalar(self) -> Tensor:
        loss = self._loss()
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ModelError(f"the loss closure must return a scalar tensor, got {got}", "Average it over valid tokens")
        return loss.reshape(())

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


def hessian_spectrum(
    loss: Loss,
    params: Parameters,
    k: int = 1,
    tol: float = 1e-3,
    *,
    smallest: bool = True,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    max_products: int = 300,
    method: Method = "auto",
) -> Spectrum:
    """Return the k largest eigenvalues and the smallest one of the Hessian, with residuals.

    Lanczos with full reorthogonalisation (Paige 1972; Parlett 1998, ch. 13) on Hessian-vector products. "Largest" is
    algebraic: the most negative eigenvalue may be larger in magnitude, and is `smallest`.

    Parameters
    ----------
    loss, params
        As for `HessianOperator`.
    k
        How many of the largest.
    tol
        An eigenpair counts when ||H v - lambda v|| <= tol * max |lambda| (the smallest: tol * |lambda| itself, or 1 %
        of the former). The eigenvalue's error is at most that residual, and usually of the order of its square.
    smallest
        Whether the most negative eigenvalue is wanted too (more products).
    start
        [P], a start vector, such as the eigenvector of the measurement before.
    generator
        Source of the random start; a fixed seed by default.
    max_products
        Limit on Hessian-vector products.
    method
        As for `HessianOperator`.

    Returns
    -------
    Spectrum
        What did not converge is missing (None, or fewer than k eigenvalues) and `note` says why.
    """
    try:
        operator = HessianOperator(loss, params, method=method)
        return operator_spectrum(
            operator, k, tol, smallest=smallest, start=start, generator=generator, max_products=max_products
        )
    except NotFiniteError as error:
        return missing_spectrum(str(error))


def operator_spectrum(
    operator: HessianOperator,
    k: int = 1,
    tol: float = 1e-3,
    *,
    smallest: bool = True,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    max_products: int = 300,
) -> Spectrum:
    """Return `hessian_spectrum` of an operator that exists, and check its symmetry, which costs nothing.

    Some attention kernels and custom functions return gradients whose own derivative is silently incomplete. Then
    products by double backward are not symmetric; central differences are used instead, and the operator says so.
    """
    generator = generator or default_generator()
    if start is None:
        start = random_start(operator.size, generator, operator.dtype, operator.device)
    options: dict[str, Any] = {
        "k": k,
        "tol": tol,
        "smallest": smallest,
        "max_products": max_products,
        "generator": generator,
    }
    spectrum = lanczos(operator, start, **options)
    if spectrum.asymmetry > MAX_ASYMMETRY and operator.method == "double backward":
        operator.fall_back(f"double backward is not symmetric here (by {spectrum.asymmetry:.1e} of the norm)")
        spectrum = lanczos(operator, start, **options)
    if spectrum.asymmetry > MAX_ASYMMETRY:
        spectrum = missing_spectrum(
            f"products are not symmetric (by {spectrum.asymmetry:.1e} of the norm): the loss has kinks, or is not the same "
            "at every call"
        )
    return replace(spectrum, method=operator.method, reason=operator.reason)


def hessian_trace(
    loss: Loss,
    params: Parameters,
    num_probes: int = 30,
    generator: torch.Generator | None = None,
    *,
    method: Method = "auto",
) -> Estimate:
    """Return the trace of the Hessian by Hutchinson's estimator with Rademacher probes.

    tr H = E[v' H v] for v with independent entries +-1 (Hutchinson 1990). Its variance is 2 sum_{i != j} H_ij^2 per
    probe.

    Parameters
    ----------
    loss, params, method
        As for `HessianOperator`.
    num_probes
        Products to average over; relative error about 25 % at 30 on an untrained transformer.
    generator
        Source of the probes; a fixed seed by default, so that two calls on the same parameters use the same probes.

    Returns
    -------
    Estimate
        With the standard error over probes and n = `num_probes`; value None and a note where something is not finite.
    """
    if num_probes < 1:
        raise ConfigError(f"num_probes: expected at least 1, got {num_probes}")
    try:
        operator = HessianOperator(loss, params, method=method)
        return mean_estimate(quadratic_forms(operator, operator.size, num_probes, generator, operator.device)[:, 0])
    except NotFiniteError as error:
        return Estimate(None, note=str(error))


def hessian_density(
    loss: Loss,
    params: Parameters,
    num_probes: int = 10,
    num_steps: int = 80,
    *,
    generator: torch.Generator | None = None,
    method: Method = "auto",
) -> Density:
    """Return the spectral density of the Hessian by stochastic Lanczos quadrature.

    See `lmtrace.numerics.density.quadrature` (Ghorbani, Krishnan and Xiao 2019). Costs `num_probes * num_steps`
    products and holds `num_steps` vectors of P entries.

    Parameters
    ----------
    loss, params, method
        As for `HessianOperator`.
    num_probes
        Random start vectors.
    num_steps
        Lanczos steps, that is quadrature nodes, per start vector.
    generator
        Source of the start vectors; a fixed seed by default.

    Returns
    -------
    Density
        Nodes and weights (sum 1), and a smoothed curve of them.

    Raises
    ------
    NotFiniteError
        Where the loss or a product is not finite.
    """
    operator = HessianOperator(loss, params, method=method)
    nodes, weights = quadrature(
        operator, operator.size, num_probes, num_steps, generator, operator.dtype, operator.device
    )
    return density_of(nodes, weights, operator.size, width=1 / (2 * num_steps))


def _trainable(params: Parameters) -> dict[str, Tensor]:
    named = params.items() if isinstance(params, Mapping) else ((str(i), p) for i, p in enumerate(params))
    chosen: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, p in named:
        if p.requires_grad and id(p) not in seen:
            seen.add(id(p))
            chosen[name] = p
    if not chosen:
        raise ModelError("no parameter requires a gradient", "Pass the trained parameters of the model")
    return chosen


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
