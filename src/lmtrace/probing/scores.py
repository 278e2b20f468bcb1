"""Accuracy and F1 of predicted classes, with bootstrap errors over groups of rows: sentences, or word types."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import stdtrit

from lmtrace.numerics.estimate import Estimate

NUM_RESAMPLES = 500
MIN_SUPPORT = 10

ONE_UNIT = "one sentence or word type in the test part: no error can be given"
"""Why an estimate has no standard error: nothing says how much another unit would differ from the only one."""

SAME = 1e-12
"""A spread up to this is none: all resamples agree."""


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


class Bootstrap:
    """Standard errors over groups of the test part: ratios of sums, drawn again with replacement.

    Errors are widened where groups are few or unequal: with m = (sum w)^2 / sum w^2 groups in effect (Kish 1965) by
    sqrt(m / (m - 1)), and by Student's quantile for m - 1 degrees of freedom over the normal one. 1.01 for a hundred
    sentences; 1.2 for a test part of twelve word types. Where all groups
    agree, resamples know nothing of the groups that are not there: the error then counts groups (see the methods). A difference
    or an F1 in one group has none.

    Parameters
    ----------
    total : [groups]
        Rows per group.
    weights : [resamples, groups]
        From `bootstrap_weights`.
    """

    def __init__(self, total: np.ndarray, weights: np.ndarray) -> None:
        self.total, self.weights, self.drawn = total, weights, weights @ total
        self.num_groups = int((total > 0).sum())
        freedom = max(float(total.sum()) ** 2 / float(np.square(total).sum()) - 1, 0.5)
        self.wider = float(np.sqrt((freedom + 1) / freedom) * stdtrit(freedom, 0.975) / stdtrit(np.inf, 0.975))

    def share(self, part: np.ndarray) -> Estimate:
        """Return sum(part) / sum(total) over groups, with its error; see `shares`."""
        return self.shares(part[None])[0]

    def shares(self, parts: np.ndarray) -> list[Estimate]:
        """Return sum(part) / sum(total) over groups, with its error, of parts: [parts, groups].

        Where all resamples agree (every row right, or none, or one group only) the error is that of a binomial over the
        groups, with two of either kind added (Agresti and Coull 1998): .22 and more of one group.
        """
        n = float(self.total.sum())
        values, stderrs = (parts.sum(1) / n).tolist(), self._spread(self._resampled(parts))
        return [
            Estimate(value, self._agreed(value)[1] if self._agree(value, stderr) else stderr, round(n))
            for value, stderr in zip(values, stderrs, strict=True)
        ]

    def interval(self, part: np.ndarray) -> tuple[float, float]:
        """Return the 95 % interval of `share`."""
        value, resampled = float(part.sum()) / float(self.total.sum()), _ratio(self.weights @ part, self.drawn)
        low, high = (value + self.wider * (q - value) for q in _quantiles(resampled, 0.025, 0.975))
        if self._agree(value, float(resampled.std(ddof=1)) * self.wider):
            centre, stderr = self._agreed(value)
            low, high = min(value, centre - 1.96 * stderr), max(value, centre + 1.96 * stderr)
        return (max(0.0, low), min(1.0, high)) if 0.0 <= value <= 1.0 else (low, high)

    def gain(self, a: np.ndarray, b: np.ndarray) -> tuple[Estimate, float]:
        """Return sum(a - b) / sum(total) with its paired error, and the lower end of its 95 % interval.

        Parameters
        ----------
        a, b : [groups]
            Rows right under two predictors, on the same rows.
        """
        return self.gains((a - b)[None])[0]

    def gains(self, differences: np.ndarray) -> list[tuple[Estimate, float]]:
        """Return what `gain` does, of differences: [pairs of predictors, groups].

        One group gives no error, and an interval without a lower end. Where all groups agree on a difference, the error is
        that of matched pairs over the groups, with half a group added to each of the four outcomes (Agresti and Min 2005). It
        is 0 only where there is no difference in any group.
        """
        n = float(self.total.sum())
        values = (differences.sum(1) / n).tolist()
        if self.num_groups < 2:
            return [(Estimate(value, None, round(n), ONE_UNIT), -np.inf) for value in values]
        resampled = self._resampled(differences)
        found = []
        for value, stderr, row in zip(values, self._spread(resampled), resampled, strict=True):
            low = value + self.wider * (_quantiles(row, 0.025)[0] - value)
            if stderr < SAME and value:
                centre, stderr = self._matched(value)
                low = centre - 1.96 * stderr
            found.append((Estimate(value, stderr, round(n)), low))
        return found

    def f1_scores(
        self, tally: Tally, names: tuple[str, ...], min_support: int = MIN_SUPPORT
    ) -> tuple[dict[str, Estimate], Estimate]:
        """Return F1 per class (n is its support in the test part) and their unweighted mean.

        F1 = 2 hits / (support + predicted). A class with fewer than `min_support` test rows has no value, and is left
        out of the mean; the notes name it. Errors by linearisation of the ratio (which the bootstrap agrees with, at
        many times the cost); of a class that is read alike in all groups, by the binomial of `shares` over the groups that
        hold it. One group gives none.
        """
        support = tally.support.sum(0)
        whole = tally.support + tally.predicted
        values = _ratio(2 * tally.hits.sum(0), whole.sum(0))
        residual = (2 * tally.hits - values * whole) / np.maximum(whole.sum(0), 1)
        spread = np.sqrt(np.square(residual).sum(0)) * self.wider
        holding = (whole > 0).sum(0)
        for i in np.flatnonzero(spread < SAME):
            spread[i] = self._agreed(float(values[i]), int(holding[i]))[1]
        errors: list[float | None] = spread.tolist()
        if self.num_groups < 2:
            errors = [None] * len(errors)
        lonely = ONE_UNIT if self.num_groups < 2 else ""
        per_class = {
            name: Estimate(float(values[i]), errors[i], int(support[i]), lonely)
            if support[i] >= min_support
            else Estimate(None, None, int(support[i]), too_few(name, int(support[i]), min_support))
            for i, name in enumerate(names)
        }
        kept = support >= min_support
        rare = [f"{name} ({int(support[i])})" for i, name in enumerate(names) if not kept[i]]
        note = f"classes with fewer than {min_support} test rows left out: {', '.join(rare)}" if rare else ""
        if not kept.any():
            return per_class, Estimate(None, None, int(support.sum()), note)
        mean = float(values[kept].mean())
        if self.num_groups < 2:
            return per_class, Estimate(mean, None, int(support[kept].sum()), note or ONE_UNIT)
        of_mean = float(np.sqrt(np.square(residual[:, kept].mean(1)).sum())) * self.wider
        if of_mean < SAME:  # all classes are read alike everywhere; their errors are not known to go together
            of_mean = float(np.sqrt(np.square(spread[kept]).sum())) / int(kept.sum())
        return per_class, Estimate(mean, of_mean, int(support[kept].sum()), note)

    def _resampled(self, parts: np.ndarray) -> np.ndarray:
        """Return [parts, resamples] shares of parts: [parts, groups]."""
        sums = parts @ self.weights.T
        return _ratio(sums, np.broadcast_to(self.drawn, sums.shape))

    def _spread(self, resampled: np.ndarray) -> list[float]:
        return (resampled.std(1, ddof=1) * self.wider).tolist()

    def _agree(self, value: float, stderr: float) -> bool:
        return stderr < SAME and 0.0 <= value <= 1.0

    def _agreed(self, value: float, groups: int | None = None) -> tuple[float, float]:
        """Return centre and error of a share that all groups agree on."""
        groups = self.num_groups if groups is None else groups
        centre = (value * groups + 2) / (groups + 4)
        return centre, float(np.sqrt(centre * (1 - centre) / (groups + 4)))

    def _matched(self, value: float) -> tuple[float, float]:
        """Return centre and error of a difference that all groups agree on."""
        groups = self.num_groups + 2
        better = (max(value, 0.0) * self.num_groups + 0.5) / groups
        worse = (max(-value, 0.0) * self.num_groups + 0.5) / groups
        centre = better - worse
        return centre, float(np.sqrt(max(better + worse - centre**2, 0.0) / groups))


def too_few(name: str, support: int, min_support: int = MIN_SUPPORT) -> str:
    """Return the reason why a class has no score."""
    return f"class {name} has {support} test rows, fewer than {min_support}"


def _quantiles(values: np.ndarray, *shares: float) -> tuple[float, ...]:
    """Return NumPy's quantiles of values: [n], whose own function costs more than the sort."""
    return tuple(np.interp(np.array(shares) * (len(values) - 1), np.arange(len(values)), np.sort(values)).tolist())


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
