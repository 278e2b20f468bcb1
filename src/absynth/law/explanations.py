"""What is wrong with a string outside the language: every kind of one change that would make it a sentence, and the likeliest one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from absynth.law.walk import ExactModel
from absynth.rules.categories import CATEGORIES
from absynth.rules.template import FIXED_PLURAL, Template, Tree

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
Reading = tuple[Symbol, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a string is not a sentence.

    Attributes
    ----------
    kind
        One of the seven kinds.
    position
        Word (from 0) where it shows; the number of words for the end. A category: the first word after which no
        sentence can go on. A missing argument: where it should start. An
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
class Misfit:
    """What is wrong with a string as a sentence of a template whose categories it has.

    Attributes
    ----------
    mended
        Whether another form, or another word, in one place would make a sentence of it.
    count, diagnosis
        How many things are wrong, and the first of them.
    probability
        Of the template.
    """

    mended: bool
    count: int
    probability: float
    diagnosis: Diagnosis


def selection_log_odds(
    oracle: ExactModel, template: Template, entries: Sequence[int]
) -> Iterator[tuple[int, int, float]]:
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


def selectional(i: int, head: int, odds: float, words: Sequence[str]) -> Diagnosis:
    """Return the diagnosis of a word that does not go with its head; it shows at the later of the two."""
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


def beginnings(readings: Iterable[Reading]) -> set[Reading]:
    """Return everything that one of the readings begins with, the empty sequence and itself included."""
    return {reading[:i] for reading in readings for i in range(len(reading) + 1)} | {()}


def grounds_of(oracle: ExactModel) -> Grounds:
    """Return what explains strings outside the oracle's language; made once."""
    found = oracle.__dict__.get("_grounds")
    if found is None:
        found = oracle.__dict__["_grounds"] = Grounds(oracle)
    return found


