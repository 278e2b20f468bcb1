"""The JSON of the published ABSynth: records with `sentence` and `semantics`, as a list or inside of an object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmtrace.errors import DataError
from lmtrace.text.readers import records
from lmtrace.text.readers.lines import whole
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.sentences import AnnotatedSentence

NOTES = {
    "role": "positional: the first noun is Agent and the noun after its verb is Patient, whatever the verb means",
    "category": "read from the word's string",
    "upos": "follows from the category",
}
UPOS = {
    "noun": "NOUN", "location": "NOUN", "result": "NOUN", "instrument": "NOUN", "temporal": "ADV", "adjective": "ADJ",
    "adverb": "ADV", "preposition": "ADP", "conjunction": "CCONJ", "determiner": "DET", "transitive_verb": "VERB",
    "intransitive_verb": "VERB", "communication_verb": "VERB", "motion_verb": "VERB", "change_verb": "VERB",
    "transfer_verb": "VERB", "perception_verb": "VERB", "complementizer": "SCONJ", "relativizer": "PRON",
}  # fmt: skip
_KEYS = (*records.WORDS, *records.TEXTS)
_WORD = re.compile(r"([A-Za-z_]+?)_?(\d+)[a-z]*")
_ATOM = re.compile(r"(\w+)\s*\(\s*(\w+)\s*,\s*(\w+)\s*\)")


def category(word: str) -> str | None:
    """Return the category that a labelled word names ("TRANSITIVE_VERB8" -> "transitive_verb"), or None."""
    match = _WORD.fullmatch(word)
    name = match[1].lower() if match else ""
    return name if name in UPOS else None


def units(source: Source) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, record) of a JSON list of records, or of the list that an object holds."""
    path = source.path
    text = whole(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}: not JSON ({error.msg} at column {error.colno})",
            "The file is truncated or damaged",
        ) from error
    except (RecursionError, ValueError):
        raise DataError(f"{path}: not JSON of sentences (nested too deep)", "The file is damaged") from None
    return enumerate(_records(path, content), 1)


def sentence(source: Source, unit: tuple[int, Any]) -> AnnotatedSentence:
    """Return a sentence: of the published ABSynth layers "category", "upos" and "role", the semantics as target.

    Records with other keys are read as JSON lines are.
    """
    number, record = unit
    where = f"{source.path}, record {number}"
    if not _is_published(record):
        return records.sentence(source, record, where)
    source.notes |= NOTES
    return _sentence(record, where)


READER = Reader("JSON: a list of records, or that of the published ABSynth", units, sentence)


def _is_published(record: Any) -> bool:
    """Return whether a record is one of the published ABSynth: it has semantics, or all its words name a category."""
    if not isinstance(record, dict) or "sentence" not in record or "tokens" in record:
        return isinstance(record, dict) and "semantics" in record and "tokens" not in record
    words = str(record["sentence"]).split()
    return "semantics" in record or bool(words and all(category(word) for word in words))


def _records(path: Path, content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    lists = [v for v in content.values() if isinstance(v, list)] if isinstance(content, dict) else []
    found = [v for v in lists if v and isinstance(v[0], dict) and any(key in v[0] for key in _KEYS)]
    if len(found) != 1:
        raise DataError(
            f"{path}, line 1: expected a list of records with 'sentence' and 'semantics', or an object that holds one",
            f"Got {type(content).__name__} with {len(found)} such lists",
        )
    return found[0]


def _sentence(record: Any, where: str) -> AnnotatedSentence:
    if not isinstance(record, dict) or not isinstance(record.get("sentence"), str):
        raise DataError(f"{where}: expected an object with a text 'sentence', got {str(record)[:60]!r}")
    tokens = tuple(record["sentence"].split())
    categories = tuple(category(token) for token in tokens)
    semantics = record.get("semantics")
    if semantics is not None and not isinstance(semantics, str):
        semantics = json.dumps(semantics, ensure_ascii=False)
    labels: dict[str, tuple[str | None, ...]] = {
        "category": categories,
        "upos": tuple(None if c is None else UPOS[c] for c in categories),
    }
    if semantics is not None:
        labels["role"] = _roles(tokens, semantics, where)
    info = {k: str(record[k]) for k in ("complexity", "construction", "frame") if isinstance(record.get(k), (str, int))}
    return AnnotatedSentence(tokens=tokens, labels=labels, target=semantics or None, info=info)


def _roles(tokens: tuple[str, ...], semantics: str, where: str) -> tuple[str | None, ...]:
    """Return the role of each word, atom by atom (Role(event, word)); a repeated word takes its next place."""
    roles: list[str | None] = [None] * len(tokens)
    for role, _, word in _ATOM.findall(semantics):
        if word not in tokens:
            raise DataError(f"{where}: the semantics name {word!r}, which is no word of the sentence")
        places = [i for i, token in enumerate(tokens) if token == word]
        free = [i for i in places if roles[i] is None]
        roles[free[0] if free else places[0]] = role
    return tuple(roles)
