"""Parsing: the derivations of a string, or a typed reason why it has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from absynth.categories import CATEGORIES
from absynth.errors import AbsynthError
from absynth.sentence import Derivation, Sentence
from absynth.template import FIXED_PLURAL, Template, Tree

if TYPE_CHECKING:
    from absynth.oracle import Oracle

Kind = Literal[
    "unknown word",
    "category impossible here",
    "agreement violation",
    "selectional violation",
    "missing argument",
    "extra argument",
    "unfinished sentence",
]
Symbol = tuple[str, str]  # category, form group


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a string is not a sentence.

    Attributes
    ----------
    kind
        One of the seven kinds.
    position
        Word (from 0) where it shows; the number of words for the end. A missing argument: where it should start. An
        extra argument: where it starts. Agreement and selection: the later of the two words that do not fit.
    message
        One line for people.
    role
        Role of the missing argument, None elsewhere.
    log_odds
        Of a selectional violation, in bits: log2 p(clusters together) / p(apart); -inf where impossible. 0 elsewhere.
    """

    kind: Kind
    position: int
    message: str
    role: str | None = None
    log_odds: float = 0.0


@dataclass(frozen=True, slots=True)
class ParsedSentence:
    """One derivation of a string: its posterior probability and the annotated sentence."""

    probability: float
    sentence: Sentence


@dataclass(frozen=True, slots=True)
class Parse:
    """What `Oracle.parse` found.

    Attributes
    ----------
    derivations
        Most probable first; empty outside the language.
    log2_probability
        Of the string; -inf outside the language.
    diagnosis
        None for a sentence of the language (unless a selection falls under the threshold).
    """

    derivations: tuple[ParsedSentence, ...]
    log2_probability: float
    diagnosis: Diagnosis | None

    @property
    def accepted(self) -> bool:
        """Return whether the string is a sentence."""
        return self.diagnosis is None

    def __bool__(self) -> bool:
        return self.accepted


def parse(oracle: Oracle, tokens: Sequence[str] | str, threshold: float | None = None) -> Parse:
    """Return the derivations of a string with their probabilities, or a diagnosis.

    Parameters
    ----------
    tokens
        Words, or one string with blanks between them.
    threshold
        In bits: a sentence whose every derivation ties two clusters with log-odds under it is diagnosed as a
        selectional violation. None accepts everything that has a probability above 0.
    """
    from absynth.oracle import _words

    words = _words(tokens)
    ids, offsets = oracle.encode([words])
    unknown = np.flatnonzero(ids < 0)
    if len(unknown):
        at = int(unknown[0])
        return Parse(
            (), -np.inf, Diagnosis("unknown word", at, f"word {at + 1}, {words[at]!r}, is not in the vocabulary")
        )
    probability, last = 0.0, None
    total = 0.0
    depth_reached = 0
    for step in oracle.walk(ids, offsets):
        last = step
        depth_reached = step.depth
        probability = float(step.probability[0])
        total += np.log2(probability) if probability > 0 else -np.inf
    if last is None:
        raise AbsynthError("tokens", tokens, "a sequence of words")
    if depth_reached == len(words) and probability > 0:
        derivations = tuple(_derivations(oracle, last.states, ids))
        diagnosis = None
        if threshold is not None:
            diagnosis = _weak_selection(oracle, derivations, threshold, words)
        return Parse(tuple(ParsedSentence(p, d.render()) for p, d in derivations), float(total), diagnosis)
    return Parse((), -np.inf, _grounds_of(oracle).diagnose(words, ids, depth_reached))


def _derivations(oracle: Oracle, states, ids: np.ndarray) -> list[tuple[float, Derivation]]:
    trie, lexicon, program = oracle.filter.trie, oracle.grammar.lexicon, oracle.grammar.program
    weight = states.weight * trie.end_share[states.node]
    weight = weight / weight.sum()
    found = []
    for node, p in zip(states.node, weight):
        if p <= 0:
            continue
        through = trie.through(int(node))
        for t in through[program.length[through] == len(ids)]:
            part = slice(int(program.start[t]), int(program.start[t]) + len(ids))
            entries = lexicon.entry_of[program.category[part], ids]
            share = float(p * program.probability[t] / trie.end_mass[node])
            found.append((share, Derivation(program.templates[t], tuple(entries.tolist()), lexicon)))
    return sorted(found, key=lambda item: (-item[0], item[1].template.name))


def selection_log_odds(oracle: Oracle, template: Template, entries: Sequence[int]) -> Iterator[tuple[int, int, float]]:
    """Yield (slot, parent slot, log2 p(both clusters) / (p(one) p(other))) for every selection of a derivation."""
    program, lexicon = oracle.grammar.program, oracle.grammar.lexicon
    names = {name: i for i, name in enumerate(program.joint_names)}
    words = lexicon.entry_word[list(entries)]
    for i, slot in enumerate(template.slots):
        if slot.select is None or slot.select not in names:
            continue
        joint = program.joints[names[slot.select]]
        mine, other = lexicon.word_cluster[words[i]], lexicon.word_cluster[words[slot.head]]
        a, b = (mine, other) if slot.select_up else (other, mine)
        p = joint[a, b]
        yield i, slot.head, float(np.log2(p / (joint.sum(axis=1)[a] * joint.sum(axis=0)[b]))) if p > 0 else -np.inf


