"""Minimal pairs: a good and a bad sentence that differ in one thing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmtrace.errors import DataError

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
    """

    good: Text
    bad: Text
    kind: str = ""
    severity: float | None = None


def read_pairs(path: str | Path) -> list[MinimalPair]:
    """Read a JSONL file with `sentence_good`, `sentence_bad` and, where there is one, `UID` (BLiMP's keys).

    Raises
    ------
    DataError
        With file and line, where a line is not such an object; nothing half-read is returned.
    """
    path = Path(path)
    pairs: list[MinimalPair] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the pairs {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            pairs.append(_pair(json.loads(line.decode("utf-8")), path.stem))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path} line {number}: expected a JSON object with the texts sentence_good and sentence_bad ({error})"
            ) from error
    if not pairs:
        raise DataError(f"{path} holds no pairs", "Expected one JSON object per line")
    return pairs


def _pair(row: Any, name: str) -> MinimalPair:
    good, bad = row["sentence_good"], row["sentence_bad"]
    if not (isinstance(good, str) and isinstance(bad, str) and good.strip() and bad.strip()):
        raise ValueError("the sentences must be texts that are not empty")
    severity = row.get("severity")
    return MinimalPair(good, bad, str(row.get("UID", name)), None if severity is None else float(severity))


def words_only(source: str | Path | Iterable[MinimalPair | str | Path]) -> list[bool]:
    """Return, for each of `as_pairs(source)`, whether it comes from a file: those are scored without an end of sentence."""
    if isinstance(source, (str, Path)):
        return [True] * len(as_pairs(source))
    found: list[bool] = []
    for item in source:
        found.extend([False] if isinstance(item, MinimalPair) else words_only(item))
    return found


def as_pairs(source: str | Path | Iterable[MinimalPair | str | Path]) -> list[MinimalPair]:
    """Return pairs from a file, a folder of .jsonl files, pairs, or a mix of them."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        return [pair for file in files for pair in read_pairs(file)]
    found: list[MinimalPair] = []
    for item in source:
        found.extend([item] if isinstance(item, MinimalPair) else as_pairs(item))
    return found
