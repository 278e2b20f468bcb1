"""A template: one realisation of a construction as a flat sequence of slots, with all that does not depend on words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from absynth.rules.categories import CATEGORIES

FIXED_PLURAL = -2
"""Number variable of a verb whose subject is coordinated: always plural."""

Tree = tuple  # (label, role, child, ...) with integers (slots) as leaves
Atom = tuple  # (functor, argument, ...); a functor or argument is a string, or (what, slot) to be filled in


@dataclass(slots=True)
class Slot:
    """One word position.

    Attributes
    ----------
    category, group
        Category name and form group ("", "finite", "passive", "inf").
    head
        Slot of the syntactic head, -1 for the root.
    deprel
        Universal Dependencies relation.
    role, predicate
        Semantic role and the slot of the predicate that governs it. A slot without role has the predicate of its
        clause.
    frame
        Frame of its clause (of its own clause, for a predicate).
    number, tense
        Feature variables: slots with the same variable agree; -1 for none, `FIXED_PLURAL`.
    select
        (head category, dependent category, relation) of the selection table that ties its cluster to its head's;
        None for none.
    select_up
        True where the table's head is this slot (a relative clause selects its verb by the noun that it modifies).
    """

    category: str
    group: str = ""
    head: int = -1
    deprel: str = "root"
    role: str | None = None
    predicate: int = -1
    frame: str = ""
    number: int = -1
    tense: int = -1
    select: tuple[str, str, str] | None = None
    select_up: bool = False


@dataclass
class Template:
    """A flat sentence pattern.

    Attributes
    ----------
    name
        "frame/construction+Optional+Optional".
    frame, construction, level
        Where it comes from; `construction` is "frame/name".
    slots
        The words.
    tree
        Bracketing over slots.
    atoms
        Logical form with the words left open.
    probability
        Share of sentences that follow it.
    """

    name: str
    frame: str
    construction: str
    level: str
    slots: list[Slot]
    tree: Tree
    atoms: list[Atom]
    probability: float = 0.0
    num_clauses: int = 1

    @cached_property
    def labels(self) -> dict[str, list[str | None]]:
        """Return the annotation layers that do not depend on words, one value per slot."""
        return {
            "category": [CATEGORIES[slot.category].label for slot in self.slots],
            "upos": [CATEGORIES[slot.category].upos for slot in self.slots],
            "role": [slot.role for slot in self.slots],
            "predicate": [str(slot.predicate + 1) for slot in self.slots],
            "frame": [slot.frame for slot in self.slots],
            "deprel": [slot.deprel for slot in self.slots],
        }

    def signature(self) -> tuple[tuple[str, str], ...]:
        """Return the (category, form group) sequence: what can be told apart without features and clusters."""
        return tuple((slot.category, slot.group) for slot in self.slots)