def _weak_selection(
    oracle: Oracle, derivations: Sequence[tuple[float, Derivation]], threshold: float, words: Sequence[str]
) -> Diagnosis | None:
    first: Diagnosis | None = None
    for _, derivation in derivations:
        weak = [x for x in selection_log_odds(oracle, derivation.template, derivation.entries) if x[2] < threshold]
        if not weak:
            return None
        i, head, odds = min(weak, key=lambda x: max(x[0], x[1]))
        if first is None:
            first = _selectional(i, head, odds, words)
    return first


def _selectional(i: int, head: int, odds: float, words: Sequence[str]) -> Diagnosis:
    at = max(i, head)
    other = min(i, head)
    message = f"word {at + 1}, {words[at]!r}, does not go with word {other + 1}, {words[other]!r} ({odds:.2f} bits)"
    return Diagnosis("selectional violation", at, message, log_odds=odds)


def phrase_slots(tree: Tree | int) -> list[int]:
    """Return the slots under a node of a template's tree."""
    return [tree] if isinstance(tree, int) else [slot for child in tree[2:] for slot in phrase_slots(child)]


def argument_phrases(tree: Tree | int) -> Iterator[tuple[str, list[int]]]:
    """Yield (role, slots) of every phrase with a role."""
    if isinstance(tree, int):
        return
    if tree[1] is not None:
        yield tree[1], phrase_slots(tree)
    for child in tree[2:]:
        yield from argument_phrases(child)


def _grounds_of(oracle: Oracle) -> _Grounds:
    found = oracle.__dict__.get("_grounds")
    if found is None:
        found = oracle.__dict__["_grounds"] = _Grounds(oracle)
    return found


