"""Minimal pairs, made on derivations and rendered again, so that every annotation is fresh."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from absynth.corpus import Corpus
from absynth.errors import AbsynthError
from absynth.law.explanations import Grounds, argument_phrases, grounds_of, phrase_slots, selection_log_odds
from absynth.oracle import Oracle
from absynth.pairs.edits import exchanges, in_order, with_slot, without_slots
from absynth.pairs.pair_set import MinimalPair, PairSet
from absynth.rules.categories import CATEGORIES
from absynth.rules.template import FIXED_PLURAL, Template
from absynth.sentences.sampling import draw
from absynth.sentences.sentence import Derivation


@dataclass(frozen=True, slots=True)
class _Candidate:
    derivation: Derivation
    position: int
    role: str | None = None
    expected: str | None = None
    attractor: bool = False


class _Words:
    """Picks words from the lexicon."""

    def __init__(self, oracle: Oracle) -> None:
        self.lexicon = oracle.grammar.lexicon
        self.oracle = oracle

    def entry(self, category: int, word: int, cell: int) -> int:
        """Return the entry of a word (global index) in a cell, -1 where the language does not use it."""
        position = self.lexicon.cells[category, cell] if cell < self.lexicon.cells.shape[1] else -1
        if position < 0:
            return -1
        return int(
            self.lexicon.entry_base[category]
            + (word - self.lexicon.word_base[category]) * self.lexicon.num_cells[category]
            + position
        )

    def draw(self, category: int, cluster: int, rng: np.random.Generator, but: int = -1) -> int:
        """Return a word of a category (and cluster, unless -1) by its frequency, other than `but`; -1 for none."""
        base = int(self.lexicon.word_base[category])
        words = np.arange(base, base + int(self.lexicon.num_words[category]))
        words = words[(words != but) & ((cluster < 0) | (self.lexicon.word_cluster[words] == cluster))]
        if not len(words):
            return -1
        p = self.lexicon.word_probability[words]
        return int(rng.choice(words, p=p / p.sum()))

    def synonym(self, derivation: Derivation, at: int, rng: np.random.Generator) -> Derivation | None:
        """Return the derivation with another word of the same cluster and features in one slot."""
        entry = derivation.entries[at]
        word = int(self.lexicon.entry_word[entry])
        category = int(self.lexicon.word_category[word])
        other = self.draw(category, int(self.lexicon.word_cluster[word]), rng, but=word)
        if other < 0:
            return None
        return replaced(derivation, at, self.entry(category, other, int(self.lexicon.entry_cell[entry])))

    def index(self, category: str) -> int:
        """Return the index of a category, -1 where the language does not have it."""
        return self.lexicon.categories.index(category) if category in self.lexicon.categories else -1


def replaced(derivation: Derivation, at: int, entry: int, template: Template | None = None) -> Derivation:
    """Return the derivation with another entry in one slot (and another template)."""
    entries = list(derivation.entries)
    entries[at] = entry
    return Derivation(template or derivation.template, tuple(entries), derivation.lexicon)


def _shuffled(items: list, rng: np.random.Generator) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def _synonym(words: _Words, d: Derivation, rng: np.random.Generator) -> Iterator[_Candidate]:
    slots = [i for i, slot in enumerate(d.template.slots) if CATEGORIES[slot.category].open_class]
    for at in _shuffled(slots, rng):
        changed = words.synonym(d, at, rng)
        if changed is not None and changed.tokens != d.tokens:
            yield _Candidate(changed, at, d.template.slots[at].role)


def _role_violation(words: _Words, d: Derivation, rng: np.random.Generator) -> Iterator[_Candidate]:
    lexicon = words.lexicon
    slots = [i for i, s in enumerate(d.template.slots) if s.role is not None and CATEGORIES[s.category].is_nominal]
    for at in _shuffled(slots, rng):
        slot = d.template.slots[at]
        cell = int(lexicon.entry_cell[d.entries[at]])
        category = words.index(slot.category)
        for cluster in _shuffled(list(range(int(lexicon.num_clusters[category]))), rng):
            word = words.draw(category, cluster, rng)
            if word < 0:
                continue
            changed = replaced(d, at, words.entry(category, word, cell))
            odds = list(selection_log_odds(words.oracle, changed.template, changed.entries))
            broken = [max(i, head) for i, head, x in odds if x == -np.inf]
            if broken:
                yield _Candidate(changed, min(broken), slot.role, "selectional violation")
        for name in _shuffled([c for c in lexicon.categories if CATEGORIES[c].is_nominal and c != slot.category], rng):
            other = words.index(name)
            entry = words.entry(other, words.draw(other, -1, rng), cell if CATEGORIES[name].cells[0].number >= 0 else 0)
            if entry >= 0:
                template = with_slot(d.template, at, category=name, select=None)
                yield _Candidate(replaced(d, at, entry, template), at, slot.role, "category impossible here")


_SWAPS = (
    ("Agent", "Patient"),
    ("Agent", "Theme"),
    ("Experiencer", "Stimulus"),
    ("Cause", "Patient"),
    ("Agent", "Recipient"),
)


def _role_swap(words: _Words, d: Derivation, rng: np.random.Generator) -> Iterator[_Candidate]:
    lexicon = words.lexicon
    root = next(i for i, s in enumerate(d.template.slots) if s.head < 0)
    predicate = d.template.slots[root].predicate
    for one, two in _SWAPS:
        places = [
            [
                i
                for i, s in enumerate(d.template.slots)
                if s.role == r and s.predicate == predicate and s.category == "noun"
            ]
            for r in (one, two)
        ]
        if not (places[0] and places[1]):
            continue
        a, b = places[0][0], places[1][0]
        category = words.index("noun")
        first, second = (int(lexicon.entry_word[d.entries[i]]) for i in (a, b))
        if first == second:
            continue
        # Numbers stay where they are, so that agreement still holds.
        changed = replaced(d, a, words.entry(category, second, int(lexicon.entry_cell[d.entries[a]])))
        changed = replaced(changed, b, words.entry(category, first, int(lexicon.entry_cell[d.entries[b]])))
        broken = [
            max(i, h) for i, h, x in selection_log_odds(words.oracle, d.template, changed.entries) if x == -np.inf
        ]
        position = min(broken) if broken else min(a, b)
        yield _Candidate(changed, position, one, "selectional violation" if broken else None)


def _elimination(words: _Words, d: Derivation, rng: np.random.Generator) -> Iterator[_Candidate]:
    for role, slots in _shuffled(list(argument_phrases(d.template.tree)), rng):
        if len(slots) == len(d.entries):
            continue
        entries = tuple(entry for i, entry in enumerate(d.entries) if i not in slots)
        yield _Candidate(
            Derivation(without_slots(d.template, slots), entries, d.lexicon), slots[0], role, "missing argument"
        )


def _agreement(words: _Words, d: Derivation, rng: np.random.Generator) -> Iterator[_Candidate]:
    lexicon, slots = words.lexicon, d.template.slots
    verbs = [
        i
        for i, s in enumerate(slots)
        if CATEGORIES[s.category].is_verb
        and s.group != "inf"
        and (s.number == FIXED_PLURAL or (s.number >= 0 and s.number != i))
    ]
    for at in _shuffled(verbs, rng):
        cell = CATEGORIES[slots[at].category].cells[lexicon.entry_cell[d.entries[at]]]
        category = words.index(slots[at].category)
        flipped = int(lexicon.entry_cell[d.entries[at]]) + (2 if cell.number == 0 else -2)
        entry = words.entry(category, int(lexicon.entry_word[d.entries[at]]), flipped)
        subject = slots[at].number
        numbers = [CATEGORIES[s.category].cells[lexicon.entry_cell[e]].number for s, e in zip(slots, d.entries)]
        between = range(subject + 1, at) if subject >= 0 else range(0)
        attractor = any(CATEGORIES[slots[i].category].is_nominal and numbers[i] == 1 - cell.number for i in between)
        template = with_slot(d.template, at, number=at)
        position = max(at, subject)
        yield _Candidate(replaced(d, at, entry, template), position, None, "agreement violation", attractor)


def _word_order(words: _Words, d: Derivation, rng: np.random.Generator) -> Iterator[_Candidate]:
    for tree in _shuffled(list(exchanges(d.template.tree)), rng):
        order = phrase_slots(tree)
        template = in_order(Template(**{**_fields(d.template), "tree": tree}), order)
        changed = Derivation(template, tuple(d.entries[i] for i in order), d.lexicon)
        if changed.tokens == d.tokens:
            continue
        position = next(i for i, (a, b) in enumerate(zip(changed.tokens, d.tokens)) if a != b)
        yield _Candidate(changed, position)


def _frame_violation(words: _Words, d: Derivation, rng: np.random.Generator) -> Iterator[_Candidate]:
    lexicon = words.lexicon
    for at, slot in enumerate(d.template.slots):
        if not (slot.category.endswith("_verb") and slot.head < 0):
            continue
        names = [c for c in lexicon.categories if c.endswith("_verb") and c != slot.category]
        for name in _shuffled(names, rng):
            other = words.index(name)
            entry = words.entry(other, words.draw(other, -1, rng), int(lexicon.entry_cell[d.entries[at]]))
            if entry >= 0:
                yield _Candidate(replaced(d, at, entry, with_slot(d.template, at, category=name, select=None)), at)


def _fields(template: Template) -> dict[str, Any]:
    return {name: getattr(template, name) for name in Template.__dataclass_fields__}


_MAKERS: dict[str, Callable[[_Words, Derivation, np.random.Generator], Iterator[_Candidate]]] = {
    "synonym_substitution": _synonym,
    "role_violation": _role_violation,
    "role_swap": _role_swap,
    "argument_elimination": _elimination,
    "agreement_violation": _agreement,
    "word_order_violation": _word_order,
    "frame_violation": _frame_violation,
}
KINDS = tuple(_MAKERS)
_LEGAL = ("synonym_substitution", "role_swap")
_TRIES = 12


def minimal_pairs(corpus: Corpus, kind: str, seed: int = 0, limit: int | None = None) -> PairSet:
    """Make one minimal pair from each sentence that allows it.

    Parameters
    ----------
    corpus
        Generated sentences.
    kind
        "synonym_substitution", "role_violation", "role_swap", "argument_elimination", "agreement_violation",
        "word_order_violation"
        or "frame_violation". Violations are outside the language (checked with the oracle); synonyms stay in it with
        the same clusters and features; a role swap stays in it unless selection is absolute.
    seed
        Decides which place and which word; the pair of a sentence does not depend on the other sentences.
    limit
        Try only the first `limit` sentences.
    """
    if kind not in _MAKERS:
        raise AbsynthError("kind", kind, f"one of {', '.join(KINDS)}")
    oracle = corpus.oracle
    if oracle is None:
        raise AbsynthError("corpus", "imported", "a generated corpus: interventions need derivations")
    n = len(corpus) if limit is None else min(limit, len(corpus))
    words, maker = _Words(oracle), _MAKERS[kind]
    candidates: list[_Candidate] = []
    owner: list[int] = []
    for i in range(n):
        rng = np.random.default_rng([seed, KINDS.index(kind), i])
        for _, candidate in zip(range(_TRIES), maker(words, corpus.derivation(i), rng)):
            candidates.append(candidate)
            owner.append(i)
    log2 = oracle.log2_probability([candidate.derivation.tokens for candidate in candidates])
    chosen: dict[int, int] = {}
    for j, i in enumerate(owner):
        right = np.isfinite(log2[j]) if kind == "synonym_substitution" else kind in _LEGAL or log2[j] == -np.inf
        if i not in chosen and right:
            chosen[i] = j
    impossible: Counter[str] = Counter()
    tried = set(owner)
    for i in range(n):
        if i not in chosen:
            impossible["every change stays in the language" if i in tried else "no place for this change"] += 1
    pairs = _finish(corpus, oracle, words, kind, seed, {i: candidates[j] for i, j in chosen.items()}, impossible)
    return PairSet(kind, tuple(pairs), n, dict(impossible))


def _finish(
    corpus: Corpus,
    oracle: Oracle,
    words: _Words,
    kind: str,
    seed: int,
    chosen: dict[int, _Candidate],
    impossible: Counter[str],
) -> list[MinimalPair]:
    """Find controls, compute severities, render."""
    pool = _ControlPool(corpus, seed)
    controls: dict[int, Derivation] = {}
    for i, candidate in list(chosen.items()):
        rng = np.random.default_rng([seed, 99, i])
        control = pool.find(words, corpus.derivation(i), candidate, i, rng)
        if control is None:
            impossible["no control of equal length"] += 1
            del chosen[i]
        else:
            controls[i] = control
    rows = list(chosen)
    good = [corpus.derivation(i) for i in rows]
    bad = [chosen[i].derivation for i in rows]
    log2 = oracle.log2_probability([d.tokens for d in (*good, *bad, *(controls[i] for i in rows))]).reshape(3, -1)
    grounds = grounds_of(oracle)
    pairs = []
    for k, i in enumerate(rows):
        candidate = chosen[i]
        pairs.append(
            MinimalPair(
                kind=kind,
                good=good[k].render(),
                bad=bad[k].render(),
                control=controls[i].render(),
                role=candidate.role,
                position=candidate.position,
                severity=float(log2[0, k] - log2[1, k]),
                log2_good=float(log2[0, k]),
                log2_bad=float(log2[1, k]),
                log2_control=float(log2[2, k]),
                expected=_determined(grounds, oracle, candidate),
                attractor=candidate.attractor,
                source=i,
            )
        )
    return pairs


def _determined(grounds: Grounds, oracle: Oracle, candidate: _Candidate) -> str | None:
    """Return the expected diagnosis, or None where one change of another kind, or elsewhere, explains the string."""
    if candidate.expected is None:
        return None
    tokens, wanted = candidate.derivation.tokens, (candidate.expected, candidate.position)
    ids, _ = oracle.encode([tokens])
    explained = {(m.diagnosis.kind, m.diagnosis.position) for m in grounds.misfits(tokens, ids) if m.mended}
    explained |= {("missing argument", at) for _, _, at, _ in grounds.missing(ids)}
    explained |= {("extra argument", -start) for _, start in grounds.extra(ids)}
    found = oracle.parse(tokens).diagnosis
    alone = found is not None and (found.kind, found.position) == wanted and explained <= {wanted}
    return candidate.expected if alone else None


class _ControlPool:
    """Sentences of the language by length, to draw controls from."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        if corpus.grammar is None:
            raise AbsynthError("corpus", "imported", "a generated corpus")
        self.sentences = draw(corpus.grammar, 4096, seed=seed)
        frame, self.frames = self.sentences.sentence_column("frame")
        lengths = self.sentences.lengths
        self.by_length = {int(n): np.flatnonzero(lengths == n) for n in np.unique(lengths)}
        self.frame = frame

    def find(
        self, words: _Words, good: Derivation, candidate: _Candidate, source: int, rng: np.random.Generator
    ) -> Derivation | None:
        """Return a legal derivation with as many words as the candidate."""
        length = len(candidate.derivation.entries)
        if length == len(good.entries):
            bad = candidate.derivation.tokens
            places = [i for i, (a, b) in enumerate(zip(good.tokens, bad)) if a != b]
            for at in places:
                if CATEGORIES[good.template.slots[at].category].open_class:
                    control = words.synonym(good, at, rng)
                    if control is not None and control.tokens not in (good.tokens, bad):
                        return control
        rows = self.by_length.get(length, np.zeros(0, np.int64))
        same = rows[[self.frames[self.frame[r]] == good.template.frame for r in rows]] if len(rows) else rows
        choice = same if len(same) else rows
        return self.sentences.derivation(int(rng.choice(choice))) if len(choice) else None
