"""SCAN: "IN: jump twice OUT: I_JUMP I_JUMP", a command and its actions a line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lmtrace.text.readers.lines import Line, numbered
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.sentences import AnnotatedSentence

LINE = re.compile(r"IN:\s+(\S.*?)\s+OUT:\s+(\S.*?)\s*")


def units(source: Source) -> Iterator[Line]:
    """Yield the lines that are not empty."""
    return ((number, line.rstrip("\r\n")) for number, line in numbered(source.path) if line.strip())


def sentence(source: Source, unit: Line) -> AnnotatedSentence:
    """Return a command; its actions are the target."""
    match = LINE.fullmatch(unit[1])
    if match is None:
        raise source.broken(unit[0], f"expected 'IN: command OUT: actions', got {unit[1][:60]!r}", "Correct the line")
    return AnnotatedSentence(tokens=tuple(match[1].split()), target=match[2])


READER = Reader("SCAN", units, sentence)
