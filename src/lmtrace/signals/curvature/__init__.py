"""Curvature of the loss: how sharp is the valley, where in the model, and is it the same for the training batch.

H is the Hessian of the mean loss (nats) over the valid predictions of a fixed batch of panel sequences, with respect to
the P trained parameters (tied ones once, frozen ones not). Its entries are in nats per squared unit of parameter.

- **spectrum**: the largest and the smallest eigenvalue (Lanczos), the k largest, and `edge`, lambda_max relative to the limit of
  stability of SGD with the momentum (Nesterov's too), dampening and weight decay that it has (`stability`); it is 1 at the edge
  (Cohen et al. 2021), and missing for other optimizers.
- **trace**: Hutchinson, with the same probes at every step, so that differences between steps are less noisy than the
  value.
- **components**: the trace of the diagonal block of every component and every layer, from the same products.
- **alignment**: how the gradient lies in the Hessian, from one product.
- **landscape**: the same quantities on as many sequences of the last training batch.
- **component_spectrum**: the largest eigenvalue of every component's diagonal block.
- **preconditioned**: the largest eigenvalue of P^-1/2 H P^-1/2 with the optimizer's Adam preconditioner (Cohen et al.
  2022), H with the weight decay that is part of the gradient; relative to Adam's own limit it is 1 at the edge.
- **density**: spectral density (stochastic Lanczos quadrature), and from it ranks, condition number, decay, negative
  mass and the curvature score Tr H / sqrt(r_eff). Ranks live off the many small eigenvalues, which few products resolve
  badly: read them with their standard error (20 to 50 % by default), and raise `density_steps` and `density_probes`.

The error of an eigenvalue is the residual of its Lanczos vector: there is an eigenvalue within it, and where the spectrum has a
gap the error is of the order of its square. The end of a dense bulk may lie up to two residuals farther.

Parameters in bfloat16 or float16: H is that of a float32 copy of the model, at the same (rounded) weights. The copy
lives as long as the measurement.

It misleads where sequences are few: the sharpness of a small batch is larger than that of the whole data, so compare
steps, not batch sizes. The null of every curve is step 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError, DataError, ModelError
from lmtrace.numerics.density import density_of, estimate_shape, quadrature, shape_of_eigenvalues
from lmtrace.numerics.hutchinson import mean_estimate
from lmtrace.numerics.lanczos import NotFiniteError, Spectrum, lanczos, random_start
from lmtrace.observe.components import COMPONENTS
from lmtrace.observe.interface import Needs, Signal, View
from lmtrace.records.schema import Field, Record
from lmtrace.signals.curvature.landscape import alignment, random_cosine, subspace_overlap
from lmtrace.signals.curvature.preconditioner import NoPreconditionerError, adam_preconditioner
from lmtrace.signals.curvature.problem import CurvatureBatch
from lmtrace.signals.curvature.stability import NoLimitError, adam_limit_of, decays, sgd_limit_of
from lmtrace.text.panel import Panel

UNIT = "nats/param^2"


def _field(metric: str, title: str, meaning: str, unit: str = "1", **rest: Any) -> Field:
    return Field(metric=metric, title=title, meaning=meaning, unit=unit, **rest)


_SHARE: dict[str, Any] = {"low": 0.0, "high": 1.0}
_PER_RANDOM = "a random direction or subspace"
FIELDS: dict[str, tuple[Field, ...]] = {
    "spectrum": (
        _field("lambda_max", "Sharpness", "Largest eigenvalue of the Hessian.", UNIT),
        _field("lambda_min", "Most negative curvature", "Smallest eigenvalue of the Hessian.", UNIT),
        _field("eigenvalues", "Largest eigenvalues", "The k largest, as far as they converged.", UNIT, axis="rank"),
        _field("edge", "Sharpness over SGD's limit", "lambda / (2 (1 + momentum) / lr), Nesterov and decay as set; 1: the edge."),
        _field("double_backward", "Exact products", "1: by double backward; 0: by central differences.", **_SHARE),
        _field("micro_batches", "Micro-batches", "Parts in which the batch was read, to bound memory.", low=1.0),
    ),
    "trace": (_field("trace", "Trace of the Hessian", "Sum of all eigenvalues (Hutchinson).", UNIT),),
    "components": (
        _field("component_trace", "Trace per component", "Trace of the component's diagonal block.", UNIT),
        _field("block_trace", "Trace per block", "Trace of the layer's diagonal block.", UNIT),
    ),
    "component_spectrum": (
        _field("component_lambda_max", "Sharpness per component", "lambda_max of its diagonal block.", UNIT),
    ),
    "alignment": (
        _field("gradient_norm", "Gradient norm", "||g|| on the curvature batch.", "nats/param", low=0.0),
        _field("amplification", "||Hg|| / ||g||", "How much H stretches the gradient.", UNIT, low=0.0),
        _field("cosine", "cos(g, Hg)", "1: the gradient is an eigenvector.", low=-1.0, high=1.0),
        _field("rayleigh", "Curvature along the gradient", "g'Hg / g'g.", UNIT),
        _field("top_cosine", "|cos(g, v1)|", "Gradient along the sharpest direction.", null=_PER_RANDOM, **_SHARE),
        _field("top_share", "Gradient in top eigenspace", "Sum of cos^2(g, v_i), i <= k.", null=_PER_RANDOM, **_SHARE),
        _field("weighted", "Weighted alignment", "cos^2(g, v_i) weighted by |lambda_i|.", null=_PER_RANDOM, **_SHARE),
    ),
    "landscape": (
        _field("train_loss", "Loss of the training batch", "On the same number of sequences.", "nats", low=0.0),
        _field("loss_gap", "Loss gap", "Panel minus training batch.", "nats", null="the same batch twice"),
        _field("train_trace", "Trace on the training batch", "Same probes as on the panel.", UNIT),
        _field("trace_gap", "Trace: panel - train", "Error bar: of paired probes.", UNIT, null="the same batch twice"),
        _field("trace_ratio", "Trace: panel / train", "1: the same valley.", null="the same batch twice"),
        _field("train_lambda_max", "Sharpness on the training batch", "Largest eigenvalue there.", UNIT),
        _field("lambda_max_gap", "Sharpness: panel - train", "0: the same.", UNIT, null="the same batch twice"),
        _field("lambda_max_ratio", "Sharpness: panel / train", "1: the same.", null="the same batch twice"),
        _field("overlap", "Overlap of top eigenspaces", "1: the same subspace.", null=_PER_RANDOM, **_SHARE),
    ),
    "preconditioned": (
        _field("preconditioned_lambda_max", "Preconditioned sharpness", "lambda_max of P^-1/2 H P^-1/2.", "nats"),
        _field("preconditioned_edge", "Edge of stability of Adam", "lambda eta (1 - b1) / (2 (1 + b1)), decay as set; 1: the edge."),
    ),
    "density": (
        _field("density", "Spectral density", "Smoothed; row 0 eigenvalue, row 1 density.", axis="eigenvalue, density"),
        _field("nodes", "Quadrature of the spectrum", "Row 0 nodes, row 1 weights.", axis="node, weight"),
        _field("entropy_rank", "Effective rank", "exp of the entropy of |lambda| / sum.", "dimensions", low=0.0),
        _field("rank_95", "Rank at 95 %", "Eigenvalues that hold 95 % of sum |lambda|.", "dimensions", low=0.0),
        _field("condition_number", "Condition number", "|lambda| at rank 1 over rank_95.", low=0.0),
        _field("decay", "Decay of the spectrum", "Exponent s of |lambda_i| ~ i^-s up to rank_95."),
        _field("negative_mass", "Negative mass", "Share of sum |lambda| with lambda < 0.", **_SHARE),
        _field("num_negative", "Negative eigenvalues", "Below -1 % of the largest magnitude.", "dimensions", low=0.0),
        _field("frobenius", "Frobenius norm", "Root of the sum of squared eigenvalues.", UNIT, low=0.0),
        _field("score", "Curvature score", "Tr H / sqrt(effective rank).", UNIT),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Curvature(Signal):
    """Hessian of the panel loss.

    Parameters
    ----------
    quantities
        Any of "spectrum", "trace", "components", "alignment", "landscape", "component_spectrum", "preconditioned",
        "density".
    sequences
        Panel sequences of the curvature batch, drawn at random and the same at every step; training sequences of the landscape.
    top
        How many of the largest eigenvalues.
    num_probes
        Products for traces.
    tolerance
        Residual of an eigenpair relative to the largest magnitude (lambda_min: 2.5 times it, relative to its own). The residual is
        the eigenvalue's error in the records.
    max_products
        Limit per spectrum; what has not converged by then is missing.
    max_logits
        Bound on memory: a batch with more logits (sequences x longest x vocabulary) is read in micro-batches, exactly but
        with 3.2 instead of 2.1 gradients per product. The gradient graph holds about 10 numbers per logit.
    max_basis
        Bound on memory: numbers in the Lanczos vectors that are held at a time (2**28 float32 are 1 GiB), 48 vectors of P
        entries at most and 2 top + 12 at least; a tighter one costs products.
    density_probes, density_steps
        Start vectors and Lanczos steps of the density, which holds that many vectors of P entries.
    warm_start
        Start from the eigenvectors of the measurement before: fewer products, but the number then depends, within the
        tolerance, on what was measured before. Off, so that a checkpoint measured later gives the live run's numbers.
    """

    quantities: tuple[str, ...] = ("spectrum", "trace", "components", "alignment")
    sequences: int = 16
    top: int = 1
    num_probes: int = 10
    tolerance: float = 0.02
    max_products: int = 60
    density_probes: int = 4
    density_steps: int = 40
    warm_start: bool = False
    max_logits: int = 2**25
    max_basis: int = 2**28

    name = "curvature"
    stride = 5
    shrinks = MappingProxyType({"num_probes": 4})
    cost = "2.1 gradients of its 16 sequences per product; about 30 products by default"
    source = "Ghorbani et al. 2019; Cohen et al. 2021, 2022; Pearlmutter 1994; Hutchinson 1990"
    fields = tuple(f for group in FIELDS.values() for f in group)

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantities", tuple(self.quantities))
        unknown = set(self.quantities) - set(FIELDS)
        if unknown or not self.quantities:
            raise ConfigError(f"curvature: quantities may be {', '.join(FIELDS)}, got {sorted(unknown)}")
        for name in (
            "sequences",
            "top",
            "num_probes",
            "max_products",
            "density_probes",
            "density_steps",
            "max_logits",
            "max_basis",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"curvature: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"curvature: tolerance must be between 0 and 1, got {self.tolerance}")

    def needs(self, panel: Panel) -> Needs:
        """Return the model with losses; optimizer and training batch only for what reads them."""
        chosen = set(self.quantities)
        return Needs(
            model=True, optimizer=bool(chosen & {"spectrum", "preconditioned"}), train_batch="landscape" in chosen
        )

    def measure(self, view: View) -> Iterator[Record]:
        """Yield the chosen quantities; what cannot be computed is missing with its reason."""
        work = self._batch(view)
        quantities: Mapping[str, Callable[[CurvatureBatch], Iterator[Record]]] = {
            "spectrum": self._spectrum,
            "trace": self._trace,
            "components": self._components,
            "alignment": self._alignment,
            "component_spectrum": self._component_spectrum,
            "preconditioned": self._preconditioned,
            "density": self._density,
            "landscape": self._landscape,
        }
        for quantity, method in quantities.items():
            if quantity not in self.quantities:
                continue
            try:
                records = list(method(work))
            except (NotFiniteError, NoPreconditionerError, DataError, ModelError) as error:
                reason = str(error)
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                reason = "out of memory: take fewer sequences, or a smaller max_basis"
            else:
                yield from records
                continue
            for f in FIELDS[quantity]:
                yield self.record(view, f.metric, missing=reason)
        work.remember()

    def _batch(self, view: View, **rest: Any) -> CurvatureBatch:
        names = ("sequences", "top", "num_probes", "tolerance", "max_products", "warm_start", "max_logits", "max_basis")
        return CurvatureBatch(view, **{name: getattr(self, name) for name in names}, **rest)

    def _spectrum(self, work: CurvatureBatch) -> Iterator[Record]:
        spectrum, view = work.spectrum, work.view
        residual = _residual(spectrum)
        yield self._or_missing(view, "lambda_max", spectrum.largest, spectrum.note, n=1, stderr=residual)
        error = spectrum.smallest_residual
        yield self._or_missing(view, "lambda_min", spectrum.smallest, spectrum.note, n=1, stderr=error)
        if len(spectrum.eigenvalues):
            yield self.record(view, "eigenvalues", array=spectrum.eigenvalues)
        else:
            yield self.record(view, "eigenvalues", missing=spectrum.note)
        exact = float(work.operator.method == "double backward")
        yield self.record(view, "double_backward", exact, n=1)
        yield self.record(view, "micro_batches", float(work.num_parts), n=1)
        yield self._edge(work)

    def _edge(self, work: CurvatureBatch) -> Record:
        spectrum, view = work.spectrum, work.view
        if spectrum.largest is None:
            return self.record(view, "edge", missing=spectrum.note)
        try:
            share = sgd_limit_of(view.optimizer, view.parameters())
        except (DataError, NoLimitError) as error:
            return self.record(view, "edge", missing=str(error))
        along = work.shares(spectrum.vectors[0])
        decay = sum(along[name] * w for name, w in decays(view.optimizer, view.parameters(), decoupled=False).items())
        error = (_residual(spectrum) or 0.0) * share
        return self._or_missing(view, "edge", (spectrum.largest + decay) * share, "", n=1, stderr=error)

    def _trace(self, work: CurvatureBatch) -> Iterator[Record]:
        estimate = mean_estimate(work.forms.sum(1))
        yield self.record(work.view, "trace", estimate.value, stderr=estimate.stderr, n=estimate.n)

    def _components(self, work: CurvatureBatch) -> Iterator[Record]:
        for metric, place in (("component_trace", lambda p: p.component), ("block_trace", lambda p: p.block)):
            places = [place(part) for part in work.parts]
            names = [c for c in COMPONENTS if c in places] if metric == "component_trace" else _unique(places)
            for name in names:
                chosen = np.array([p == name for p in places])
                estimate = mean_estimate(work.forms[:, chosen].sum(1))
                yield self.record(work.view, metric, estimate.value, site=name, stderr=estimate.stderr, n=estimate.n)
            if not names:
                yield self.record(work.view, metric, missing="the model has no list of blocks")

    def _alignment(self, work: CurvatureBatch) -> Iterator[Record]:
        spectrum, operator, view = work.spectrum, work.operator, work.view
        gradient = operator.gradient
        result = alignment(gradient, operator(gradient), spectrum.eigenvalues, spectrum.vectors)
        if result is None:
            raise NotFiniteError("the gradient is zero, so it has no direction")
        yield self.record(view, "gradient_norm", result.gradient_norm, n=1)
        yield self.record(view, "amplification", result.amplification, n=1)
        yield self._or_missing(view, "cosine", result.cosine, "Hg is zero", n=1)
        yield self.record(view, "rayleigh", result.rayleigh, n=1)
        k, size = len(spectrum.eigenvalues), operator.size
        top = float(result.cosines[0]) if k else None
        yield self._or_missing(view, "top_cosine", top, spectrum.note, n=1, null=random_cosine(size))
        yield self._or_missing(view, "top_share", result.top_share, spectrum.note, n=k, null=k / size)
        yield self._or_missing(view, "weighted", result.weighted, spectrum.note or "zero", n=k, null=1 / size)

    def _component_spectrum(self, work: CurvatureBatch) -> Iterator[Record]:
        operator, view = work.operator, work.view
        for name in [c for c in COMPONENTS if any(p.component == c for p in work.parts)]:
            chosen = [part for part in work.parts if part.component == name]
            entries, only = work.entries(chosen), {part.parameter for part in chosen}

            def block(v: Tensor, entries: Tensor = entries, only: set[str] = only) -> Tensor:
                full = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
                full[entries] = v
                return operator(full, only)[entries]

            start = random_start(len(entries), view.generator("lanczos"), operator.dtype, operator.device)
            found = lanczos(
                block, start, tol=self.tolerance, smallest=False, max_products=self.max_products, max_basis=20,
                generator=view.generator("fresh"),
            )  # fmt: skip
            error = _residual(found)
            yield self._or_missing(
                view, "component_lambda_max", found.largest, found.note, site=name, n=1, stderr=error
            )

    def _preconditioned(self, work: CurvatureBatch) -> Iterator[Record]:
        operator, view = work.operator, work.view
        diagonal = adam_preconditioner(view.optimizer, view.parameters())
        root = torch.cat([d.reshape(-1).to(operator.device, operator.dtype) for d in diagonal]).rsqrt()
        coupled = decays(view.optimizer, view.parameters(), decoupled=False)
        decay = torch.cat([torch.full((p.numel(),), coupled[name]) for name, p in view.parameters().items()])
        decay = decay.to(operator.device, operator.dtype)
        start = random_start(operator.size, view.generator("lanczos"), operator.dtype, operator.device)
        found = lanczos(
            lambda v: root * (operator(root * v) + decay * root * v), start, tol=self.tolerance, smallest=False,
            max_products=self.max_products, max_basis=work.num_vectors, generator=view.generator("fresh"),
        )  # fmt: skip
        error = _residual(found)
        yield self._or_missing(view, "preconditioned_lambda_max", found.largest, found.note, n=1, stderr=error)
        if found.largest is None:
            yield self.record(view, "preconditioned_edge", missing=found.note)
            return
        try:
            share = adam_limit_of(view.optimizer, view.parameters(), work.shares(found.vectors[0]))
        except (DataError, NoLimitError) as reason:
            yield self.record(view, "preconditioned_edge", missing=str(reason))
            return
        edge = found.largest * share
        yield self._or_missing(view, "preconditioned_edge", edge, "", n=1, stderr=(error or 0.0) * share)

    def _density(self, work: CurvatureBatch) -> Iterator[Record]:
        operator, view = work.operator, work.view
        nodes, weights = quadrature(
            operator, operator.size, self.density_probes, self.density_steps, view.generator("density"),
            operator.dtype, operator.device,
        )  # fmt: skip
        density = density_of(nodes, weights, operator.size, width=1 / (2 * self.density_steps))
        yield self.record(view, "density", array=np.stack([density.grid, density.density]))
        yield self.record(view, "nodes", array=np.stack([density.nodes, density.weights]))
        shape = estimate_shape(nodes, weights, operator.size)
        if shape is None:
            raise NotFiniteError("the Hessian is zero")
        for metric, found in shape.items():
            yield self._or_missing(
                view, metric, found.value, found.note, split="density", stderr=found.stderr, n=found.n
            )
        k = len(work.spectrum.eigenvalues)
        top = shape_of_eigenvalues(work.spectrum.eigenvalues) if k > 2 else None
        for metric in ("entropy_rank", "rank_95", "condition_number", "decay") if top else ():
            value = getattr(top, metric)
            yield self._or_missing(view, metric, value, "fewer than 3 ranks", split=f"top-{self.top}", n=k)

    def _landscape(self, work: CurvatureBatch) -> Iterator[Record]:
        view, panel_loss = work.view, work.operator.loss
        panel, panel_forms = work.spectrum, work.forms.sum(1)
        work.close()  # one gradient graph at a time
        train = self._batch(view, train=True, like=work)
        spectrum, forms = train.spectrum, train.forms.sum(1)
        yield self.record(view, "train_loss", train.operator.loss, n=1)
        yield self.record(view, "loss_gap", panel_loss - train.operator.loss, n=1, null=0.0)
        there, gap = mean_estimate(forms), mean_estimate(panel_forms - forms)
        yield self.record(view, "train_trace", there.value, stderr=there.stderr, n=there.n)
        yield self.record(view, "trace_gap", gap.value, stderr=gap.stderr, n=gap.n, null=0.0)
        ratio = _ratio(float(panel_forms.mean()), there.value)
        yield self._or_missing(view, "trace_ratio", ratio, "the trace on the training batch is not positive", null=1.0)
        there = _residual(spectrum)
        yield self._or_missing(view, "train_lambda_max", spectrum.largest, spectrum.note, n=1, stderr=there)
        note = panel.note or spectrum.note
        difference = None
        if panel.largest is not None and spectrum.largest is not None:
            difference = panel.largest - spectrum.largest
        error = (_residual(panel) or 0.0) + (there or 0.0)
        yield self._or_missing(view, "lambda_max_gap", difference, note, n=1, null=0.0, stderr=error)
        ratio = _ratio(panel.largest, spectrum.largest)
        yield self._or_missing(view, "lambda_max_ratio", ratio, note or "it is not positive", n=1, null=1.0)
        overlap = subspace_overlap(panel.vectors, spectrum.vectors)
        k = min(len(panel.vectors), len(spectrum.vectors))
        yield self._or_missing(view, "overlap", overlap, note, n=k, null=k / work.size if k else None)
        train.close()

    def _or_missing(self, view: View, metric: str, value: float | None, reason: str, **rest: Any) -> Record:
        if value is None or not math.isfinite(value):
            place = {key: rest[key] for key in ("site", "split") if key in rest}
            return self.record(view, metric, missing=reason or "not finite", **place)
        return self.record(view, metric, value, **rest)


def _residual(spectrum: Spectrum) -> float | None:
    """Return the residual of the largest eigenvalue."""
    return float(spectrum.residuals[0]) if len(spectrum.residuals) else None


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None or b <= 0 else a / b


def _unique(names: list[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in ("out of memory", "allocate memory"))
