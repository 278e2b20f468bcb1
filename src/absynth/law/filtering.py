"""Forward filtering over the prefix trie, vectorised over *states*: distinct prefixes, whatever sentences share them.

A state is a set of particles. A particle is a node of the trie with the clusters and features of the words so far,
and a
weight: the posterior probability of the node given the prefix. Without homographs the words tell category, cluster and
features, so particles of one state differ by node only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from absynth.law.trie import Trie
from absynth.rules.categories import CATEGORIES
from absynth.rules.lexicon import Lexicon


def ranges(start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (owner, index): for each i the indices start[i], start[i] + 1, ..., count[i] of them."""
    owner = np.repeat(np.arange(len(count)), count)
    first = np.cumsum(count) - count
    return owner, np.arange(len(owner)) - first[owner] + start[owner]


def entropy_terms(p: np.ndarray) -> np.ndarray:
    """Return -p log2 p, 0 at 0."""
    safe = np.where(p > 0, p, 1.0)
    return -p * np.log2(safe)


@dataclass(eq=False)
class States:
    """Some prefixes of one length.

    Attributes
    ----------
    count
        Number of states.
    state, node : [particles]
        Which state a particle belongs to (rising) and where it is.
    weight : [particles]
        Posterior; sums to 1 over each state.
    cluster, number, tense : [particles, longest sentence] int8
        What the words so far were.
    """

    count: int
    state: np.ndarray
    node: np.ndarray
    weight: np.ndarray
    cluster: np.ndarray
    number: np.ndarray
    tense: np.ndarray


@dataclass(eq=False)
class Pairs:
    """All continuations of some states: one row for each particle and child of its node, ordered by state.

    Attributes
    ----------
    particle, state, node : [pairs]
        The particle, its state, and the child.
    weight : [pairs]
        p(child | prefix); with `end` it sums to 1 over each state.
    row, cell_row : [pairs]
        Rows of the trie's cluster and cell tables.
    end : [states]
        p(end of sentence | prefix).
    """

    particle: np.ndarray
    state: np.ndarray
    node: np.ndarray
    weight: np.ndarray
    row: np.ndarray
    cell_row: np.ndarray
    end: np.ndarray


@dataclass(frozen=True, eq=False)
class Law:
    """Entropies of the next-token laws of some states, in bits.

    Attributes
    ----------
    entropy, structural : [states]
        Of the next token, and of its category (the end of sentence counts as one).
    """

    entropy: np.ndarray
    structural: np.ndarray


