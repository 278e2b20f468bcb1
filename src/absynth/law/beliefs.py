"""What a prefix tells about the sentence, and the ceilings that follow: the best accuracy of any predictor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from absynth.errors import AbsynthError
from absynth.law.enumeration import enumerate_columns, language_size
from absynth.law.filtering import Pairs, States
from absynth.law.walk import CHUNK, ExactModel
from absynth.rules.categories import END
from absynth.sentences.columns import Columns
from absynth.sentences.sampling import draw

LAYERS = ("category", "upos", "role", "frame", "deprel", "predicate", "cluster")
SMALL_LANGUAGE = 20_000
"""Up to so many sentences a ceiling without a corpus is exact: the whole language is read."""


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Posteriors given a prefix; values with probability 0 are left out, "no label" is None.

    Attributes
    ----------
    construction, template
        Name -> probability.
    words
        For each word so far: layer ("category", "role", "frame", "cluster") -> value -> probability.
    next
        The same for the next token; its category may be "</s>", whose other layers are None.
    """

    construction: dict[str, float]
    template: dict[str, float]
    words: tuple[dict[str, dict[str | None, float]], ...]
    next: dict[str, dict[str | None, float]]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The best possible accuracy of predicting a label, over the words that have one.

    Attributes
    ----------
    prefix
        From the words up to and including the labelled one.
    sentence
        From the whole sentence.
    next
        From the words before it.
    majority
        Of always saying the most frequent label.
    prefix_stderr, sentence_stderr, next_stderr
        Standard errors over sentences; 0 where the whole language was read.
    num_sentences
        How many sentences it rests on.
    """

    layer: str
    prefix: float
    sentence: float
    next: float
    majority: float
    prefix_stderr: float
    sentence_stderr: float
    next_stderr: float
    num_sentences: int

    def __float__(self) -> float:
        return self.prefix


class LabelMix:
    """The law of one layer at the nodes of the trie."""

    def __init__(self, oracle: ExactModel, layer: str) -> None:
        if layer not in LAYERS:
            raise AbsynthError("layer", layer, f"one of {', '.join(LAYERS)}")
        self.layer = layer
        self.filter = oracle.filter
        self.trie = self.filter.trie
        self.lexicon = oracle.grammar.lexicon
        program = self.trie.program
        if layer == "cluster":
            self.names = tuple(f"c{k}" for k in range(self.lexicon.mass.shape[1]))
            self.labelled = self.lexicon.num_clusters > 1
            return
        values = [value for template in program.templates for value in template.labels[layer]]
        self.names = tuple(sorted({value for value in values if value is not None}))
        index: dict[str | None, int] = {name: i for i, name in enumerate(self.names)} | {None: len(self.names)}
        self.code = np.array([index[value] for value in values])
        # at[node] : law of the label of the node's last word, over the templates through the node; last column: none.
        count = np.diff(self.trie.templates_start)
        node = np.repeat(np.arange(len(count)), count)
        slot = program.start[self.trie.templates] + np.maximum(self.trie.depth[node] - 1, 0)
        self.at = np.zeros((len(count), len(self.names) + 1))
        np.add.at(self.at, (node, self.code[slot]), program.probability[self.trie.templates])
        self.at /= self.trie.mass[:, None]

    def last(self, states: States) -> np.ndarray:
        """Return [states, names + 1]: law of the label of the last word."""
        if self.layer == "cluster":
            depth = self.trie.depth[states.node] - 1
            return self._clusters(states, states.node, depth, states.weight)
        return _sum_rows(self.at[states.node] * states.weight[:, None], states.state, states.count)

    def next(self, pairs: Pairs) -> np.ndarray:
        """Return [states, names + 1]: law of the label of the next word; an end of sentence adds nothing."""
        count = len(pairs.end)
        if self.layer != "cluster":
            return _sum_rows(self.at[pairs.node] * pairs.weight[:, None], pairs.state, count)
        law = np.zeros((len(pairs.node), len(self.names) + 1))
        some = self.labelled[self.trie.category[pairs.node]]
        law[some, :-1] = self.trie.rows[pairs.row[some]]
        law[~some, -1] = 1.0
        return _sum_rows(law * pairs.weight[:, None], pairs.state, count)

    def at_end(self, states: States, weight: np.ndarray, position: int) -> np.ndarray:
        """Return [states, names + 1]: law of the label at a position, given that the sentence ends here.

        Parameters
        ----------
        weight : [particles]
            Posterior of each particle given the end; sums to 1 over a state that can end.
        """
        if self.layer == "cluster":
            node = states.node
            for _ in range(int(self.trie.depth[node].max(initial=0)) - position - 1):
                node = self.trie.parent[node]
            return self._clusters(states, node, np.full(len(node), position), weight)
        return _sum_rows(self._leaf(position)[states.node] * weight[:, None], states.state, states.count)

    def _leaf(self, position: int) -> np.ndarray:
        """Return [nodes, names + 1]: law of the label at a position over the templates that end at each node."""
        program, trie = self.trie.program, self.trie
        count = np.diff(trie.templates_start)
        node = np.repeat(np.arange(len(count)), count)
        ends = program.length[trie.templates] == trie.depth[node]
        ends &= trie.depth[node] > position
        node, template = node[ends], trie.templates[ends]
        law = np.zeros((len(count), len(self.names) + 1))
        np.add.at(law, (node, self.code[program.start[template] + position]), program.probability[template])
        return law / np.where(trie.end_mass > 0, trie.end_mass, 1.0)[:, None]

    def _clusters(self, states: States, node: np.ndarray, position: np.ndarray, weight: np.ndarray) -> np.ndarray:
        cluster = states.cluster[np.arange(len(node)), position].astype(np.int64)
        value = np.where(self.labelled[self.trie.category[node]], cluster, len(self.names))
        width = len(self.names) + 1
        flat = np.bincount(states.state * width + value, weight, minlength=states.count * width)
        return flat.reshape(states.count, width)


def _sum_rows(rows: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Return [count, columns]: sums of the rows of each owner; owners are rising."""
    result = np.zeros((count, rows.shape[1]))
    if len(owner):
        first = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
        result[owner[first]] = np.add.reduceat(rows, first, axis=0)
    return result


