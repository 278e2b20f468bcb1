"""Sentence, logical form and, where there is a third column, its construction, between tabs: COGS, SLOG, ReCOGS, SCAN."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lmtrace.text.readers.lines import Line, numbered
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.sentences import AnnotatedSentence

HEADER = re.compile(r"(sentence|input|text|source|command)s?", re.IGNORECASE)


def units(source: Source) -> Iterator[Line]:
    """Yield the lines that hold a sentence; a first line of names ("sentence", "logical_form") is passed over."""
    for number, line in numbered(source.path):
        content = line.rstrip("\r\n")
        if content.strip() and not (number == 1 and HEADER.fullmatch(content.split("\t")[0].strip())):
            yield number, content


def sentence(source: Source, unit: Line) -> AnnotatedSentence:
    """Return a sentence without word labels: its logical form is the target."""
    number, content = unit
    cells = [cell.strip() for cell in content.split("\t")]
    if not 2 <= len(cells) <= 3 or not cells[0] or not cells[1]:
        raise source.broken(
            number,
            f"{len(cells)} columns between tabs, expected a sentence, its logical form and, if it is told, its construction",
            "Correct the line",
        )
    info = {"construction": cells[2]} if len(cells) == 3 and cells[2] else {}
    return AnnotatedSentence(tokens=tuple(cells[0].split()), target=cells[1], info=info)


READER = Reader("sentence and logical form between tabs (COGS, SLOG)", units, sentence)
