"""The null "frequency": what knowing how often each word occurs reaches, and nothing else of the language."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmtrace.analysis.readings import Readable, column, direction, floor_of, read, whole
from lmtrace.records.schema import Series, SeriesKey

_LOSS_LIKE = ("output", "truth", "lens")
_MARGIN = 3.0  # standard errors by which a loss must be below that of frequencies to be so


@dataclass(frozen=True, slots=True)
class Frequency:
    """What word frequencies alone reach in a run, as far as it knows.

    Attributes
    ----------
    losses
        Loss of the references on the panel in nats, by rung; "unigram" is among them.
    floor
        Exact floor of the panel's loss in nats; None where unknown.
    until
        Last measured step at which the model's loss was not clear below that of the unigram law: up to there, whatever the
        model knows, frequencies suffice for it.
    """

    losses: dict[str, float]
    floor: float | None
    until: float

    @classmethod
    def of(cls, run: Readable) -> Frequency | None:
        """Return the null of a run; None where it has no unigram reference (signal `ladder`) or no loss."""
        loss = whole(run, "output", "loss")
        losses: dict[str, float] = {}
        for key in run.keys():
            if (key.signal, key.metric, key.label) == ("ladder", "reference_loss", None) and key.split is not None:
                values = column(read(run, key))[1]
                if values.size:
                    losses[key.split] = float(values[-1])
        if "unigram" not in losses or loss is None:
            return None
        steps, values, stderr, _ = column(loss)
        if not values.size:
            return None
        error = np.zeros(values.size) if stderr is None else stderr
        near = np.flatnonzero(values > losses["unigram"] - _MARGIN * error)
        floor = floor_of(run)
        return cls(losses, None if floor is None else floor[0], float(steps[near[-1]]) if near.size else -1.0)

    def reaches(self, series: Series, site: int = 0) -> float | None:
        """Return what frequencies reach in a series at a site; None where they are no null of it.

        Exact for losses; for other quantities the best value while the model's loss was no better than that of frequencies.
        """
        key = series.key
        if key.label is None and key.split is None:
            exact = self._exact(key)
            if exact is not None:
                return exact
        if (key.signal, key.metric) == ("ladder", "excess"):  # below a rung, and below the unigram law too
            return min(0.0, self.losses["unigram"] - self.losses.get(key.split or "", self.losses["unigram"]))
        if key.signal not in _LOSS_LIKE and key.split != "lexical":
            return None
        steps, values, _, _ = column(series, site)
        early = values[steps <= self.until]
        if not early.size:
            return None
        return float(early.max() if direction(series) > 0 else early.min())

    def _exact(self, key: SeriesKey) -> float | None:
        unigram = self.losses["unigram"]
        if key.metric == "perplexity":
            return float(np.exp(unigram))
        if key.signal in ("output", "lens") and key.metric == "loss":
            return unigram
        if key.signal == "truth" and key.metric in ("kl", "excess") and self.floor is not None:
            return unigram - self.floor
        return None
