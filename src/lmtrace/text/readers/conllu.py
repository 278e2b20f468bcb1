"""CoNLL-U (https://universaldependencies.org/format.html)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from lmtrace.errors import DataError
from lmtrace.text.readers.lines import numbered
from lmtrace.text.sentences import AnnotatedSentence, tree_problem

MISC_LAYERS = ("category", "role", "predicate", "frame", "cluster", "ner", "chunk")
"""Attributes of MISC that are read as layers, in whatever case they are written: those of ABSynth, and two of chunks. What UD
keeps there besides is about spelling and editing."""

COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
Row = tuple[int, list[str]]


def sentences(path: Path) -> Iterator[AnnotatedSentence]:
    """Yield the sentences: layers "upos", "xpos", "lemma", "deprel", one per feature ("Number"), and `MISC_LAYERS`.

    Multiword ranges give the text, their words the annotation; empty nodes (8.1) are left out. Comments `# key =
    value` named construction, complexity or frame become labels of the sentence, `# logical_form = ...` its target.
    """
    comments: dict[str, str] = {}
    rows: list[Row] = []
    number = 0
    line = "\n"
    for number, line in numbered(path):
        content = line.rstrip("\r\n")
        if not content.strip():
            if rows:
                yield _sentence(path, rows, comments)
            rows, comments = [], {}
        elif content.startswith("#"):
            if rows:
                raise DataError(
                    f"{path}, line {number}: a comment inside of a sentence, expected a word or an empty line"
                )
            key, _, value = content[1:].partition("=")
            comments[key.strip()] = value.strip()
        else:
            rows.append((number, _columns(path, number, content)))
    if rows and not line.endswith("\n"):
        raise DataError(
            f"{path}, line {number}: the file ends within a sentence, expected an empty line after its last word",
            "The file is truncated, or lacks the empty line after its last sentence",
        )
    if rows:
        yield _sentence(path, rows, comments)


def _columns(path: Path, number: int, content: str) -> list[str]:
    columns = content.split("\t")
    if len(columns) != len(COLUMNS):
        raise DataError(
            f"{path}, line {number}: {len(columns)} columns, "
            f"expected {len(COLUMNS)} separated by tabs ({' '.join(COLUMNS)})",
            "The file is truncated or not CoNLL-U",
        )
    if not columns[1]:
        raise DataError(f"{path}, line {number}: the word has no form, expected text in column 2 (FORM)")
    return columns


def _sentence(path: Path, rows: list[Row], comments: dict[str, str]) -> AnnotatedSentence:
    words: list[Row] = []
    spans: list[tuple[int, int]] = []
    text, fused_end, fused_start = "", 0, 0
    space = ""
    for number, columns in rows:
        identifier, form, misc = columns[0], columns[1], columns[9].split("|")
        if "." in identifier:
            continue
        gap = "" if "SpaceAfter=No" in misc else " "
        if "-" in identifier:
            first, last = (_integer(path, number, part, "ID") for part in identifier.split("-", 1))
            if first != len(words) + 1 or last < first:
                raise DataError(
                    f"{path}, line {number}: range {identifier}, expected one that begins at {len(words) + 1}"
                )
            text += space
            fused_start, fused_end, space = len(text), last, gap
            text += form
            continue
        if _integer(path, number, identifier, "ID") != len(words) + 1:
            raise DataError(f"{path}, line {number}: word {identifier}, expected word {len(words) + 1}")
        words.append((number, columns))
        if len(words) > fused_end:
            text += space
            spans.append((len(text), len(text) + len(form)))
            text, space = text + form, gap
        elif len(words) == fused_end:  # the last word of a fused form: all of them are known now
            spans += _fused(text[fused_start:], [c[1] for _, c in words[len(spans) :]], fused_start)
    if len(words) < fused_end:
        raise DataError(
            f"{path}, line {rows[-1][0]}: the sentence ends at word {len(words)}, expected word {fused_end}"
        )
    if not words:
        raise DataError(f"{path}, line {rows[0][0]}: a sentence without words")
    return AnnotatedSentence(
        tokens=tuple(c[1] for _, c in words), labels=_labels(path, words), heads=_heads(path, words),
        deprels=tuple(None if c[7] == "_" else c[7] for _, c in words), text=text, spans=tuple(spans),
        target=comments.get("logical_form"), sent_id=comments.get("sent_id", ""),
        info={k: comments[k] for k in ("construction", "complexity", "frame") if k in comments},
    )  # fmt: skip


def _fused(surface: str, forms: list[str], start: int) -> list[tuple[int, int]]:
    """Return the spans of the words of a fused form, from `start` on: the part that each spells.

    Words that begin the form as they are spelt take their part from its beginning, words that end it from its end ("do" + "n't";
    "b" and "bait" of "b", "ha", "bait" in "babait"). Where the first of the words left begins the rest and the last of them ends
    it, the last takes what it has in common with its end ("in" + "dem" in "im": "i" and "m"), and of three and more the first
    what it has in common with its beginning. What is left is the other word's, or is shared by the others ("de" + "le" in
    "du"); where nothing is left, they have the place of their neighbours.
    """
    spans: list[tuple[int, int]] = [(0, 0)] * len(forms)
    begin, end = 0, len(surface)
    first, last = 0, len(forms)
    while first < last and _prefix(forms[first], surface[begin:end]) == len(forms[first]):
        spans[first] = (begin, begin + len(forms[first]))
        begin += len(forms[first])
        first += 1
    while first < last and _prefix(forms[last - 1][::-1], surface[begin:end][::-1]) == len(forms[last - 1]):
        last -= 1
        spans[last] = (end - len(forms[last]), end)
        end -= len(forms[last])
    if last - first > 1:
        head = _prefix(forms[first], surface[begin:end])
        tail = _prefix(forms[last - 1][::-1], surface[begin + head : end][::-1])
        if head and tail:
            last -= 1
            spans[last] = (end - tail, end)
            end -= tail
            if last - first > 1:
                spans[first] = (begin, begin + head)
                begin += head
                first += 1
    if begin == end:
        begin = spans[first - 1][0] if first else 0
        end = spans[last][1] if last < len(forms) else len(surface)
    spans[first:last] = [(begin, end)] * (last - first)
    return [(start + a, start + b) for a, b in spans]


def _prefix(a: str, b: str) -> int:
    """Return how many characters two strings have in common at their beginning, whatever their case."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x.lower() != y.lower()), min(len(a), len(b)))