def template_posterior(oracle: ExactModel, states: States) -> dict[tuple[int, int], float]:
    """Return (particle, template) -> posterior of a single state."""
    trie = oracle.filter.trie
    result = {}
    for particle, (node, weight) in enumerate(zip(states.node, states.weight)):
        for template in trie.through(int(node)):
            result[particle, int(template)] = float(weight * trie.program.probability[template] / trie.mass[node])
    return result


def beliefs(oracle: ExactModel, prefix: Sequence[str]) -> Beliefs:
    """Return the posterior over construction, and over category, role, frame and cluster of each word and of the next.

    Parameters
    ----------
    prefix
        Words; the empty prefix gives the prior.

    Raises
    ------
    AbsynthError
        For a prefix outside the language.
    """
    states, pairs = oracle.after(prefix)
    trie, program, lexicon = oracle.filter.trie, oracle.grammar.program, oracle.grammar.lexicon
    posterior = template_posterior(oracle, states)
    construction: dict[str, float] = {}
    by_template: dict[str, float] = {}
    length = int(trie.depth[states.node[0]])
    words: list[dict[str, dict[str | None, float]]] = [
        {"category": {}, "role": {}, "frame": {}, "cluster": {}} for _ in range(length)
    ]
    for (particle, t), p in posterior.items():
        template = program.templates[t]
        _add(construction, template.construction, p)
        _add(by_template, template.name, p)
        for i, word in enumerate(words):
            for layer in ("category", "role", "frame"):
                _add(word[layer], template.labels[layer][i], p)
            category = program.category[program.start[t] + i]
            has = lexicon.num_clusters[category] > 1
            _add(word["cluster"], f"c{states.cluster[particle, i]}" if has else None, p)
    upcoming: dict[str, dict[str | None, float]] = {}
    end = float(pairs.end[0])
    for layer in ("category", "role", "frame", "cluster"):
        mix = LabelMix(oracle, layer)
        law = mix.next(pairs)[0]
        upcoming[layer] = {name: float(p) for name, p in zip((*mix.names, None), law) if p > 0}
        if end > 0:
            _add(upcoming[layer], END if layer == "category" else None, end)
    return Beliefs(construction, by_template, tuple(words), upcoming)


def _add(table: dict, key: object, p: float) -> None:
    if p > 0:
        table[key] = table.get(key, 0.0) + p