@dataclass(eq=False)
class Filter:
    """Advances states through a trie."""

    trie: Trie

    @property
    def lexicon(self) -> Lexicon:
        """Return the grammar's lexicon."""
        return self.trie.program.lexicon

    # ---- tables ----
    @cached_property
    def longest(self) -> int:
        """Return the number of words of the longest sentence."""
        return int(self.trie.depth.max())

    @cached_property
    def class_base(self) -> np.ndarray:
        """Return [categories + 1]: first class of each category; class = base + cluster * cells + cell."""
        lexicon = self.lexicon
        return np.concatenate([[0], np.cumsum(lexicon.num_clusters * lexicon.num_cells)])

    @cached_property
    def entry_class(self) -> np.ndarray:
        """Return [entries]: the class of each entry."""
        lexicon = self.lexicon
        category = lexicon.entry_category
        cell = lexicon.cells[category, lexicon.entry_cell]
        return self.class_base[category] + lexicon.word_cluster[lexicon.entry_word] * lexicon.num_cells[category] + cell

    @cached_property
    def entry_probability(self) -> np.ndarray:
        """Return [entries]: p(entry | class)."""
        return self.lexicon.word_conditional[self.lexicon.entry_word]

    @cached_property
    def token_entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return [vocabulary] first and second entry of each token; second is -1 except for homographs."""
        table = np.sort(np.where(self.lexicon.entry_of >= 0, self.lexicon.entry_of, -1), axis=0)
        return table[-1], table[-2] if len(table) > 1 else np.full(table.shape[1], -1)

    @cached_property
    def token_key(self) -> np.ndarray:
        """Return [vocabulary]: tokens with one key change a state in the same way."""
        first, second = self.token_entries
        return np.where(second < 0, self.entry_class[first], self.class_base[-1] + np.arange(len(first)))

    @cached_property
    def num_keys(self) -> int:
        """Return an upper bound of the keys."""
        return int(self.class_base[-1]) + len(self.lexicon.vocabulary)

    @cached_property
    def token_scale(self) -> np.ndarray:
        """Return [vocabulary]: p(token | class); 1 for homographs, whose key is their own."""
        first, second = self.token_entries
        return np.where(second < 0, self.entry_probability[first], 1.0)

    @cached_property
    def word_entropy(self) -> np.ndarray:
        """Return [categories, clusters]: entropy of the word given category and cluster, in bits."""
        lexicon = self.lexicon
        result = np.zeros(lexicon.mass.shape)
        np.add.at(result, (lexicon.word_category, lexicon.word_cluster), entropy_terms(lexicon.word_conditional))
        return result

    @cached_property
    def row_entropy(self) -> np.ndarray:
        """Return [rows]: entropy of the cluster."""
        return entropy_terms(self.trie.rows).sum(axis=1)

    @cached_property
    def cell_entropy(self) -> np.ndarray:
        """Return [cell rows]: entropy of the cell."""
        return entropy_terms(self.trie.cells).sum(axis=1)

    @cached_property
    def row_words(self) -> np.ndarray:
        """Return [rows]: expected entropy of the word given its cluster. A row serves one category only."""
        category = np.zeros(len(self.trie.rows), np.int64)
        sizes = np.ones(len(self.trie.depth), np.int64)
        for m in range(self.trie.stride.shape[1]):
            sizes = np.maximum(sizes, self.trie.stride[:, m] * self.lexicon.mass.shape[1])
        order = np.argsort(self.trie.row_base, kind="stable")
        for node in order[self.trie.depth[order] > 0]:
            base = self.trie.row_base[node]
            category[base : base + sizes[node]] = self.trie.category[node]
        return (self.trie.rows * self.word_entropy[category]).sum(axis=1)

    @cached_property
    def _cell_features(self) -> tuple[np.ndarray, np.ndarray]:
        """Return [entries] number and tense shown by each entry, 0 where none."""
        lexicon = self.lexicon
        cells = [CATEGORIES[lexicon.categories[c]].cells[i] for c, i in zip(lexicon.entry_category, lexicon.entry_cell)]
        number = np.array([max(cell.number, 0) for cell in cells], np.int8)
        return number, np.array([max(cell.tense, 0) for cell in cells], np.int8)

    # ---- steps ----
    def start(self) -> States:
        """Return the one state of the empty prefix."""
        empty = np.zeros((1, self.longest), np.int8)
        return States(1, np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1), empty, empty, empty)

    def pairs(self, states: States) -> Pairs:
        """Return all continuations."""
        trie = self.trie
        particle, child = ranges(trie.child_start[states.node], trie.child_count[states.node])
        row = trie.row_base[child]
        for m in range(trie.stride.shape[1]):
            row = row + trie.stride[child, m] * states.cluster[particle, trie.position[child, m]]
        number = states.number[particle, trie.number_from[child]].astype(np.int64)
        tense = states.tense[particle, trie.tense_from[child]]
        end = np.bincount(states.state, states.weight * self._end_share[states.node], minlength=states.count)
        return Pairs(
            particle=particle,
            state=states.state[particle],
            node=child,
            weight=states.weight[particle] * self._share[child],
            row=row,
            cell_row=trie.cell_base[child] + 2 * number + tense,
            end=end,
        )

    @cached_property
    def _share(self) -> np.ndarray:
        return self.trie.share

    @cached_property
    def _end_share(self) -> np.ndarray:
        return self.trie.end_share

    def advance(self, states: States, pairs: Pairs, at: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, States]:
        """Read one token in some states.

        Parameters
        ----------
        at, token : [moves]
            State and token id of each move.

        Returns
        -------
        probability : [moves]
            p(token | prefix), 0 where the token is impossible.
        states
            One new state per move; those of impossible moves have no particles.
        """
        trie, lexicon = self.trie, self.lexicon
        bounds = np.searchsorted(pairs.state, np.arange(states.count + 1))
        move, pair = ranges(bounds[at], bounds[at + 1] - bounds[at])
        entry = lexicon.entry_of[trie.category[pairs.node[pair]], token[move]]
        keep = np.flatnonzero(entry >= 0)
        move, pair, entry = move[keep], pair[keep], entry[keep]
        cluster = lexicon.word_cluster[lexicon.entry_word[entry]]
        cell = lexicon.cells[trie.category[pairs.node[pair]], lexicon.entry_cell[entry]]
        weight = pairs.weight[pair] * trie.rows[pairs.row[pair], cluster] * trie.cells[pairs.cell_row[pair], cell]
        weight *= self.entry_probability[entry]
        keep = np.flatnonzero(weight > 0)
        move, pair, entry, cluster, weight = move[keep], pair[keep], entry[keep], cluster[keep], weight[keep]
        probability = np.bincount(move, weight, minlength=len(at))
        particle, node = pairs.particle[pair], pairs.node[pair]
        position = trie.depth[node] - 1
        new = np.arange(len(node))
        clusters, numbers, tenses = states.cluster[particle], states.number[particle], states.tense[particle]
        number, tense = self._cell_features
        clusters[new, position] = cluster
        numbers[new, position] = number[entry]
        tenses[new, position] = tense[entry]
        return probability, States(len(at), move, node, weight / probability[move], clusters, numbers, tenses)

    # ---- laws ----
    def classes(self, pairs: Pairs) -> np.ndarray:
        """Return [states, classes]: p(class of the next word | prefix)."""
        lexicon, trie = self.lexicon, self.trie
        num_classes = int(self.class_base[-1])
        category = trie.category[pairs.node]
        result = np.zeros(len(pairs.end) * num_classes)
        for c in np.unique(category):
            some = np.flatnonzero(category == c)
            k, cells = int(lexicon.num_clusters[c]), int(lexicon.num_cells[c])
            block = trie.rows[pairs.row[some], :k, None] * trie.cells[pairs.cell_row[some], None, :cells]
            block *= pairs.weight[some, None, None]
            first = pairs.state[some] * num_classes + self.class_base[c]
            where = first[:, None] + np.arange(k * cells)
            if np.all(np.diff(pairs.state[some]) > 0):
                result[where] = block.reshape(len(some), -1)
            else:
                np.add.at(result, where, block.reshape(len(some), -1))
        return result.reshape(len(pairs.end), num_classes)

    def tokens(self, classes: np.ndarray) -> np.ndarray:
        """Return [states, vocabulary]: p(token | prefix) from the laws of classes."""
        first, second = self.token_entries
        law = np.take(classes, self.entry_class[first], axis=1)
        law *= self.entry_probability[first]
        twice = np.flatnonzero(second >= 0)
        if len(twice):
            other = second[twice]
            law[:, twice] += classes[:, self.entry_class[other]] * self.entry_probability[other]
        return law

    def law(self, pairs: Pairs) -> Law:
        """Return the entropies of the next token.

        H(token) = H(category) + sum over categories of p(category) H(token | category), less what homographs merge.
        """
        trie, num_states = self.trie, len(pairs.end)
        key = pairs.state * len(self.class_base) + trie.category[pairs.node]
        order = np.argsort(key, kind="stable")
        sorted_key = key[order]
        first = np.flatnonzero(np.concatenate([[True], sorted_key[1:] != sorted_key[:-1]])) if len(key) else order
        size = np.diff(np.append(first, len(order)))
        weight = pairs.weight[order]
        share = np.add.reduceat(weight, first) if len(first) else np.zeros(0)
        state, lead = pairs.state[order[first]], order[first]
        structural = np.bincount(state, entropy_terms(share), minlength=num_states) + entropy_terms(pairs.end)
        inner = (
            self.row_entropy[pairs.row[lead]]
            + self.row_words[pairs.row[lead]]
            + self.cell_entropy[pairs.cell_row[lead]]
        )
        mixed = np.flatnonzero(size > 1)
        if len(mixed):
            inner[mixed] = self._mixture(pairs, order, first[mixed], size[mixed], share[mixed])
        entropy = structural + np.bincount(state, share * inner, minlength=num_states)
        if self.lexicon.homographs:
            entropy -= self._merged(pairs)
        return Law(entropy, structural)

    def _mixture(
        self, pairs: Pairs, order: np.ndarray, first: np.ndarray, size: np.ndarray, share: np.ndarray
    ) -> np.ndarray:
        """Return [groups]: entropy of the token given its category where several nodes share the category."""
        group, index = ranges(first, size)
        pair = order[index]
        weight = pairs.weight[pair] / share[group]
        rows, cells = self.trie.rows[pairs.row[pair]], self.trie.cells[pairs.cell_row[pair]]
        block = (rows * weight[:, None])[:, :, None] * cells[:, None, :]
        joint = np.add.reduceat(block.reshape(len(pair), -1), np.cumsum(size) - size, axis=0)
        clusters = joint.reshape(len(first), rows.shape[1], cells.shape[1]).sum(axis=2)
        words = self.word_entropy[self.trie.category[pairs.node[order[first]]]]
        return entropy_terms(joint).sum(axis=1) + (clusters * words).sum(axis=1)

    def _merged(self, pairs: Pairs) -> np.ndarray:
        """Return [states]: the entropy lost because homographs are one token."""
        first, second = self.token_entries
        twice = np.flatnonzero(second >= 0)
        a, b = first[twice], second[twice]
        class_a, class_b = self.entry_class[a], self.entry_class[b]
        word_a, word_b = self.entry_probability[a], self.entry_probability[b]
        lost = np.zeros(len(pairs.end))
        for start, some in _blocks(pairs, 2048):
            classes = self.classes(some)
            possible = classes > 0
            state, pair = np.nonzero(np.take(possible, class_a, axis=1) & np.take(possible, class_b, axis=1))
            p, q = classes[state, class_a[pair]] * word_a[pair], classes[state, class_b[pair]] * word_b[pair]
            terms = entropy_terms(p) + entropy_terms(q) - entropy_terms(p + q)
            lost[start : start + len(some.end)] = np.bincount(state, terms, minlength=len(some.end))
        return lost


def _blocks(pairs: Pairs, size: int) -> Iterator[tuple[int, Pairs]]:
    """Yield (first state, pairs of `size` states), to bound memory."""
    for start in range(0, len(pairs.end), size):
        low, high = np.searchsorted(pairs.state, [start, start + size])
        part = slice(low, high)
        yield (
            start,
            Pairs(
                pairs.particle[part],
                pairs.state[part] - start,
                pairs.node[part],
                pairs.weight[part],
                pairs.row[part],
                pairs.cell_row[part],
                pairs.end[start : start + size],
            ),
        )