def _labels(path: Path, words: list[Row]) -> dict[str, tuple[str | None, ...]]:
    layers: dict[str, list[str | None]] = {}
    for i, (number, columns) in enumerate(words):
        values = {"lemma": columns[2], "upos": columns[3], "xpos": columns[4]}
        if columns[1] == "_" and columns[2] == "_":
            values["lemma"] = "\x00"  # the word is an underscore, not unspecified
        for feature in columns[5].split("|") if columns[5] != "_" else ():
            name, sign, value = feature.partition("=")
            if not sign or not name or not value:
                raise DataError(f"{path}, line {number}: feature {feature!r}, expected Name=Value in column 6 (FEATS)")
            values[name] = value
        for attribute in columns[9].split("|"):
            name, sign, value = attribute.partition("=")
            if sign and value and name.lower() in MISC_LAYERS:
                values[name.lower()] = unquote(value)
        for name, value in values.items():
            if value != "_":
                layers.setdefault(name, [None] * len(words))[i] = "_" if value == "\x00" else value
    return {name: tuple(values) for name, values in layers.items()}


def _heads(path: Path, words: list[Row]) -> tuple[int, ...] | None:
    if all(columns[6] == "_" for _, columns in words):
        return None
    heads = tuple(_integer(path, number, columns[6], "HEAD") for number, columns in words)
    if problem := tree_problem(heads):
        raise DataError(
            f"{path}, line {words[problem[0]][0]}: {problem[1]}, expected a tree", "Correct column 7 (HEAD)"
        )
    return heads


def _integer(path: Path, number: int, text: str, column: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise DataError(f"{path}, line {number}: {column} is {text!r}, expected a whole number")
    return int(text)
