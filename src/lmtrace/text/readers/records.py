"""One record, one sentence: the keys of lmtrace, and those that other data sets use for words, tags, trees and texts."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from lmtrace.errors import DataError
from lmtrace.text.readers.columns import UPOS
from lmtrace.text.readers.source import Source
from lmtrace.text.sentences import AnnotatedSentence, as_annotated, tree_problem

WORDS = ("tokens", "words", "forms", "form", "word", "token")
TEXTS = ("text", "sentence", "sentences")
TARGETS = ("target", "logical_form", "semantics", "actions")
NAMES = {
    "pos_tags": "xpos", "pos": "xpos", "chunk_tags": "chunk", "chunks": "chunk", "ner_tags": "ner", "ner": "ner",
    "lemmas": "lemma", "lemma": "lemma", "upos_tags": "upos", "xpos_tags": "xpos",
}  # fmt: skip
"""Key of another data set -> layer."""
HEADS = ("heads", "head")
DEPRELS = ("deprels", "deprel")
SENTENCE = ("label", "construction", "complexity", "frame", "type", "domain", "genre")
"""Keys whose text or number labels the sentence as a whole."""
OURS = {
    "tokens", "labels", "heads", "deprels", "text", "target", "logical_form", "sent_id", "id", "info", "spans",
    "construction", "complexity", "frame",
}  # fmt: skip

ClassNames = Mapping[str, Sequence[str]]


def sentence(source: Source, row: Any, where: str, classes: ClassNames | None = None) -> AnnotatedSentence:
    """Return a record as a sentence.

    Parameters
    ----------
    where
        Begins its errors.
    classes
        Key -> names of the numbers that its values are.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with a list 'tokens', got {str(row)[:60]!r}")
    key = next((key for key in WORDS if isinstance(row.get(key), (list, tuple))), None)
    if key is None and not any(isinstance(row.get(name), str) for name in TEXTS):
        raise DataError(
            f"{where}: expected an object with a list 'tokens', got {str(row)[:60]!r}",
            f"Words are read from a list {', '.join(WORDS)}, or from a text {', '.join(TEXTS[:2])}",
        )
    if key == "tokens" and "labels" in row:
        return _ours(source, row, where)
    if key is None:
        name = next(name for name in TEXTS if isinstance(row.get(name), str))
        others = {k: v for k, v in row.items() if k != name}
        return _foreign(source, {**others, "text": row[name]}, row[name].split(), where, classes or {})
    return _foreign(source, {k: v for k, v in row.items() if k != key}, row[key], where, classes or {})


def _ours(source: Source, row: Mapping[str, Any], where: str) -> AnnotatedSentence:
    labels = row["labels"]
    if not isinstance(labels, Mapping):
        raise DataError(f"{where}: 'labels' is a {type(labels).__name__}, expected an object of layers")
    _check_words(row["tokens"], where)
    for name, values in labels.items():
        if not isinstance(values, (list, tuple, str, int, float)):
            raise DataError(f"{where}: layer {name!r} is a {type(values).__name__}, expected one value per word")
    source.passed_over.update(k for k in row if k not in OURS)
    return _annotated({**row, "labels": labels}, where)


def _foreign(
    source: Source, row: Mapping[str, Any], words: Sequence[Any], where: str, classes: ClassNames
) -> AnnotatedSentence:
    _check_words(words, where)
    size = len(words)
    found: dict[str, Any] = {"tokens": words, "labels": {}, "info": {}}
    for key, value in row.items():
        of_words = isinstance(value, (list, tuple)) and len(value) == size
        if key in HEADS and of_words:
            found["heads"] = _heads(value, where)
        elif key in DEPRELS and of_words:
            found["deprels"] = [_text(v) for v in value]
        elif key == "feats" and of_words:
            found["labels"] |= _features(value)
        elif of_words and all(v is None or isinstance(v, (str, int)) for v in value):
            values = [_label(v, classes.get(key), where, key) for v in value]
            layer = _layer(key, values)
            found["labels"][layer] = values
            if key not in classes and any(isinstance(v, int) for v in value):
                source.notes[layer] = f"numbers of {key!r}: the data do not say what they stand for"
        elif key in TARGETS and isinstance(value, str):
            found["target"] = value
        elif key in SENTENCE and isinstance(value, (str, int)):
            found["info"][key] = _label(value, classes.get(key), where, key)
        elif key in ("text", "sent_id", "id"):
            found[key] = value if isinstance(value, (str, int)) else None
        elif key == "labels" and isinstance(value, Mapping):
            found["labels"] |= dict(value)
        elif isinstance(value, (list, tuple)) and size and key in (*NAMES, *HEADS, *DEPRELS):
            raise DataError(f"{where}: {key!r} has {len(value)} values for {size} words", "Give one value per word")
        else:
            source.passed_over[key] += 1
    return _annotated(found, where)


def _annotated(row: Mapping[str, Any], where: str) -> AnnotatedSentence:
    try:
        return as_annotated(SimpleNamespace(**row))
    except (DataError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error


def _check_words(words: Sequence[Any], where: str) -> None:
    if not all(isinstance(word, str) and word for word in words):
        raise DataError(f"{where}: 'tokens' must hold words, got {str(words)[:60]}")


def _layer(key: str, values: Sequence[str | None]) -> str:
    name = NAMES.get(key, key)
    present = {value for value in values if value is not None}
    if name == "xpos" and present and present <= UPOS and not present <= {"X", "SYM"}:
        return "upos"
    return name


def _label(value: Any, names: Sequence[str] | None, where: str, key: str) -> str | None:
    """Return a value as a label: the name of its number where the data set has names."""
    if isinstance(value, int) and names is not None:
        if not -1 <= value < len(names):
            raise DataError(f"{where}: {key!r} holds {value}, but names {len(names)} classes")
        return names[value] if value >= 0 else None
    return _text(value)


def _text(value: Any) -> str | None:
    return None if value is None or value in ("_", "", "None") else str(value)


def _heads(values: Sequence[Any], where: str) -> list[int] | None:
    """Return heads as numbers; data sets keep them as text, "None" for the words of fused forms."""
    if all(_text(value) is None for value in values):
        return None
    try:
        heads = [int(value) for value in values]
    except (TypeError, ValueError):
        raise DataError(f"{where}: heads must be whole numbers, got {str(list(values))[:60]}") from None
    if problem := tree_problem(heads):
        raise DataError(f"{where}: {problem[1]}, expected a tree")
    return heads


def _features(values: Sequence[Any]) -> dict[str, list[str | None]]:
    """Return one layer per feature, from "Number=Sing|..." or "{'Number': 'Sing'}"."""
    layers: dict[str, list[str | None]] = {}
    for i, value in enumerate(values):
        for name, one in _feature_pairs(value):
            layers.setdefault(name, [None] * len(values))[i] = one
    return layers


def _feature_pairs(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return [("feats", value)]
    if isinstance(value, Mapping):
        return [(str(name), str(one)) for name, one in value.items()]
    parts = [part.partition("=") for part in str(value or "_").split("|")]
    return [(name, one) for name, sign, one in parts if sign]
