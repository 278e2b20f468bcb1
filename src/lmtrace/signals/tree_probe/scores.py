"""The scores of a structural probe: edges found and rank correlation, as Hewitt and Manning (2019) count them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmtrace.numerics.estimate import Estimate
from lmtrace.signals.tree_probe.structural import distance_ranks, rank_correlation, spanning_trees, uuas
from lmtrace.text.sentences import AnnotatedSentence

SHORTEST, LONGEST = 5, 50
"""Words of the sentences over whose lengths the rank correlation is averaged."""
_PENN_MARKS = frozenset({"''", ",", ".", ":", "``", "-LRB-", "-RRB-"})
"""The Penn Treebank's tags of punctuation; its forms of quotes and brackets are the same."""


def punctuation(sentence: AnnotatedSentence) -> np.ndarray:
    """Return [words] bool: upos PUNCT where the sentence has upos, else a Penn tag, else a form of punctuation marks only."""
    if "upos" in sentence.labels:
        return np.array([value == "PUNCT" for value in sentence.labels["upos"]], bool)
    if "xpos" in sentence.labels:
        return np.array([value in _PENN_MARKS for value in sentence.labels["xpos"]], bool)
    return np.array([_is_mark(form) for form in sentence.tokens], bool)


def _is_mark(form: str) -> bool:
    return form in _PENN_MARKS or all(unicodedata.category(character).startswith("P") for character in form)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Test sentences of one length.

    Attributes
    ----------
    places : [sentences]
        Where they stand in the test part.
    rows : [sentences, n]
        Their words among the panel's.
    gold : [sentences, n, n]
        Tree distances.
    ranks : [sentences, n, n - 1]
        `distance_ranks` of them.
    counted : [sentences, n]
        bool, words that are no punctuation.
    edges : [sentences, n, n]
        bool, the spanning tree of the gold distances of these words.
    """

    places: np.ndarray
    rows: np.ndarray
    gold: np.ndarray
    ranks: np.ndarray
    counted: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, places: np.ndarray, rows: np.ndarray, gold: np.ndarray, counted: np.ndarray) -> Judged:
        """Compute what is the same for every probe."""
        return cls(places, rows, gold, distance_ranks(gold), counted, spanning_trees(gold, counted))


@dataclass(frozen=True, slots=True, eq=False)
class TreeScores:
    """What probes find in every test sentence.

    Attributes
    ----------
    hits : [probes, sentences]
        Gold edges found, without punctuation.
    share : [probes, sentences]
        Share of all gold edges found.
    correlation : [probes, sentences]
        Rank correlation, mean over words.
    edges, length : [sentences]
        Gold edges without punctuation; words.
    unit : [sentences]
        A number that equal sentences share: what is found in one is found in all, so their errors are one.
    """

    hits: np.ndarray
    share: np.ndarray
    correlation: np.ndarray
    edges: np.ndarray
    length: np.ndarray
    unit: np.ndarray

    @classmethod
    def empty(cls, judged: Sequence[Judged], num_probes: int, unit: np.ndarray) -> TreeScores:
        """Return scores to be filled, of all groups' sentences."""
        num = sum(len(group.places) for group in judged)
        edges, length = np.zeros((2, num), np.int64)
        for group in judged:
            edges[group.places] = group.edges.sum((1, 2))
            length[group.places] = group.gold.shape[1]
        hits, share, correlation = np.zeros((3, num_probes, num))
        return cls(hits, share, correlation, edges, length, np.unique(unit, return_inverse=True)[1])

    def fill(self, group: Judged, predicted: np.ndarray) -> None:
        """Score the predicted distances [probes, sentences, n, n] of one group."""
        shape = predicted.shape
        counted = np.broadcast_to(group.counted, shape[:3]).reshape(-1, shape[2])
        trees = spanning_trees(predicted.reshape(-1, *shape[2:]), counted).reshape(shape)
        self.hits[:, group.places] = (trees & group.edges).sum((2, 3))
        self.share[:, group.places] = uuas(predicted, np.broadcast_to(group.gold, shape))
        self.correlation[:, group.places] = rank_correlation(distance_ranks(predicted), group.ranks)

    def of(self, probe: int) -> TreeScores:
        """Return the scores of one probe, [sentences] each."""
        return replace(self, hits=self.hits[probe], share=self.share[probe], correlation=self.correlation[probe])

    def minus(self, other: TreeScores) -> TreeScores:
        """Return the differences of two probes on the same sentences."""
        return replace(
            self,
            hits=self.hits - other.hits,
            share=self.share - other.share,
            correlation=self.correlation - other.correlation,
        )

    def uuas(self) -> Estimate:
        """Return the share of all edges, or the difference of two; error of a ratio over sentences."""
        total = int(self.edges.sum())
        if not total:
            return Estimate(None, n=len(self.hits), note="the test sentences hold punctuation only")
        value = float(self.hits.sum()) / total
        residual = self.hits - value * self.edges
        return Estimate(value, _scaled_error(residual / total, self.unit), len(self.hits))

    def uuas_by_sentence(self) -> Estimate:
        """Return the mean over sentences of the share."""
        n = len(self.share)
        return Estimate(float(self.share.mean()), _scaled_error((self.share - self.share.mean()) / n, self.unit), n)

    def spearman(self) -> Estimate:
        """Return the mean over lengths of the mean correlation of a length's sentences; the error takes lengths as given."""
        inside = (self.length >= SHORTEST) & (self.length <= LONGEST)
        if not inside.any():
            return Estimate(None, note=f"no test sentence has {SHORTEST} to {LONGEST} words")
        values = self.correlation[inside]
        _, code, count = np.unique(self.length[inside], return_inverse=True, return_counts=True)
        weight = 1 / (len(count) * count[code])
        value = float(weight @ values)
        # A length with one sentence has no spread of its own: that around the mean of all stands for it, which is no smaller.
        error = _scaled_error(weight * (values - value), self.unit[inside])
        return Estimate(value, error, len(values))


def _scaled_error(residuals: np.ndarray, unit: np.ndarray) -> float | None:
    """Return the root of the sum over units of their squared sums, with n / (n - 1) for n units; None of one unit."""
    sums = np.bincount(unit, weights=residuals)[np.unique(unit)]
    n = len(sums)
    return math.sqrt(n / (n - 1) * float(sums @ sums)) if n > 1 else None
