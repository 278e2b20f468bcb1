"""How far the model is from the exact law of the language, and in which way.

With p the oracle's law, q the model's, y the right token, all per position and then averaged per label value:

- kl = sum p log(p / q); its expectation is the loss minus the loss of the oracle;
- excess = -log q(y) + log p(y): the same quantity on the tokens that came, noisier, and what the loss curve shows;
- illegal mass = sum of q over tokens that p forbids here;
- the chain rule splits kl exactly: structural (between categories of tokens) + lexical (which token of the category).

When it misleads: excess may be negative on a finite panel within its standard error; below that the model has seen
the panel. Forms of several categories are one category of their own in the structural part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import DataError
from lmtrace.numerics.clustered import GroupedMeans, Groups
from lmtrace.numerics.prediction import segment_sum
from lmtrace.observe.interface import Batch, Needs, Signal, View
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import LabelLayer, Panel

NULL = "the uniform law over the vocabulary"
ROUNDING = 1e-5
"""A mean KL is not negative; float32 log-probabilities may make it so by less than this."""


def divergence(p: Tensor, log_q: Tensor) -> Tensor:
    """Return [n] KL(p || q) = sum p (log p - log q) in nats.

    Parameters
    ----------
    p : [n, tokens]
        Probabilities.
    log_q : [n, tokens]
        Log-probabilities; where p is zero they do not matter.
    """
    # Where p is zero, 0 * (-inf) would be NaN.
    return (torch.special.xlogy(p, p) - torch.where(p > 0, p * log_q, 0.0)).sum(1)


@dataclass(frozen=True, kw_only=True)
class Truth(Signal):
    """KL from the exact law, excess over the floor, illegal mass, structural share.

    Parameters
    ----------
    layers
        Label layers to break it down by; None takes those with at most `max_values` values.
    max_values, min_count
        As in `Output`.
    """

    layers: tuple[str, ...] | None = None
    max_values: int = 32
    min_count: int = 5

    name = "truth"
    fields = (
        Field(metric="kl", title="KL from the exact law", unit="nats", low=0.0, better="down", null=NULL,
              meaning="Nats per token that the model loses against the grammar itself."),
        Field(metric="excess", title="Excess loss over the floor", unit="nats", better="down", null=NULL,
              meaning="Loss minus the oracle's loss on the same tokens."),
        Field(metric="illegal_mass", title="Illegal mass", low=0.0, high=1.0, better="down", null=NULL,
              meaning="Probability on tokens that the grammar forbids at this place."),
        Field(metric="structural_share", title="Structural share of the KL", low=0.0, high=1.0, null=NULL,
              meaning="Part of the KL that lies between categories, not within one."),
        Field(metric="floor", title="Floor of the loss", unit="nats", low=0.0,
              meaning="Loss of the oracle on the panel: no model can be lower but by chance."),
    )  # fmt: skip
    cost = "about two passes over the logits, and one over the tokens that the law allows"
    source = "chain rule of relative entropy (Cover and Thomas 2006, theorem 2.5.3)"

    def needs(self, panel: Panel) -> Needs:
        """Logits, the exact law and the layers, where there is a law."""
        if panel.truth is None:
            return Needs()
        return Needs(logits=True, truth=True, labels=tuple(self.layers or self._layers(panel)))

    def _layers(self, panel: Panel) -> list[str]:
        return [name for name in panel.layers if len(panel.labels(name).names) <= self.max_values]

    def reduce(self, batch: Batch) -> dict[str, Tensor]:
        """Reduce to KL, its structural part and the illegal mass per prediction."""
        truth, log_probs = batch.panel.truth, batch.log_probs
        if truth is None:
            raise DataError(f"the panel has no exact law: {batch.panel.truth_reason}")
        width, device = log_probs.shape[1], log_probs.device
        if int(truth.token_ids.max()) >= width:
            raise DataError(
                f"the model has {width} logits, but the language has a word with id {truth.token_ids.max()}"
            )
        law = batch.entries(truth.sparse)
        result = {
            "expected": law.expected,
            "illegal": (1.0 - segment_sum(law.log_probs.exp(), law.offsets)).clamp(min=0.0),
            "loss": -log_probs.gather(1, batch.targets[:, None])[:, 0].double(),
            "vocabulary": torch.full((len(log_probs),), width, device=device),
        }
        mass = batch.laws.mass
        if mass is not None and truth.category_law is not None:  # the lexicon is the oracle's
            law_group = torch.as_tensor(truth.category_law[batch.index.cpu().numpy()], device=device)
            result["structural"] = divergence(law_group, mass.double().log())
        return result

    def measure(self, view: View) -> Iterator[Record]:
        """Yield the records of all predictions, then of every layer's values."""
        panel = view.panel
        if panel.truth is None:
            yield self.record(view, "kl", missing=panel.truth_reason)
            return
        reduced = {k: v.cpu().numpy() for k, v in view.reduced().items()}
        truth, width = view.truth, int(reduced["vocabulary"][0])
        kl = -truth.entropy - reduced["expected"]
        floor = truth.floor_over(panel.averaged)
        yield self.record(view, "floor", floor.value, stderr=floor.stderr, n=floor.n)
        layers = [LabelLayer("", np.where(panel.averaged, 0, -1), ("",))]
        for name in self.needs(panel).labels:
            layers.append(LabelLayer(name, panel.prediction_codes(name), view.labels(name).names))
        if panel.lexicon is not None and panel.lexicon.source == "oracle":
            layers.append(LabelLayer("token_category", panel.lexicon.gold, panel.lexicon.names))
        names = tuple(layer.name for layer in layers)
        groups = panel.once(
            ("truth.groups", names),
            lambda: Groups.of([(a.codes, len(a.names)) for a in layers], panel.predictions.sentence),
        )
        nulls = panel.once(("truth.nulls", names, width), lambda: _nulls(panel, truth, groups, width))
        columns = [kl, reduced["loss"] - truth.surprisal, reduced["illegal"]]
        means = groups.means(np.stack(columns).take(groups.row, 1))
        shares = None
        if "structural" in reduced:
            shares = _shares(groups, reduced["structural"].take(groups.row), kl.take(groups.row), means)
        start = 0
        for layer in layers:
            yield from self._layer(view, layer, start, means, nulls, shares)
            start += len(layer.names)

    def _layer(
        self,
        view: View,
        layer: LabelLayer,
        start: int,
        means: GroupedMeans,
        nulls: np.ndarray,
        shares: tuple[np.ndarray, np.ndarray] | None,
    ) -> Iterator[Record]:
        for g, value in enumerate(layer.names, start):
            label = f"{layer.name}={value}" if layer.name else None
            n = int(means.n[g])
            if n < self.min_count:
                if n:
                    reason = f"{value or 'the panel'} has {n} predictions, fewer than {self.min_count}"
                    yield self.record(view, "kl", label=label, n=n, missing=reason)
                continue
            *null, null_share = nulls[g].tolist()
            rows = (("kl", "excess", "illegal_mass"), means.mean[g].tolist(), means.stderr[g].tolist(), null)
            for metric, number, stderr, expected in zip(*rows, strict=True):
                if not math.isfinite(number):
                    yield self.record(view, metric, label=label, n=n, missing=f"the model's {metric} is {number}")
                    continue
                yield self.record(
                    view, metric, 0.0 if metric == "kl" and -ROUNDING < number < 0 else number, label=label, n=n,
                    null=expected, stderr=stderr if math.isfinite(stderr) else None,
                )  # fmt: skip
            if shares is not None:
                yield self._share(view, label, n, float(shares[0][g]), float(shares[1][g]), null_share)

    def _share(self, view: View, label: str | None, n: int, share: float, stderr: float, null: float) -> Record:
        if not math.isfinite(share):
            reason = "the KL is zero to rounding, or not finite"
            return self.record(view, "structural_share", label=label, n=n, missing=reason)
        return self.record(
            view, "structural_share", share, label=label, n=n, null=null,
            stderr=stderr if math.isfinite(stderr) else None,
        )  # fmt: skip


