"""Parsing: the derivations of a string, or a typed reason why it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from absynth.errors import AbsynthError
from absynth.law.explanations import Diagnosis, grounds_of, selection_log_odds, selectional
from absynth.law.walk import ExactModel, words_of
from absynth.sentences.sentence import Derivation, Sentence


@dataclass(frozen=True, slots=True)
class ParsedSentence:
    """One derivation of a string: its posterior probability and the annotated sentence."""

    probability: float
    sentence: Sentence


@dataclass(frozen=True, slots=True)
class Parse:
    """What `Oracle.parse` found.

    Attributes
    ----------
    derivations
        Most probable first; empty outside the language.
    log2_probability
        Of the string; -inf outside the language.
    diagnosis
        None for a sentence of the language (unless a selection falls under the threshold).
    """

    derivations: tuple[ParsedSentence, ...]
    log2_probability: float
    diagnosis: Diagnosis | None

    @property
    def accepted(self) -> bool:
        """Return whether the string is a sentence."""
        return self.diagnosis is None

    def __bool__(self) -> bool:
        return self.accepted


def parse(oracle: ExactModel, tokens: Sequence[str] | str, threshold: float | None = None) -> Parse:
    """Return the derivations of a string with their probabilities, or a diagnosis.

    Parameters
    ----------
    tokens
        Words, or one string with blanks between them.
    threshold
        In bits: a sentence whose every derivation ties two clusters with log-odds under it is diagnosed as a
        selectional violation. None accepts everything that has a probability above 0.
    """
    words = words_of(tokens)
    ids, offsets = oracle.encode([words])
    unknown = np.flatnonzero(ids < 0)
    if len(unknown):
        at = int(unknown[0])
        return Parse(
            (), -np.inf, Diagnosis("unknown word", at, f"word {at + 1}, {words[at]!r}, is not in the vocabulary")
        )
    probability, last = 0.0, None
    total = 0.0
    depth_reached = 0
    for step in oracle.walk(ids, offsets):
        last = step
        depth_reached = step.depth
        probability = float(step.probability[0])
        total += np.log2(probability) if probability > 0 else -np.inf
    if last is None:
        raise AbsynthError("tokens", tokens, "a sequence of words")
    if depth_reached == len(words) and probability > 0:
        derivations = tuple(_derivations(oracle, last.states, ids))
        diagnosis = None
        if threshold is not None:
            diagnosis = _weak_selection(oracle, derivations, threshold, words)
        return Parse(tuple(ParsedSentence(p, d.render()) for p, d in derivations), float(total), diagnosis)
    return Parse((), -np.inf, grounds_of(oracle).diagnose(words, ids, depth_reached))


def _derivations(oracle: ExactModel, states, ids: np.ndarray) -> list[tuple[float, Derivation]]:
    trie, lexicon, program = oracle.filter.trie, oracle.grammar.lexicon, oracle.grammar.program
    weight = states.weight * trie.end_share[states.node]
    weight = weight / weight.sum()
    found = []
    for node, p in zip(states.node, weight):
        if p <= 0:
            continue
        through = trie.through(int(node))
        for t in through[program.length[through] == len(ids)]:
            part = slice(int(program.start[t]), int(program.start[t]) + len(ids))
            entries = lexicon.entry_of[program.category[part], ids]
            share = float(p * program.probability[t] / trie.end_mass[node])
            found.append((share, Derivation(program.templates[t], tuple(entries.tolist()), lexicon)))
    return sorted(found, key=lambda item: (-item[0], item[1].template.name))


def _weak_selection(
    oracle: ExactModel, derivations: Sequence[tuple[float, Derivation]], threshold: float, words: Sequence[str]
) -> Diagnosis | None:
    first: Diagnosis | None = None
    for _, derivation in derivations:
        weak = [x for x in selection_log_odds(oracle, derivation.template, derivation.entries) if x[2] < threshold]
        if not weak:
            return None
        i, head, odds = min(weak, key=lambda x: max(x[0], x[1]))
        if first is None:
            first = selectional(i, head, odds, words)
    return first
