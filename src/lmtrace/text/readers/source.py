"""What a reader knows of the file it reads, and what it has to tell about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmtrace.errors import DataError
from lmtrace.text.sentences import AnnotatedSentence, tree_problem

TREE_CURE = (
    "Correct the column of heads, or skip the sentence: read(..., skip_broken=True), --set data.skip_broken=true"
)


@dataclass(slots=True)
class Source:
    """One file (or table) that is being read.

    Attributes
    ----------
    path
        Where it is; a table in memory has its type's name.
    wanted
        Layers that the caller named: attributes of MISC that are read besides the usual ones; "*" stands for all.
    columns
        Names of the columns, where the file or the caller tells them.
    notes
        What a reader of results must know.
    passed_over
        Key or column that became no layer -> how often it was met.
    left_out
        Layer -> labelled spans that one label per word cannot hold.
    """

    path: Path
    wanted: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def broken(self, number: int, what: str, cure: str = "") -> DataError:
        """Return the error of a line."""
        return DataError(f"{self.path}, line {number}: {what}", cure)

    def integer(self, number: int, text: str, column: str) -> int:
        """Return a whole number from 0, or raise the error of its column."""
        if not (text.isascii() and text.isdigit()):
            raise self.broken(number, f"{column} is {text!r}, expected a whole number")
        return int(text)

    def heads(self, numbers: Sequence[int], values: Sequence[str]) -> tuple[int, ...] | None:
        """Return the tree of a sentence from the lines and texts of its heads; None where every head is `_`."""
        if all(value == "_" for value in values):
            return None
        heads = tuple(self.integer(number, value, "HEAD") for number, value in zip(numbers, values, strict=True))
        if problem := tree_problem(heads):
            raise self.broken(numbers[problem[0]], f"{problem[1]}, expected a tree", TREE_CURE)
        return heads

    def told(self) -> dict[str, str]:
        """Return the notes with what was passed over and left out."""
        notes = dict(self.notes)
        if self.passed_over:
            names = ", ".join(f"{name} ({n})" for name, n in self.passed_over.most_common(20))
            cure = "; those of MISC are read where layers= names them" if "MISC " in names else ""
            notes["passed over"] = names + cure
        for layer, n in self.left_out.items():
            if n:
                told = f"{n} labels left out: one label a word cannot hold what overlaps"
                notes[layer] = "; ".join(filter(None, (notes.get(layer, ""), told)))
        return notes


Unit = Any
"""What one sentence is made of, as the reader that split the file knows it: numbered lines, a record."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How one format is read: the file is split into units, and every unit parsed by itself, so that one can be skipped.

    Attributes
    ----------
    title
        The format, as errors and the documentation name it.
    units
        Splits a source.
    sentence
        Parses a unit; None for one without a sentence (a header).
    """

    title: str
    units: Callable[[Source], Iterator[Unit]]
    sentence: Callable[[Source, Unit], AnnotatedSentence | None]
