"""Suites of SyntaxGym: do the surprisals of a sentence's regions stand to each other as the grammar says?

Every item has a sentence in several conditions, cut into regions. The surprisal of a region (nats) is the sum over its tokens, or
what the suite's metric says; a formula claims how regions compare, e.g. that the verb is more surprising where it does not agree.
An item counts 1 where every prediction of its suite holds (Hu et al. 2020). Sums are of whole words: where a space belongs to the
token after it, the mass of the tokens that begin a word corrects them (Pimentel and Meister 2024; `corrected=False` for the plain sum,
which published numbers are).

It misleads where a suite has few items, and where chance is not one half: a claim of two comparisons is true of one item in four by
chance. The matched null is step 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmtrace.numerics.pairs import wilson_interval
from lmtrace.numerics.word_probability import word_log_probabilities
from lmtrace.observe.forward import context_length
from lmtrace.observe.interface import Needs, Signal, View
from lmtrace.observe.scoring import token_scores
from lmtrace.records.schema import Field, Record
from lmtrace.text.alignment import encode
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.sequences import causal_affixes
from lmtrace.text.suites import METRICS, Suite, as_suites
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace.text.word_begins import word_begins

Z95 = 1.959964
Regions = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Suites(Signal):
    """Share of a suite's items whose predictions hold.

    Parameters
    ----------
    suites
        A suite of SyntaxGym (.json, also compressed), a folder of them, or `Suite` objects.
    corrected
        Sums are probabilities of whole words; False gives the plain sum over tokens.
    """

    suites: str | tuple[Suite | str, ...] = ()
    corrected: bool = True

    name = "suites"
    cost = "1 forward of each condition of each item"
    source = "Hu et al. 2020 (SyntaxGym); Pimentel and Meister 2024 (words)"
    fields = (
        Field(
            metric="accuracy",
            title="Suite predictions right",
            low=0.0,
            high=1.0,
            better="up",
            meaning="Share of items whose predictions all hold; with the label of one prediction, for which that one holds.",
        ),
        Field(
            metric="left_out",
            title="Suite items left out",
            low=0.0,
            high=1.0,
            meaning="Share of items with a sentence that is longer than the model's context.",
        ),
    )

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the model itself."""
        return Needs(model=True)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield accuracy and the share left out: overall, per suite, and accuracy per prediction."""
        reason = "" if self.suites else "no suites were given: Suites(suites=...)"
        if view.panel.objective != "causal":
            reason = "only a causal model gives the surprisal of a region after what stands before it"
        if reason:
            for field in self.fields:
                yield self.record(view, field.metric, missing=reason)
            return
        suites = as_suites(self.suites)
        held = [self._held(view, suite) for suite in suites]
        yield from self._share(view, None, np.concatenate([every.all(1) for every in held]), held)
        for suite, every in zip(suites, held, strict=True):
            yield from self._share(view, f"suite={suite.name}", np.asarray(every.all(1)), [every])
            for k in range(every.shape[1]) if every.shape[1] > 1 else ():
                usable = ~np.isnan(every[:, k])
                yield self._accuracy(view, f"prediction={suite.name} {k + 1}", every[usable, k])

    def _share(self, view: View, label: str | None, right: np.ndarray, held: list[np.ndarray]) -> Iterator[Record]:
        usable = np.concatenate([~np.isnan(every).any(1) for every in held])
        yield self.record(view, "left_out", float((~usable).mean()), label=label, n=len(usable))
        yield self._accuracy(view, label, right[usable])

    def _accuracy(self, view: View, label: str | None, right: np.ndarray) -> Record:
        n = len(right)
        if not n:
            return self.record(view, "accuracy", label=label, missing="every item is longer than the model's context")
        share = float(right.mean())
        low, high = wilson_interval(share, n)
        stderr = max(high - share, share - low) / Z95
        return self.record(view, "accuracy", share, label=label, stderr=stderr, n=n)

    def _held(self, view: View, suite: Suite) -> np.ndarray:
        """Return [items, predictions]: 1 where one holds, 0 where not, NaN for an item that is left out."""
        corrected = self.corrected and suite.metric in ("sum", "all")
        every = [regions for item in suite.items for regions in item.conditions.values()]
        found = iter(region_surprisals(view, every, suite.metric, corrected))
        result = np.full((len(suite.items), len(suite.predictions)), np.nan)
        for i, item in enumerate(suite.items):
            surprisals = {condition: next(found) for condition in item.conditions}
            if any(value is None for value in surprisals.values()):
                continue
            values = {(c, region): v for c, of in surprisals.items() for region, v in (of or {}).items()}
            result[i] = [prediction.holds(values) for prediction in suite.predictions]
        return result


def region_surprisals(
    view: View, sentences: Sequence[Regions], metric: str = "sum", corrected: bool = True
) -> list[Mapping[str, float] | None]:
    """Return region -> surprisal (nats) of every sentence, "*" for all of it; None for one that is too long.

    Regions are joined by spaces, empty ones left out (their surprisal is 0). A token belongs to the region in which it begins, a
    space mark of its own to the next. Sums are not corrected where a tokenizer does not show where words begin. Without a first token of the tokenizer's own, that of the sentence is not counted.

    Raises
    ------
    DataError
        As `lmtrace.text.alignment.encode`.
    """
    tokenizer = view.panel.tokenizer
    begins = view.panel.once("signals.suites.begins", lambda: word_begins(tokenizer)) if corrected else None
    begin, _ = causal_affixes(tokenizer)
    placed = [_placed(regions, tokenizer) for regions in sentences]
    limit = context_length(view.model)
    fits = [i for i, (ids, _) in enumerate(placed) if limit is None or len(begin) + len(ids) <= limit]
    rows = [[*begin, *placed[i][0]] for i in fits]
    scores = token_scores(view, rows, begins if isinstance(begins, np.ndarray) else None)
    result: list[Mapping[str, float] | None] = [None] * len(sentences)
    for i, (log_probs, mass) in zip(fits, scores, strict=True):
        if not begin:  # nothing stands before the first token
            log_probs, mass = np.concatenate([[0.0], log_probs]), np.concatenate([[0.0], mass])
        result[i] = _summed(sentences[i], placed[i][1], log_probs, mass, metric)
    return result


def _placed(regions: Regions, tokenizer: Any) -> tuple[list[int], np.ndarray]:
    """Return the ids of a sentence and, for each, the place of its region among those that hold something."""
    contents = [" ".join(content.split()) for _, content in regions if content.strip()]
    if isinstance(tokenizer, WordTokenizer):
        counts = [len(content.split()) for content in contents]
        return tokenizer.encode(" ".join(contents)), np.repeat(np.arange(len(contents)), counts)
    (encoding,) = encode([AnnotatedSentence(tokens=tuple(contents))], tokenizer)
    owner = encoding.owner.copy()
    for t in range(len(owner) - 2, -1, -1):
        if owner[t] < 0:
            owner[t] = owner[t + 1]
    owner[owner < 0] = len(contents) - 1
    return encoding.ids.tolist(), owner


def _summed(
    regions: Regions, owner: np.ndarray, log_probs: np.ndarray, mass: np.ndarray, metric: str
) -> dict[str, float]:
    named = [number for number, content in regions if content.strip()]
    found = {number: 0.0 for number, _ in regions}
    spans = [(int(np.searchsorted(owner, k)), int(np.searchsorted(owner, k, side="right"))) for k in range(len(named))]
    if metric in ("sum", "all"):
        values = -word_log_probabilities(log_probs, mass, spans)
    else:
        values = np.array([METRICS[metric]((-log_probs[a:b]).tolist()) for a, b in spans])
    for number, value in zip(named, values.tolist(), strict=True):
        found[number] += value
    found["*"] = sum(found.values())
    return found
