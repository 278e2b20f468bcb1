"""`ExactModel`: the walk over sentences, word by word, and the probabilities and entropies that it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from absynth.errors import AbsynthError
from absynth.law.filtering import Filter, Pairs, States
from absynth.law.trie import build_trie
from absynth.rules.categories import END
from absynth.rules.specification import Specification
from absynth.sentences.columns import Columns

CHUNK = 32_768
"""Sentences filtered at a time."""


@dataclass(frozen=True, eq=False)
class Score:
    """Per-token results of `ExactModel.score`, in bits; each sentence has one row per word and one for its end.

    Attributes
    ----------
    offsets : [sentences + 1]
        Where each sentence starts; sentence i has rows offsets[i] to offsets[i + 1].
    surprisal : [rows]
        -log2 p(token | prefix); infinite where the token is impossible, NaN after such a token.
    entropy : [rows]
        Entropy of the next-token law at that place; NaN after an impossible token.
    structural, lexical : [rows]
        entropy = structural + lexical; structural is the entropy of the next category (the end counts as one), lexical
        the rest: features, cluster and word given the category, less what homographs merge.
    """

    offsets: np.ndarray
    surprisal: np.ndarray
    entropy: np.ndarray
    structural: np.ndarray
    lexical: np.ndarray

    @property
    def log2_probability(self) -> np.ndarray:
        """Return [sentences]: log2 p(sentence), -inf outside the language."""
        total = np.add.reduceat(np.nan_to_num(self.surprisal, nan=0.0, posinf=np.inf), self.offsets[:-1])
        return -total if len(self.offsets) > 1 else np.zeros(0)


@dataclass(eq=False)
class Step:
    """One depth of a walk over sentences: the states before a word, and who is in them.

    Attributes
    ----------
    depth
        Number of words read.
    sentence : [active]
        Sentences that have been read this far without an impossible token.
    state : [active]
        Their states.
    states, pairs
        The states and their continuations.
    probability : [active]
        p(next token or end | prefix); set after the step.
    """

    depth: int
    sentence: np.ndarray
    state: np.ndarray
    states: States
    pairs: Pairs
    probability: np.ndarray


class ExactModel:
    """The language model that a grammar is: p(next token | prefix) for every prefix, exactly.

    Method: forward filtering over the prefix trie (`absynth.law.trie`); sums over unseen heads run over clusters, never
    over words. Cost: about one table look-up per word and continuation; prefixes are shared between sentences.

    Parameters
    ----------
    grammar
        The language.
    """

    def __init__(self, grammar: Specification) -> None:
        self.grammar = grammar

    @cached_property
    def filter(self) -> Filter:
        """Return the filter over the grammar's trie."""
        return Filter(build_trie(self.grammar.program))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Return the grammar's forms: the columns of a law, before the end of sentence."""
        return tuple(self.grammar.vocabulary)

    @cached_property
    def categories(self) -> tuple[str | None, ...]:
        """Return the category of every form of `vocabulary`; None for a form of several categories."""
        lexicon, found = self.grammar.lexicon, [set() for _ in self.grammar.vocabulary]
        for token, category in zip(lexicon.entry_token.tolist(), lexicon.entry_category.tolist(), strict=True):
            found[token].add(lexicon.categories[category])
        return tuple(next(iter(names)) if len(names) == 1 else None for names in found)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.grammar.vocabulary)}

    # ---- input ----
    def encode(self, sentences: Columns | Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids, offsets); words outside the vocabulary are -1."""
        if isinstance(sentences, Columns):
            if sentences.vocabulary == self.grammar.vocabulary:
                return sentences.ids, sentences.offsets
            table = np.array([self._index.get(token, -1) for token in sentences.vocabulary], np.int32)
            return table[sentences.ids], sentences.offsets
        rows = [words_of(sentence) for sentence in sentences]
        ids = np.array([self._index.get(token, -1) for row in rows for token in row], np.int32)
        return ids, np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])

    # ---- the walk ----
    def walk(self, ids: np.ndarray, offsets: np.ndarray) -> Iterator[Step]:
        """Read sentences word by word, all of them at once; yields one step per depth until all have ended."""
        filter_ = self.filter
        lengths = np.diff(offsets)
        states, sentence = filter_.start(), np.arange(len(lengths))
        state = np.zeros(len(lengths), np.int64)
        depth = 0
        while len(sentence):
            pairs = filter_.pairs(states)
            step = Step(depth, sentence, state, states, pairs, np.zeros(len(sentence)))
            ending = lengths[sentence] == depth
            step.probability[ending] = pairs.end[state[ending]]
            going = np.flatnonzero(~ending)
            token = ids[offsets[:-1][sentence[going]] + depth]
            known = np.flatnonzero(token >= 0)
            going, token = going[known], token[known]
            key = state[going] * filter_.num_keys + filter_.token_key[token]
            _, first, move = np.unique(key, return_index=True, return_inverse=True)
            probability, new = filter_.advance(states, pairs, state[going[first]], token[first])
            scale = filter_.token_scale[token] / filter_.token_scale[token[first]][move]
            step.probability[going] = probability[move] * scale
            yield step
            alive = np.flatnonzero(probability[move] > 0)
            sentence, state = sentence[going[alive]], move[alive]
            states = new
            depth += 1

    # ---- scores ----
    def score(self, sentences: Columns | Sequence[Sequence[str]]) -> Score:
        """Return exact surprisals and entropies.

        Parameters
        ----------
        sentences
            A corpus, or sequences of words.
        """
        ids, offsets = self.encode(sentences)
        parts = []
        for start in range(0, max(1, len(offsets) - 1), CHUNK):
            some = offsets[start : start + CHUNK + 1]
            parts.append(self._score(ids[some[0] : some[-1]], some - some[0]))
        surprisal, entropy, structural = (np.concatenate([part[i] for part in parts]) for i in range(3))
        rows = offsets + np.arange(len(offsets))
        return Score(rows, surprisal, entropy, structural, entropy - structural)

    def _score(self, ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = offsets + np.arange(len(offsets))
        surprisal, entropy, structural = (np.full(int(rows[-1]), np.nan) for _ in range(3))
        for step in self.walk(ids, offsets):
            law = self.filter.law(step.pairs)
            at = rows[step.sentence] + step.depth
            safe = np.where(step.probability > 0, step.probability, 1.0)
            surprisal[at] = np.where(step.probability > 0, -np.log2(safe), np.inf)
            entropy[at], structural[at] = law.entropy[step.state], law.structural[step.state]
        return surprisal, entropy, structural

    def log2_probability(self, sentences: Columns | Sequence[Sequence[str]]) -> np.ndarray:
        """Return [sentences]: log2 p(sentence), -inf outside the language."""
        ids, offsets = self.encode(sentences)
        total = np.full(len(offsets) - 1, -np.inf)
        for start in range(0, len(offsets) - 1, CHUNK):
            some = offsets[start : start + CHUNK + 1]
            lengths = np.diff(some)
            sums = np.zeros(len(lengths))
            for step in self.walk(ids[some[0] : some[-1]], some - some[0]):
                with np.errstate(divide="ignore"):
                    sums[step.sentence] += np.log2(step.probability)
                done = step.sentence[lengths[step.sentence] == step.depth]
                total[start + done] = sums[done]
        return total

    def laws(self, sentences: Columns | Sequence[Sequence[str]]) -> Iterator[np.ndarray]:
        """Yield the next-token laws of each sentence.

        Yields
        ------
        [words + 1, vocabulary + 1] float64
            Row t is the law after t words; columns are the vocabulary in order, then the end of sentence. Rows sum
            to 1, or to 0 after an impossible prefix.
        """
        ids, offsets = self.encode(sentences)
        width = len(self.grammar.vocabulary) + 1
        size = int(max(1, min(512, 100_000_000 // (width * 16 * 8))))
        for start in range(0, len(offsets) - 1, size):
            some = offsets[start : start + size + 1]
            rows = some - some[0] + np.arange(len(some))
            law = np.zeros((int(rows[-1]), width))
            for step in self.walk(ids[some[0] : some[-1]], some - some[0]):
                words = self.filter.tokens(self.filter.classes(step.pairs))
                at = rows[step.sentence] + step.depth
                law[at, :-1] = words[step.state]
                law[at, -1] = step.pairs.end[step.state]
            yield from np.split(law, rows[1:-1])

    def next_token(self, prefix: Sequence[str]) -> dict[str, float]:
        """Return p(token | prefix) for every vocabulary item and "</s>", which is the end of the sentence.

        Raises
        ------
        AbsynthError
            For a prefix outside the language: it has no next-token law.
        """
        _, pairs = self.after(prefix)
        law = self.filter.tokens(self.filter.classes(pairs))[0]
        result = {token: float(p) for token, p in zip(self.grammar.vocabulary, law)}
        return {**result, END: float(pairs.end[0])}

    def after(self, prefix: Sequence[str]) -> tuple[States, Pairs]:
        """Return the state after a prefix and its continuations.

        Raises
        ------
        AbsynthError
            For a prefix outside the language.
        """
        words = words_of(prefix)
        states = self.filter.start()
        pairs = self.filter.pairs(states)
        for i, word in enumerate(words):
            token = self._index.get(word, -1)
            if token < 0:
                raise AbsynthError("prefix", word, f"words of the grammar; word {i + 1} is not in its vocabulary")
            probability, states = self.filter.advance(states, pairs, np.zeros(1, np.int64), np.array([token]))
            if probability[0] <= 0:
                raise AbsynthError(
                    "prefix", " ".join(words[: i + 1]), f"a prefix of the language; word {i + 1} cannot stand here"
                )
            pairs = self.filter.pairs(states)
        return states, pairs


def words_of(sentence: Sequence[str] | str) -> list[str]:
    """Return the words of a string, a sequence, or an object with `.tokens`."""
    if isinstance(sentence, str):
        return sentence.split()
    return list(getattr(sentence, "tokens", sentence))
