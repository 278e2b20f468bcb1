"""The prefix trie of a grammar: templates that cannot be told apart by their first t words share a node.

A node at depth t stands for a way in which the t-th word can depend on those before it: its category and form
group, which
earlier words its number and tense agree with, and the law of its cluster given the clusters of earlier words. Words
that come before their head are tied through clusters that have not been seen yet; these are summed over here, once:

    p(k_t | observed) proportional to m(k_t) * product over branches b of F_b(observed in b | k_t),
    F_b(observed | k) = sum over the unseen cluster u of p(u | k) * product over the sub-branches of F(observed | u).

It holds because the cluster tree has fixed marginals m, so it may be rooted at any word. All templates of a node give
the same probability to any first t words, so the posterior over nodes is all that filtering needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from absynth.errors import AbsynthError
from absynth.rules.program import Program
from absynth.rules.template import FIXED_PLURAL

MAX_CELLS = 20_000_000
"""Largest size of the cluster tables (160 MB)."""


@dataclass(frozen=True, eq=False)
class Trie:
    """Nodes as arrays; node 0 is the empty prefix.

    Attributes
    ----------
    depth, parent, category : [nodes]
        Number of words, parent node, category of the last word (index into the lexicon's categories).
    mass, end_mass : [nodes]
        Probability of the templates through the node, and of those that end there.
    child_start, child_count : [nodes]
        Children are nodes child_start to child_start + child_count.
    row_base : [nodes]
        First row of the cluster table; row = row_base + sum over m of stride[m] * cluster of the word at position[m].
    stride, position : [nodes, neighbours]
        Padded with stride 0.
    cell_base : [nodes]
        First of four rows of the cell table; row = cell_base + 2 * number at number_from + tense at tense_from.
    number_from, tense_from : [nodes]
        Positions to agree with; 0 where the feature is free (the rows are equal then).
    rows : [rows, clusters]
        p(cluster | clusters of the neighbours).
    cells : [cell rows, cells]
        p(cell | agreed number and tense), over the category's cells in use.
    templates_start, templates : CSR
        Templates through each node.
    """

    program: Program
    depth: np.ndarray
    parent: np.ndarray
    category: np.ndarray
    mass: np.ndarray
    end_mass: np.ndarray
    child_start: np.ndarray
    child_count: np.ndarray
    row_base: np.ndarray
    stride: np.ndarray
    position: np.ndarray
    cell_base: np.ndarray
    number_from: np.ndarray
    tense_from: np.ndarray
    rows: np.ndarray
    cells: np.ndarray
    templates_start: np.ndarray
    templates: np.ndarray

    def through(self, node: int) -> np.ndarray:
        """Return the templates that pass through (or end at) a node."""
        return self.templates[self.templates_start[node] : self.templates_start[node + 1]]

    @property
    def share(self) -> np.ndarray:
        """Return [nodes]: p(node | parent)."""
        return self.mass / self.mass[self.parent]

    @property
    def end_share(self) -> np.ndarray:
        """Return [nodes]: p(the sentence ends here | node)."""
        return self.end_mass / self.mass


@dataclass
class _Node:
    category: int
    depth: int
    parent: int
    children: dict[tuple, int] = field(default_factory=dict)
    key: tuple = ()
    templates: list[int] = field(default_factory=list)


@dataclass
class _Tables:
    """Cluster and cell tables, each built once."""

    program: Program
    rows: list[np.ndarray] = field(default_factory=list)
    num_rows: int = 0
    row_of: dict[tuple, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    factors: dict[tuple, np.ndarray] = field(default_factory=dict)
    cells: list[np.ndarray] = field(default_factory=list)
    cell_of: dict[tuple, int] = field(default_factory=dict)

    def step(self, joint: int, down: bool) -> np.ndarray:
        """Return p(far end | near end) of an edge: down means that the near end is the table's head."""
        table = self.program.joints[joint] if down else self.program.joints[joint].T
        return table / table.sum(axis=1, keepdims=True)

    def factor(self, key: tuple) -> np.ndarray:
        """Return F[near cluster, observed clusters ...] of a branch."""
        if key not in self.factors:
            kind, joint, down, branches = key
            law = self.step(joint, down)
            if kind == "latent":
                law = np.tensordot(law, _product([self.factor(branch) for branch in branches]), 1)
            self.factors[key] = law
        return self.factors[key]

    def clusters(self, category: int, branches: tuple) -> tuple[int, tuple[int, ...]]:
        """Return (first row, strides) of the table p(cluster | observed clusters of the branches)."""
        key = (category, branches)
        if key not in self.row_of:
            lexicon = self.program.lexicon
            mass = lexicon.mass[category, : lexicon.num_clusters[category]]
            table = _product([mass, *(self.factor(branch) for branch in branches)])
            table = np.moveaxis(table, 0, -1)
            sizes = table.shape[:-1]
            flat = table.reshape(-1, table.shape[-1])
            total = flat.sum(axis=1, keepdims=True)
            flat = np.divide(flat, total, out=np.zeros_like(flat), where=total > 0)
            padded = np.zeros((len(flat), lexicon.mass.shape[1]))
            padded[:, : flat.shape[1]] = flat
            strides = tuple(int(np.prod(sizes[i + 1 :])) for i in range(len(sizes)))
            if (self.num_rows + len(padded)) * padded.shape[1] > MAX_CELLS:
                raise AbsynthError(
                    "clusters",
                    int(lexicon.num_clusters.max()),
                    f"fewer clusters, or fewer words before their head: the oracle's tables would need "
                    f"more than {MAX_CELLS} numbers",
                )
            self.row_of[key] = (self.num_rows, strides)
            self.rows.append(padded)
            self.num_rows += len(padded)
        return self.row_of[key]

    def cell_rows(self, category: int, rule: tuple[int, int, int], number: str, tense: str) -> int:
        """Return the first of the four rows of p(cell | number, tense agreed with)."""
        key = (category, rule, number, tense)
        if key not in self.cell_of:
            program = self.program
            base, by_number, by_tense = rule
            table = np.zeros((4, int(program.lexicon.num_cells.max())))
            for agreed in range(4):
                numbers = _feature(number, program.plural, agreed // 2) if by_number else (1.0, 0.0)
                tenses = _feature(tense, program.past, agreed % 2) if by_tense else (1.0, 0.0)
                for n, p in enumerate(numbers):
                    for t, q in enumerate(tenses):
                        if p * q > 0:
                            cell = program.lexicon.cells[category, base + by_number * n + by_tense * t]
                            table[agreed, cell] += p * q
            self.cell_of[key] = 4 * len(self.cells)
            self.cells.append(table)
        return self.cell_of[key]


def _feature(kind: str, share: float, agreed: int) -> tuple[float, float]:
    if kind == "plural" or (kind == "bound" and agreed):
        return 0.0, 1.0
    return (1.0, 0.0) if kind == "bound" else (1.0 - share, share)


def _product(factors: list[np.ndarray]) -> np.ndarray:
    """Multiply arrays that share their first axis; the other axes are laid side by side."""
    result = factors[0]
    for factor in factors[1:]:
        left = result.reshape(result.shape + (1,) * (factor.ndim - 1))
        right = factor.reshape(factor.shape[:1] + (1,) * (result.ndim - 1) + factor.shape[1:])
        result = left * right
    return result


def _branches(
    neighbours: list[list[tuple[int, int, bool]]], at: int, origin: int, seen: int
) -> tuple[tuple, list[int]]:
    """Return (keys, positions) of the branches of `at` that lead to words before position `seen`."""
    found: list[tuple[tuple, list[int]]] = []
    for other, joint, down in neighbours[at]:
        if other == origin:
            continue
        if other < seen:
            found.append((("seen", joint, down, ()), [other]))
            continue
        keys, positions = _branches(neighbours, other, at, seen)
        if positions:
            found.append((("latent", joint, down, keys), positions))
    found.sort(key=lambda item: (repr(item[0]), item[1]))
    return tuple(key for key, _ in found), [p for _, positions in found for p in positions]


def build_trie(program: Program) -> Trie:
    """Lay all templates over one trie."""
    tables = _Tables(program)
    nodes = [_Node(0, 0, 0)]
    ends: list[list[int]] = [[]]
    for t in range(len(program.templates)):
        if program.probability[t] <= 0:
            continue
        node = 0
        nodes[0].templates.append(t)
        for key in _keys(program, tables, t):
            if key not in nodes[node].children:
                nodes[node].children[key] = len(nodes)
                nodes.append(_Node(key[0], nodes[node].depth + 1, node, key=key))
                ends.append([])
            node = nodes[node].children[key]
            nodes[node].templates.append(t)
        ends[node].append(t)
    return _freeze(program, tables, nodes, ends)


def _keys(program: Program, tables: _Tables, t: int) -> list[tuple]:
    """Return one key per word: (category, row base, strides, positions, cell base, number from, tense from)."""
    start, length = int(program.start[t]), int(program.length[t])
    part = slice(start, start + length)
    category, parent, joint = program.category[part], program.parent[part], program.joint_of[part]
    by_number, by_tense = program.cell_number[part], program.cell_tense[part]
    number, tense = program.number[part], program.tense[part]
    neighbours: list[list[tuple[int, int, bool]]] = [[] for _ in range(length)]
    for i in range(length):
        if parent[i] >= 0:
            up = bool(program.joint_up[start + i])
            neighbours[i].append((int(parent[i]), int(joint[i]), up))
            neighbours[int(parent[i])].append((i, int(joint[i]), not up))
    keys = []
    for i in range(length):
        branches, positions = _branches(neighbours, i, -1, i)
        base, strides = tables.clusters(int(category[i]), branches)
        number_kind, number_from = _binding(number, by_number, i)
        tense_kind, tense_from = _binding(tense, by_tense, i)
        rule = (int(program.cell_base[start + i]), int(by_number[i]), int(by_tense[i]))
        cell = tables.cell_rows(int(category[i]), rule, number_kind, tense_kind)
        keys.append((int(category[i]), base, strides, tuple(positions), cell, number_from, tense_from))
    return keys


def _binding(variable: np.ndarray, shows: np.ndarray, i: int) -> tuple[str, int]:
    """Return how a feature of word i is determined ("free", "bound", "plural") and the position it is bound to."""
    if variable[i] == FIXED_PLURAL:
        return "plural", 0
    if shows[i]:
        for j in range(i):
            if variable[j] == variable[i] and shows[j]:
                return "bound", j
    return "free", 0


def _freeze(program: Program, tables: _Tables, nodes: list[_Node], ends: list[list[int]]) -> Trie:
    """Renumber the nodes so that children are consecutive, and turn everything into arrays."""
    order = [0]
    for old in order:
        order.extend(nodes[old].children.values())
    new = {old: i for i, old in enumerate(order)}
    width = max([1, *(len(nodes[old].key[3]) for old in order[1:])])
    count = len(order)
    ints = {
        name: np.zeros(count, np.int64)
        for name in (
            "depth",
            "parent",
            "category",
            "child_start",
            "child_count",
            "row_base",
            "cell_base",
            "number_from",
            "tense_from",
        )
    }
    mass, end_mass = np.zeros(count), np.zeros(count)
    stride, position = np.zeros((count, width), np.int64), np.zeros((count, width), np.int64)
    next_child = 1
    for i, old in enumerate(order):
        node = nodes[old]
        ints["depth"][i], ints["parent"][i], ints["category"][i] = node.depth, new[node.parent], node.category
        ints["child_start"][i], ints["child_count"][i] = next_child, len(node.children)
        next_child += len(node.children)
        mass[i] = program.probability[node.templates].sum()
        end_mass[i] = program.probability[ends[old]].sum()
        if i:
            _, base, strides, positions, cell, number_from, tense_from = node.key
            ints["row_base"][i], ints["cell_base"][i] = base, cell
            ints["number_from"][i], ints["tense_from"][i] = number_from, tense_from
            stride[i, : len(strides)], position[i, : len(positions)] = strides, positions
    through = [nodes[old].templates for old in order]
    return Trie(
        program=program,
        mass=mass,
        end_mass=end_mass,
        stride=stride,
        position=position,
        rows=np.concatenate(tables.rows),
        cells=np.concatenate(tables.cells),
        templates_start=np.concatenate([[0], np.cumsum([len(x) for x in through])]),
        templates=np.concatenate([np.array(x, np.int64) for x in through]),
        **ints,
    )
