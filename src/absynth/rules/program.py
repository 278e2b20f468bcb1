"""A grammar compiled to tables: the templates with their exact probabilities and the laws of every slot.

The sampler draws from these tables, the oracle computes with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from absynth.errors import AbsynthError
from absynth.rules.categories import CATEGORIES, LEVELS
from absynth.rules.frames import Frame
from absynth.rules.layout import build_template
from absynth.rules.lexicon import Lexicon
from absynth.rules.pattern import expand, parse_pattern
from absynth.rules.selection import joint_law, shift_of
from absynth.rules.template import Template

MAX_TEMPLATES = 20_000


def build_templates(frames: Sequence[Frame], levels: Mapping[str, float] | None) -> list[Template]:
    """Realise every construction of every frame; probabilities sum to 1."""
    verbs = {frame.name: frame.verb for frame in frames}
    roles = {frame.name: frame for frame in frames}
    shares = construction_shares(frames, levels)
    templates: list[Template] = []
    taken: dict[str, int] = {}
    for frame in frames:
        for construction in frame.constructions:
            where = f"frames.{frame.name}.{construction.name}"
            root = parse_pattern(construction.pattern, where)
            for probability, names, realised in expand(root, frame.optional, where):
                if realised is None:
                    raise AbsynthError(
                        f"{where}.pattern", construction.pattern, "at least one word that is not optional"
                    )
                template, clauses = build_template(realised, frame.name, verbs, where)  # type: ignore[arg-type]
                for clause, found, infinitive in clauses:
                    _check_roles(roles[clause], found, infinitive, where)
                name = "+".join([f"{frame.name}/{construction.name}", *names])
                taken[name] = taken.get(name, 0) + 1
                template.name = name if taken[name] == 1 else f"{name}#{taken[name]}"
                template.construction = f"{frame.name}/{construction.name}"
                template.level = construction.level
                template.probability = probability * shares[frame.name, construction.name]
                templates.append(template)
            if len(templates) > MAX_TEMPLATES:
                raise AbsynthError(
                    "frames", len(templates), f"at most {MAX_TEMPLATES} realisations; use fewer optional parts"
                )
    # What has no probability is not part of the language: its words and constructions are left out.
    return [template for template in templates if template.probability > 0]


def _check_roles(frame: Frame, found: list[str], infinitive: bool, where: str) -> None:
    missing = [role for role in frame.core if role not in found]
    # The subject of an infinitive is understood from the clause around it.
    if len(missing) > (1 if infinitive else 0):
        raise AbsynthError(
            f"{where}.pattern",
            ", ".join(sorted(found)),
            f"all core roles of {frame.name}; missing: {', '.join(missing)}",
        )
    for role in found:
        if role not in frame.core and role not in frame.optional:
            raise AbsynthError(
                f"{where}.pattern", role, f"a role of {frame.name}: {', '.join((*frame.core, *frame.optional))}"
            )
        if found.count(role) > 1:
            raise AbsynthError(f"{where}.pattern", role, f"each role of {frame.name} once")


def construction_shares(frames: Sequence[Frame], levels: Mapping[str, float] | None) -> dict[tuple[str, str], float]:
    """Return the exact joint law of constructions: (frame, construction) -> probability.

    Frame shares and level shares both hold exactly; among the constructions of one frame and level the weights decide.
    Without level shares the weights of a frame's constructions decide alone.
    """
    if levels is None:
        result = {}
        for frame in frames:
            total = sum(c.weight for c in frame.constructions)
            result |= {(frame.name, c.name): frame.share * c.weight / total for c in frame.constructions}
        return result
    names = [level for level in LEVELS if levels.get(level, 0) > 0]
    weights = np.array(
        [[sum(c.weight for c in f.constructions if c.level == level) for level in names] for f in frames]
    )
    target_rows, target_columns = np.array([f.share for f in frames]), np.array([levels[level] for level in names])
    table = (weights > 0) * target_rows[:, None] * target_columns
    for _ in range(3_000):  # iterative proportional fitting; one pass suffices where every frame has every level
        table = table * (target_columns / np.maximum(table.sum(axis=0), 1e-300))
        table = table * (target_rows / np.maximum(table.sum(axis=1), 1e-300))[:, None]
        if np.abs(table.sum(axis=0) - target_columns).max() < 1e-13:
            break
    if (
        np.abs(table.sum(axis=0) - target_columns).max() > 1e-12
        or np.abs(table.sum(axis=1) - target_rows).max() > 1e-12
    ):
        have = "; ".join(f"{f.name}: {', '.join(sorted({c.level for c in f.constructions}))}" for f in frames)
        raise AbsynthError(
            "levels", dict(levels), f"shares that the constructions can realise together with the frame shares ({have})"
        )
    result = {}
    for i, frame in enumerate(frames):
        for c in frame.constructions:
            share = (
                table[i, names.index(c.level)] * c.weight / weights[i, names.index(c.level)]
                if c.level in names
                else 0.0
            )
            result[frame.name, c.name] = float(share)
    return result


def used_groups(templates: Sequence[Template]) -> dict[str, set[str]]:
    """Return category -> form groups that some template asks for."""
    used: dict[str, set[str]] = {}
    for template in templates:
        for slot in template.slots:
            used.setdefault(slot.category, set()).add(slot.group)
    return used


@dataclass(frozen=True, eq=False)
class Program:
    """The compiled grammar. Templates are laid end to end; a *slot* index is flat over all templates.

    Attributes
    ----------
    templates, lexicon
        What was compiled.
    probability, start, length : [templates]
        Share, first slot and number of slots of each template.
    category : [slots]
        Index into `lexicon.categories`.
    cell_base, cell_number, cell_tense : [slots]
        cell = cell_base + cell_number * number + cell_tense * tense.
    number, tense : [slots]
        Position within the template of the variable's owner; -1 none; `FIXED_PLURAL`.
    parent : [slots]
        Position within the template of the slot that its cluster depends on, -1 for none.
    depth : [slots]
        Distance to the root in that dependence.
    law : [slots]
        Row block of `conditional`: the row is law + cluster of the parent (or law alone for roots).
    conditional : [rows, clusters]
        p(cluster | parent's cluster); zero where a category has fewer clusters.
    joint_of : [slots]
        Index into `joints` of the table that ties the slot to its parent, -1 for none; `joint_up` as in
        `Slot.select_up`.
    """

    templates: tuple[Template, ...]
    lexicon: Lexicon
    plural: float
    past: float
    probability: np.ndarray
    start: np.ndarray
    length: np.ndarray
    category: np.ndarray
    cell_base: np.ndarray
    cell_number: np.ndarray
    cell_tense: np.ndarray
    number: np.ndarray
    tense: np.ndarray
    parent: np.ndarray
    depth: np.ndarray
    law: np.ndarray
    conditional: np.ndarray
    joint_of: np.ndarray
    joint_up: np.ndarray
    joints: tuple[np.ndarray, ...]
    joint_names: tuple[tuple[str, str, str], ...]


def compile_program(
    templates: Sequence[Template], lexicon: Lexicon, strength: Mapping[str, float], plural: float, past: float
) -> Program:
    """Lay the templates out as arrays.

    Parameters
    ----------
    strength
        "" -> the global strength; "head-dependent" or "head-dependent:Relation" -> its own.
    """
    index = {name: i for i, name in enumerate(lexicon.categories)}
    joints: list[np.ndarray] = []
    joint_id: dict[tuple[str, str, str], int] = {}
    laws: list[np.ndarray] = []
    law_id: dict[tuple[int, bool], int] = {}
    widest = lexicon.mass.shape[1]
    num_rows = 0

    def add_law(rows: np.ndarray) -> int:
        nonlocal num_rows
        padded = np.zeros((len(rows), widest))
        padded[:, : rows.shape[1]] = rows
        laws.append(padded)
        num_rows += len(rows)
        return num_rows - len(rows)

    marginal = [add_law(lexicon.mass[c : c + 1, : lexicon.num_clusters[c]]) for c in range(len(index))]
    columns: dict[str, list[int]] = {
        name: []
        for name in (
            "category",
            "cell_base",
            "cell_number",
            "cell_tense",
            "number",
            "tense",
            "parent",
            "depth",
            "law",
            "joint_of",
            "joint_up",
        )
    }
    for template in templates:
        rows: list[dict[str, int]] = []
        for slot in template.slots:
            c = index[slot.category]
            base, by_number, by_tense = _cell_rule(slot.category, slot.group)
            row = dict(
                category=c,
                cell_base=base,
                cell_number=by_number,
                cell_tense=by_tense,
                number=slot.number,
                tense=slot.tense,
                parent=-1,
                depth=0,
                law=marginal[c],
                joint_of=-1,
                joint_up=0,
            )
            if slot.select is not None:
                head, dependent, relation = slot.select
                a, b = index[head], index[dependent]
                power = _strength(strength, head, dependent, relation)
                if power > 0 and lexicon.num_clusters[a] > 1 and lexicon.num_clusters[b] > 1:
                    if slot.select not in joint_id:
                        joint_id[slot.select] = len(joints)
                        joints.append(
                            joint_law(
                                lexicon.mass[a, : lexicon.num_clusters[a]],
                                lexicon.mass[b, : lexicon.num_clusters[b]],
                                power,
                                shift_of(relation),
                            )
                        )
                    j = joint_id[slot.select]
                    if (j, slot.select_up) not in law_id:
                        table = joints[j].T if slot.select_up else joints[j]
                        law_id[j, slot.select_up] = add_law(table / table.sum(axis=1, keepdims=True))
                    row |= dict(
                        parent=slot.head, law=law_id[j, slot.select_up], joint_of=j, joint_up=int(slot.select_up)
                    )
            rows.append(row)
        for i in range(len(rows)):
            at, depth = i, 0
            while rows[at]["parent"] >= 0:
                at, depth = rows[at]["parent"], depth + 1
            rows[i]["depth"] = depth
        for row in rows:
            for name, value in row.items():
                columns[name].append(value)
    length = np.array([len(t.slots) for t in templates])
    arrays = {name: np.array(values, np.int32) for name, values in columns.items()}
    return Program(
        templates=tuple(templates),
        lexicon=lexicon,
        plural=plural,
        past=past,
        probability=np.array([t.probability for t in templates]),
        start=np.concatenate([[0], np.cumsum(length)[:-1]]),
        length=length,
        conditional=np.concatenate(laws),
        joints=tuple(joints),
        joint_names=tuple(joint_id),
        **arrays,
    )


def _cell_rule(category: str, group: str) -> tuple[int, int, int]:
    cells = CATEGORIES[category].cells
    base = next(i for i, cell in enumerate(cells) if cell.group == group)
    cell = cells[base]
    return base, (0 if cell.number < 0 else 1 if cell.tense < 0 else 2), (0 if cell.tense < 0 else 1)


def _strength(strength: Mapping[str, float], head: str, dependent: str, relation: str) -> float:
    for key in (f"{head}-{dependent}:{relation}", f"{head}-{dependent}"):
        if key in strength:
            return strength[key]
    return strength[""]