class _Grounds:
    """Symbol sequences of the language, and of the language with one argument taken out: to explain what is outside."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        lexicon = oracle.grammar.lexicon
        cells = [
            (lexicon.categories[c], CATEGORIES[lexicon.categories[c]].cells[i].group)
            for c, i in zip(lexicon.entry_category, lexicon.entry_cell)
        ]
        self.symbol_of_entry: list[Symbol] = cells
        self.whole: dict[tuple[Symbol, ...], list[int]] = {}
        self.prefixes: set[tuple[Symbol, ...]] = {()}
        self.without: dict[tuple[Symbol, ...], list[tuple[int, str, int, int]]] = {}
        self.phrases: set[tuple[Symbol, ...]] = set()
        for t, template in enumerate(oracle.grammar.templates):
            if template.probability <= 0:
                continue
            signature = template.signature()
            self.whole.setdefault(signature, []).append(t)
            self.prefixes.update(signature[:i] for i in range(1, len(signature) + 1))
            for role, slots in argument_phrases(template.tree):
                self.phrases.add(tuple(signature[i] for i in slots))
                rest = tuple(symbol for i, symbol in enumerate(signature) if i not in slots)
                self.without.setdefault(rest, []).append((len(slots), role, slots[0], t))

    def readings(self, ids: np.ndarray, limit: int = 256) -> list[tuple[Symbol, ...]]:
        """Return the symbol sequences that the words can stand for (several where there are homographs)."""
        table = self.oracle.grammar.lexicon.entry_of
        result: list[tuple[Symbol, ...]] = [()]
        for token in ids:
            entries = table[:, token]
            symbols = [self.symbol_of_entry[entry] for entry in entries[entries >= 0]]
            result = [(*reading, symbol) for reading in result for symbol in symbols]
            if len(result) > limit:
                # Keep what the language can begin with; the rest cannot explain more than a category error.
                result = ([reading for reading in result if reading in self.prefixes] or result)[:limit]
        return result

    def diagnose(self, words: Sequence[str], ids: np.ndarray, died: int) -> Diagnosis:
        """Explain a string outside the language; `died` is the first word that cannot stand where it is."""
        readings = self.readings(ids)
        found = [self.misfit(words, ids, t) for reading in readings for t in self.whole.get(reading, ())]
        misfits = [misfit for misfit in found if misfit is not None]
        if misfits:
            return min(misfits, key=lambda item: (item[0], -item[1]))[2]
        changed = [c for c in (self.missing(readings, words), self.extra(readings, words)) if c is not None]
        if changed:
            return min(changed, key=lambda item: item[0])[1]
        reach = max(self.reach(reading) for reading in readings)
        if died < reach:
            return self.local(words, ids, died)
        if reach == len(words):
            return Diagnosis("unfinished sentence", reach, f"the sentence cannot end after {reach} words")
        symbol = " or ".join(sorted({CATEGORIES[reading[reach][0]].label for reading in readings}))
        return Diagnosis(
            "category impossible here", reach, f"word {reach + 1}, {words[reach]!r} ({symbol}), cannot stand here"
        )

    def reach(self, reading: tuple[Symbol, ...]) -> int:
        """Return how many words can begin a sentence, by category alone."""
        n = 0
        while n < len(reading) and reading[: n + 1] in self.prefixes:
            n += 1
        return n

    def misfit(self, words: Sequence[str], ids: np.ndarray, t: int) -> tuple[int, float, Diagnosis] | None:
        """Return (number of misfits, probability, first misfit) of a template of these categories; None if it fits."""
        program, lexicon = self.oracle.grammar.program, self.oracle.grammar.lexicon
        template = program.templates[t]
        entries = lexicon.entry_of[program.category[int(program.start[t]) : int(program.start[t]) + len(ids)], ids]
        cells = [
            CATEGORIES[slot.category].cells[lexicon.entry_cell[entry]] for slot, entry in zip(template.slots, entries)
        ]
        found: list[Diagnosis] = []
        for feature in ("number", "tense"):
            values: dict[int, tuple[int, int]] = {FIXED_PLURAL: (1, -1)}
            for i, slot in enumerate(template.slots):
                variable, value = getattr(slot, feature), getattr(cells[i], feature)
                if variable == -1 or value < 0:
                    continue
                if variable not in values:
                    values[variable] = (value, i)
                elif values[variable][0] != value:
                    other = values[variable][1]
                    partner = f"word {other + 1}, {words[other]!r}" if other >= 0 else "its coordinated subject"
                    found.append(
                        Diagnosis(
                            "agreement violation", i, f"word {i + 1}, {words[i]!r}, does not agree with {partner}"
                        )
                    )
        for i, head, odds in selection_log_odds(self.oracle, template, entries.tolist()):
            if odds == -np.inf:
                found.append(_selectional(i, head, odds, words))
        if not found:
            return None
        return len(found), template.probability, min(found, key=lambda d: d.position)

    def missing_places(self, readings: Sequence[tuple[Symbol, ...]]) -> set[int]:
        """Return where an argument may be missing."""
        return {at for reading in readings for _, _, at, _ in self.without.get(reading, ())}

    def extra_places(self, readings: Sequence[tuple[Symbol, ...]]) -> set[tuple[int, int]]:
        """Return (length, start) of every phrase that may be one argument too many."""
        return {
            (j - i, i)
            for reading in readings
            for i in range(len(reading))
            for j in range(i + 1, len(reading) + 1)
            if reading[i:j] in self.phrases and reading[:i] + reading[j:] in self.whole
        }

    def missing(self, readings: Sequence[tuple[Symbol, ...]], words: Sequence[str]) -> tuple[int, Diagnosis] | None:
        """Explain the string as a sentence without one argument."""
        found = [item for reading in readings for item in self.without.get(reading, ())]
        if not found:
            return None
        templates = self.oracle.grammar.templates
        size, role, at, _ = min(found, key=lambda item: (item[0], -templates[item[3]].probability, item[2]))
        where = "at the end" if at == len(words) else f"before word {at + 1}, {words[at]!r}"
        return size, Diagnosis("missing argument", at, f"the {role} is missing {where}", role=role)

    def extra(self, readings: Sequence[tuple[Symbol, ...]], words: Sequence[str]) -> tuple[int, Diagnosis] | None:
        """Explain the string as a sentence with one argument too many."""
        found = self.extra_places(readings)
        if not found:
            return None
        # Of two phrases of one kind the later one is too many.
        size, at = min(found, key=lambda item: (item[0], -item[1]))
        text = " ".join(words[at : at + size])
        return size, Diagnosis("extra argument", at, f"{text!r}, from word {at + 1}, is one argument too many")

    def local(self, words: Sequence[str], ids: np.ndarray, at: int) -> Diagnosis:
        """Explain a word whose category fits the words before it while its form or its meaning does not."""
        oracle = self.oracle
        _, pairs = oracle.after(words[:at])
        lexicon, trie = oracle.grammar.lexicon, oracle.filter.trie
        entry = lexicon.entry_of[trie.category[pairs.node], ids[at]]
        fits = np.flatnonzero(entry >= 0)
        category = trie.category[pairs.node[fits]]
        cell = lexicon.cells[category, lexicon.entry_cell[entry[fits]]]
        cluster = lexicon.word_cluster[lexicon.entry_word[entry[fits]]]
        agrees = trie.cells[pairs.cell_row[fits], cell] > 0
        goes = trie.rows[pairs.row[fits], cluster] > 0
        if not len(fits):
            label = " or ".join(lexicon.categories[c] for c in np.flatnonzero(lexicon.entry_of[:, ids[at]] >= 0))
            return Diagnosis(
                "category impossible here", at, f"word {at + 1}, {words[at]!r} ({label}), cannot stand here"
            )
        if np.any(goes & ~agrees):
            return Diagnosis(
                "agreement violation", at, f"word {at + 1}, {words[at]!r}, has a form that does not fit what precedes"
            )
        if np.any(agrees):
            return Diagnosis(
                "selectional violation",
                at,
                f"word {at + 1}, {words[at]!r}, does not go with what precedes",
                log_odds=-np.inf,
            )
        return Diagnosis(
            "agreement violation", at, f"word {at + 1}, {words[at]!r}, has a form that does not fit what precedes"
        )
