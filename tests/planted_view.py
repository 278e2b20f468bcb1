"""A view with planted activations: what a signal sees, without a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.observe.interface import Signal, seed_of
from lmtrace.records.schema import Record


@dataclass
class PlantedView:
    """`activations`: site -> [tokens, d_model]; `weights`: name -> tensor; `lengths`: tokens per sequence."""

    activations: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    step: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)
    reductions: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.activations)

    @property
    def panel(self) -> Any:
        offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        return SimpleNamespace(
            encoder=SimpleNamespace(offsets=offsets), decoder=None, num_sentences=len(self.lengths), **self.extra
        )

    def tokens(self, site: str) -> Tensor:
        return self.activations[site]

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: nn.Parameter(weight) for name, weight in self.weights.items()}

    def reduced(self) -> dict[str, Tensor]:
        return self.reductions

    def generator(self, purpose: str = "") -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(0, "fake", purpose))

    def then(self, **changes: Any) -> PlantedView:
        """Return the next measurement: the memory goes on, the rest is given."""
        new = {**self.__dict__, "step": self.step + 100, **changes}
        return PlantedView(**new)


def measured(signal: Signal, view: Any) -> list[Record]:
    """Return the signal's records, each checked against its field."""
    records = list(signal.measure(view))
    for record in records:
        record.check({field.metric: field for field in signal.fields})
    return records


def find(records: list[Record], metric: str, **where: Any) -> Record:
    """Return the one record of a metric (and site, label, split)."""
    found = [r for r in records if r.metric == metric and all(getattr(r, k) == v for k, v in where.items())]
    assert len(found) == 1, found
    return found[0]
