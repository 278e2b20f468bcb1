"""Whether a site holds the oracle's belief: its posterior over constructions after each word.

Ridge regression from the residual stream to the posterior, fitted on the training sentences; R^2 on the test sentences over all
constructions together, 1 - sum |b - b_hat|^2 / sum |b - mean b|^2. The null is the same regression to shuffled beliefs (to random directions of
them where constructions are many).

When it misleads: an untrained transformer mixes the context enough to reach a high R^2 (Mess3: .94), so the value at
step 0 is the one to beat, and the gain over the embedding site is not evidence of learning by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from lmtrace.observe.interface import Needs, Signal, Sites, View
from lmtrace.probing.closed_form import RealTargets, ridge_regressions
from lmtrace.probing.rows import Arrangement, Design, arranged
from lmtrace.probing.scores import bootstrap_weights
from lmtrace.probing.tasks import word_arrangement
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import Panel

EMBED = "embed"
SPLIT = "sentence"
MIN_SENTENCES = 10
NULL_DIRECTIONS = 16
"""Random directions of the shuffled beliefs that the null regresses to."""

_QUESTIONS: WeakKeyDictionary[Any, dict[tuple[int, torch.device], HeldOut | str]] = WeakKeyDictionary()
"""Truth -> (seed, device) -> what is asked of every site: the same at every step."""


@dataclass(frozen=True, kw_only=True)
class Belief(Signal):
    """Regression from every site to the oracle's posterior over constructions.

    Parameters
    ----------
    sites
        "all" or names. Without "embed" there is no gain over it.
    seed
        Of split, shuffle and bootstrap; the same at every step.
    """

    sites: Sites = "all"
    seed: int = 0

    name = "belief"
    cost = "no pass of its own; shares its products with the probe"
    source = "Shai et al. 2024"
    fields = (
        Field(metric="r2", title="Belief R²", high=1.0, better="up", null="R² of the regression to shuffled beliefs",
              meaning="Share of the variance of the oracle's posterior that is read linearly, on held-out sentences."),
        Field(metric="r2_gain_over_embed", title="Belief R² gain over the embedding", better="up",
              null="no gain: zero", meaning="R² minus that at the embedding site, paired by sentence."),
    )  # fmt: skip

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the sites, and of the truth where the panel has it."""
        return Needs(sites=self.sites, truth=panel.truth is not None)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield R^2 at every site, the embedding first."""
        panel = view.panel
        if panel.truth is None:
            yield self.record(view, "r2", missing=f"no oracle: {getattr(panel, 'truth_reason', '')}".rstrip(": "))
            return
        embed: np.ndarray | None = None
        for site in sorted(view.sites, key=lambda name: name != EMBED):
            asked = self._question(view, view.tokens(site).device)
            if isinstance(asked, str):
                yield self.record(view, "r2", missing=asked)
                return
            rows = arranged(view.cache, site, asked.arrangement, partial(view.words, site))
            if not rows.finite:
                yield self.record(view, "r2", site=site, missing="activations that are not finite")
                continue
            error, null_error = asked.errors(rows.design(SPLIT))
            total, null_total = asked.totals
            whole = asked.weights @ total
            where = {"site": site, "split": SPLIT, "n": len(asked.index)}
            r2, resampled = 1 - error.sum() / total.sum(), 1 - (asked.weights @ error) / whole
            null = float(1 - null_error.sum() / null_total.sum())
            yield self.record(view, "r2", float(r2), stderr=float(resampled.std(ddof=1)), null=null, **where)
            if site == EMBED:
                embed = error
            elif embed is not None:
                gain = (asked.weights @ (embed - error)) / whole
                value = float((embed - error).sum() / total.sum())
                stderr = float(gain.std(ddof=1))
                yield self.record(view, "r2_gain_over_embed", value, stderr=stderr, null=0.0, **where)

    def _question(self, view: View, device: torch.device) -> HeldOut | str:
        """Return the targets, or why there are none."""
        known = _QUESTIONS.setdefault(view.truth, {})
        if (self.seed, device) not in known:
            beliefs = view.truth.beliefs()
            asked = (
                "the corpus's oracle offers no beliefs" if beliefs is None else self._ask(view.panel, beliefs, device)
            )
            known[self.seed, device] = asked
        return known[self.seed, device]

    def _ask(self, panel: Panel, beliefs: np.ndarray, device: torch.device) -> HeldOut | str:
        rows = np.flatnonzero(panel.encoder.word_first >= 0)
        beliefs = np.asarray(beliefs, np.float64)[rows]
        groups = panel.sentence_twins[panel.word_sentence[rows]]
        num = len(np.unique(groups))
        if num < 4 * MIN_SENTENCES:
            return f"{num} sentences, fewer than {4 * MIN_SENTENCES}"
        arrangement = word_arrangement(panel, rows, self.seed)
        test = arrangement.tests[SPLIT]
        if float(beliefs[test].var(0).sum()) < 1e-12 or float(beliefs[~test].var(0).sum()) < 1e-12:
            return "the beliefs are the same at every word"
        rng = np.random.default_rng([self.seed, 6])
        shuffled = beliefs[rng.permutation(len(beliefs))]
        if beliefs.shape[1] > NULL_DIRECTIONS:  # their R^2 is that of all within noise, and costs a part of it
            shuffled = shuffled @ rng.standard_normal((beliefs.shape[1], NULL_DIRECTIONS))
        return HeldOut([beliefs, shuffled], arrangement, groups, self.seed, device)


class HeldOut:
    """Targets of a regression, fitted on the training part of the rows and judged on the test part, sentence by sentence.

    Parameters
    ----------
    targets : [n, columns] each
        What is regressed to.
    arrangement
        Of the rows, with a split by sentence.
    groups : [n]
        Sentence of every row.

    Attributes
    ----------
    totals : [test sentences] each
        Squared deviation of each target from its mean over the test part.
    weights : [resamples, test sentences]
        Of the bootstrap.
    """

    def __init__(
        self,
        targets: Sequence[np.ndarray],
        arrangement: Arrangement,
        groups: np.ndarray,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.arrangement = arrangement
        test, training = arrangement.tests[SPLIT], arrangement.training(SPLIT)
        self.index = np.unique(groups[test], return_inverse=True)[1]
        self.targets = RealTargets([torch.as_tensor(target[training], device=device) for target in targets])
        self.held_out = [torch.as_tensor(target[test], device=device).float() for target in targets]
        held_out = [target[test] for target in targets]
        self.totals = [self._by_sentence(np.square(y - y.mean(0)).sum(1)) for y in held_out]
        self.weights = bootstrap_weights(int(self.index.max()) + 1, seed)

    def errors(self, design: Design) -> list[np.ndarray]:
        """Return the squared error of each target per test sentence, of regressions on the design's training rows."""
        fitted = ridge_regressions(design.basis, design.training.rows, self.targets)
        return [
            self._by_sentence((predicted - y).square().sum(1).cpu().numpy())
            for predicted, y in zip(design.scores(fitted), self.held_out, strict=True)
        ]

    def _by_sentence(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.index, weights=values)
