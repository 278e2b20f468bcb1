"""The lexicon: words with Zipf-Mandelbrot frequencies, clusters, paradigms and surface forms, all as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from absynth.errors import AbsynthError
from absynth.rules.categories import CATEGORIES, NUMBERS, TENSES
from absynth.rules.surface import spell

REFERENCE_LAW = (1.05, 2.7)
"""Clusters are dealt under this law, whatever the grammar's own exponent, so that changing it moves no word."""


@dataclass(frozen=True, slots=True)
class Zipf:
    """p(rank i) proportional to (i + q)^-alpha, i = 1, 2, ... (Zipf-Mandelbrot, truncated and normalised exactly)."""

    alpha: float = 1.05
    q: float = 2.7

    def probabilities(self, size: int) -> np.ndarray:
        """Return the probabilities of ranks 1 to `size`: [size] float64."""
        logs = -self.alpha * np.log(np.arange(1, size + 1) + self.q)
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Words and forms as arrays. An *entry* is one form of one word; a *class* is (category, cluster, cell).

    Attributes
    ----------
    categories
        Names of the categories in use; every `category` below indexes it.
    num_words, num_clusters : [categories]
        Sizes.
    word_base : [categories]
        First word of each category; words of a category are consecutive.
    word_rank, word_cluster : [words]
        Zipf rank (1 is the most frequent) within the category, and semantic cluster.
    word_probability : [words]
        p(word | category).
    word_conditional : [words]
        p(word | category, cluster).
    mass : [categories, largest number of clusters]
        p(cluster | category), zero where a category has fewer.
    cells : [categories, largest paradigm]
        Position of each cell among the category's cells in use; -1 where no construction asks for it.
    num_cells : [categories]
        Number of cells in use.
    entry_base : [categories]
        First entry of each category; entry = entry_base + word within category * num_cells + position of the cell.
    entry_word, entry_cell, entry_token : [entries]
        The word (global index), cell of the paradigm and vocabulary id of each entry.
    entry_of : [categories, vocabulary]
        The entry that a token is in a category, -1 where it is none.
    vocabulary
        Surface forms; the index is the token id.
    lemmas : [words]
        Citation form of each word.
    """

    categories: tuple[str, ...]
    num_words: np.ndarray
    num_clusters: np.ndarray
    word_base: np.ndarray
    word_category: np.ndarray
    word_rank: np.ndarray
    word_cluster: np.ndarray
    word_probability: np.ndarray
    word_conditional: np.ndarray
    mass: np.ndarray
    cells: np.ndarray
    num_cells: np.ndarray
    entry_base: np.ndarray
    entry_word: np.ndarray
    entry_cell: np.ndarray
    entry_token: np.ndarray
    entry_of: np.ndarray
    vocabulary: tuple[str, ...]
    lemmas: tuple[str, ...]

    @property
    def entry_category(self) -> np.ndarray:
        """Return [entries]: index into `categories`."""
        return self.word_category[self.entry_word]

    @cached_property
    def entry_labels(self) -> list[tuple[str, str, str | None, str | None, str | None, str, str | None]]:
        """Return for each entry: form, tag, features, number, tense, lemma, cluster; None where there is none."""
        rows = []
        for token, word, i in zip(self.entry_token.tolist(), self.entry_word.tolist(), self.entry_cell.tolist()):
            c = int(self.word_category[word])
            cell = CATEGORIES[self.categories[c]].cells[i]
            rows.append(
                (
                    self.vocabulary[token],
                    cell.xpos,
                    None if cell.feats == "_" else cell.feats,
                    NUMBERS[cell.number] if cell.number >= 0 else None,
                    TENSES[cell.tense] if cell.tense >= 0 else None,
                    self.lemmas[word],
                    f"c{self.word_cluster[word]}" if self.num_clusters[c] > 1 else None,
                )
            )
        return rows

    @property
    def homographs(self) -> int:
        """Return how many surface forms belong to two categories."""
        return len(self.entry_token) - len(self.vocabulary)


def deal_clusters(size: int, num_clusters: int) -> np.ndarray:
    """Deal ranks 1..size to clusters of nearly equal mass, each to the lightest cluster so far: [size] int64."""
    weights = Zipf(*REFERENCE_LAW).probabilities(size)
    loads = np.zeros(num_clusters)
    cluster = np.empty(size, np.int64)
    for rank in range(size):
        cluster[rank] = int(np.argmin(loads))
        loads[cluster[rank]] += weights[rank]
    return cluster


def build_lexicon(
    used: Mapping[str, set[str]],
    sizes: Mapping[str, int],
    laws: Mapping[str, Zipf],
    clusters: Mapping[str, int],
    ambiguity: float,
    surface: str,
    seed: int,
) -> Lexicon:
    """Build the lexicon of the categories in `used` (category -> form groups that some construction asks for)."""
    names = tuple(name for name in CATEGORIES if name in used)
    widest = max(len(CATEGORIES[name].cells) for name in names)
    num_words = np.array([sizes[name] for name in names], np.int64)
    num_clusters = np.array([min(clusters[name], sizes[name]) if CATEGORIES[name].open_class else 1 for name in names])
    word_base = np.concatenate([[0], np.cumsum(num_words)[:-1]])
    word_category = np.repeat(np.arange(len(names)), num_words)
    rank = np.empty(num_words.sum(), np.int64)
    cluster = np.empty_like(rank)
    probability = np.empty(len(rank))
    mass = np.zeros((len(names), int(num_clusters.max())))
    cells = np.full((len(names), widest), -1, np.int64)
    for c, name in enumerate(names):
        n, base = int(num_words[c]), int(word_base[c])
        # One stream per category: a category's ranks do not depend on the sizes of the others.
        stream = np.random.default_rng([seed, 1, list(CATEGORIES).index(name)])
        order = stream.permutation(n)
        rank[base + order] = np.arange(1, n + 1)
        by_rank = deal_clusters(n, int(num_clusters[c]))
        law = laws[name].probabilities(n)
        cluster[base : base + n] = by_rank[rank[base : base + n] - 1]
        probability[base : base + n] = law[rank[base : base + n] - 1]
        mass[c, : num_clusters[c]] = np.bincount(by_rank, law, minlength=int(num_clusters[c]))
        position = 0
        for i, cell in enumerate(CATEGORIES[name].cells):
            if cell.group in used[name]:
                cells[c, i] = position
                position += 1
    num_cells = (cells >= 0).sum(axis=1)
    conditional = probability / mass[word_category, cluster]
    entry_base = np.concatenate([[0], np.cumsum(num_words * num_cells)[:-1]])
    entry_word = np.repeat(np.arange(len(rank)), num_cells[word_category])
    entry_cell = np.concatenate([np.tile(np.flatnonzero(cells[c] >= 0), num_words[c]) for c in range(len(names))])
    vocabulary, entry_token, lemmas = spell(
        names, num_words, word_category, entry_word, entry_cell, ambiguity, surface, seed
    )
    entry_of = np.full((len(names), len(vocabulary)), -1, np.int32)
    entry_of[word_category[entry_word], entry_token] = np.arange(len(entry_word))
    return Lexicon(
        names,
        num_words,
        num_clusters,
        word_base,
        word_category,
        rank,
        cluster,
        probability,
        conditional,
        mass,
        cells,
        num_cells,
        entry_base,
        entry_word,
        entry_cell,
        entry_token,
        entry_of,
        vocabulary,
        lemmas,
    )


def check_sizes(sizes: Mapping[str, int], used: Mapping[str, set[str]]) -> dict[str, int]:
    """Return a size for every category in use, or raise; markers and the copula are one word each."""
    checked: dict[str, int] = {}
    if not isinstance(sizes, Mapping):
        raise AbsynthError("sizes", sizes, "a table of categories and numbers of words")
    for name, size in sizes.items():
        if name not in CATEGORIES:
            raise AbsynthError(f"sizes.{name}", name, f"a category: {', '.join(CATEGORIES)}")
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1_000_000:
            raise AbsynthError(f"sizes.{name}", size, "a whole number from 1 to 1,000,000")
        if name.startswith("marker.") and size != 1:
            raise AbsynthError(f"sizes.{name}", size, "1: a marker is one function word")
    for name in used:
        single = name.startswith("marker.") or name == "copula"
        if name not in sizes and not single:
            raise AbsynthError(f"sizes.{name}", None, "a number of words: some construction uses this category")
        checked[name] = sizes.get(name, 1)
    return checked
