"""CoNLL-U (https://universaldependencies.org/format.html), CoNLL-U Plus, and Universal PropBank 1 (10 + 1 + N columns)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from lmtrace.text.readers.lines import Line, blocks, suffixes
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.readers.spans import Edge, Layers, flat, mentions, role_layers
from lmtrace.text.sentences import AnnotatedSentence, locate

MISC_LAYERS = ("category", "role", "predicate", "frame", "cluster", "ner", "chunk", "entity")
"""Attributes of MISC that are read as layers, whatever their case: those of ABSynth, and those of spans. What UD keeps
there besides is about spelling and editing, and is read where it is named."""
SPELLING = ("SpaceAfter", "SpacesAfter", "SpacesBefore", "SpacesInToken")

COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
STREUSLE = (*COLUMNS, "SMWE", "LEXCAT", "LEXLEMMA", "SS", "SS2", "WMWE", "WCAT", "WLEMMA", "LEXTAG")
KNOWN = frozenset((*COLUMNS, "UP:PRED", "UP:ARGHEADS", "UP:ARGSPANS", "PARSEME:MWE"))
"""Columns that are read otherwise than as one layer."""
GLOBAL = "global.columns"
UNDERSCORE = "\x00"
"""Stands for a lemma that is an underscore, which is not unspecified where the word is one too."""
_WITHHELD = "Merge the words in first: the treebank's README says where its text is from"
_ESCAPES = {"s": " ", "t": "\t", "n": "\n", "r": "\r", "p": "|", "\\": "\\"}

Row = tuple[int, dict[str, str], list[str]]
"""Line, columns by name, and the columns beyond the named ones."""


def units(source: Source) -> Iterator[list[Line]]:
    """Yield the lines of every sentence."""
    if suffixes(source.path)[0] == ".conllulex":
        source.columns = STREUSLE
    return blocks(source.path, closed=True)


def sentence(source: Source, block: list[Line]) -> AnnotatedSentence | None:
    """Return a sentence: layers "upos", "xpos", "lemma", "deprel", one per feature ("Number"), and of `MISC_LAYERS`.

    Multiword ranges give the text, their words the annotation; empty nodes (8.1) are left out. Comments `# key =
    value` named construction, complexity or frame become labels of the sentence, `# logical_form = ...` its target.
    Columns that `# global.columns` names become layers too; semantic roles as `lmtrace.text.readers.spans` says.
    """
    comments, rows = _split(source, block)
    if not rows:
        return None
    words, surface = _words(source, rows)
    if not words:
        raise source.broken(rows[0][0], "a sentence without words")
    text, spans = _text(surface, comments.get("text"))
    labels = _labels(source, words, comments)
    _refuse_withheld(source, words)
    deprels = tuple(_value(row, "DEPREL") for row in words)
    return AnnotatedSentence(
        tokens=tuple(row[1]["FORM"] for row in words), labels=labels,
        heads=source.heads([row[0] for row in words], [row[1].get("HEAD", "_") for row in words]),
        deprels=deprels if "DEPREL" in words[0][1] else None, text=text, spans=tuple(spans),
        target=comments.get("logical_form"), sent_id=comments.get("sent_id", ""),
        info={k: comments[k] for k in ("construction", "complexity", "frame") if k in comments},
    )  # fmt: skip


READER = Reader("CoNLL-U, CoNLL-U Plus and Universal PropBank", units, sentence)


# ---- lines ----
def _split(source: Source, block: list[Line]) -> tuple[dict[str, str], list[Row]]:
    comments: dict[str, str] = {}
    rows: list[Row] = []
    for number, content in block:
        if not content.startswith("#"):
            rows.append(_row(source, number, content))
        elif rows:
            raise source.broken(number, "a comment inside of a sentence, expected a word or an empty line")
        else:
            key, _, value = content[1:].partition("=")
            comments[key.strip()] = value.removeprefix(" ").rstrip() if key.strip() == "text" else value.strip()
            if key.strip() == GLOBAL:
                source.columns = tuple(value.split())
            if key.strip() == "global.Entity":
                source.notes["entity fields"] = value.strip()
    return comments, rows


def _row(source: Source, number: int, content: str) -> Row:
    cells = content.split("\t")
    columns = source.columns or COLUMNS
    if "FORM" not in columns:
        raise source.broken(
            number,
            f"the columns {' '.join(columns)} hold no words (FORM)",
            "Merge them with the treebank they belong to",
        )
    if len(cells) != len(columns) and (source.columns or len(cells) < len(COLUMNS) + 1):
        raise source.broken(
            number,
            f"{len(cells)} columns, expected {len(columns)} separated by tabs ({' '.join(columns)})",
            "The file is truncated or not CoNLL-U",
        )
    named = dict(zip(columns, cells, strict=False))
    if not named["FORM"]:
        raise source.broken(number, "the word has no form, expected text in column 2 (FORM)")
    more = cells[len(columns) :]
    if more and not more[-1]:  # Universal PropBank 1 ends sentences without predicates with a tab
        more.pop()
    return number, named, more


def _value(row: Row, column: str) -> str | None:
    value = row[1].get(column, "_")
    return None if value in ("_", "") else value


# ---- words and text ----
def _words(source: Source, rows: list[Row]) -> tuple[list[Row], list[tuple[str, list[str], str, str]]]:
    """Return the words, and the surface: (form, forms of its words, white space before and after) of every token."""
    words: list[Row] = []
    surface: list[tuple[str, list[str], str, str]] = []
    fused_end = 0
    for number, columns, more in rows:
        identifier = columns.get("ID", str(len(words) + 1))
        if "." in identifier:
            continue
        before, after = _white(columns.get("MISC", "_"))
        if "-" in identifier:
            first, last = (source.integer(number, part, "ID") for part in identifier.split("-", 1))
            if first != len(words) + 1 or last < first:
                raise source.broken(number, f"range {identifier}, expected one that begins at {len(words) + 1}")
            surface.append((columns["FORM"], [], before, after))
            fused_end = last
            continue
        if source.integer(number, identifier, "ID") != len(words) + 1:
            raise source.broken(number, f"word {identifier}, expected word {len(words) + 1}")
        words.append((number, columns, more))
        if len(words) > fused_end:
            surface.append((columns["FORM"], [columns["FORM"]], before, after))
        else:
            surface[-1][1].append(columns["FORM"])
    if len(words) < fused_end:
        raise source.broken(rows[-1][0], f"the sentence ends at word {len(words)}, expected word {fused_end}")
    return words, surface


def _white(misc: str) -> tuple[str, str]:
    """Return the white space before and after a token, as MISC tells it."""
    before, after = "", " "
    if misc == "_":
        return before, after
    for attribute in misc.split("|"):
        name, _, value = attribute.partition("=")
        if name == "SpacesBefore":
            before = _unescaped(value)
        elif name == "SpacesAfter":
            after = _unescaped(value)
        elif attribute == "SpaceAfter=No":
            after = ""
    return before, after


def _unescaped(value: str) -> str:
    """Return white space from its escapes: backslash and s, t, n, r, or u00A0 for others."""
    plain = re.sub(r"\\u([0-9A-Fa-f]{4})", lambda match: chr(int(match[1], 16)), value)
    plain = re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), plain)
    return plain if not plain.strip() else " "


def _text(surface: Sequence[tuple[str, list[str], str, str]], told: str | None) -> tuple[str, list[tuple[int, int]]]:
    """Return the text and the span of every word: `# text` where it is made of these tokens, else what MISC says."""
    forms = [form for form, *_ in surface]
    places = None if told is None else locate(forms, told)
    if told is None or places is None or told[places[-1][1] :].strip():
        told, places = _joined(surface)
    spans: list[tuple[int, int]] = []
    for (form, inner, *_), (start, _) in zip(surface, places, strict=True):
        spans += [(start, start + len(form))] if len(inner) == 1 else _fused(form, inner, start)
    return told, spans


def _joined(surface: Sequence[tuple[str, list[str], str, str]]) -> tuple[str, tuple[tuple[int, int], ...]]:
    text, space = "", ""
    places = []
    for form, _, before, after in surface:
        text += before or space
        places.append((len(text), len(text) + len(form)))
        text, space = text + form, after
    return text, tuple(places)


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


def _refuse_withheld(source: Source, words: list[Row]) -> None:
    """Refuse a sentence whose words are all underscores: its text was left out of the treebank for its licence."""
    marks = all((_value(row, "UPOS") or "SYM") in ("SYM", "PUNCT") for row in words)
    if len(words) > 1 and not marks and all(row[1]["FORM"] == "_" for row in words):
        raise source.broken(words[0][0], "the text is withheld: every word of the sentence is '_'", _WITHHELD)


# ---- labels ----
def _labels(source: Source, words: list[Row], comments: dict[str, str]) -> dict[str, tuple[str | None, ...]]:
    layers: dict[str, list[str | None]] = {}
    entities = [""] * len(words)
    for i, row in enumerate(words):
        values = _row_labels(source, row)
        entities[i] = values.pop("entity", "")
        for name, value in values.items():
            if value != "_":
                layers.setdefault(name, [None] * len(words))[i] = "_" if value == UNDERSCORE else value
    found = {name: tuple(values) for name, values in layers.items()}
    if any(entities):
        found["entity"] = _entities(source, entities)
    found.update(_propbank(source, words))
    found.update(_expressions(words))
    return found


def _row_labels(source: Source, row: Row) -> dict[str, str]:
    number, columns, _ = row
    values = {"lemma": columns.get("LEMMA", "_"), "upos": columns.get("UPOS", "_"), "xpos": columns.get("XPOS", "_")}
    if columns["FORM"] == "_" and values["lemma"] == "_":
        values["lemma"] = UNDERSCORE
    feats = columns.get("FEATS", "_")
    for feature in feats.split("|") if feats != "_" else ():
        name, sign, value = feature.partition("=")
        if not sign or not name or not value:
            raise source.broken(number, f"feature {feature!r}, expected Name=Value in column 6 (FEATS)")
        values[name] = value
    misc = columns.get("MISC", "_")
    for attribute in misc.split("|") if misc != "_" else ():
        name, sign, value = attribute.partition("=")
        if not sign or not value or name in SPELLING:
            continue
        if name.lower() in MISC_LAYERS:
            values[name.lower()] = unquote(value)
        elif name in source.wanted or "*" in source.wanted:
            values.setdefault(name, unquote(value))
        else:
            source.passed_over[f"MISC {name}"] += 1
    if source.columns:
        values |= {c.rpartition(":")[2].lower(): v for c, v in columns.items() if c not in KNOWN and v}
    return values


def _entities(source: Source, cells: list[str]) -> tuple[str | None, ...]:
    """Return the layer "entity" in B-, I-, O form from GUM's brackets: the type of the longest mentions."""
    if not any("(" in cell or ")" in cell for cell in cells):
        return tuple(cell or None for cell in cells)  # another treebank's Entity: one label a word
    fields = source.notes.get("entity fields", "GRP-etype").split("-")
    kind = fields.index("etype") if "etype" in fields else 1
    spans = []
    for text, first, last in mentions(cells):
        parts = text.split("-")
        spans.append((parts[kind] if kind < len(parts) else parts[0], first, last))
    labels, kept = flat(len(cells), spans, longest=True)
    source.left_out["entity"] += len(spans) - len(kept)
    return labels


