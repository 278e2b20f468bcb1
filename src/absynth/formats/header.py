"""What a file says about itself: format, number of sentences, grammar, provenance; and the checks that rest on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from absynth.errors import AbsynthError
from absynth.grammar import Grammar
from absynth.rules.specification import Specification
from absynth.sentences.columns import Columns

FORMAT = 1
_KEYS = {"checksum", "content", "format", "grammar", "provenance", "sentences"}


@dataclass(frozen=True, slots=True)
class Header:
    """The first thing in a file.

    Attributes
    ----------
    sentences
        How many follow; a file with fewer is truncated.
    grammar
        The language, None for imported corpora.
    provenance
        As in `Corpus`.
    content
        Hash of what follows, where nothing else would show a change (imported sentences as text); "" elsewhere.
    """

    sentences: int
    grammar: Specification | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""

    @classmethod
    def of(cls, corpus: Columns) -> Header:
        """Return the header of a whole corpus."""
        return cls(len(corpus), corpus.grammar, corpus.provenance)

    def dump(self) -> str:
        """Return one line of JSON with the key "absynth" and a checksum of the rest."""
        body = {
            "content": self.content,
            "format": FORMAT,
            "grammar": None if self.grammar is None else self.grammar.to_dict(),
            "provenance": dict(self.provenance),
            "sentences": self.sentences,
        }
        return json.dumps({"absynth": {"checksum": _checksum(body), **body}}, sort_keys=True)

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> Header:
        """Read what `dump` wrote.

        Raises
        ------
        AbsynthError
            When it is not a header, was damaged, or is of a later format.
        """
        outer = parse_json(text, where)
        found = outer.get("absynth") if isinstance(outer, dict) else None
        if not isinstance(found, dict):
            raise AbsynthError(where, short(outer), 'a header of absynth: an object with the key "absynth"')
        if found.get("format") != FORMAT:
            raise AbsynthError(
                f"{where}: format", short(found.get("format")), f"{FORMAT}, the format that this version reads"
            )
        if set(found) != _KEYS or found["checksum"] != _checksum({k: v for k, v in found.items() if k != "checksum"}):
            raise AbsynthError(
                f"{where}: checksum", short(found.get("checksum")), "a header that was not changed since it was written"
            )
        grammar = None if found["grammar"] is None else Grammar.from_dict(found["grammar"])
        return cls(found["sentences"], grammar, found["provenance"], found["content"])


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def short(value: object, limit: int = 60) -> str:
    """Return a value as text that fits on an error's line."""
    text = value if isinstance(value, str) else repr(value)[: limit + 1]
    text = text[: limit + 1].replace("\n", "\\n").replace("\r", "\\r")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def parse_json(text: str | bytes, where: str) -> Any:
    """Return JSON as plain data; every failure is an `AbsynthError` that names the place."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise AbsynthError(where, short(text[:60]), "JSON that is not nested hundreds of levels deep") from error
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise AbsynthError(where, short(str(error)), "one complete JSON value in UTF-8") from error


def check_count(header: Header, found: int, where: str) -> None:
    """Raise unless the file has as many sentences as its header says."""
    if found != header.sentences:
        raise AbsynthError(
            where, f"{found} sentences", f"{header.sentences}, as the header says: the file is truncated or was changed"
        )


def generated(
    header: Header, ids: np.ndarray, offsets: np.ndarray, templates: np.ndarray, where: str, first: int = 0
) -> Columns:
    """Return a corpus of the header's grammar, or raise where a sentence does not fit its template.

    Parameters
    ----------
    ids, offsets, templates
        As in `Corpus`.
    where
        The file.
    first
        Number of the first sentence, for messages.
    """
    if header.grammar is None:
        raise AbsynthError(where, "a template", "no template where the header has no grammar")
    program = header.grammar.program
    wrong = np.flatnonzero(np.diff(offsets) != program.length[templates])
    if len(wrong):
        row = int(wrong[0])
        expected = int(program.length[templates[row]])
        name = program.templates[int(templates[row])].name
        raise AbsynthError(
            f"{where}: sentence {first + row + 1}",
            f"{int(offsets[row + 1] - offsets[row])} words",
            f"{expected} words, as in {name}",
        )
    corpus = Columns(
        ids,
        offsets,
        header.grammar.vocabulary,
        grammar=header.grammar,
        templates=templates,
        provenance=header.provenance,
    )
    wrong = np.flatnonzero(corpus.entries < 0)
    if len(wrong):
        token = int(wrong[0])
        row = int(np.searchsorted(offsets, token, side="right")) - 1
        category = program.lexicon.categories[program.category[corpus.slots[token]]]
        raise AbsynthError(
            f"{where}: sentence {first + row + 1}",
            corpus.vocabulary[corpus.ids[token]],
            f"a {category} at word {token - int(offsets[row]) + 1}",
        )
    return corpus


def empty(header: Header) -> Columns:
    """Return a corpus of no sentences."""
    if header.grammar is None:
        return Columns(np.zeros(0), np.zeros(1), (), provenance=header.provenance)
    none = np.zeros(0, np.int32)
    return Columns(
        none,
        np.zeros(1),
        header.grammar.vocabulary,
        grammar=header.grammar,
        templates=none,
        provenance=header.provenance,
    )
