"""One word a line and its tags in columns, between spaces or tabs: CoNLL-2000, 2002, 2003, IOB2 files, tagged words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from lmtrace.text.readers.lines import Line, blocks, head
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.sentences import AnnotatedSentence

CHUNK = re.compile(r"O|[BIESLUMW][-_]\S+|[BIESLUMW]")
TAG = re.compile(r"[A-Z][A-Z0-9$*+:./_|-]*|[^\w\s]+")
PHRASES = {"NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"}
UPOS = {
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM",
    "VERB", "X",
}  # fmt: skip
NOTHING = ("-", "_", "")
DOCUMENT = "-DOCSTART-"
MIN_ROWS = 4
"""Fewer lines do not tell a table of plain tags from lines of text."""


def units(source: Source) -> Iterator[list[Line]]:
    """Yield the lines of every sentence; the columns get their names from the beginning of the file."""
    rows = cells_of(head(source.path))
    if not source.columns:
        source.columns = names(rows) or ("FORM", *(f"column{i}" for i in range(2, len(rows[0]) + 1 if rows else 2)))
    source.notes["columns"] = ", ".join(f"{i} {name}" for i, name in enumerate(source.columns, 1) if name)
    return blocks(source.path)


def sentence(source: Source, block: list[Line]) -> AnnotatedSentence | None:
    """Return a sentence: one layer for each named column; a line that marks a document is no sentence."""
    rows = [(number, split(content)) for number, content in block if not is_comment(content)]
    rows = [(number, cells) for number, cells in rows if cells[0] != DOCUMENT]
    columns = source.columns
    for number, cells in rows:
        if len(cells) != len(columns):
            raise source.broken(
                number,
                f"{len(cells)} columns, expected {len(columns)} as in the lines before ({' '.join(c or '-' for c in columns)})",
                "Correct the line, or name the format: read(..., format='plain') for text",
            )
    if not rows:
        return None
    words = columns.index("FORM")
    labels = {
        name: tuple(None if cells[i] in NOTHING else cells[i] for _, cells in rows)
        for i, name in enumerate(columns)
        if name and i != words
    }
    return AnnotatedSentence(tokens=tuple(cells[words] for _, cells in rows), labels=labels)


READER = Reader("columns of words and tags (CoNLL-2000, 2002, 2003, IOB2)", units, sentence)


def split(content: str) -> list[str]:
    """Return the cells of a line: between tabs where it has any, else between spaces."""
    return content.rstrip().split("\t") if "\t" in content else content.split()


def is_comment(content: str) -> bool:
    """Return whether a line of a table is a comment ("# id = 3"), not the word "#" with its tags."""
    return content.startswith("# ") and ("=" in content or "::" in content)


def cells_of(lines: Sequence[str]) -> list[list[str]]:
    """Return the cells of all lines but empty ones, comments and marks of documents."""
    rows = [split(line) for line in lines if line.strip() and not is_comment(line)]
    return [row for row in rows if row[0] != DOCUMENT]


def usual(counts: Sequence[int]) -> int:
    """Return the number that four of five are at least; 0 where there is none."""
    number, times = Counter(counts).most_common(1)[0] if counts else (0, 1)
    return number if 5 * times >= 4 * len(counts) else 0


def names(rows: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """Return the name of every column ("" for one that says nothing), or None where the lines are no table of tags.

    A table has as many cells in four of five lines at least (the others are damaged), and a column besides that of the words whose every cell is a tag: in B-,
    I-, O form, or, in at least four lines, in capitals, with fewer tags than words.
    """
    width = usual([len(row) for row in rows])
    if width < 2:
        return None
    rows = [row for row in rows if len(row) == width]
    columns = list(zip(*rows, strict=True))
    word = 1 if width > 2 and all(cell.isascii() and cell.isdigit() for cell in columns[0]) else 0
    if any(" " in cell for cell in columns[word]):
        return None
    found = [""] * width
    found[word] = "FORM"
    sure = any(_is_chunks(cells) for cells in columns[word + 1 :])
    for i in range(word + 1, width):
        found[i] = _unique(_name(columns[i], columns[word], sure), found)
    tagged = {"chunk", "ner", "upos", "xpos"}
    return tuple(found) if tagged & {name.partition(".")[0] for name in found} else None


def _is_chunks(cells: Sequence[str]) -> bool:
    return all(CHUNK.fullmatch(cell) for cell in cells) and any(cell != "O" for cell in cells)


def _name(cells: Sequence[str], words: Sequence[str], sure: bool) -> str:
    """Return what a column holds; where chunks stand in another one it is `sure` that the lines are a table of tags."""
    if all(cell in NOTHING for cell in cells):
        return ""
    if _is_chunks(cells):
        return "chunk" if {cell[2:] for cell in cells if cell != "O"} <= PHRASES else "ner"
    if set(cells) == {"O"}:
        return "ner"
    tags = all(TAG.fullmatch(cell) for cell in cells)
    if tags and (sure or _is_table_of_tags(cells, words)):
        return "upos" if set(cells) <= UPOS else "xpos"
    same = sum(cell[:2].lower() == word[:2].lower() for cell, word in zip(cells, words, strict=True))
    return "lemma" if 2 * same > len(words) else "column"


def _is_table_of_tags(tags: Sequence[str], words: Sequence[str]) -> bool:
    """Return whether words and plain tags are not two columns of words: there are fewer tags, and words not in capitals."""
    fewer = len(set(tags)) < len(set(words))
    return len(words) >= MIN_ROWS and fewer and not all(TAG.fullmatch(word) for word in words)


def _unique(name: str, taken: Sequence[str]) -> str:
    """Return a name that no other column has: "ner", then "ner.2"."""
    if not name or name not in taken:
        return name
    number = 2 + sum(other.startswith(f"{name}.") for other in taken)
    return f"{name}.{number}"