class Grounds:
    """Symbol sequences of the language, and of the language with one argument taken out or one word left open."""

    def __init__(self, oracle: ExactModel) -> None:
        self.oracle = oracle
        lexicon = oracle.grammar.lexicon
        self.symbol_of_entry: list[Symbol] = [
            (lexicon.categories[c], CATEGORIES[lexicon.categories[c]].cells[i].group)
            for c, i in zip(lexicon.entry_category, lexicon.entry_cell)
        ]
        self.whole: dict[Reading, list[int]] = {}
        self.without: dict[Reading, list[tuple[str, tuple[int, ...], int]]] = {}
        self.open: dict[int, dict[Reading, list[int]]] = {}
        phrases: set[Reading] = set()
        for t, template in enumerate(oracle.grammar.templates):
            if template.probability <= 0:
                continue
            signature = template.signature()
            self.whole.setdefault(signature, []).append(t)
            for i in range(len(signature)):
                self.open.setdefault(i, {}).setdefault(signature[:i] + signature[i + 1 :], []).append(t)
            for role, slots in argument_phrases(template.tree):
                phrases.add(tuple(signature[i] for i in slots))
                rest = tuple(symbol for i, symbol in enumerate(signature) if i not in slots)
                self.without.setdefault(rest, []).append((role, tuple(slots), t))
        self.phrases = phrases
        self.begin_whole, self.begin_without, self.begin_phrase = map(beginnings, (self.whole, self.without, phrases))
        self.begin_open = {i: beginnings(rests) for i, rests in self.open.items()}

    def readings(self, ids: Sequence[int] | np.ndarray, begin: set[Reading]) -> list[Reading]:
        """Return the symbol sequences that the words can stand for (several where there are homographs), among some."""
        table = self.oracle.grammar.lexicon.entry_of
        result: list[Reading] = [()]
        for token in ids:
            entries = table[:, token]
            symbols = [self.symbol_of_entry[entry] for entry in entries[entries >= 0]]
            result = [longer for reading in result for symbol in symbols if (longer := (*reading, symbol)) in begin]
        return result

    def diagnose(self, words: Sequence[str], ids: np.ndarray, died: int) -> Diagnosis:
        """Explain a string outside the language; `died` is the first word that cannot stand where it is.

        One change that makes a sentence of it comes first: of a form or a meaning, of an argument, of the end, of a
        category. Where more is wrong, the first thing that shows.
        """
        misfits = self.misfits(words, ids)
        if misfits and misfits[0].mended:
            return misfits[0].diagnosis
        changed = self.changed(words, ids)
        if changed is not None:
            return changed
        if died == len(words):
            return Diagnosis("unfinished sentence", died, f"the sentence cannot end after {died} words")
        if misfits:
            return misfits[0].diagnosis
        if self.replaceable(ids):
            return self.impossible(words, ids, died)
        changed = self.changed(words, ids, loose=True)
        if changed is not None:
            return changed
        by_category = bool(self.readings(ids[: died + 1], self.begin_whole))
        return self.local(words, ids, died) if by_category else self.impossible(words, ids, died)

    def impossible(self, words: Sequence[str], ids: np.ndarray, at: int) -> Diagnosis:
        """Return the diagnosis of a word whose category is the matter."""
        lexicon = self.oracle.grammar.lexicon
        labels = {CATEGORIES[lexicon.categories[c]].label for c in np.flatnonzero(lexicon.entry_of[:, ids[at]] >= 0)}
        symbol = " or ".join(sorted(labels))
        return Diagnosis("category impossible here", at, f"word {at + 1}, {words[at]!r} ({symbol}), cannot stand here")

    # ---- right categories, wrong form or meaning ----
    def misfits(self, words: Sequence[str], ids: np.ndarray) -> list[Misfit]:
        """Return what is wrong with the templates of these categories, what can be mended by one change first."""
        found = [
            self.misfit(words, ids, t)
            for reading in self.readings(ids, self.begin_whole)
            for t in self.whole.get(reading, ())
        ]
        return sorted((m for m in found if m is not None), key=lambda m: (not m.mended, m.count, -m.probability))

    def misfit(self, words: Sequence[str], ids: np.ndarray, t: int) -> Misfit | None:
        """Return what is wrong with the words as a sentence of a template of their categories; None for nothing."""
        template = self.oracle.grammar.program.templates[t]
        slots = range(len(ids))
        entries = self.entries(t, slots, ids)
        found = [
            Diagnosis(
                "agreement violation",
                i,
                f"word {i + 1}, {words[i]!r}, does not agree with "
                + (f"word {other + 1}, {words[other]!r}" if other >= 0 else "its coordinated subject"),
            )
            for i, other in self.disagreements(template, entries)
        ]
        for i in self.unused(template, entries):
            found.append(
                Diagnosis("agreement violation", i, f"the language never uses the form of word {i + 1}, {words[i]!r}")
            )
        for i, head, odds in selection_log_odds(self.oracle, template, [entries[i] for i in slots]):
            if odds == -np.inf:
                found.append(selectional(i, head, odds, words))
        if not found:
            return None
        one_kind = len({d.kind for d in found}) == 1
        mended = one_kind and any(self.fits(t, [j for j in slots if j != i], [*ids[:i], *ids[i + 1 :]]) for i in slots)
        return Misfit(mended, len(found), template.probability, min(found, key=lambda d: d.position))

    def entries(self, t: int, slots: Sequence[int], ids: Sequence[int] | np.ndarray) -> dict[int, int]:
        """Return slot -> entry of the words that fill these slots of a template; -1 where a word cannot."""
        program, table = self.oracle.grammar.program, self.oracle.grammar.lexicon.entry_of
        start = int(program.start[t])
        return {i: int(table[program.category[start + i], token]) for i, token in zip(slots, ids, strict=True)}

    def disagreements(self, template: Template, entries: Mapping[int, int]) -> Iterator[tuple[int, int]]:
        """Yield (slot, slot before it that it does not agree with); -1 for a coordinated subject."""
        lexicon = self.oracle.grammar.lexicon
        for feature in ("number", "tense"):
            values: dict[int, tuple[int, int]] = {FIXED_PLURAL: (1, -1)}
            for i, entry in entries.items():
                slot = template.slots[i]
                variable = getattr(slot, feature)
                value = getattr(CATEGORIES[slot.category].cells[lexicon.entry_cell[entry]], feature)
                if variable == -1 or value < 0:
                    continue
                if variable not in values:
                    values[variable] = (value, i)
                elif values[variable][0] != value:
                    yield i, values[variable][1]

    def unused(self, template: Template, entries: Mapping[int, int]) -> Iterator[int]:
        """Yield the slots of forms that have no probability: plurals, say, where `Grammar.plural` is 0."""
        grammar = self.oracle.grammar
        for i, entry in entries.items():
            slot, cell = (
                template.slots[i],
                CATEGORIES[template.slots[i].category].cells[grammar.lexicon.entry_cell[entry]],
            )
            features = ((slot.number, cell.number, grammar.plural), (slot.tense, cell.tense, grammar.past))
            if any(v >= 0 and x >= 0 and (share if x else 1.0 - share) == 0 for v, x, share in features):
                yield i

    # ---- one argument, or one word, makes the difference ----
    def fits(self, t: int, slots: Sequence[int], ids: Sequence[int] | np.ndarray) -> bool:
        """Return whether some words in the other slots of a template make a sentence with `ids` in these slots."""
        lexicon, program = self.oracle.grammar.lexicon, self.oracle.grammar.program
        template = program.templates[t]
        entries = self.entries(t, slots, ids)
        if any(True for _ in itertools.chain(self.disagreements(template, entries), self.unused(template, entries))):
            return False
        # Clusters that each slot may still have; ties form trees, so that shrinking them to a fixed point decides.
        names = {name: i for i, name in enumerate(program.joint_names)}
        allowed: dict[int, np.ndarray] = {}
        ties: list[tuple[int, int, np.ndarray]] = []
        for i, slot in enumerate(template.slots):
            category = lexicon.categories.index(slot.category)
            allowed[i] = np.arange(int(lexicon.num_clusters[category])) >= 0
            if i in entries:
                allowed[i] = np.arange(len(allowed[i])) == lexicon.word_cluster[lexicon.entry_word[entries[i]]]
            if slot.select in names:
                joint = program.joints[names[slot.select]] > 0
                ties.append((i, slot.head, joint if slot.select_up else joint.T))
        for _ in ties:
            for i, head, joint in ties:
                allowed[i] = allowed[i] & joint[:, allowed[head]].any(axis=1)
                allowed[head] = allowed[head] & joint[allowed[i]].any(axis=0)
        return all(clusters.any() for clusters in allowed.values())

    def missing(self, ids: np.ndarray, loose: bool = False) -> list[tuple[int, float, int, str]]:
        """Return (length, -probability, place, role) of every argument that may be missing, the likeliest first.

        Forms and meanings of what is there have to fit too, unless `loose`.
        """
        templates = self.oracle.grammar.templates
        return sorted(
            (len(slots), -templates[t].probability, slots[0], role)
            for reading in self.readings(ids, self.begin_without)
            for role, slots, t in self.without.get(reading, ())
            if loose or self.fits(t, [i for i in range(len(templates[t].slots)) if i not in slots], ids)
        )

    def extra(self, ids: np.ndarray, loose: bool = False) -> list[tuple[int, int]]:
        """Return (length, -start) of every phrase that may be one argument too many; of two of a kind the later first."""
        found: list[tuple[int, int]] = []
        for i in range(len(ids)):
            if not self.readings(ids[:i], self.begin_whole):
                break
            for j in range(i + 1, len(ids) + 1):
                phrase = self.readings(ids[i:j], self.begin_phrase)
                if not phrase:
                    break
                if self.phrases.isdisjoint(phrase):
                    continue
                rest = [*ids[:i], *ids[j:]]
                found += [
                    (j - i, -i)
                    for reading in self.readings(rest, self.begin_whole)
                    for t in self.whole.get(reading, ())
                    if loose or self.fits(t, range(len(rest)), rest)
                ]
        return sorted(found)

    def changed(self, words: Sequence[str], ids: np.ndarray, loose: bool = False) -> Diagnosis | None:
        """Explain the string as a sentence with one argument missing or too many, whichever is shorter."""
        missing, extra = self.missing(ids, loose), self.extra(ids, loose)
        if missing and (not extra or missing[0][0] <= extra[0][0]):
            _, _, at, role = missing[0]
            where = "at the end" if at == len(words) else f"before word {at + 1}, {words[at]!r}"
            return Diagnosis("missing argument", at, f"the {role} is missing {where}", role=role)
        if extra:
            size, at = extra[0][0], -extra[0][1]
            text = " ".join(words[at : at + size])
            return Diagnosis("extra argument", at, f"{text!r}, from word {at + 1}, is one argument too many")
        return None

    def replaceable(self, ids: np.ndarray) -> bool:
        """Return whether one word of another category, or in another form, would make a sentence."""
        return any(
            self.fits(t, [j for j in range(len(ids)) if j != i], [*ids[:i], *ids[i + 1 :]])
            for i in itertools.takewhile(lambda i: self.readings(ids[:i], self.begin_whole), range(len(ids)))
            for reading in self.readings([*ids[:i], *ids[i + 1 :]], self.begin_open.get(i, set()))
            for t in self.open[i].get(reading, ())
        )

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
