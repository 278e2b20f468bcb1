"""Which rung the model stands on: its distance from reference predictors that know a little, more, or all.

Rungs, in order: uniform; unigram, bigram, trigram (interpolated Kneser-Ney, counted on the training corpus);
construction (which categories follow which, and how frequent words are within their category, but no agreement and no
selection); the exact oracle.

For each: excess = loss(model) - loss(reference) on the same tokens, and kl = KL(reference || model), both in nats per
token. A model that has learned just the bigrams has the lowest kl from the bigram rung; the nearest rung is recorded.

When it misleads: references count at most 50,000 training sentences, so on rare words a model that saw more may pass
them; far from all rungs "nearest" says little, look at the distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.clustered import grouped_means
from lmtrace.numerics.prediction import row_chunks, segment_sum
from lmtrace.observe.interface import Batch, Needs, Signal, View
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import Panel
from lmtrace.text.references import RUNGS

NULL = "the uniform law over the vocabulary in the model's place"
ROUNDING = 1e-5
"""A mean KL is not negative; float32 log-probabilities may make it so by less than this."""

LEAST = -1e4
"""Log-probabilities are raised to it, because zero weight times minus infinity is NaN."""


@dataclass(frozen=True, kw_only=True)
class Ladder(Signal):
    """Excess loss over, and KL from, each reference predictor.

    Parameters
    ----------
    rungs
        Which of uniform, unigram, bigram, trigram, construction, oracle.
    """

    rungs: tuple[str, ...] = RUNGS

    name = "ladder"
    fields = (
        Field(metric="kl", title="KL from the reference", unit="nats", low=0.0, null=NULL,
              meaning="How far the model's law is from that of the reference."),
        Field(metric="excess", title="Loss over the reference", unit="nats", better="down", null=NULL,
              meaning="Loss of the model minus loss of the reference; below zero the model knows more."),
        Field(metric="reference_loss", title="Loss of the reference", unit="nats", low=0.0,
              meaning="What the reference loses on the panel; the same at every step."),
        Field(metric="rung", title="Nearest rung", unit="rung", low=0.0, high=float(len(RUNGS) - 1),
              meaning=f"Reference with the smallest KL: {', '.join(f'{i} {name}' for i, name in enumerate(RUNGS))}."),
    )  # fmt: skip
    cost = "one pass over the logits and a few sparse sums; the references are counted once per run"
    source = "Kneser and Ney 1995; Chen and Goodman 1998; Edelman et al. 2024 (rungs of in-context n-grams)"

    def __post_init__(self) -> None:
        unknown = [name for name in self.rungs if name not in RUNGS]
        if unknown or not self.rungs:
            raise ConfigError(f"ladder: unknown rungs {unknown or 'none given'}", f"Choose from {', '.join(RUNGS)}")

    def needs(self, panel: Panel) -> Needs:
        """Logits, and the law for the last rung."""
        found, _ = panel.references
        return Needs(logits=any(name in found for name in self.rungs), truth=panel.truth is not None)

    def reduce(self, batch: Batch) -> dict[str, Tensor]:
        """Reduce to the loss and one cross-entropy per reference."""
        found, _ = batch.panel.references
        log_probs, index = batch.log_probs, batch.index.cpu().numpy()
        device, width = log_probs.device, log_probs.shape[1]
        ids = len(batch.panel.tokenizer)
        if width < ids:
            raise ConfigError(
                f"ladder: the model has {width} logits, the tokenizer {ids} ids",
                "Use the tokenizer that the model was built for",
            )
        rungs = [found[name] for name in self.rungs if name in found]
        basis = torch.as_tensor(np.concatenate([r.basis for r in rungs]).T, dtype=log_probs.dtype, device=device)
        shared = log_probs[:, :ids] @ basis
        if not bool(torch.isfinite(shared).all()):
            shared = torch.cat([log_probs[s, :ids].clamp(min=LEAST) @ basis for s in row_chunks(log_probs)])
        shared = shared.double()
        result = {
            "loss": -log_probs.gather(1, batch.targets[:, None])[:, 0].double(),
            "vocabulary": torch.full((len(index),), width, device=device),
        }
        for reference, laws in zip(rungs, shared.split([len(r.basis) for r in rungs], 1), strict=True):
            expected = (laws * torch.as_tensor(reference.mix[index], device=device)).sum(1)
            entries = batch.entries(reference.sparse)
            own = entries.expected
            if not bool(torch.isfinite(own).all()):
                own = segment_sum(entries.values * entries.log_probs.clamp(min=LEAST), entries.offsets)
            result[f"cross_{reference.name}"] = -(expected + own)
        return result

    def measure(self, view: View) -> Iterator[Record]:
        """Yield loss, excess and KL for every rung, then the nearest."""
        found, missing = view.panel.references
        for name in self.rungs:
            if name not in found:
                yield self.record(view, "kl", split=name, missing=missing[name])
        rungs = [name for name in self.rungs if name in found]
        if not rungs:
            return
        reduced = {k: v.cpu().numpy() for k, v in view.reduced().items()}
        uniform, averaged = np.log(reduced["vocabulary"]), view.panel.averaged
        columns, nulls = [], []
        for name in rungs:
            reference = found[name]
            columns += [reduced[f"cross_{name}"] - reference.entropy, reduced["loss"] - reference.surprisal]
            columns += [reference.surprisal]
            nulls += [uniform - reference.entropy, uniform - reference.surprisal, None]
        means = grouped_means(np.column_stack(columns), np.where(averaged, 0, -1), view.panel.predictions.sentence, 1)
        metrics = [(metric, name) for name in rungs for metric in ("kl", "excess", "reference_loss")]
        distances: dict[str, float] = {}
        for (metric, name), value, stderr, null in zip(
            metrics, means.mean[0].tolist(), means.stderr[0].tolist(), nulls, strict=True
        ):
            if not math.isfinite(value):
                yield self.record(view, metric, split=name, missing=f"{metric} is {value}")
                continue
            if metric == "kl":
                value = distances[name] = 0.0 if -ROUNDING < value < 0 else value
            yield self.record(
                view, metric, value, split=name, n=int(averaged.sum()), stderr=stderr if math.isfinite(stderr) else None,
                null=None if null is None else float(null[averaged].mean()),
            )  # fmt: skip
        if len(distances) == len(rungs) > 1:
            nearest = min(distances, key=lambda name: distances[name])
            yield self.record(view, "rung", float(RUNGS.index(nearest)), n=int(averaged.sum()), null=0.0)
        else:
            yield self.record(view, "rung", missing="fewer than two distances are finite")
