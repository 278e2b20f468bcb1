"""A finding: a sentence about a run, with the numbers, the null and the caveats that it stands on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmtrace.records.schema import Series, SeriesKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that can be said about a run.

    Attributes
    ----------
    kind
        "emergence", "no emergence", "phase", "no transition", "order", "not resolved", "compression", "no compression",
        "contextual gain", "no contextual gain", "selectivity", "no selectivity", "floor", "leak", "memorisation",
        "no memorisation", "gap", "no gap", "convergence", "not converged", "descriptor", "curvature", "cost", "difference", "missing".
    sentence
        What a reader needs to know, in one sentence.
    numbers
        Name -> number or None; what the sentence says, unrounded.
    interval
        95 % interval of the main number; None for an end that is open.
    null
        What there would be with nothing to find: a number, or words.
    series
        Which series it rests on.
    site
        Where in the model; None for the whole.
    caveats
        What could mislead.
    """

    kind: str
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)
    interval: tuple[float | None, float | None] | None = None
    null: float | str | None = None
    series: tuple[SeriesKey, ...] = ()
    site: str | None = None
    caveats: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data: what is not finite becomes None."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def closed(interval: tuple[float, float]) -> tuple[float | None, float | None]:
    """Return an interval with None for an end that is not finite."""
    low, high = interval
    return (low if math.isfinite(low) else None, high if math.isfinite(high) else None)


def say(value: float | None, digits: int = 3) -> str:
    """Return a number for a sentence: three significant digits, thousands separated."""
    if value is None or not math.isfinite(value):
        return "?"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text or abs(value) < 1e-4 else f"{value:.0f}"


def say_step(value: float | None) -> str:
    """Return a step for a sentence."""
    return "after the end" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def say_when(value: float | None) -> str:
    """Return "at 82", or "after the end"."""
    text = say_step(value)
    return f"at {text}" if text[0].isdigit() else text


def say_duration(seconds: float) -> str:
    """Return a length of time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say_interval(interval: tuple[float, float]) -> str:
    """Return an interval of steps for a sentence."""
    low, high = interval
    if not math.isfinite(high):
        return f"after {say_step(low)}"
    return say_step(low) if say_step(low) == say_step(high) else f"{say_step(low)} to {say_step(high)}"


def say_error(value: float, stderr: float | None) -> str:
    """Return a number with its standard error."""
    known = stderr is not None and math.isfinite(stderr) and stderr > 0
    return f"{say(value)} ± {say(stderr, 2)}" if known else say(value)


def name_of(series: Series, site: str | None = None) -> str:
    """Return how a sentence calls a series: "Probe accuracy of role (lexical split) at block.2"."""
    key = series.key
    text = series.field.title or f"{key.signal} {key.metric}"
    if key.label is not None:
        text += f" of {key.label}"
    if key.split is not None:
        text += f" ({key.split})"
    if site is not None:
        text += f" at {site}"
    return text
