"""Plain text: one sentence a line, words between spaces, no annotation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmtrace.text.readers.lines import numbered
from lmtrace.text.sentences import AnnotatedSentence


def sentences(path: Path) -> Iterator[AnnotatedSentence]:
    """Yield one sentence per line that is not empty."""
    for _, line in numbered(path):
        if words := tuple(line.split()):
            yield AnnotatedSentence(tokens=words)
