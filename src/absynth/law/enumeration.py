"""The whole language, sentence by sentence: for small grammars, examples and tests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from absynth.errors import AbsynthError
from absynth.rules.categories import CATEGORIES
from absynth.rules.specification import Specification
from absynth.rules.template import FIXED_PLURAL
from absynth.sentences.columns import Columns


def language_size(grammar: Specification) -> int:
    """Return the number of derivations, counting impossible cluster choices too: an upper bound of the sentences."""
    total = 0
    for template in grammar.templates:
        count = 1
        for slot in template.slots:
            count *= grammar.sizes[slot.category]
        variables = _variables(template.slots)
        total += count * 2 ** (len(variables[0]) + len(variables[1]))
    return total


def _variables(slots: list) -> tuple[list[int], list[int]]:
    """Return the number and tense variables that some form shows."""

    def shows(slot: object, feature: str) -> bool:
        group = [cell for cell in CATEGORIES[slot.category].cells if cell.group == slot.group]  # type: ignore[attr-defined]
        return getattr(group[0], feature) >= 0

    return (
        sorted({slot.number for slot in slots if slot.number >= 0 and shows(slot, "number")}),
        sorted({slot.tense for slot in slots if slot.tense >= 0 and shows(slot, "tense")}),
    )


def derivations(grammar: Specification) -> Iterator[tuple[float, int, tuple[int, ...]]]:
    """Yield every derivation: (probability, template, entries). Written from the definition, head before dependent."""
    program, lexicon = grammar.program, grammar.lexicon
    for t, template in enumerate(grammar.templates):
        slots = template.slots
        start = int(program.start[t])
        parents = [int(program.parent[start + i]) for i in range(len(slots))]
        choices = []
        for i in range(len(slots)):
            c = program.category[start + i]
            choices.append(range(lexicon.word_base[c], lexicon.word_base[c] + lexicon.num_words[c]))
        numbers, tenses = _variables(slots)
        for words in product(*choices):
            p = template.probability
            for i, word in enumerate(words):
                law = program.law[start + i]
                row = law if parents[i] < 0 else law + lexicon.word_cluster[words[parents[i]]]
                p *= program.conditional[row, lexicon.word_cluster[word]] * lexicon.word_conditional[word]
            if p <= 0:
                continue
            for plural in product((0, 1), repeat=len(numbers)):
                for past in product((0, 1), repeat=len(tenses)):
                    q = p
                    for value in plural:
                        q *= program.plural if value else 1 - program.plural
                    for value in past:
                        q *= program.past if value else 1 - program.past
                    if q <= 0:
                        continue
                    number = dict(zip(numbers, plural)) | {FIXED_PLURAL: 1, -1: 0}
                    tense = dict(zip(tenses, past)) | {-1: 0}
                    yield (
                        float(q),
                        t,
                        tuple(_entry(grammar, start + i, words[i], number, tense) for i in range(len(slots))),
                    )


def _entry(grammar: Specification, slot: int, word: int, number: dict[int, int], tense: dict[int, int]) -> int:
    program, lexicon = grammar.program, grammar.lexicon
    c = program.category[slot]
    cell = int(program.cell_base[slot])
    if program.cell_number[slot]:
        cell += int(program.cell_number[slot]) * number[int(program.number[slot])]
    if program.cell_tense[slot]:
        cell += int(program.cell_tense[slot]) * tense[int(program.tense[slot])]
    local = word - int(lexicon.word_base[c])
    return int(lexicon.entry_base[c] + local * lexicon.num_cells[c] + lexicon.cells[c, cell])


def enumerate_columns(grammar: Specification, limit: int = 2_000_000) -> tuple[Columns, np.ndarray]:
    """Return every derivation as a sentence of a corpus, with its probability: [derivations] float64.

    Raises
    ------
    AbsynthError
        Where there are more than `limit`.
    """
    size = language_size(grammar)
    if size > limit:
        raise AbsynthError("grammar", f"{size} derivations", f"a language of at most {limit}")
    ids: list[int] = []
    offsets, templates, probabilities = [0], [], []
    for p, t, entries in derivations(grammar):
        ids.extend(int(grammar.lexicon.entry_token[entry]) for entry in entries)
        offsets.append(len(ids))
        templates.append(t)
        probabilities.append(p)
    corpus = Columns.generated(grammar, np.array(ids), np.array(offsets), np.array(templates), {"enumerated": True})
    return corpus, np.array(probabilities)
