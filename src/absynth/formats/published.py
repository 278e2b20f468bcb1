"""The JSON of the published ABSynth, in and out: a list of records, or an object that holds one.

A record is ``{"sentence": "noun1 TRANSITIVE_VERB8 noun2", "semantics": "∃e (Agent(e, noun1) ∧ Patient(e, noun2))"}``.
Words say their category; upper-case names are the same categories. Semantics come in two dialects: roles only (as
above), and with the events' predicates: ``∃e (transitive_verb8(e) ∧ Agent(e, noun1))``. Structured semantics
(``{"Agent": "noun1"}``) are read as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from absynth.errors import AbsynthError
from absynth.formats.builder import Builder
from absynth.formats.header import Header, check_count, empty, generated, parse_json, short
from absynth.formats.rendering import Layout, Renderer, render_all
from absynth.rules.categories import CATEGORIES, LEVELS, MARKERS, ROLES
from absynth.rules.specification import Specification
from absynth.sentences.columns import Columns
from absynth.sentences.sentence import Sentence

_Rows = list[tuple[str, Any]]

FORMS = ("list", "object")
DIALECTS = ("roles", "events")

_RECORDS = ("corpus", "sentences", "data", "records", "examples")
_KNOWN = {"sentence", "semantics", "complexity", "frame", "construction", "template"}
_WORD = re.compile(r"([A-Za-z][A-Za-z_]*?)_?(\d+)([a-z]*)")
_ATOM = re.compile(r"\s*([^\s()∧&,]+)\s*\(([^()]*)\)\s*")

# The files do not say the level of a sentence, but their nineteen category sequences have one each.
_LEVELS_BY_SEQUENCE = {
    "simple": (
        "noun intransitive_verb",
        "noun intransitive_verb adverb",
        "noun communication_verb result",
        "noun motion_verb preposition location",
        "noun transitive_verb noun",
        "noun transitive_verb adjective noun",
        "adjective noun transitive_verb noun",
        "noun transitive_verb noun preposition location",
    ),
    "medium": (
        "noun transitive_verb noun preposition noun",
        "noun transitive_verb noun temporal noun intransitive_verb",
        "noun motion_verb preposition location preposition noun",
        "noun communication_verb adjective result conjunction adjective result",
        "temporal noun communication_verb result",
        "adjective adjective noun motion_verb preposition location",
        "noun transitive_verb noun conjunction noun",
    ),
    "complex": (
        "conjunction noun motion_verb preposition location noun change_verb result",
        "noun transitive_verb noun motion_verb preposition location",
        "noun transitive_verb noun preposition location conjunction intransitive_verb adverb",
        "temporal noun transitive_verb noun noun communication_verb result",
    ),
}
_LEVEL_OF = {sequence: level for level, sequences in _LEVELS_BY_SEQUENCE.items() for sequence in sequences}


# ---- out ----
def semantics(sentence: Sentence, dialect: str) -> str:
    """Return the roles of a sentence in a dialect of the published format; events are e, e2, e3, ... from the left."""
    labels = sentence.labels
    roles = labels.get("role", [None] * len(sentence))
    predicates = labels.get("predicate", [None] * len(sentence))
    events = sorted({int(p) for p, role in zip(predicates, roles) if p is not None and role is not None})
    if sentence.heads and sentence.root + 1 in events:
        events = [sentence.root + 1, *(p for p in events if p != sentence.root + 1)]
    name = {event: "e" if i == 0 else f"e{i + 1}" for i, event in enumerate(events)}
    atoms = [f"{sentence.tokens[event - 1]}({name[event]})" for event in events] if dialect == "events" else []
    for token, role, predicate in zip(sentence.tokens, roles, predicates):
        if role is not None:
            atoms.append(f"{role}({name[int(predicate)] if predicate is not None else 'e'}, {token})")
    quantifiers = " ".join(f"∃{name[event]}" for event in events) or "∃e"
    return f"{quantifiers} ({' ∧ '.join(atoms)})"


def _layout(form: str, dialect: str) -> Layout:
    def layout(sentence: Sentence) -> str:
        record: dict[str, str] = {"sentence": " ".join(sentence.tokens), "semantics": semantics(sentence, dialect)}
        if form == "object":
            for key in ("complexity", "frame", "construction", "template"):
                if value := getattr(sentence, key):
                    record[key] = value
        return json.dumps(record, ensure_ascii=False)

    return layout


def write(parts: Iterable[Columns], header: Header, path: Path, form: str = "object", dialect: str = "roles") -> None:
    """Write records of the published format.

    Parameters
    ----------
    form
        "list": exactly the published records. "object": ``{"absynth": header, "corpus": [...]}`` with complexity,
        frame, construction and template in each record, from which `read` makes a corpus with its grammar.
    dialect
        "roles" or "events".
    """
    for name, value, allowed in (("form", form, FORMS), ("dialect", dialect, DIALECTS)):
        if value not in allowed:
            raise AbsynthError(name, value, f"one of {', '.join(allowed)}")
    layout = _layout(form, dialect)
    renderer = header.grammar and Renderer(header.grammar, layout, quoted=True)
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.write("[" if form == "list" else f'{header.dump()[:-1]}, "corpus": [')
        separator = "\n"
        for part in parts:
            for token in part.vocabulary if header.grammar is None else ():
                if not token or re.search(r"\s", token):
                    raise AbsynthError("tokens", short(token), "words without white space, for the published format")
            for record in render_all(part, layout, True, renderer):
                out.write(separator + record)
                separator = ",\n"
        out.write("\n]\n" if form == "list" else "\n]}\n")


# ---- in ----
def read(path: Path) -> Columns:
    """Read a file of the published format, or one that `write` wrote.

    Layers of an imported corpus: category and upos (where words say their category), role, and predicate (in the
    dialect with events). Where every category sequence has its roles always in the same places,
    ``provenance["roles"]`` is "positional": the roles carry no information beyond position.

    Raises
    ------
    AbsynthError
        With file and line: for a file that is not complete JSON, a record without sentence, a word with an unknown
        category among words with known ones, semantics that cannot be read or that name a word that is not there.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise AbsynthError(str(path), error.strerror, "a file that can be read") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise AbsynthError(f"{path}:{line}", f"byte {error.start}", "text in UTF-8") from error
    records = list(_records(text, path))
    header = next((record for where, record in records if where is None), None)
    rows: _Rows = [(where, record) for where, record in records if where is not None]
    provenance: Mapping[str, Any] = {}
    if header is not None:
        found = Header.parse(json.dumps({"absynth": header}), f"{path}: absynth")
        if found.grammar is not None:
            return _generated(rows, found, found.grammar, str(path))
        check_count(found, len(rows), str(path))
        provenance = found.provenance
    return _imported(rows, path, provenance)


