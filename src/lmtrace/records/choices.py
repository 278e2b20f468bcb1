"""The words in which an error lists what there is to choose from."""

from __future__ import annotations

from lmtrace.records.schema import SeriesKey


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
