"""The pattern of a construction: a bracketing with roles, frames and optional parts, read from text.

``(S (NP:Agent determiner?0.5 noun) (VP verb (NP:Patient noun) (NP:Time temporal)?))``

- ``(LABEL:Role@frame child ...)`` is a phrase; the role belongs to the predicate of the nearest clause around it,
  ``@frame`` says which frame an embedded clause ``S`` realises.
- a bare name is a word: a category, or ``verb`` for the category of the clause's frame; ``verb.passive`` and
  ``verb.inf`` ask for a form; ``relativizer:Agent`` fills a role of its clause with the noun before it.
- ``?p`` after a phrase or a word makes it optional with probability p; without p, a phrase with a role takes the
  probability that the frame states for that role.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from absynth.errors import AbsynthError
from absynth.rules.categories import CATEGORIES, ROLES

PHRASES = ("S", "SBAR", "NP", "PP", "VP", "ADVP")
_TOKEN = re.compile(r"\(|\)(?:\?[0-9.]*)?|[^\s()]+")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a pattern."""

    category: str
    group: str = ""
    role: str | None = None
    optional: float | None = None


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase of a pattern."""

    label: str
    children: tuple[Phrase | Word, ...]
    role: str | None = None
    frame: str | None = None
    optional: float | None = None


def parse_pattern(text: str, where: str) -> Phrase:
    """Read a pattern; `where` names it in errors."""
    if not isinstance(text, str):
        raise AbsynthError(f"{where}.pattern", text, "a bracketed pattern as text")
    tokens = _TOKEN.findall(text)
    node, rest = _phrase(tokens, 0, where, text)
    if rest != len(tokens):
        raise AbsynthError(f"{where}.pattern", text, f"one phrase; {' '.join(tokens[rest:])!r} follows it")
    if node.label != "S" or node.optional is not None:
        raise AbsynthError(f"{where}.pattern", text, "a phrase (S ...) that is not optional")
    return node


def _phrase(tokens: list[str], at: int, where: str, text: str) -> tuple[Phrase, int]:
    if len(tokens) < at + 2 or tokens[at] != "(" or tokens[at + 1] in "()":
        raise AbsynthError(f"{where}.pattern", text, f"an opening bracket and a label at item {at + 1}")
    label, _, frame = tokens[at + 1].partition("@")
    label, _, role = label.partition(":")
    if label not in PHRASES:
        raise AbsynthError(f"{where}.pattern", label, f"a phrase label: {', '.join(PHRASES)}")
    _check_role(role, where)
    children: list[Phrase | Word] = []
    at += 2
    while at < len(tokens):
        if tokens[at] == "(":
            child, at = _phrase(tokens, at, where, text)
            children.append(child)
        elif tokens[at].startswith(")"):
            if not children:
                raise AbsynthError(f"{where}.pattern", text, f"at least one word in every phrase; {label} is empty")
            optional = _probability(tokens[at][1:], where)
            return Phrase(label, tuple(children), role or None, frame or None, optional), at + 1
        else:
            children.append(_word(tokens[at], where))
            at += 1
    raise AbsynthError(f"{where}.pattern", text, "closed brackets; one is missing at the end")


def _word(token: str, where: str) -> Word:
    name, mark, probability = token.partition("?")
    name, _, role = name.partition(":")
    _check_role(role, where)
    group = ""
    if not name.startswith("marker."):
        name, _, group = name.partition(".")
    if name != "verb" and name not in CATEGORIES:
        raise AbsynthError(f"{where}.pattern", name, f"a category: verb, {', '.join(CATEGORIES)}")
    if group not in ("", "passive", "inf") or (group and name != "verb" and CATEGORIES[name].upos != "VERB"):
        raise AbsynthError(f"{where}.pattern", token, "a verb followed by .passive or .inf")
    return Word(name, group, role or None, _probability(mark + probability, where))


def _check_role(role: str, where: str) -> None:
    if role and role not in ROLES:
        raise AbsynthError(f"{where}.pattern", role, f"a role: {', '.join(ROLES)}")


def _probability(mark: str, where: str) -> float | None:
    """Return None for "", -1 for "?" (the frame's own probability), p for "?p"."""
    if not mark:
        return None
    if mark == "?":
        return -1.0
    try:
        value = float(mark[1:])
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise AbsynthError(f"{where}.pattern", mark, "? or ?p with 0 < p < 1")
    return value


def expand(
    node: Phrase | Word, optional: Mapping[str, float], where: str
) -> Iterator[tuple[float, tuple[str, ...], Phrase | Word | None]]:
    """Yield every realisation of the optional parts: (probability, what was realised, the phrase without options)."""
    if node.optional is not None:
        probability = node.optional
        if probability < 0:
            if node.role is None or node.role not in optional:
                raise AbsynthError(
                    f"{where}.pattern",
                    node.role or (node.label if isinstance(node, Phrase) else node.category),
                    "?p, or a role for which the frame states a probability in `optional`",
                )
            probability = optional[node.role]
        name = node.role or (node.label if isinstance(node, Phrase) else node.category)
        yield 1.0 - probability, (), None
        for inner, names, realised in expand(replace(node, optional=None), optional, where):
            yield probability * inner, (name, *names), realised
        return
    if isinstance(node, Word):
        yield 1.0, (), node
        return
    partial: list[tuple[float, tuple[str, ...], tuple[Phrase | Word, ...]]] = [(1.0, (), ())]
    for child in node.children:
        options = list(expand(child, optional, where))
        partial = [
            (p * q, names + more, children if realised is None else (*children, realised))
            for p, names, children in partial
            for q, more, realised in options
        ]
    for p, names, children in partial:
        if children:
            yield p, names, replace(node, children=children)
        else:
            yield p, names, None


def show(node: Phrase | Word) -> str:
    """Return the pattern as text."""
    mark = "" if node.optional is None else "?" if node.optional < 0 else f"?{node.optional:g}"
    role = f":{node.role}" if node.role else ""
    if isinstance(node, Word):
        return node.category + (f".{node.group}" if node.group else "") + role + mark
    frame = f"@{node.frame}" if node.frame else ""
    return f"({node.label}{role}{frame} {' '.join(show(child) for child in node.children)}){mark}"
