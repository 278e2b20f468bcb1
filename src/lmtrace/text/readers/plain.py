"""Plain text: one sentence a line, words between spaces, no annotation; or texts that `<|endoftext|>` ends."""

from __future__ import annotations

from collections.abc import Iterator

from lmtrace.text.readers.lines import Line, head, numbered
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.sentences import AnnotatedSentence

END = "<|endoftext|>"


def units(source: Source) -> Iterator[Line]:
    """Yield (first line, text): a line each, or all lines up to the mark that ends a text."""
    if not any(END in line for line in head(source.path)):
        yield from numbered(source.path)
        return
    first, text = 1, ""
    for number, line in numbered(source.path):
        *ended, rest = line.split(END)
        for part in ended:
            yield first, text + part
            first, text = number, ""
        text += rest
    yield first, text


def sentence(source: Source, unit: Line) -> AnnotatedSentence | None:
    """Return the words of a text; None where it has none."""
    words = tuple(unit[1].split())
    return AnnotatedSentence(tokens=words, text=unit[1].strip()) if words else None


READER = Reader("plain text", units, sentence)