def _propbank(source: Source, words: list[Row]) -> Layers:
    """Return the layers of semantic roles: those of Universal PropBank 2 (named columns) or 1 (columns 11 and on)."""
    if "UP:PRED" in words[0][1]:
        senses = {i: sense for i, row in enumerate(words) if (sense := _value(row, "UP:PRED"))}
        edges = [edge for i, row in enumerate(words) for edge in _arguments(source, row, i, len(words))]
        return role_layers(len(words), senses, edges)
    if not any(more for _, _, more in words):
        return {}
    predicates = [i for i, (_, _, more) in enumerate(words) if more and more[0] != "_"]
    edges: list[Edge] = []
    for i, (number, _, more) in enumerate(words):
        if len(more) != len(predicates) + 1:
            raise source.broken(
                number,
                f"{len(COLUMNS) + len(more)} columns, expected {len(COLUMNS) + 1 + len(predicates)}: 10, the predicate, "
                f"and one for each of the sentence's {len(predicates)} predicates",
                "The file is truncated or not CoNLL-U",
            )
        edges += [(p, i, role) for p, role in zip(predicates, more[1:], strict=True) if role not in ("_", "V")]
    return role_layers(len(words), {i: words[i][2][0] for i in predicates}, edges)


def _arguments(source: Source, row: Row, place: int, size: int) -> Iterator[Edge]:
    for part in (_value(row, "UP:ARGHEADS") or "").split("|"):
        if not part:
            continue
        role, _, head = part.rpartition(":")
        word = source.integer(row[0], head, "UP:ARGHEADS")
        if not role or not 1 <= word <= size:
            raise source.broken(row[0], f"argument {part!r}, expected Role:word with a word from 1 to {size}")
        yield place, word - 1, role


def _expressions(words: list[Row]) -> Layers:
    """Return the layer "mwe" of PARSEME in B-, I-, O form; pieces of an expression with gaps are chunks of their own."""
    if "PARSEME:MWE" not in words[0][1]:
        return {}
    kinds: dict[str, str] = {}
    labels: list[str | None] = []
    before = ""
    for row in words:
        value = row[1]["PARSEME:MWE"]
        number, _, kind = value.split(";")[0].partition(":")
        if kind:
            kinds[number] = kind
        inside = value not in ("*", "_")
        labels.append(f"{'I' if number == before else 'B'}-{kinds.get(number, 'MWE')}" if inside else None)
        before = number if inside else ""
        if value == "*":
            labels[-1] = "O"
    return {"mwe": tuple(labels)}
