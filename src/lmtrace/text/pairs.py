"""Minimal pairs: a good and a bad sentence that differ in one thing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lmtrace.text.minimal_pair import MinimalPair, Text
from lmtrace.text.pair_files import read_pairs

__all__ = ["MinimalPair", "Text", "as_pairs", "read_pairs"]


def words_only(source: str | Path | Iterable[MinimalPair | str | Path]) -> list[bool]:
    """Return, for each of `as_pairs(source)`, whether it comes from a file: those are scored without an end of sentence."""
    if isinstance(source, (str, Path)):
        return [True] * len(as_pairs(source))
    found: list[bool] = []
    for item in source:
        found.extend([False] if isinstance(item, MinimalPair) else words_only(item))
    return found


def as_pairs(source: str | Path | Iterable[MinimalPair | str | Path]) -> list[MinimalPair]:
    """Return pairs from a file, a folder of files, pairs, or a mix of them (`lmtrace.text.pair_files`)."""
    if isinstance(source, (str, Path)):
        return read_pairs(source)
    found: list[MinimalPair] = []
    for item in source:
        found.extend([item] if isinstance(item, MinimalPair) else as_pairs(item))
    return found