def construction_beliefs(oracle: ExactModel, sentences: Columns | Sequence[Sequence[str]]) -> np.ndarray:
    """Return [words, constructions] float64: p(construction | words up to and including this one), in
    `Grammar.constructions` order; zero rows after an impossible word.
    """
    trie, grammar = oracle.filter.trie, oracle.grammar
    index = {name: i for i, name in enumerate(grammar.constructions)}
    of_template = np.array([index[template.construction] for template in grammar.templates])
    node = np.repeat(np.arange(len(trie.depth)), np.diff(trie.templates_start))
    mix = np.zeros((len(trie.depth), len(index)))
    np.add.at(mix, (node, of_template[trie.templates]), trie.program.probability[trie.templates])
    mix /= trie.mass[:, None]
    ids, offsets = oracle.encode(sentences)
    result = np.zeros((int(offsets[-1]), len(index)))
    for start in range(0, len(offsets) - 1, CHUNK):
        some = offsets[start : start + CHUNK + 1]
        for step in oracle.walk(ids[some[0] : some[-1]], some - some[0]):
            if step.depth:
                law = _sum_rows(
                    mix[step.states.node] * step.states.weight[:, None], step.states.state, step.states.count
                )
                result[some[:-1][step.sentence] + step.depth - 1] = law[step.state]
    return result


def ceiling(
    oracle: ExactModel, layer: str, corpus: Columns | None = None, weights: np.ndarray | None = None
) -> Ceiling:
    """Return the best possible accuracy of predicting an annotation layer.

    The best predictor says the most probable label, so its accuracy over the words that have a label is
    E[sum over words of max over labels r of p(r | what is seen)] / E[number of words with a label]. Posteriors are
    exact; the expectation runs over the sentences of `corpus`, or over the whole language where it is small.

    Parameters
    ----------
    layer
        One of category, upos, role, frame, deprel, predicate, cluster.
    corpus
        Sentences of the grammar to average over; default: the whole language up to 20,000 sentences, else 10,000
        sampled ones.
    weights : [sentences], optional
        Probability of each sentence of `corpus`, when it lists the language.
    """
    if corpus is None:
        corpus, weights = _default_corpus(oracle)
    mix = LabelMix(oracle, layer)
    n = len(corpus)
    if n == 0:
        raise AbsynthError("corpus", "no sentences", "at least one sentence")
    found = np.zeros((n, 6))  # prefix, sentence, next: best and evidence
    label_mass = np.zeros(len(mix.names))
    ids, offsets = oracle.encode(corpus)
    lengths = np.diff(offsets)
    share = np.full(n, 1.0 / n) if weights is None else weights / weights.sum()
    for step in oracle.walk(ids, offsets):
        if step.depth:
            law = mix.last(step.states)[:, :-1]
            found[step.sentence, 0] += law.max(axis=1)[step.state]
            found[step.sentence, 1] += law.sum(axis=1)[step.state]
            label_mass += share[step.sentence] @ law[step.state]
        law = mix.next(step.pairs)[:, :-1]
        found[step.sentence, 4] += law.max(axis=1)[step.state]
        found[step.sentence, 5] += law.sum(axis=1)[step.state]
        ending = np.flatnonzero(lengths[step.sentence] == step.depth)
        if len(ending):
            states = step.states
            weight = states.weight * oracle.filter.trie.end_share[states.node]
            total = np.bincount(states.state, weight, minlength=states.count)
            weight /= np.where(total > 0, total, 1.0)[states.state]
            for position in range(step.depth):
                law = mix.at_end(states, weight, position)[:, :-1]
                found[step.sentence[ending], 2] += law.max(axis=1)[step.state[ending]]
                found[step.sentence[ending], 3] += law.sum(axis=1)[step.state[ending]]
    values = [_ratio(found[:, 2 * i], found[:, 2 * i + 1], share, weights is not None) for i in range(3)]
    return Ceiling(
        layer=layer,
        prefix=values[0][0],
        sentence=values[1][0],
        next=values[2][0],
        majority=float(label_mass.max() / label_mass.sum()),
        prefix_stderr=values[0][1],
        sentence_stderr=values[1][1],
        next_stderr=values[2][1],
        num_sentences=n,
    )


def _ratio(best: np.ndarray, evidence: np.ndarray, share: np.ndarray, exact: bool) -> tuple[float, float]:
    """Return a ratio of means and its standard error (delta method over sentences)."""
    mean = float(share @ evidence)
    if mean <= 0:
        raise AbsynthError("layer", "no labels", "a layer that some word of the sentences has")
    value = float(share @ best) / mean
    if exact or len(best) < 2:
        return value, 0.0 if exact else math.nan
    residual = best - value * evidence
    return value, float(residual.std(ddof=1) / math.sqrt(len(best)) / mean)


def _default_corpus(oracle: ExactModel) -> tuple[Columns, np.ndarray | None]:
    if language_size(oracle.grammar) <= SMALL_LANGUAGE:
        return enumerate_columns(oracle.grammar)
    return draw(oracle.grammar, 10_000, seed=0), None
