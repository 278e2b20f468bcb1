"""JSON lines: a header, then one sentence a line with every annotation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from absynth.errors import AbsynthError
from absynth.formats.builder import WHOLE, Builder
from absynth.formats.header import Header, check_count, empty, generated, parse_json, short
from absynth.formats.lines import read_lines
from absynth.formats.rendering import Renderer, render_all
from absynth.rules.specification import Specification
from absynth.sentences.columns import Columns
from absynth.sentences.sentence import Sentence

PART = 65_536
"""Sentences of a part of `read_parts`."""


def layout(sentence: Sentence) -> str:
    """Return a sentence as one line of JSON."""
    record: dict[str, Any] = {"tokens": sentence.tokens, "labels": sentence.labels, "heads": sentence.heads}
    record |= {
        name: getattr(sentence, name)
        for name in ("tree", "logical_form", "complexity", "construction", "frame", "template")
    }
    return json.dumps(record, ensure_ascii=False)


def write(parts: Iterable[Columns], header: Header, path: Path) -> None:
    """Write a header line and the sentences."""
    renderer = header.grammar and Renderer(header.grammar, layout, quoted=True)
    if header.grammar is None:
        parts = list(parts)
        digest = hashlib.sha256()
        for part in parts:
            for line in render_all(part, layout, True):
                digest.update(line.encode() + b"\n")
        header = replace(header, content=digest.hexdigest()[:16])
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.write(header.dump() + "\n")
        for part in parts:
            out.writelines(line + "\n" for line in render_all(part, layout, True, renderer))


def read(path: Path) -> Columns:
    """Read a whole file.

    Raises
    ------
    AbsynthError
        With file and line, for anything that `write` would not have written.
    """
    return Columns.concatenate(list(read_parts(path)))


def read_parts(path: Path) -> Iterator[Columns]:
    """Yield the sentences of a generated corpus some thousands at a time; an imported one is one part."""
    lines = read_lines(path)
    header = Header.parse(next(lines, (1, ""))[1], f"{path}:1")
    if header.grammar is None:
        yield _imported(lines, header, path)
    elif header.sentences == 0:
        check_count(header, sum(1 for _ in lines), str(path))
        yield empty(header)
    else:
        yield from _generated(lines, header, header.grammar, path, PART)


def _imported(lines: Iterator[tuple[int, str]], header: Header, path: Path) -> Columns:
    builder, digest = Builder(), hashlib.sha256()
    for number, line in lines:
        digest.update(line.encode() + b"\n")
        where = f"{path}:{number}"
        record = _record(line, where)
        builder.add(
            where, record["tokens"], record["labels"], record["heads"], {k: record[k] for k in WHOLE if record.get(k)}
        )
    check_count(header, len(builder), str(path))
    if digest.hexdigest()[:16] != header.content:
        raise AbsynthError(
            str(path), digest.hexdigest()[:16], f"content {header.content}, as the header says: the file was changed"
        )
    return builder.corpus(header.provenance)


def _record(line: str, where: str) -> dict[str, Any]:
    """Return a sentence with the right keys and types, or raise."""
    record = parse_json(line, where)
    if not isinstance(record, dict):
        raise AbsynthError(where, short(record), "an object: one sentence a line")
    for key, kind in (("tokens", list), ("labels", dict), ("heads", list)):
        if not isinstance(record.get(key), kind):
            raise AbsynthError(f"{where}: {key}", short(record.get(key)), "a list" if kind is list else "an object")
    for key, values in record["labels"].items():
        if not isinstance(values, list):
            raise AbsynthError(f"{where}: labels.{short(key)}", short(values), "a list with one label per word")
    unknown = set(record) - {"tokens", "labels", "heads", *WHOLE}
    if unknown:
        raise AbsynthError(
            f"{where}: {short(min(unknown))}", short(min(unknown)), f"one of tokens, labels, heads, {', '.join(WHOLE)}"
        )
    return record


def _generated(
    lines: Iterator[tuple[int, str]], header: Header, grammar: Specification, path: Path, chunk: int
) -> Iterator[Columns]:
    """Yield the sentences of a grammar, `chunk` at a time; every line must be what the grammar says about its words."""
    index = {token: i for i, token in enumerate(grammar.vocabulary)}
    templates = {template.name: i for i, template in enumerate(grammar.templates)}
    renderer = Renderer(grammar, layout, quoted=True)
    done = 0
    ids: list[int] = []
    ends, rows, texts = [0], [], []

    def flush() -> Columns:
        corpus = generated(header, np.array(ids, np.int32), np.array(ends), np.array(rows, np.int32), str(path), done)
        for i, (line, text) in enumerate(zip(texts, render_all(corpus, layout, True, renderer))):
            if line != text:
                _same(parse_json(line, ""), json.loads(text), f"{path}:{done + i + 2}")
        return corpus

    for number, line in lines:
        where = f"{path}:{number}"
        record = _record(line, where)
        name = record.get("template")
        if not isinstance(name, str) or name not in templates:
            raise AbsynthError(f"{where}: template", short(name), "a template of the grammar")
        for token in record["tokens"]:
            if not isinstance(token, str) or token not in index:
                raise AbsynthError(f"{where}: tokens", short(token), "words of the grammar")
            ids.append(index[token])
        ends.append(len(ids))
        rows.append(templates[name])
        texts.append(line)
        if len(rows) == chunk:
            yield flush()
            done += chunk
            ids, ends, rows, texts = [], [0], [], []
    check_count(header, done + len(rows), str(path))
    if rows:
        yield flush()


def _same(found: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Raise where a record differs from what the grammar says; spacing and order of keys may differ."""
    for key, value in expected.items():
        if key == "labels":
            for layer in {*value, *found[key]}:
                if found[key].get(layer) != value.get(layer):
                    raise AbsynthError(
                        f"{where}: labels.{short(layer)}",
                        short(found[key].get(layer)),
                        f"{short(value.get(layer))}, as the grammar says",
                    )
        elif found.get(key) != value:
            raise AbsynthError(f"{where}: {key}", short(found.get(key)), f"{short(value)}, as the grammar says")
