"""Penn brackets: constituency trees, "(S (NP (NNP Rex)) (VP (VBZ barks)))", over one line or several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lmtrace.text.readers.lines import numbered
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.readers.spans import Layers, Span, flat
from lmtrace.text.sentences import AnnotatedSentence

EMPTY = "-NONE-"
_WORDS = {
    "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}",
}  # fmt: skip
_PIECE = re.compile(r"[()]|[^\s()]+")

Unit = tuple[int, list[str]]


def units(source: Source) -> Iterator[Unit]:
    """Yield (line of the first bracket, brackets and words) of every tree."""
    depth, first = 0, 0
    pieces: list[str] = []
    for number, line in numbered(source.path):
        if not depth and line.startswith("*x*"):  # the copyright of old releases
            continue
        for piece in _PIECE.findall(line):
            if not depth and piece != "(":
                raise source.broken(number, f"{piece[:40]!r} outside of all brackets, expected a tree in brackets")
            first = first if depth else number
            depth += {"(": 1, ")": -1}.get(piece, 0)
            pieces.append(piece)
            if not depth:
                yield first, pieces
                pieces = []
    if depth:
        raise source.broken(
            first, f"{depth} brackets of the tree that begins here never close", "The file is truncated"
        )


def sentence(source: Source, unit: Unit) -> AnnotatedSentence | None:
    """Return a sentence: "xpos", "phrase" (the lowest phrase above a word) and "chunk" (phrases that hold words only).

    Traces are left out, and function tags dropped ("NP-SBJ-1" is "NP").
    """
    number, pieces = unit
    words: list[str] = []
    tags: list[str] = []
    spans: list[Span] = []
    opened: list[tuple[str, int, int]] = []
    i = 0
    while i < len(pieces):
        if pieces[i] == "(":
            label = pieces[i + 1] if pieces[i + 1] not in "()" else ""
            word = pieces[i + 2 : i + 4]
            if label and len(word) == 2 and word[0] not in "()" and word[1] == ")":
                if label != EMPTY:
                    tags.append(label)
                    words.append(_WORDS.get(word[0], word[0]))
                i += 4
                continue
            opened.append((label, len(words), len(spans)))
            spans.append((plain(label), len(words), -1))
            i += 1 + bool(label)
        elif pieces[i] == ")":
            label, start, at = opened.pop()
            spans[at] = (plain(label), start, len(words) - 1)
            i += 1
        else:
            raise source.broken(number, f"{pieces[i][:40]!r} has no tag, expected (tag word)", "Correct the brackets")
    if not words:
        return None
    whole = [span for span in spans if span[0] and span[2] >= span[1]]
    return AnnotatedSentence(tokens=tuple(words), labels={"xpos": tuple(tags), **phrase_layers(tags, whole)})


READER = Reader("Penn brackets", units, sentence)


def plain(label: str) -> str:
    """Return a phrase's label without function tags and indices."""
    return label if label.startswith("-") else re.split(r"[-=|]", label, maxsplit=1)[0]


def phrase_layers(tags: Sequence[str], spans: Sequence[Span]) -> Layers:
    """Return the layers of a constituency tree: "phrase" and "chunk"; `spans` name a phrase before those inside of it."""
    size = len(tags)
    phrase: list[str | None] = [None] * size
    for label, first, last in spans:  # inner ones come later
        phrase[first : last + 1] = [label] * (last + 1 - first)
    if not spans:
        return {}
    inner = [
        span
        for k, span in enumerate(spans)
        if not any(span[1] <= first and last <= span[2] for _, first, last in spans[k + 1 :])
    ]
    chunk, _ = flat(size, inner, longest=False)
    return {"phrase": tuple(phrase), "chunk": chunk}