def _records(text: str, path: Path) -> Iterator[tuple[str | None, Any]]:
    """Yield ("file:line", record), and (None, header) if there is one."""
    whole = parse_json(text, str(path))  # complete and well-formed, before anything is taken from it
    if isinstance(whole, list):
        yield from _places(text, whole, text.find("["), path)
        return
    if not isinstance(whole, dict):
        raise AbsynthError(str(path), short(whole), "a list of records, or an object that holds one")
    if "absynth" in whole:
        yield None, whole["absynth"]
    for key in _RECORDS:
        if isinstance(whole.get(key), list):
            start = re.search(rf'"{key}"\s*:\s*\[', text)
            yield from _places(text, whole[key], start.end() - 1 if start else 0, path)
            return
    if isinstance(whole.get("sentence"), list):  # one list per key
        columns = {key: values for key, values in whole.items() if isinstance(values, list)}
        if len({len(values) for values in columns.values()}) > 1:
            raise AbsynthError(str(path), {key: len(values) for key, values in columns.items()}, "lists of one length")
        for i in range(len(whole["sentence"])):
            yield f"{path}: record {i + 1}", {key: values[i] for key, values in columns.items()}
        return
    if whole and all(isinstance(value, dict) and "sentence" in value for value in whole.values()):
        for key, value in whole.items():
            yield f"{path}: record {short(key)}", value
        return
    raise AbsynthError(
        str(path), f"keys {short(', '.join(map(str, whole)))}", f"records under one of the keys {', '.join(_RECORDS)}"
    )


