"""From labelled spans, and from who does what to whom, to one label per word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from lmtrace.text.sentences import Labels

Span = tuple[str, int, int]
"""Label, first word, last word; words count from 0."""
Edge = tuple[int, int, str]
"""Predicate, argument, role; words count from 0."""
Layers = dict[str, Labels]

_PARTS = re.compile(r"\(([^()*]+)|(\*)|(\))")


def flat(size: int, spans: Iterable[Span], longest: bool) -> tuple[Labels, list[Span]]:
    """Return one label per word in B-, I-, O form, and the spans that it holds: of overlapping ones only one can stay.

    Parameters
    ----------
    longest
        Whether of overlapping spans the longest stays, or the shortest.
    """
    labels: list[str] = ["O"] * size
    kept: list[Span] = []
    sign = -1 if longest else 1
    for label, first, last in sorted(spans, key=lambda span: (sign * (span[2] - span[1]), span[1])):
        words = range(first, last + 1)
        if any(labels[i] != "O" for i in words):
            continue
        kept.append((label, first, last))
        for i in words:
            labels[i] = f"{'B' if i == first else 'I'}-{label}"
    return tuple(labels), kept


def bracketed(cells: Sequence[str]) -> list[Span]:
    """Return the spans of a column of brackets: "(NP(NN*", "*)", "(V*)"; of one word the outer one comes first.

    Raises
    ------
    ValueError
        For brackets that do not close.
    """
    found: list[Span] = []
    opened: list[tuple[str, int, int]] = []
    for i, cell in enumerate(cells):
        for label, _, close in _PARTS.findall(cell):
            if label:
                opened.append((label, i, len(found)))
                found.append((label, i, -1))
            elif close:
                if not opened:
                    raise ValueError(f"a bracket closes in {cell!r} that never opened")
                label_of, first, at = opened.pop()
                found[at] = (label_of, first, i)
    if opened:
        raise ValueError(f"the bracket of {opened[-1][0]!r} does not close")
    return found


def role_layers(size: int, senses: Mapping[int, str], edges: Sequence[Edge]) -> Layers:
    """Return the layers of semantic roles that stand at single words.

    "sense": what a predicate means ("give.01"). "predicate": the places, from 1, of all predicates that a word is an
    argument of, the nearest first ("3", "3,7"). "role": its role under the nearest.
    """
    of: dict[int, list[Edge]] = {}
    for edge in edges:
        of.setdefault(edge[1], []).append(edge)
    role: list[str | None] = [None] * size
    predicate: list[str | None] = [None] * size
    for word, found in of.items():
        found.sort(key=lambda e: (abs(e[0] - word), e[0]))
        role[word] = found[0][2]
        predicate[word] = ",".join(dict.fromkeys(str(e[0] + 1) for e in found))
    return _named(size, senses, tuple(role), tuple(predicate))


def role_span_layers(size: int, senses: Mapping[int, str], spans: Sequence[tuple[int, Span]]) -> tuple[Layers, int]:
    """Return the layers of semantic roles of whole phrases, and how many of them overlap with shorter ones.

    As `role_layers`, but "role" is in B-, I-, O form, and every word of the phrase names its predicates.
    """
    governed: dict[Span, list[int]] = {}
    for predicate, span in spans:
        governed.setdefault(span, []).append(predicate)
    roles, kept = flat(size, governed, longest=False)
    places: list[str | None] = [None] * size
    for span in kept:
        _, first, last = span
        nearest = sorted(governed[span], key=lambda place: (abs(place - first), place))
        places[first : last + 1] = [",".join(str(place + 1) for place in nearest)] * (last + 1 - first)
    return _named(size, senses, roles, tuple(places)), len(governed) - len(kept)


def _named(size: int, senses: Mapping[int, str], role: Labels, predicate: Labels) -> Layers:
    layers: Layers = {}
    if senses:
        layers["sense"] = tuple(senses.get(i) for i in range(size))
    if any(value is not None for value in predicate):
        layers["role"] = role
        layers["predicate"] = predicate
    return layers


def mentions(cells: Sequence[str]) -> list[Span]:
    """Return spans that open with "(7-person-..." and close with "7)" or ")", as GUM's Entity and CoNLL-2012 write them.

    The label is all that stands after the bracket. What closes nothing, and what stays open, is no span: mentions may
    reach over the end of a sentence.
    """
    found: list[Span] = []
    opened: list[tuple[str, int]] = []
    for i, cell in enumerate(cells):
        for label, name, _ in re.findall(r"\(([^()|]+)|([^()|]*)(\))", cell):
            if label:
                opened.append((label, i))
                continue
            at = [
                k for k, (text, _) in enumerate(opened) if not name or re.split(r"[-\s]", text, maxsplit=1)[0] == name
            ]
            if at:
                text, first = opened.pop(at[-1])
                found.append((text, first, i))
    return found
