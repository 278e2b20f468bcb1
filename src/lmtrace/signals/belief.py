"""Whether a site holds the oracle's belief: its posterior over constructions after each word.

Ridge regression from the residual stream to the posterior, fitted on the training sentences; R^2 on the test sentences over all
constructions together, 1 - sum |b - b_hat|^2 / sum |b - mean b|^2. The null is the same regression to shuffled beliefs.

When it misleads: an untrained transformer mixes the context enough to reach a high R^2 (Mess3: .94), so the value at
step 0 is the one to beat, and the gain over the embedding site is not evidence of learning by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from lmtrace.numerics.moments import all_finite
from lmtrace.numerics.probing import Design, shared_design
from lmtrace.numerics.ridge import ridge_regressions
from lmtrace.numerics.scores import bootstrap_weights
from lmtrace.numerics.splits import sentence_split
from lmtrace.observe.interface import Needs, Signal, Sites, View
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import Panel

EMBED = "embed"
MIN_SENTENCES = 10

_BELIEFS: WeakKeyDictionary[Any, np.ndarray | None] = WeakKeyDictionary()
"""The oracle is asked once: beliefs are the same at every step."""


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
        if view.truth not in _BELIEFS:
            _BELIEFS[view.truth] = view.truth.beliefs()
        beliefs = _BELIEFS[view.truth]
        if beliefs is None:
            yield self.record(view, "r2", missing="the corpus's oracle offers no beliefs")
            return
        rows = np.flatnonzero(panel.encoder.word_first >= 0)
        beliefs, groups = np.asarray(beliefs, np.float64)[rows], panel.word_sentence[rows]
        num = len(np.unique(groups))
        if num < 4 * MIN_SENTENCES:
            yield self.record(view, "r2", missing=f"{num} sentences, fewer than {4 * MIN_SENTENCES}")
            return
        test = sentence_split(panel.word_sentence, self.seed)[rows]
        if float(beliefs[test].var(0).sum()) < 1e-12 or float(beliefs[~test].var(0).sum()) < 1e-12:
            yield self.record(view, "r2", missing="the beliefs are the same at every word")
            return
        shuffled = beliefs[np.random.default_rng([self.seed, 6]).permutation(len(beliefs))]
        weights = bootstrap_weights(len(np.unique(groups[test])), self.seed)
        embed: np.ndarray | None = None
        for site in sorted(view.sites, key=lambda name: name != EMBED):
            x = view.words(site)
            design = shared_design(view.cache, x, rows, test)
            if not (all_finite(design.train) and all_finite(design.test)):
                yield self.record(view, "r2", site=site, missing="activations that are not finite")
                continue
            (error, total), (null_error, null_total) = held_out_errors(design, [beliefs, shuffled], test, groups)
            resampled = 1 - (weights @ error) / (weights @ total)
            r2, n = 1 - error.sum() / total.sum(), int(test.sum())
            where = {"site": site, "split": "sentence", "n": n}
            null = float(1 - null_error.sum() / null_total.sum())
            yield self.record(view, "r2", float(r2), stderr=float(resampled.std(ddof=1)), null=null, **where)
            if site == EMBED:
                embed = error
            elif embed is not None:
                gain = (weights @ (embed - error)) / (weights @ total)
                value = float((embed - error).sum() / total.sum())
                stderr = float(gain.std(ddof=1))
                yield self.record(view, "r2_gain_over_embed", value, stderr=stderr, null=0.0, **where)


def held_out_errors(
    design: Design, targets: Sequence[np.ndarray], test: np.ndarray, groups: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for each target, (squared error, squared deviation from the test mean) per test sentence.

    Parameters
    ----------
    design
        The rows; the regression is fitted on the training part.
    targets : [n, columns] each
        What is regressed to.
    test : [n]
        bool, the split of `design`.
    groups : [n]
        Sentence of every row.
    """
    y = [torch.as_tensor(target, device=design.train.device, dtype=torch.float64) for target in targets]
    keep = torch.as_tensor(~test, device=design.train.device)
    fitted = ridge_regressions(design.basis, design.standardised[0], [target[keep] for target in y])
    index = np.unique(groups[test], return_inverse=True)[1]
    found = []
    for target, predicted in zip(y, design.scores(fitted), strict=True):
        held_out = target[~keep]
        error = (predicted.double() - held_out).square().sum(1).cpu().numpy()
        total = (held_out - held_out.mean(0)).square().sum(1).cpu().numpy()
        found.append((np.bincount(index, weights=error), np.bincount(index, weights=total)))
    return found
