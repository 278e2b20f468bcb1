"""Accuracy and F1 of predicted classes, with bootstrap errors over groups of rows: sentences, or word types."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import stdtrit

from lmtrace.numerics.estimate import Estimate

NUM_RESAMPLES = 500
MIN_SUPPORT = 10


@lru_cache(maxsize=64)
def bootstrap_weights(num_groups: int, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """Return [resamples, groups] float64, read-only: how often each group is drawn with replacement."""
    rng = np.random.default_rng([seed, 4])
    drawn = rng.integers(num_groups, size=(num_resamples, num_groups)) + num_groups * np.arange(num_resamples)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=num_resamples * num_groups).reshape(num_resamples, num_groups)
    weights = weights.astype(np.float64)
    weights.flags.writeable = False
    return weights


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Counts per group of the test part (sentence or word type), enough for every score and its bootstrap.

    Attributes
    ----------
    total, correct, confidence : [groups]
        Rows, rows predicted right, and sum of the probability of the gold class.
    support, predicted, hits : [groups, classes]
        Rows of the class, rows predicted to be of it, and both at once.
    """

    total: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray
    support: np.ndarray
    predicted: np.ndarray
    hits: np.ndarray

    @classmethod
    def of(
        cls, gold: np.ndarray, predicted: np.ndarray, probability: np.ndarray, group: np.ndarray, num_classes: int
    ) -> Tally:
        """Return the counts of rows with gold and predicted classes: [n], gold probability: [n], group: [n] from 0 on."""
        size, right = int(group.max()) + 1, gold == predicted

        def table(code: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
            cells = np.bincount((group * num_classes + code)[rows], minlength=size * num_classes)
            return cells.reshape(size, num_classes).astype(np.float64)

        return cls(
            np.bincount(group, minlength=size).astype(np.float64),
            np.bincount(group, weights=right, minlength=size),
            np.bincount(group, weights=probability, minlength=size),
            table(gold),
            table(predicted),
            table(gold, right),
        )


def share(part: np.ndarray, whole: np.ndarray, weights: np.ndarray) -> tuple[Estimate, tuple[float, float]]:
    """Return sum(part) / sum(whole) over groups, its bootstrap standard error, and its 95 % interval.

    Where all resamples agree (every row right, or none, or one group only) the bootstrap knows nothing; the error is then
    that of a binomial over the groups, with two of either kind added (Agresti and Coull 1998).

    Parameters
    ----------
    part, whole : [groups]
        Sums per group.
    weights : [resamples, groups]
        From `bootstrap_weights`.
    """
    n = float(whole.sum())
    value = float(part.sum()) / n
    resampled, wider = _ratio(weights @ part, weights @ whole), _widening(whole)
    stderr = float(resampled.std(ddof=1)) * wider
    low, high = (value + wider * (q - value) for q in _quantiles(resampled, 0.025, 0.975))
    if stderr < 1e-12 and 0.0 <= value <= 1.0:
        groups = len(whole)
        centre = (value * groups + 2) / (groups + 4)
        stderr = float(np.sqrt(centre * (1 - centre) / (groups + 4)))
        low, high = min(value, centre - 1.96 * stderr), max(value, centre + 1.96 * stderr)
    if 0.0 <= value <= 1.0:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(value, stderr, round(n)), (low, high)


def gain(a: np.ndarray, b: np.ndarray, whole: np.ndarray, weights: np.ndarray) -> tuple[Estimate, float]:
    """Return sum(a - b) / sum(whole) with its paired bootstrap standard error, and the lower end of its 95 % interval.

    Parameters
    ----------
    a, b : [groups]
        Rows right under two predictors, on the same rows.
    """
    n = float(whole.sum())
    value, wider = float((a - b).sum()) / n, _widening(whole)
    resampled = _ratio(weights @ (a - b), weights @ whole)
    (low,) = _quantiles(resampled, 0.025)
    return Estimate(value, float(resampled.std(ddof=1)) * wider, round(n)), value + wider * (low - value)


def f1_scores(
    tally: Tally, weights: np.ndarray, names: tuple[str, ...], min_support: int = MIN_SUPPORT
) -> tuple[dict[str, Estimate], Estimate]:
    """Return F1 per class (n is its support in the test part) and their unweighted mean.

    F1 = 2 hits / (support + predicted). A class with fewer than `min_support` test rows has no value, and is left
    out of the mean; the notes name it.
    """
    support = tally.support.sum(0)
    denominator = support + tally.predicted.sum(0)
    values = _ratio(2 * tally.hits.sum(0), denominator)
    drawn = weights @ np.hstack([2 * tally.hits, tally.support + tally.predicted])
    resampled = _ratio(*np.hsplit(drawn, 2))
    wider = _widening(tally.total)
    spread = resampled.std(0, ddof=1) * wider
    per_class = {
        name: Estimate(float(values[i]), float(spread[i]), int(support[i]))
        if support[i] >= min_support
        else Estimate(None, None, int(support[i]), too_few(name, int(support[i]), min_support))
        for i, name in enumerate(names)
    }
    kept = support >= min_support
    rare = [f"{name} ({int(support[i])})" for i, name in enumerate(names) if not kept[i]]
    note = f"classes with fewer than {min_support} test rows left out: {', '.join(rare)}" if rare else ""
    if not kept.any():
        return per_class, Estimate(None, None, int(support.sum()), note)
    spread_of_mean = float(resampled[:, kept].mean(1).std(ddof=1)) * wider
    return per_class, Estimate(float(values[kept].mean()), spread_of_mean, int(support[kept].sum()), note)


def too_few(name: str, support: int, min_support: int = MIN_SUPPORT) -> str:
    """Return the reason why a class has no score."""
    return f"class {name} has {support} test rows, fewer than {min_support}"


def _widening(whole: np.ndarray) -> float:
    """Return by how much a bootstrap's error of few or unequal groups is too small, for 95 % intervals.

    With m = (sum w)^2 / sum w^2 groups in effect (Kish 1965): sqrt(m / (m - 1)), and Student's quantile for m - 1 degrees of
    freedom over the normal one. 1.01 for a hundred sentences; 1.2 for a test part of twelve word types.
    """
    freedom = max(float(whole.sum()) ** 2 / float(np.square(whole).sum()) - 1, 0.5)
    return float(np.sqrt((freedom + 1) / freedom) * stdtrit(freedom, 0.975) / stdtrit(np.inf, 0.975))


def _quantiles(values: np.ndarray, *shares: float) -> tuple[float, ...]:
    """Return NumPy's quantiles of values: [n], whose own function costs more than the sort."""
    return tuple(np.interp(np.array(shares) * (len(values) - 1), np.arange(len(values)), np.sort(values)).tolist())


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a, dtype=np.float64), where=b > 0)
