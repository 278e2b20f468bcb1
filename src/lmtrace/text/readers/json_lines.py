"""JSON lines: one sentence a line, an object with words and, under other keys, their labels."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lmtrace.text.readers import records
from lmtrace.text.readers.lines import Line, numbered
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.sentences import AnnotatedSentence


def units(source: Source) -> Iterator[Line]:
    """Yield the lines that are not empty."""
    return ((number, line) for number, line in numbered(source.path) if line.strip())


def sentence(source: Source, unit: Line) -> AnnotatedSentence | None:
    """Return a sentence, by the keys that `lmtrace.text.readers.records` knows.

    A first line without words that says of itself that it is a header (`{"format": ...}`) is passed over.
    """
    number, line = unit
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
        raise source.broken(
            number, f"not JSON ({where}), expected one object a line", "The file is truncated or damaged"
        ) from error
    if number == 1 and isinstance(row, dict) and "tokens" not in row and "format" in row:
        return None
    return records.sentence(source, row, f"{source.path}, line {number}")


READER = Reader("JSON lines", units, sentence)