def _places(text: str, records: Sequence[Any], start: int, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each record of a list that begins at `start`, with its line."""
    decoder, at, line = json.JSONDecoder(), start + 1, text.count("\n", 0, start) + 1
    for record in records:
        begin = at
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        line += text.count("\n", begin, at)
        yield f"{path}:{line}", record
        _, end = decoder.raw_decode(text, at)
        line += text.count("\n", at, end)
        at = end


def _words(where: str, record: Any) -> list[str]:
    if not isinstance(record, Mapping):
        raise AbsynthError(where, short(record), 'an object with the keys "sentence" and "semantics"')
    sentence = record.get("sentence")
    words = sentence.split() if isinstance(sentence, str) else sentence
    if not isinstance(words, list) or not words:
        raise AbsynthError(f"{where}: sentence", short(sentence), "a sentence: words with spaces between")
    return words


def _generated(rows: _Rows, header: Header, grammar: Specification, path: str) -> Columns:
    check_count(header, len(rows), path)
    index = {token: i for i, token in enumerate(grammar.vocabulary)}
    templates = {template.name: i for i, template in enumerate(grammar.templates)}
    ids: list[int] = []
    ends, chosen = [0], []
    for where, record in rows:
        for word in _words(where, record):
            if not isinstance(word, str) or word not in index:
                raise AbsynthError(f"{where}: sentence", short(word), "words of the grammar")
            ids.append(index[word])
        name = record.get("template")
        if not isinstance(name, str) or name not in templates:
            raise AbsynthError(f"{where}: template", short(name), "a template of the grammar")
        ends.append(len(ids))
        chosen.append(templates[name])
    if not rows:
        return empty(header)
    corpus = generated(header, np.array(ids, np.int32), np.array(ends), np.array(chosen, np.int32), path)
    expected = [render_all(corpus, _layout("object", dialect), True) for dialect in DIALECTS]
    for (where, record), *texts in zip(rows, *expected):
        if record not in [json.loads(text) for text in texts]:
            raise AbsynthError(
                where, short(json.dumps(record, ensure_ascii=False), 120), "what the grammar says of these words"
            )
    return corpus


def _imported(rows: _Rows, path: Path, provenance: Mapping[str, Any]) -> Columns:
    sentences = [_words(where, record) for where, record in rows]
    labelled = any(_category(word) for words in sentences for word in words)
    builder = Builder()
    patterns: dict[tuple[str | None, ...], set[tuple[str | None, ...]]] = {}
    ignored: set[str] = set()
    for (where, record), words in zip(rows, sentences):
        labels: dict[str, list[str | None]] = {}
        whole: dict[str, str] = {}
        if labelled:
            categories = [_category(word) for word in words]
            for word, category in zip(words, categories):
                if category is None:
                    raise AbsynthError(
                        f"{where}: sentence", short(word), "words that start with a category and end with a number"
                    )
            labels["category"] = [CATEGORIES[category].label for category in categories if category]
            labels["upos"] = [CATEGORIES[category].upos for category in categories if category]
            if level := _LEVEL_OF.get(" ".join(map(str, categories))):
                whole["complexity"] = level
        if record.get("semantics") is not None:
            roles, predicates = _roles(f"{where}: semantics", record["semantics"], words)
            labels["role"] = roles
            if any(predicates):
                labels["predicate"] = predicates
            patterns.setdefault(tuple(labels.get("category", [None] * len(words))), set()).add(tuple(roles))
            if isinstance(record["semantics"], str):
                whole["logical_form"] = record["semantics"]
        for key in ("complexity", "frame", "construction"):
            if key in record:
                whole[key] = record[key]
        if whole.get("complexity", LEVELS[0]) not in LEVELS:
            raise AbsynthError(f"{where}: complexity", short(whole["complexity"]), f"one of {', '.join(LEVELS)}")
        ignored |= set(record) - _KNOWN
        builder.add(where, words, labels, (), whole)
    facts: dict[str, Any] = {"imported": path.name, "format": "published", **provenance}
    if patterns:
        facts["roles"] = "positional" if all(len(found) == 1 for found in patterns.values()) else "annotated"
    if ignored:
        facts["ignored_keys"] = sorted(short(key) for key in ignored)
    return builder.corpus(facts)


def _category(word: Any) -> str | None:
    """Return the category that a word names, in any case: "TRANSITIVE_VERB8", "noun12s"; None when it names none."""
    if not isinstance(word, str) or len(word) > 200:
        return None
    if word in MARKERS:
        return word
    match = _WORD.fullmatch(word)
    name = match[1].lower() if match else ""
    return name if name in CATEGORIES else None


def _roles(where: str, found: Any, words: Sequence[str]) -> tuple[list[str | None], list[str | None]]:
    """Return the role of each word and, where the predicates are named, its governing predicate (1-based, as text)."""
    atoms = list(_atoms(where, found))
    roles: list[str | None] = [None] * len(words)
    predicates: list[str | None] = [None] * len(words)
    events: dict[str, int] = {}
    for functor, arguments in atoms:
        if len(arguments) == 1 and arguments[0] not in words:
            at = next((i for i, word in enumerate(words) if word == functor and i + 1 not in events.values()), None)
            if at is None:
                raise AbsynthError(where, short(functor), "a predicate that is a word of the sentence")
            events[arguments[0]] = at + 1
    for functor, arguments in atoms:
        if len(arguments) == 1 and arguments[0] not in words:
            continue
        at = next((i for i, word in enumerate(words) if word == arguments[-1] and roles[i] is None), None)
        if at is None:
            raise AbsynthError(
                where,
                short(arguments[-1]),
                f"an argument of {short(functor)} that is a word of the sentence, once for each role",
            )
        roles[at] = next((role for role in ROLES if role.lower() == functor.lower()), functor)
        if len(arguments) == 2 and arguments[0] in events:
            predicates[at] = str(events[arguments[0]])
    return roles, predicates


def _atoms(where: str, found: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield (functor, arguments) of either dialect, or of structured semantics."""
    if isinstance(found, Mapping):
        inner = found.get("roles", found.get("logical_form", found))
        if inner is not found:
            yield from _atoms(where, inner)
            return
        for role, word in found.items():
            if not isinstance(word, str):
                raise AbsynthError(f"{where}.{short(role)}", short(word), "a word of the sentence")
            yield role, [word]
        return
    if not isinstance(found, str):
        raise AbsynthError(where, short(found), "a logical form such as ∃e (Agent(e, noun1)), or an object of roles")
    body = re.sub(r"^(\s*(∃|exists\s)\s*\w+\s*[.:,]?)*\s*", "", found, count=1)
    if body.startswith("("):
        if not body.rstrip().endswith(")"):
            raise AbsynthError(where, short(found), "closed parentheses")
        body = body.rstrip()[1:-1]
    at = 0
    while at < len(body):
        match = _ATOM.match(body, at)
        if match is None:
            raise AbsynthError(where, short(body[at:]), "atoms such as Agent(e, noun1), joined by ∧ or &")
        arguments = [argument.strip() for argument in match[2].split(",")]
        if not 1 <= len(arguments) <= 2 or not all(arguments):
            raise AbsynthError(where, short(match[0]), "one or two arguments: an event and a word")
        yield match[1], arguments
        at = match.end()
        joint = re.compile(r"(∧|&&?|and\b)\s*").match(body, at)
        if at < len(body) and (joint is None or joint.end() == len(body)):
            raise AbsynthError(where, short(body[at:]), "∧ or & between atoms")
        at = joint.end() if joint else at
