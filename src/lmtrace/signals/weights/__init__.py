"""What the weights themselves show: size, how far they moved, and how many directions a matrix uses.

Per matrix W: Frobenius norm; update-to-weight ratio ``|W - W_before| / |W_before|`` since the measurement before; the
stable rank ``|W|_F^2 / |W|_2^2`` (Rudelson and Vershynin 2007), between 1 and the smaller side.

The update is measured on a fixed random sample of at most `num_entries` entries per parameter, so that what is remembered stays
small; where the parameter has more, the ratio has a sampling error (its standard error is given).

When it misleads: weight decay and scale-invariant layers move norms without changing the function; compare ratios of equal
intervals only (`n` is the number of steps between).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.observe.interface import Needs, Signal, View
from lmtrace.records.schema import Field, Record
from lmtrace.signals.weights.stable_rank import stable_rank
from lmtrace.text.panel import Panel


@dataclass(frozen=True, kw_only=True)
class Weights(Signal):
    """Norm, update-to-weight ratio and stable rank per matrix.

    Parameters
    ----------
    num_entries
        Entries of each parameter that the update is measured on.
    """

    num_entries: int = 65536

    name = "weights"
    cost = "no pass; about 50 products of each matrix with 8 vectors"
    source = "Rudelson and Vershynin 2007 (stable rank)"
    fields = (
        Field(metric="norm", title="Weight norm", low=0.0, meaning="Frobenius norm of the matrix."),
        Field(
            metric="update_ratio",
            title="Update-to-weight ratio",
            low=0.0,
            meaning="Norm of the change since the measurement before, relative to the norm then.",
        ),
        Field(
            metric="stable_rank",
            title="Stable rank",
            unit="dimensions",
            low=0.0,
            null="a Gaussian matrix of the same shape: m n / (sqrt m + sqrt n)^2",
            meaning="Squared Frobenius norm over squared spectral norm; stacked experts are averaged.",
        ),
    )

    def __post_init__(self) -> None:
        if self.num_entries < 2:
            raise ConfigError(f"weights: num_entries must be at least 2, got {self.num_entries}")

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the parameters."""
        return Needs(parameters=True)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield the fields of every trained matrix; its name is the label."""
        before = dict(view.memory)
        since = view.step - int(before["step"]) if "step" in before else 0
        view.memory.clear()
        view.memory["step"] = torch.tensor(view.step)
        for name, parameter in view.parameters().items():
            if parameter.ndim < 2:
                continue
            weight = parameter.detach()
            norm = float(torch.linalg.vector_norm(weight, dtype=torch.float64))
            if not math.isfinite(norm):
                for metric in ("norm", "update_ratio", "stable_rank"):
                    yield self.record(view, metric, label=name, missing="weights that are not finite")
                continue
            yield self.record(view, "norm", norm, label=name, n=weight.numel())
            now = self._entries(view, name, weight)
            yield self._update(view, name, before.get(name), now, weight.numel(), since)
            view.memory[name] = now
            yield self._rank(view, name, weight)

    def _entries(self, view: View, name: str, weight: Tensor) -> Tensor:
        """Return the sampled entries, the same ones at every step, in the parameter's own precision."""
        flat = weight.reshape(-1)
        if flat.numel() > self.num_entries:
            chosen = torch.randint(flat.numel(), (self.num_entries,), generator=view.generator(f"entries {name}"))
            flat = flat[chosen.to(flat.device)]
        return flat.cpu().clone()

    def _update(self, view: View, name: str, before: Tensor | None, now: Tensor, size: int, since: int) -> Record:
        if before is None or before.shape != now.shape:
            return self.record(view, "update_ratio", label=name, missing="nothing to compare with yet")
        moved, base = (now.double() - before.double()).square(), before.double().square()
        if float(base.sum()) == 0:
            return self.record(view, "update_ratio", label=name, missing="the weights were all zero")
        square = float(moved.sum() / base.sum())
        stderr = None
        if size > len(now) and square > 0:
            residual = (moved - square * base) / base.mean()  # ratio of two means: its linearisation
            stderr = float(residual.std()) / math.sqrt(len(now)) / (2 * math.sqrt(square))
        return self.record(view, "update_ratio", math.sqrt(square), label=name, stderr=stderr, n=since)

    def _rank(self, view: View, name: str, weight: Tensor) -> Record:
        found = stable_rank(weight, view.generator(f"rank {name}"))
        if found.value is None:
            return self.record(view, "stable_rank", label=name, missing=found.note)
        m, n = weight.shape[-2:]
        null = m * n / (math.sqrt(m) + math.sqrt(n)) ** 2
        return self.record(view, "stable_rank", found.value, label=name, n=min(m, n), null=null)
