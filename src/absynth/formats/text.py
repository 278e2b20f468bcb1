"""Plain text (one sentence a line) and logical forms (a table for sequence-to-sequence training)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from absynth.errors import AbsynthError
from absynth.formats.builder import Builder
from absynth.formats.header import Header, short
from absynth.formats.lines import read_lines
from absynth.formats.rendering import Layout, Renderer, render_all
from absynth.sentences.columns import Columns
from absynth.sentences.sentence import Sentence


def plain(sentence: Sentence) -> str:
    """Return the words with spaces between."""
    return " ".join(sentence.tokens)


def logical(sentence: Sentence) -> str:
    """Return sentence, logical form and construction between tabs."""
    return f"{' '.join(sentence.tokens)}\t{sentence.logical_form}\t{sentence.construction}"


def write_plain(parts: Iterable[Columns], header: Header, path: Path) -> None:
    """Write one sentence a line."""
    _write(parts, header, path, plain)


def write_logical(parts: Iterable[Columns], header: Header, path: Path) -> None:
    """Write one sentence a line: words, logical form, construction, between tabs."""
    _write(parts, header, path, logical)


def _write(parts: Iterable[Columns], header: Header, path: Path, layout: Layout) -> None:
    renderer = header.grammar and Renderer(header.grammar, layout, quoted=False)
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for part in parts:
            if header.grammar is None:
                _check_words(part)
            out.writelines(line + "\n" for line in render_all(part, layout, False, renderer))


def _check_words(corpus: Columns) -> None:
    for token in corpus.vocabulary:
        if not token or re.search(r"\s", token):
            raise AbsynthError("tokens", short(token), "words without white space, for text")
    if (corpus.lengths == 0).any():
        raise AbsynthError("tokens", "a sentence without words", "one word or more, for text")
    for name in ("logical_form", "construction"):
        for value in corpus.sentence_layers.get(name, ()):
            if re.search(r"[\t\n\r]", value):
                raise AbsynthError(name, short(value), "values without tabs and line ends, for text")


def read_plain(path: Path) -> Columns:
    """Read one sentence a line."""
    builder = Builder()
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        builder.add(where, _split(line, where), {})
    return builder.corpus({"imported": path.name, "format": "text"})


def read_logical(path: Path) -> Columns:
    """Read sentence, logical form and, where there is a third column, construction."""
    builder = Builder()
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        cells = line.split("\t")
        if not 2 <= len(cells) <= 3 or not cells[1]:
            raise AbsynthError(where, short(line), "a sentence, its logical form and its construction, between tabs")
        whole = dict(zip(("logical_form", "construction"), cells[1:]))
        builder.add(where, _split(cells[0], where), {}, (), {name: value for name, value in whole.items() if value})
    return builder.corpus({"imported": path.name, "format": "logical forms"})


def _split(line: str, where: str) -> list[str]:
    words = line.split()
    if not words:
        raise AbsynthError(where, short(line), "a sentence: words with spaces between")
    if "\x00" in line:
        raise AbsynthError(where, "a zero byte", "text")
    return words
