"""A minimal pair: a good and a bad sentence that differ in one thing; or one right answer among several."""

from __future__ import annotations

from dataclasses import dataclass

Text = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two sentences of which a model that knows the rule finds the first more probable.

    Attributes
    ----------
    good, bad
        Text, or words where the words are known.
    kind
        What the pair tests ("role_violation", BLiMP's UID).
    severity
        Exact difference of the log-probabilities in nats, where a law is known; None otherwise.
    context
        What stands before both, and is given: log p(sentence | context) is compared (EWoK).
    further
        More wrong answers: the good one has to be more probable than every other (n-way choice).
    """

    good: Text
    bad: Text
    kind: str = ""
    severity: float | None = None
    context: Text = ""
    further: tuple[Text, ...] = ()

    @property
    def wrong(self) -> tuple[Text, ...]:
        """Return every wrong answer."""
        return (self.bad, *self.further)
