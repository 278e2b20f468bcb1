"""The words in which errors and tables speak of what a run holds."""

from __future__ import annotations

import numpy as np

from lmtrace.records.schema import SeriesKey

OFF = "off since step"
"""With this the reason of a missing record begins where a signal was switched off."""


def named(**parts: str | None) -> str:
    """Return what was asked for: "label='role', split='test'"."""
    return ", ".join(f"{k}={v!r}" for k, v in parts.items() if v is not None) or "anything"


def key_name(key: SeriesKey) -> str:
    """Return how a series is called: "probe.accuracy (label='role')"."""
    rest = [f"{k}={v!r}" for k, v in (("label", key.label), ("split", key.split)) if v is not None]
    return f"{key.signal}.{key.metric}" + (f" ({', '.join(rest)})" if rest else "")


def listed(names: list[str], limit: int = 12) -> str:
    """Return the first names, each once, and how many more there are."""
    unique = list(dict.fromkeys(names))
    return (
        ", ".join(unique[:limit]) + (f" and {len(unique) - limit} more" if len(unique) > limit else "") or "nothing yet"
    )


def counted(number: int, what: str) -> str:
    """Return "1 measurement", "1,200 measurements"."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def reach(steps: np.ndarray) -> str:
    """Return how far a run has come: "3 measurements, steps 0 to 100"."""
    if not len(steps):
        return "no measurement yet"
    where = f"step {steps[0]:,}" if steps[0] == steps[-1] else f"steps {steps[0]:,} to {steps[-1]:,}"
    return f"{counted(len(steps), 'measurement')}, {where}"
