"""What the model gets right, by category of the predicted token: teacher-forced on the panel, aligned by position, no decoding.

For every value of every label layer (and for all predictions together): loss, accuracy, top-5 accuracy, entropy and
expected calibration error; and whether the right *category* has the most mass, before the right word is known.

Equations: with q the model's law and y the right token, loss = -log q(y); entropy = -sum q log q; category mass = sum
of q over the tokens of y's category; perplexity = exp(mean loss). Standard errors take sentences, not tokens, as
independent.

Ends of sentences are always told apart (label "token=end"), and are part of the numbers of the whole panel where the model is
trained on them (`Panel.from_annotated(end=)`); otherwise those are of the words alone.

When it misleads: values of a layer differ in how predictable they are, so compare a value with its null, its own step
0, or the floor of the signal `truth`, not with another value. Categories counted on the panel (split "panel") miss
words that the panel lacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.clustered import GroupedMeans, Groups
from lmtrace.numerics.prediction import (
    calibrated_ece,
    calibration_terms,
    corpus_bleu,
    row_chunks,
    target_rank,
)
from lmtrace.observe.interface import Batch, Needs, Signal, View
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import LabelLayer, Panel
from lmtrace.text.sequences import special_id

UNIFORM = "the uniform law over the vocabulary"
TOKEN_KINDS = ("end", "first", "continuation")


@dataclass(frozen=True, kw_only=True)
class Output(Signal):
    """Loss, accuracy and calibration per label value of the predicted token.

    Parameters
    ----------
    layers
        Label layers; None takes every layer with at most `max_values` values.
    max_values
        Layers with more values (lemmas) are left out.
    min_count
        Label values with fewer predictions are missing, with the reason.
    bins
        Of the expected calibration error.
    """

    layers: tuple[str, ...] | None = None
    max_values: int = 64
    min_count: int = 5
    bins: int = 15

    name = "output"
    fields = (
        Field(metric="loss", title="Loss", unit="nats", low=0.0, better="down", null=UNIFORM,
              meaning="Mean surprise at the right token; ends of sentences only where the model is trained on them."),
        Field(metric="accuracy", title="Accuracy", low=0.0, high=1.0, better="up",
              null="always the most frequent token of the panel", meaning="Share of tokens that were most probable."),
        Field(metric="top5", title="Top-5 accuracy", low=0.0, high=1.0, better="up",
              null="always the five most frequent tokens of the panel",
              meaning="Share of tokens that were among the five most probable."),
        Field(metric="entropy", title="Entropy", unit="nats", low=0.0, null=UNIFORM,
              meaning="How undecided the model's law is, whatever is right."),
        Field(metric="ece", title="Calibration error", low=0.0, high=1.0, better="down",
              null="a perfectly calibrated model with the same confidences and as few predictions",
              meaning="Mean distance of confidence and accuracy, over bins of confidence."),
        Field(metric="category_accuracy", title="Category accuracy", low=0.0, high=1.0, better="up",
              null="always the most frequent category of the panel",
              meaning="Share of tokens whose category had the most probability."),
        Field(metric="category_mass", title="Category mass", low=0.0, high=1.0, better="up",
              null="the panel's own shares of the categories",
              meaning="Probability on tokens of the right category."),
        Field(metric="perplexity", title="Perplexity", low=1.0, better="down", null=UNIFORM,
              meaning="Exponential of the mean loss."),
        Field(metric="exact_match", title="Exact match", low=0.0, high=1.0, better="up",
              meaning="Share of targets that greedy decoding gets wholly right, end included; those cut at max_length are left out."),
        Field(metric="bleu", title="BLEU", low=0.0, high=1.0, better="up",
              meaning="As sacrebleu, of token ids: the teacher-forced most probable ones up to the first end, against the target."),
    )  # fmt: skip
    cost = "about four passes over the logits, less than a tenth of the forward pass"
    source = "Guo et al. 2017 (calibration); Papineni et al. 2002, Post 2018 (BLEU)"

    def needs(self, panel: Panel) -> Needs:
        """Logits, and every layer that is broken down."""
        return Needs(logits=True, labels=tuple(self.layers or self._layers(panel)), truth=panel.truth is not None)

    def _layers(self, panel: Panel) -> list[str]:
        return [name for name in panel.layers if len(panel.labels(name).names) <= self.max_values]

    def reduce(self, batch: Batch) -> dict[str, Tensor]:
        """Reduce the laws to a few numbers per prediction."""
        laws, targets, lexicon = batch.laws, batch.targets, batch.panel.lexicon
        rank = [target_rank(laws.log_probs[s], targets[s], limit=5) for s in row_chunks(laws.log_probs)]
        ahead = torch.cat(rank) if rank else targets
        # Nothing is ahead of a token whose probability is not a number: without this, a diverged model is always right.
        known = laws.confidence.isfinite()
        result = {
            "loss": -laws.log_probs.gather(1, targets[:, None])[:, 0].double(),
            "accuracy": (ahead == 0).double().where(known, math.nan),
            "top5": (ahead < 5).double().where(known, math.nan),
            "entropy": laws.entropy.double(),
            "confidence": laws.confidence.double(),
            "vocabulary": torch.full_like(targets, laws.log_probs.shape[1]),
        }
        if batch.panel.objective == "seq2seq":
            result["predicted"] = laws.log_probs.argmax(1)
        if lexicon is not None and laws.mass is not None:
            mass = laws.mass[:, :-1]  # the last group is no category
            gold = torch.as_tensor(lexicon.gold, device=mass.device)[batch.index]
            right = mass.gather(1, gold.clamp(min=0)[:, None])[:, 0].double()
            result["category_mass"] = right.clamp(0.0, 1.0)
            result["category_accuracy"] = (
                (mass.argmax(1) == gold).double().where(result["accuracy"].isfinite(), math.nan)
            )
        return result

    def measure(self, view: View) -> Iterator[Record]:
        """Yield the records of all predictions, then of every layer's values."""
        panel, reduced = view.panel, {k: v.cpu().numpy() for k, v in view.reduced().items()}
        if not len(panel.predictions):
            yield self.record(view, "loss", missing="the panel has nothing to predict")
            return
        layers = [LabelLayer("", np.where(panel.averaged, 0, -1), ("",)), _token_kinds(panel)]
        for name in self.needs(panel).labels:
            layers.append(LabelLayer(name, panel.prediction_codes(name), view.labels(name).names))
        tables = self._tables(panel, layers, reduced)
        start = 0
        for layer in layers:
            yield from self._layer(view, tables, layer, start)
            start += len(layer.names)
            if not layer.name:
                yield from self._perplexity(view, reduced, tables[0])
                if panel.objective == "seq2seq":
                    yield from self._whole_targets(view, reduced)

    def _tables(self, panel: Panel, layers: list[LabelLayer], reduced: dict[str, np.ndarray]) -> list[_Table]:
        """Return the means, of all layers' values one after the other: of all predictions, and of those with a category."""
        names, width = tuple(layer.name for layer in layers), float(reduced["vocabulary"][0])
        sentence, lexicon, target = panel.predictions.sentence, panel.lexicon, panel.predictions.target
        groups = panel.once(
            ("output.groups", names), lambda: Groups.of([(a.codes, len(a.names)) for a in layers], sentence)
        )

        def nulls() -> np.ndarray:
            uniform = np.full(len(target), math.log(width))
            frequent = np.argsort(-np.bincount(target[panel.averaged]), kind="stable")
            rows = np.stack([uniform, target == frequent[0], np.isin(target, frequent[:5]), uniform])
            return groups.mean(rows.take(groups.row, 1))

        values = np.stack([reduced[k] for k in ("loss", "accuracy", "top5", "entropy")]).take(groups.row, 1)
        # The confidence is that of the argmax; a tie that the target lost counts as wrong.
        confidence = reduced["confidence"].take(groups.row)
        calibration = calibration_terms(values[1], confidence, groups.group, self.bins)
        calibrated = calibrated_ece(confidence, groups.group, len(groups.n), self.bins)
        tables = [
            _Table(
                ("loss", "accuracy", "top5", "entropy", "ece"),
                groups.means(np.stack([*values, calibration])),
                np.column_stack([panel.once(("output.nulls", names, width), nulls), calibrated]),
            )
        ]
        if "category_mass" in reduced and lexicon is not None and (lexicon.gold >= 0).any():
            gold, metrics = lexicon.gold, ("category_accuracy", "category_mass")
            known = panel.once(
                ("output.category_groups", names),
                lambda: Groups.of([(np.where(gold >= 0, a.codes, -1), len(a.names)) for a in layers], sentence),
            )

            def category_nulls() -> np.ndarray:
                inside = gold[(gold >= 0) & panel.averaged]
                share = np.bincount(inside, minlength=len(lexicon.names)) / max(1, len(inside))
                rows = np.stack([gold == share.argmax(), share[np.maximum(gold, 0)]])
                return known.mean(rows.take(known.row, 1))

            means = known.means(np.stack([reduced[k] for k in metrics]).take(known.row, 1))
            found = panel.once(("output.category_nulls", names), category_nulls)
            tables.append(_Table(metrics, means, found, lexicon.source))
        return tables

    def _layer(self, view: View, tables: list[_Table], layer: LabelLayer, start: int) -> Iterator[Record]:
        for g, value in enumerate(layer.names, start):
            label = f"{layer.name}={value}" if layer.name else None
            n = int(tables[0].means.n[g])
            if n < self.min_count:
                if n:
                    reason = f"{value or 'the panel'} has {n} predictions, fewer than {self.min_count}"
                    yield self.record(view, "loss", label=label, n=n, missing=reason)
                continue
            for table in tables:
                if table.means.n[g] >= self.min_count:
                    yield from self._row(view, table, label, g)

    def _row(self, view: View, table: _Table, label: str | None, g: int) -> Iterator[Record]:
        n = int(table.means.n[g])
        rows = (table.metrics, table.means.mean[g].tolist(), table.means.stderr[g].tolist(), table.nulls[g].tolist())
        for metric, value, stderr, null in zip(*rows, strict=True):
            if not math.isfinite(value):
                reason = f"the model's {metric} is {value}"
                yield self.record(view, metric, label=label, split=table.split, missing=reason)
                continue
            yield self.record(
                view, metric, value, label=label, split=table.split, n=n, null=null,
                stderr=stderr if math.isfinite(stderr) else None,
            )  # fmt: skip

    def _perplexity(self, view: View, reduced: dict[str, np.ndarray], everything: _Table) -> Iterator[Record]:
        means = everything.means
        mean, stderr = float(means.mean[0, 0]), float(means.stderr[0, 0])
        if not mean < 700:
            yield self.record(view, "perplexity", missing=f"the mean loss is {mean} nats")
            return
        yield self.record(
            view, "perplexity", math.exp(max(mean, 0.0)), n=int(means.n[0]), null=float(reduced["vocabulary"][0]),
            stderr=math.exp(mean) * stderr if math.isfinite(stderr) else None,
        )  # fmt: skip

    def _whole_targets(self, view: View, reduced: dict[str, np.ndarray]) -> Iterator[Record]:
        """Exact match and BLEU. Greedy decoding equals the target just where every teacher-forced argmax is right."""
        predictions, end = view.panel.predictions, special_id(view.panel.tokenizer, "eos", "sep")
        start = np.unique(predictions.sentence, return_index=True)[1]
        spans = [slice(a, b) for a, b in pairwise([*start.tolist(), len(predictions)])]
        longest = view.panel.settings.max_length or math.inf
        # A target that was cut has lost its end: what the model says after it is not known.
        whole = [
            s
            for s in spans
            if (predictions.target[s.stop - 1] == end if end is not None else s.stop - s.start < longest)
        ]
        reason = "" if whole else "every target was cut at max_length"
        if not np.isfinite(reduced["accuracy"]).all():
            reason = "the model's log-probabilities are not finite"
        if reason:
            yield self.record(view, "exact_match", missing=reason)
            yield self.record(view, "bleu", missing=reason)
            return
        right = np.array([reduced["accuracy"][s].min() for s in whole])
        stderr = float(right.std(ddof=1) / math.sqrt(len(right))) if len(right) > 1 else None
        yield self.record(view, "exact_match", float(right.mean()), stderr=stderr, n=len(right))
        bleu = corpus_bleu(
            [_until(reduced["predicted"][s].tolist(), end) for s in whole],
            [_until(predictions.target[s].tolist(), end) for s in whole],
        )
        if bleu.value is None:
            yield self.record(view, "bleu", missing=bleu.note)
        else:
            yield self.record(view, "bleu", bleu.value, stderr=bleu.stderr, n=bleu.n)


def _until(tokens: list[int], end: int | None) -> list[int]:
    """Return the tokens before the first end of sentence: where decoding stops, and n-grams end."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


@dataclass(frozen=True, slots=True)
class _Table:
    """Means of some metrics in every group, and what the null has there."""

    metrics: tuple[str, ...]
    means: GroupedMeans
    nulls: np.ndarray
    split: str | None = None


def _token_kinds(panel: Panel) -> LabelLayer:
    """Return, per prediction: the end of sentence (or another special token), a word's first token, or its continuation."""
    predictions = panel.predictions
    opening = np.where(predictions.first, 1, 2)
    # A space mark of its own belongs to no word and opens none: it is left out.
    codes = np.where(predictions.word >= 0, opening, np.where(predictions.first, 0, -1))
    if panel.target == "logical form":
        codes = np.full(len(codes), -1)
    return LabelLayer("token", codes.astype(np.int64), TOKEN_KINDS)
