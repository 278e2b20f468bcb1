"""Edits of templates: another category in a slot, slots taken out, neighbours exchanged. Annotations follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from absynth.rules.categories import CATEGORIES
from absynth.rules.template import Atom, Slot, Template, Tree


def with_slot(template: Template, at: int, **changes: Any) -> Template:
    """Return the template with some fields of one slot changed."""
    slots = list(template.slots)
    slots[at] = replace(slots[at], **changes)
    return replace(template, slots=slots)


def without_slots(template: Template, gone: Sequence[int]) -> Template:
    """Return the template without some slots: heads, features, bracketing and logical form follow.

    A word whose head is gone hangs on that head's head; where the root is gone, the main predicate is the root.
    """
    out = set(gone)
    kept = [i for i in range(len(template.slots)) if i not in out]
    new = {old: i for i, old in enumerate(kept)}
    root = next(i for i, slot in enumerate(template.slots) if slot.head < 0)
    if root in out:
        predicate = template.slots[root].predicate
        root = predicate if predicate not in out else kept[0]

    def head_of(i: int) -> int:
        if i == root:
            return -1
        at = template.slots[i].head
        while at in out:
            at = template.slots[at].head
        return new[at] if at >= 0 else new[root]

    slots: list[Slot] = []
    for i in kept:
        slot = template.slots[i]
        head = head_of(i)
        slots.append(
            replace(
                slot,
                head=head,
                deprel="root" if head < 0 else slot.deprel if slot.deprel != "root" else "dep",
                predicate=new.get(slot.predicate, new[i]),
                number=slot.number if slot.number < 0 else new.get(slot.number, new[i]),
                tense=slot.tense if slot.tense < 0 else new.get(slot.tense, new[i]),
                select=None,
            )
        )
    tree = _prune(template.tree, new)
    atoms = _renumber(template, template.atoms, new)
    return replace(template, slots=slots, tree=tree if tree is not None else ("S", None), atoms=atoms)


def _prune(tree: Tree | int, new: Mapping[int, int]) -> Tree | int | None:
    if isinstance(tree, int):
        return new.get(tree)
    children = [kept for child in tree[2:] if (kept := _prune(child, new)) is not None]
    return (tree[0], tree[1], *children) if children else None


def variables(template: Template) -> dict[str, int]:
    """Return logical variable -> slot."""
    return {f"{'e' if CATEGORIES[slot.category].is_verb else 'x'}{i + 1}": i for i, slot in enumerate(template.slots)}


def _renumber(template: Template, atoms: Sequence[Atom], new: Mapping[int, int]) -> list[Atom]:
    """Return the atoms that speak of kept slots only, with their slots renumbered."""
    slot_of = variables(template)

    def part(item: str | tuple[str, int]) -> str | tuple[str, int] | None:
        if isinstance(item, tuple):
            return (item[0], new[item[1]]) if item[1] in new else None
        if item in slot_of:
            return f"{item[0]}{new[slot_of[item]] + 1}" if slot_of[item] in new else None
        return item

    kept = []
    for atom in atoms:
        parts = tuple(part(item) for item in atom)
        if None not in parts:
            kept.append(parts)
    return kept


def in_order(template: Template, order: Sequence[int]) -> Template:
    """Return the template with its slots in another order (`order[i]` is the slot that comes i-th)."""
    new = {old: i for i, old in enumerate(order)}
    slots = []
    for old in order:
        slot = template.slots[old]
        slots.append(
            replace(
                slot,
                head=slot.head if slot.head < 0 else new[slot.head],
                predicate=slot.predicate if slot.predicate < 0 else new[slot.predicate],
                number=slot.number if slot.number < 0 else new[slot.number],
                tense=slot.tense if slot.tense < 0 else new[slot.tense],
            )
        )
    return replace(
        template, slots=slots, tree=_relabel(template.tree, new), atoms=_renumber(template, template.atoms, new)
    )


def _relabel(tree: Tree | int, new: Mapping[int, int]) -> Tree | int:
    return new[tree] if isinstance(tree, int) else (tree[0], tree[1], *(_relabel(child, new) for child in tree[2:]))


def exchanges(tree: Tree | int) -> Iterator[Tree]:
    """Yield the tree with two neighbouring children of one phrase exchanged, for every such pair."""
    if isinstance(tree, int):
        return
    label, role, *children = tree
    for i in range(len(children) - 1):
        yield (label, role, *children[:i], children[i + 1], children[i], *children[i + 2 :])
    for i, child in enumerate(children):
        for changed in exchanges(child):
            yield (label, role, *children[:i], changed, *children[i + 1 :])