def _nulls(panel: Panel, truth: Any, groups: Groups, width: int) -> np.ndarray:
    """Return [groups, 4]: KL, excess, illegal mass and structural share of the uniform law over `width` tokens."""
    uniform = math.log(width)
    columns = [uniform - truth.entropy, uniform - truth.surprisal, 1 - np.diff(truth.sparse.offsets) / width]
    structural = np.zeros_like(columns[0])
    if panel.lexicon is not None and truth.category_law is not None:
        law_group, share = torch.as_tensor(truth.category_law), torch.as_tensor(panel.lexicon.groups(width).mean(0))
        structural = divergence(law_group, share.double().log().expand_as(law_group)).numpy()
    *means, part = groups.mean(np.stack([*columns, structural]).take(groups.row, 1)).T
    return np.stack([*means, np.clip(part / np.maximum(means[0], 1e-300), 0.0, 1.0)], 1)


def _shares(groups: Groups, part: np.ndarray, whole: np.ndarray, means: GroupedMeans) -> tuple[np.ndarray, np.ndarray]:
    """Return per group: the structural share, a ratio of sums, and its standard error by linearisation.

    The share is NaN where the KL is zero to rounding or not finite.

    Parameters
    ----------
    part, whole : [members]
        Structural part, and KL.
    means
        Those of the KL in their first column.
    """
    mean_part, mean = groups.mean(part[None])[:, 0], means.mean[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = np.isfinite(mean_part + mean) & (mean > ROUNDING)
        share = np.where(usable, np.clip(mean_part / mean, 0.0, 1.0), np.nan)
        residual = part - share.take(groups.group) * whole
        return share, groups.means(residual[None]).stderr[:, 0] / mean
