"""JSON lines: one sentence a line, an object with `tokens` and `labels`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmtrace.errors import DataError
from lmtrace.text.readers.lines import numbered
from lmtrace.text.sentences import AnnotatedSentence, as_annotated


def sentences(path: Path) -> Iterator[AnnotatedSentence]:
    """Yield the sentences. Keys as the attributes of `as_annotated`: tokens, labels, heads, deprels, text, target, ...

    A first line without `tokens` that says of itself that it is a header (`{"format": ...}`) is passed over.
    """
    for number, line in numbered(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            where = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
            )
            raise DataError(
                f"{path}, line {number}: not JSON ({where}), expected one object a line",
                "The file is truncated or damaged",
            ) from error
        if number == 1 and isinstance(row, dict) and "tokens" not in row and "format" in row:
            continue
        yield sentence(row, f"{path}, line {number}")


def sentence(row: Any, where: str) -> AnnotatedSentence:
    """Return one JSON object as a sentence; `where` begins its errors."""
    if not isinstance(row, dict) or not isinstance(row.get("tokens"), list):
        raise DataError(f"{where}: expected an object with a list 'tokens', got {str(row)[:60]!r}")
    labels = row.get("labels", {})
    if not isinstance(labels, dict):
        raise DataError(f"{where}: 'labels' is a {type(labels).__name__}, expected an object of layers")
    if not all(isinstance(token, str) and token for token in row["tokens"]):
        raise DataError(f"{where}: 'tokens' must hold words, got {str(row['tokens'])[:60]}")
    for name, values in labels.items():
        if not isinstance(values, (list, str, int, float)):
            raise DataError(f"{where}: layer {name!r} is a {type(values).__name__}, expected one value per word")
    try:
        return as_annotated(SimpleNamespace(**{**row, "labels": labels}))
    except (DataError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error
