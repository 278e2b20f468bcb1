"""What one signal sees of one measurement: no more than it declared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.errors import DataError, ModelError, SignalError
from lmtrace.observe.capture import Captured, attention_maps
from lmtrace.observe.forward import (
    Forward,
    TrainLoss,
    accepted,
    default_forward,
    device_of,
    eager_attention,
    inputs_of,
    logits_of,
    loss_of,
    mean_loss,
)
from lmtrace.observe.interface import UNDECLARED, Needs, Signal, seed_of
from lmtrace.observe.sites import Site
from lmtrace.text.panel import LabelLayer, Panel
from lmtrace.text.panel_parts import PanelBatch


@dataclass(eq=False)
class Measurement:
    """Everything that the views of one measurement share."""

    step: int
    model: nn.Module
    panel: Panel
    sites: Mapping[str, Site]
    captured: Captured
    seed: int = 0
    forward: Forward | None = None
    optimizer: torch.optim.Optimizer | None = None
    train_batches: list[dict[str, Any]] = field(default_factory=list)
    cache: dict[Any, Any] = field(default_factory=dict)
    notes: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    loss: TrainLoss | None = None
    last: bool = False


@dataclass(eq=False)
class MeasurementView:
    """Implements `observe.interface.View` for one signal; refuses what it did not declare."""

    measurement: Measurement
    signal: Signal
    position: int
    needs: Needs
    memory: dict[str, Tensor] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The optimizer step."""
        return self.measurement.step

    @property
    def last(self) -> bool:
        """Whether training ends here, as far as is known."""
        return self.measurement.last

    @property
    def panel(self) -> Panel:
        """The panel."""
        return self.measurement.panel

    @property
    def sites(self) -> tuple[str, ...]:
        """The declared sites in the model's order."""
        known = tuple(self.measurement.sites)
        return known if self.needs.sites == "all" else tuple(s for s in known if s in self.needs.sites)

    @property
    def cache(self) -> dict[Any, Any]:
        """Results that several signals of this measurement may share; keys start with the room that owns them."""
        return self.measurement.cache

    def tokens(self, site: str) -> Tensor:
        """[tokens, d_model] of a declared site."""
        if site not in self.sites:
            raise SignalError(f"{self.signal.name} reads site {site!r} without having declared it", UNDECLARED)
        captured = self.measurement.captured
        return (captured.masked if self.needs.masks else captured.activations)[site]

    def words(self, site: str, rows: np.ndarray | None = None) -> Tensor:
        """[words, d_model] of a declared site, by the panel's alignment policy; rows of words cut off are zero.

        Parameters
        ----------
        rows : [n] or None
            int64, which words; None is all.
        """
        hidden = self.tokens(site)
        key = ("view.words", site, self.needs.masks)
        stream = self.measurement.sites[site].stream
        side = self.panel.encoder if stream == "encoder" else self.panel.decoder
        if side is None or not bool((side.word_last >= 0).any()):
            raise DataError(f"the {stream} reads none of the panel's words", "Read tokens instead")
        if rows is not None and self.panel.policy in ("last", "first"):
            return pool(hidden, side.word_first[rows], side.word_last[rows], self.panel.policy)
        if key not in self.cache:
            self.cache[key] = pool(hidden, side.word_first, side.word_last, self.panel.policy)
        words = self.cache[key]
        return words if rows is None else words.index_select(0, torch.as_tensor(rows, device=words.device))

    def labels(self, layer: str) -> LabelLayer:
        """A declared label layer."""
        if layer not in self.needs.labels:
            raise SignalError(f"{self.signal.name} reads labels {layer!r} without having declared them", UNDECLARED)
        return self.panel.labels(layer)

    def reduced(self) -> Mapping[str, Tensor]:
        """What this signal's `reduce` returned, in panel order."""
        if not (self.needs.logits or self.needs.attention):
            raise SignalError(f"{self.signal.name} reads reductions without a need of logits or attention", UNDECLARED)
        return self.measurement.captured.reduced.get(self.position, {})

    @property
    def truth(self) -> Any:
        """The panel's exact law."""
        if not self.needs.truth:
            raise SignalError(f"{self.signal.name} reads the truth without having declared it", UNDECLARED)
        return self.panel.truth

    @property
    def model(self) -> nn.Module:
        """The user's own module."""
        if not self.needs.model:
            raise SignalError(f"{self.signal.name} reads the model without having declared it", UNDECLARED)
        return self.measurement.model

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name."""
        if not (self.needs.model or self.needs.parameters):
            raise SignalError(f"{self.signal.name} reads parameters without having declared it", UNDECLARED)
        return {name: p for name, p in self.measurement.model.named_parameters() if p.requires_grad}

    def in_float32(self) -> MeasurementView:
        """The same view of a float32 copy of the model, which is made once and lives as long as the measurement."""
        key = ("view.float32",)
        if key not in self.cache:
            wide = copy.deepcopy(self.model).float()
            if "flash" in str(getattr(getattr(wide, "config", None), "_attn_implementation", "")):
                wide.set_attn_implementation("sdpa")  # flash reads half precision only  # pyright: ignore[reportCallIssue]
            self.cache[key] = wide
        return replace(self, measurement=replace(self.measurement, model=self.cache[key]))

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """[sequences, length, vocabulary] for inputs of the signal's own."""
        forward = self.measurement.forward or default_forward
        with torch.no_grad():
            return logits_of(forward(self.model, inputs), inputs)

    def attentions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Site -> [sequences, heads, queries, keys] for inputs of the signal's own."""
        if not self.needs.attention:
            raise SignalError(f"{self.signal.name} reads attention maps without having declared it", UNDECLARED)
        with torch.no_grad(), eager_attention(self.model):
            return attention_maps(default_forward(self.model, inputs, output_attentions=True), self.model)

    def module(self, site: str) -> nn.Module:
        """The module whose output a site is."""
        model, sites = self.model, self.measurement.sites
        if site not in sites:
            raise ModelError(f"{type(model).__name__} has no site {site!r}", f"It has: {', '.join(sites)}")
        return sites[site].module

    def loss(self, num_sequences: int, start: int = 0) -> Callable[[], Tensor]:
        """Closure: mean loss over the valid predictions of `num_sequences` panel sequences, in the order of `shuffled`."""
        model, measurement = self.model, self.measurement
        rows = self.panel.shuffled[start : start + num_sequences]
        batches = [self._averaged(b) for b in self.panel.batches(num_sequences, indices=rows)] if len(rows) else []
        if len(batches) != 1 or len(batches[0].index) == 0:
            raise DataError(f"the {num_sequences} panel sequences from {start} on hold nothing to predict")
        inputs = inputs_of(batches[0], device_of(model))

        def closure() -> Tensor:
            with torch.enable_grad():
                forward = measurement.forward or default_forward
                return mean_loss(logits_of(forward(model, inputs), inputs), batches[0])

        return closure

    def loss_parts(self, num_sequences: int, size: int) -> list[tuple[float, Callable[[], Tensor]]]:
        """`loss` of `num_sequences` in micro-batches of `size`: (share of the valid predictions, closure)."""
        number = min(num_sequences, self.panel.num_sentences)
        counts = {}
        for start in range(0, number, size):
            rows = self.panel.shuffled[start : min(start + size, number)]
            [batch] = map(self._averaged, self.panel.batches(size, indices=rows))
            if len(batch.index):
                counts[start] = (len(rows), len(batch.index))
        whole = sum(count for _, count in counts.values())
        return [(count / whole, self.loss(rows, start)) for start, (rows, count) in counts.items()]

    def _averaged(self, batch: PanelBatch) -> PanelBatch:
        """The batch with those predictions that the panel averages over."""
        kept = self.panel.averaged[batch.index]
        return replace(
            batch, predict_row=batch.predict_row[kept], predict_column=batch.predict_column[kept],
            index=batch.index[kept], targets=batch.targets[kept],
        )  # fmt: skip

    def train_loss_parts(self, num_sequences: int, size: int) -> list[tuple[float, Callable[[], Tensor]]]:
        """`train_loss` in micro-batches; one part where the batch has no `labels` to count."""
        whole = self.train_loss(num_sequences)
        arguments = self.measurement.train_batches[-1]
        labels = arguments.get("labels")
        if not isinstance(labels, Tensor):
            return [(1.0, whole)]
        # Causal models predict position t + 1 at t: the first label of a sequence is never predicted.
        counted = labels[:num_sequences, 1:] if self.panel.objective == "causal" else labels[:num_sequences]
        parts = []
        for start in range(0, min(num_sequences, len(labels)), size):
            count = int((counted[start : start + size] != -100).sum())
            if count:
                parts.append((count, self.train_loss(min(size, num_sequences - start), start)))
        total = sum(count for count, _ in parts)
        return [(count / total, closure) for count, closure in parts]

    def train_loss(self, num_sequences: int | None = None, start: int = 0) -> Callable[[], Tensor]:
        """Closure: mean loss on (some sequences of) the last training batch kept, by the model itself or by `loss=`."""
        if not self.needs.train_batch:
            raise SignalError(f"{self.signal.name} reads training batches without having declared it", UNDECLARED)
        if not self.measurement.train_batches:
            raise DataError("no training batch has been seen yet")
        model, arguments = self.measurement.model, accepted(self.measurement.model, self.measurement.train_batches[-1])
        own_loss = self.measurement.loss
        if num_sequences is not None:
            size = max((len(v) for v in arguments.values() if isinstance(v, Tensor) and v.dim() > 0), default=0)
            arguments = {
                k: v[start : start + num_sequences] if isinstance(v, Tensor) and v.dim() > 0 and len(v) == size else v
                for k, v in arguments.items()
            }

        def closure() -> Tensor:
            with torch.enable_grad():
                loss = loss_of(model(**arguments)) if own_loss is None else own_loss(model, arguments)
            if not isinstance(loss, Tensor) or loss.dim():
                found = tuple(loss.shape) if isinstance(loss, Tensor) else "none"
                raise ModelError(
                    f"expected one number as the loss of a training batch, got {found}",
                    "Call the model with labels, or pass loss=lambda model, batch: its loss on that batch",
                )
            return loss

        return closure

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, read only."""
        if not self.needs.optimizer:
            raise SignalError(f"{self.signal.name} reads the optimizer without having declared it", UNDECLARED)
        if self.measurement.optimizer is None:
            raise DataError("no optimizer was given", "Pass optimizer= to Tracer")
        return self.measurement.optimizer

    def note(self, kind: str, text: str, data: dict[str, Any]) -> None:
        """Leave an event beside the records."""
        self.measurement.notes.append((kind, text, data))

    def generator(self, purpose: str = "") -> torch.Generator:
        """Return a generator seeded by (run seed, signal, purpose): the same at every step."""
        return torch.Generator().manual_seed(seed_of(self.measurement.seed, self.signal.name, purpose))


def pool(hidden: Tensor, first_token: np.ndarray, last_token: np.ndarray, policy: str) -> Tensor:
    """Return [words, d_model] of hidden: [tokens, d_model] by an alignment policy; words that are cut off (-1) are zero."""
    first, last = (torch.as_tensor(index, device=hidden.device) for index in (first_token, last_token))
    cut = (last < 0).unsqueeze(1)
    if policy in ("last", "first"):
        words = hidden.index_select(0, (last if policy == "last" else first).clamp(min=0))
        return words.masked_fill_(cut, 0.0) if bool(cut.any()) else words
    sums = torch.cat([hidden.new_zeros(1, hidden.shape[1], dtype=torch.float64), hidden.double().cumsum(0)])
    length = (last - first + 1).clamp(min=1).unsqueeze(1)
    means = (sums[last.clamp(min=0) + 1] - sums[first.clamp(min=0)]) / length
    return means.to(hidden.dtype).masked_fill(cut, 0.0)
