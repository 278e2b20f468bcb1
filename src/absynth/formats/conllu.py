"""CoNLL-U: Universal Dependencies' ten columns; semantic labels in MISC, sentence-level ones in comments.

A file of a generated corpus starts with the comment ``# absynth = {header}``; `read` then gives a corpus with its
grammar. Any other CoNLL-U file is imported: of multiword tokens the words are kept, empty nodes are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from absynth.errors import AbsynthError
from absynth.formats.builder import WHOLE, Builder
from absynth.formats.header import Header, check_count, empty, generated, short
from absynth.formats.lines import read_lines
from absynth.formats.rendering import Renderer, render_all
from absynth.rules.specification import Specification
from absynth.sentences.columns import Columns
from absynth.sentences.sentence import Sentence

_COLUMNS = ("lemma", "upos", "xpos", "feats", "deprel")
_FEATURES = ("number", "tense")
_LAYER = re.compile(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*")


def layout(sentence: Sentence) -> str:
    """Return a sentence as comments and lines of ten columns, with the empty line that ends it.

    The layers number and tense are left out where FEATS says them.
    """
    derived = tuple(
        name for name in _FEATURES if sentence.labels.get(name) == _feature(name, sentence.labels.get("feats", ()))
    )
    return _layout(sentence, derived)


def layout_generated(sentence: Sentence) -> str:
    """As `layout` of a sentence of a grammar, where FEATS always says number and tense."""
    return _layout(sentence, _FEATURES)


def _feature(name: str, feats: Sequence[str | None]) -> list[str | None]:
    found = [re.search(rf"(?:^|\|){name.capitalize()}=([^|]+)", value or "") for value in feats]
    return [match and match[1] for match in found]


def _layout(sentence: Sentence, derived: tuple[str, ...]) -> str:
    labels = sentence.labels
    in_misc = [name for name in sorted(labels) if name not in _COLUMNS and name not in derived]
    keys = {name: _key(name) for name in in_misc}
    glued = labels.get("space_after", [None] * len(sentence))
    text = "".join(token + ("" if mark == "No" else " ") for token, mark in zip(sentence.tokens, glued)).rstrip(" ")
    lines = [f"# text = {text}"]
    lines += [f"# {name} = {value}" for name in WHOLE if (value := getattr(sentence, name))]
    columns = [labels.get(name, [None] * len(sentence)) for name in _COLUMNS]
    for i, token in enumerate(sentence.tokens):
        lemma, upos, xpos, feats, deprel = (column[i] or "_" for column in columns)
        head = str(sentence.heads[i]) if sentence.heads else "_"
        misc = "|".join(f"{keys[name]}={_escape(value)}" for name in in_misc if (value := labels[name][i]) is not None)
        lines.append("\t".join([str(i + 1), token, lemma, upos, xpos, feats, head, deprel, "_", misc or "_"]))
    return "\n".join(lines) + "\n\n"


def _key(layer: str) -> str:
    if not _LAYER.fullmatch(layer):
        raise AbsynthError(
            f"layers.{layer}", layer, "a name of lower-case words joined by underscores, for MISC in CoNLL-U"
        )
    return "".join(part.capitalize() for part in layer.split("_"))


def _layer(key: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower()


def _escape(value: str) -> str:
    return value.replace("%", "%25").replace("|", "%7C").replace(" ", "%20").replace("\t", "%09").replace("\n", "%0A")


def _unescape(value: str) -> str:
    for code, char in (("%0A", "\n"), ("%09", "\t"), ("%20", " "), ("%7C", "|"), ("%25", "%")):
        value = value.replace(code, char)
    return value


def write(parts: Iterable[Columns], header: Header, path: Path) -> None:
    """Write one block a sentence."""
    used = layout if header.grammar is None else layout_generated
    renderer = header.grammar and Renderer(header.grammar, used, quoted=False)
    index = 0
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for part in parts:
            for i, block in enumerate(render_all(part, used, False, renderer)):
                if header.grammar is None:
                    _check_writable(part[i])
                elif index == 0:
                    out.write(f"# absynth = {header.dump()}\n")
                index += 1
                out.write(f"# sent_id = {index}\n{block}")


def _check_writable(sentence: Sentence) -> None:
    for token in sentence.tokens:
        if re.search(r"[\t\n\r\x0b\x0c\x85\u2028\u2029]|^ | $", token):
            raise AbsynthError("tokens", short(token), "words without tabs and line ends, for CoNLL-U")
    for layer in _COLUMNS:
        for value in sentence.labels.get(layer, ()):
            if value is not None and (
                value == "_" or re.search(r"[\s]", value.replace(" ", "") if layer == "lemma" else value)
            ):
                raise AbsynthError(
                    f"labels.{layer}", short(value), 'values without white space, and not "_", for CoNLL-U'
                )
    for name in WHOLE:
        if re.search(r"[\n\r]|^\s|\s$", getattr(sentence, name)):
            raise AbsynthError(name, short(getattr(sentence, name)), "one line, for CoNLL-U")


_Row = tuple[int, list[str]]
_Block = tuple[int, dict[str, str], list[_Row], str]


def _blocks(path: Path) -> Iterator[_Block]:
    """Yield (line number, comments, rows, text) of each sentence."""
    start, comments, rows, text = 1, {}, [], []
    number = 0
    for number, line in read_lines(path):
        if not line:
            if not rows:
                raise AbsynthError(f"{path}:{number}", "an empty line", "words before the line that ends a sentence")
            yield start, comments, rows, "\n".join(text) + "\n\n"
            start, comments, rows, text = number + 1, {}, [], []
            continue
        if line.startswith("#"):
            if rows:
                raise AbsynthError(f"{path}:{number}", short(line), "comments before the words only")
            name, equals, value = line[1:].partition("=")
            if equals:
                comments[name.strip()] = value.strip()
            if name.strip() not in ("absynth", "sent_id"):
                text.append(line)
            continue
        cells = line.split("\t")
        if len(cells) != 10 or not all(cells):
            raise AbsynthError(f"{path}:{number}", short(line), "ten columns, none empty, between tabs")
        rows.append((number, cells))
        text.append(line)
    if rows or comments:
        raise AbsynthError(
            f"{path}:{number}", "the end of the file", "an empty line after the last sentence: the file is truncated"
        )


def read(path: Path) -> Columns:
    """Read a whole file.

    Raises
    ------
    AbsynthError
        With file and line, for anything that is not CoNLL-U, or that the grammar in the header contradicts.
    """
    blocks = _blocks(path)
    first = next(blocks, None)
    if first is not None and "absynth" in first[1]:
        header = Header.parse(first[1]["absynth"], f"{path}:1")
        if header.grammar is None:
            raise AbsynthError(f"{path}:1", "a header without grammar", "a grammar")
        return _generated([first], blocks, header, header.grammar, path)
    builder = Builder()
    if first is not None:
        _import(builder, path, *first)
    for block in blocks:
        _import(builder, path, *block)
    return builder.corpus({"imported": str(path.name), "format": "conllu"})


def _import(builder: Builder, path: Path, start: int, comments: dict[str, str], rows: list[_Row], _: str) -> None:
    words: list[list[str]] = []
    # Multiword tokens: first word, last word, whether no space follows.
    joined: list[tuple[int, int, bool]] = []
    for number, cells in rows:
        kind = re.fullmatch(r"(\d{1,9})(?:([-.])(\d{1,9}))?", cells[0])
        if kind is None:
            raise AbsynthError(f"{path}:{number}", short(cells[0]), "an ID: 3, 3-4 or 3.1")
        if kind[2] == "-":
            joined.append((int(kind[1]), int(kind[3]), "SpaceAfter=No" in cells[9].split("|")))
        elif kind[2] is None:
            if int(kind[1]) != len(words) + 1:
                raise AbsynthError(f"{path}:{number}", short(cells[0]), f"ID {len(words) + 1}")
            words.append(cells)
    where = f"{path}:{rows[0][0]}"
    labels: dict[str, list[str | None]] = {}
    for column, name in zip((2, 3, 4, 5, 7), _COLUMNS):
        values = [
            None if cells[column] == "_" and (name != "lemma" or cells[1] != "_") else cells[column] for cells in words
        ]
        if any(value is not None for value in values):
            labels[name] = values
    for i, cells in enumerate(words):
        for pair in cells[9].split("|") if cells[9] != "_" else ():
            key, equals, value = pair.partition("=")
            if not equals or not re.fullmatch(r"[A-Za-z]+[A-Za-z0-9_]*", key) or not value:
                continue  # MISC is free text to Universal Dependencies; only pairs are labels
            name = _layer(key)
            if name not in _COLUMNS:
                labels.setdefault(name, [None] * len(words))[i] = _unescape(value)
    for low, high, glued in joined:
        if not 1 <= low < high <= len(words):
            raise AbsynthError(where, f"{low}-{high}", "a multiword token over words of the sentence")
        marks = labels.setdefault("space_after", [None] * len(words))
        marks[low - 1 : high] = ["No"] * (high - low) + ["No" if glued else None]
    for name in _FEATURES:
        if name not in labels and any(found := _feature(name, labels.get("feats", ()))):
            labels[name] = found
    heads: list[int] = []
    if any(cells[6] != "_" for cells in words):
        for (number, _row), cells in zip([row for row in rows if row[1][0].isdigit()], words):
            if not re.fullmatch(r"\d{1,9}", cells[6]):
                raise AbsynthError(f"{path}:{number}", short(cells[6]), "a head: the ID of a word, or 0 for the root")
            heads.append(int(cells[6]))
    whole = {name: comments[name] for name in WHOLE if comments.get(name)}
    builder.add(where, [cells[1] for cells in words], labels, heads, whole)


def _generated(
    first: list[_Block],
    rest: Iterator[_Block],
    header: Header,
    grammar: Specification,
    path: Path,
) -> Columns:
    index = {token: i for i, token in enumerate(grammar.vocabulary)}
    templates = {template.name: i for i, template in enumerate(grammar.templates)}
    ids: list[int] = []
    ends, names, starts, texts = [0], [], [], []
    for blocks in (first, rest):
        for start, comments, rows, text in blocks:
            if comments.get("template") not in templates:
                raise AbsynthError(
                    f"{path}:{start}: template", short(comments.get("template")), "a template of the grammar"
                )
            for number, cells in rows:
                if cells[1] not in index:
                    raise AbsynthError(f"{path}:{number}", short(cells[1]), "a word of the grammar")
                ids.append(index[cells[1]])
            ends.append(len(ids))
            names.append(templates[comments["template"]])
            starts.append(start)
            texts.append(text)
    check_count(header, len(names), str(path))
    if not names:
        return empty(header)
    corpus = generated(header, np.array(ids, np.int32), np.array(ends), np.array(names, np.int32), str(path))
    for start, text, expected in zip(starts, texts, render_all(corpus, layout_generated, False)):
        if text != expected:
            for line, other in zip(text.split("\n"), expected.split("\n")):
                if line != other:
                    raise AbsynthError(f"{path}:{start}", short(line, 120), f"{short(other, 120)}, as the grammar says")
            raise AbsynthError(f"{path}:{start}", "other lines", "what the grammar says of these words")
    return corpus
