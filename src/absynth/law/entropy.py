"""Entropy of a grammar: exact where derivations can be told apart, and solved for."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TypeVar

import numpy as np

from absynth.errors import AbsynthError
from absynth.law.filtering import entropy_terms
from absynth.law.walk import ExactModel
from absynth.rules.categories import CATEGORIES, END
from absynth.rules.lexicon import Zipf
from absynth.rules.specification import Specification
from absynth.sentences.sampling import draw

G = TypeVar("G", bound=Specification)

UNITS = {"bits": 1.0, "nats": math.log(2.0)}
DIALS = {"alpha": (0.0, 8.0), "strength": (0.0, 1.0)}


class EntropyRate(float):
    """Entropy per token, the end of sentence counted as a token: the loss floor of any model of the corpus.

    A number, with these attributes:

    Attributes
    ----------
    value, stderr
        The rate and its standard error: 0 where it is exact.
    unit
        "bits" or "nats".
    exact
        Whether no sampling was needed (no two derivations give one string).
    per_sentence
        Entropy of a whole sentence.
    tokens_per_sentence
        Expected number of words plus one.
    samples, seed
        Number of sentences behind the splits `by_category` and `by_position`, and their seed.
    """

    stderr: float
    unit: str
    exact: bool
    tokens_per_sentence: float
    samples: int
    seed: int

    def __new__(cls, value: float, **attributes: object) -> EntropyRate:
        """Make the number; the attributes are those of the class."""
        self = super().__new__(cls, value)
        self.__dict__.update(attributes)
        return self

    def __repr__(self) -> str:
        return f"EntropyRate({float(self):.6g} +- {self.stderr:.2g} {self.unit} per token)"

    @property
    def value(self) -> float:
        """Return the rate as a plain number."""
        return float(self)

    @property
    def per_sentence(self) -> float:
        """Return the entropy of a whole sentence."""
        return float(self) * self.tokens_per_sentence

    @property
    def by_category(self) -> dict[str, float]:
        """Return the mean surprisal of the tokens of each category ("</s>": of the ends), from sampled sentences."""
        return self._splits[0]

    @property
    def by_position(self) -> tuple[float, ...]:
        """Return the mean surprisal at each position, from the same sentences."""
        return self._splits[1]

    @cached_property
    def _splits(self) -> tuple[dict[str, float], tuple[float, ...]]:
        return _splits(self.__dict__["oracle"], self.samples, self.seed, UNITS[self.unit])


def tokens_per_sentence(grammar: Specification) -> float:
    """Return the expected number of words plus one."""
    program = grammar.program
    return float(program.probability @ program.length) + 1.0


def derivation_entropy(grammar: Specification) -> float:
    """Return the entropy of a derivation in bits, summed exactly over the tables.

    H(D) = H(template) + sum over templates of p * sum over slots of [H(cluster | parent's cluster) + H(word | cluster)
    + H(features)]. Marginals are fixed, so every slot's cluster has its category's law.
    """
    program, lexicon = grammar.program, grammar.lexicon
    words = np.zeros(lexicon.mass.shape)
    np.add.at(words, (lexicon.word_category, lexicon.word_cluster), entropy_terms(lexicon.word_conditional))
    expected_words = (lexicon.mass * words).sum(axis=1)
    row_entropy = entropy_terms(program.conditional).sum(axis=1)
    # The law of a slot is a block of rows, one per cluster of its parent (one row for roots).
    parents = np.where(
        program.parent >= 0,
        program.category[np.repeat(program.start, program.length) + np.maximum(program.parent, 0)],
        -1,
    )
    kinds, which = np.unique(np.stack([program.law, parents], axis=1), axis=0, return_inverse=True)
    of_kind = np.empty(len(kinds))
    for i, (law, parent) in enumerate(kinds):
        if parent < 0:
            of_kind[i] = row_entropy[law]
        else:
            k = int(lexicon.num_clusters[parent])
            of_kind[i] = float(lexicon.mass[parent, :k] @ row_entropy[law : law + k])
    per_slot = of_kind[which.ravel()] + expected_words[program.category]
    number, tense = _binary(program.plural), _binary(program.past)
    features = np.array([_variables(template.slots, number, tense) for template in program.templates])
    per_template = np.add.reduceat(per_slot, program.start) + features
    return float(entropy_terms(program.probability).sum() + program.probability @ per_template)


def _binary(p: float) -> float:
    return float(entropy_terms(np.array([p, 1.0 - p])).sum())


def _variables(slots: list, number: float, tense: float) -> float:
    """Return the entropy of the free feature variables that the forms of a template show."""

    def shown(slot: object, feature: str) -> bool:
        cells = [cell for cell in CATEGORIES[slot.category].cells if cell.group == slot.group]  # type: ignore[attr-defined]
        return getattr(cells[0], feature) >= 0

    numbers = {slot.number for slot in slots if slot.number >= 0 and shown(slot, "number")}
    tenses = {slot.tense for slot in slots if slot.tense >= 0 and shown(slot, "tense")}
    return number * len(numbers) + tense * len(tenses)


def is_unambiguous(grammar: Specification) -> bool:
    """Return whether every string has one derivation at most: no homographs, no two templates of one signature."""
    signatures = [template.signature() for template in grammar.templates if template.probability > 0]
    return grammar.lexicon.homographs == 0 and len(set(signatures)) == len(signatures)


def derivation_doubt(oracle: ExactModel, samples: int, seed: int) -> tuple[float, float]:
    """Return (mean, standard error) of H(derivation | string) in bits per sentence, from sampled sentences."""
    corpus = draw(oracle.grammar, samples, seed=seed)
    trie = oracle.filter.trie
    leaf = np.zeros(len(trie.depth))
    for node in np.flatnonzero(trie.end_mass > 0):
        through = trie.through(int(node))
        ends = through[trie.program.length[through] == trie.depth[node]]
        share = trie.program.probability[ends] / trie.end_mass[node]
        leaf[node] = entropy_terms(share).sum()
    doubt = np.zeros(len(corpus))
    for step in oracle.walk(corpus.ids, corpus.offsets):
        states = step.states
        weight = states.weight * trie.end_share[states.node]
        total = np.bincount(states.state, weight, minlength=states.count)
        share = weight / np.where(total > 0, total, 1.0)[states.state]
        entropy = np.bincount(states.state, entropy_terms(share) + share * leaf[states.node], minlength=states.count)
        done = corpus.lengths[step.sentence] == step.depth
        doubt[step.sentence[done]] = entropy[step.state[done]]
    return float(doubt.mean()), float(doubt.std(ddof=1) / math.sqrt(samples))


def entropy_rate(oracle: ExactModel, unit: str = "bits", samples: int = 10_000, seed: int = 0) -> EntropyRate:
    """Return the entropy per token, end of sentence included.

    H(string) = H(derivation) - H(derivation | string). The first is a finite sum over the tables; the second is 0 where
    derivations can be told apart (then the result is exact), and is estimated from sampled sentences elsewhere.

    Parameters
    ----------
    unit
        "bits" or "nats".
    samples, seed
        Sentences for the splits by category and position, and for H(derivation | string) where it is needed.
    """
    if unit not in UNITS:
        raise AbsynthError("unit", unit, f"one of {', '.join(UNITS)}")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise AbsynthError("samples", samples, "a whole number, 2 or more")
    grammar, factor = oracle.grammar, UNITS[unit]
    length = tokens_per_sentence(grammar)
    exact = is_unambiguous(grammar)
    doubt, stderr = (0.0, 0.0) if exact else derivation_doubt(oracle, samples, seed)
    total = derivation_entropy(grammar) - doubt
    return EntropyRate(
        total / length * factor,
        stderr=stderr / length * factor,
        unit=unit,
        exact=exact,
        tokens_per_sentence=length,
        samples=samples,
        seed=seed,
        oracle=oracle,
    )


def _splits(oracle: ExactModel, samples: int, seed: int, factor: float) -> tuple[dict[str, float], tuple[float, ...]]:
    corpus = draw(oracle.grammar, samples, seed=seed)
    score = oracle.score(corpus)
    codes, names = corpus.column("category")
    rows = np.delete(np.arange(len(score.surprisal)), score.offsets[1:] - 1)
    all_codes = np.full(len(score.surprisal), len(names))
    all_codes[rows] = codes
    count = np.bincount(all_codes, minlength=len(names) + 1)
    sums = np.bincount(all_codes, score.surprisal * factor, minlength=len(names) + 1)
    by_category = {name: float(s / n) for name, s, n in zip((*names, END), sums, count) if n}
    position = np.arange(len(score.surprisal)) - np.repeat(score.offsets[:-1], np.diff(score.offsets))
    by_position = np.bincount(position, score.surprisal * factor) / np.bincount(position)
    return by_category, tuple(by_position.tolist())


def solve(grammar: G, bits_per_token: float, dial: str = "alpha", tolerance: float | None = None) -> G:
    """Return a grammar with the wanted entropy per token, by false position (Illinois) on the exact value.

    Where strings are ambiguous H(derivation | string) is estimated at each candidate by the same sampled streams. The
    tolerance is then 1e-4 bits by default, and 1e-9 where the value is exact.
    """
    if tolerance is None:
        tolerance = 1e-9 if is_unambiguous(grammar) else 1e-4
    if (
        isinstance(bits_per_token, bool)
        or not isinstance(bits_per_token, (int, float))
        or not math.isfinite(bits_per_token)
    ):
        raise AbsynthError("bits_per_token", bits_per_token, "a number")
    if dial not in DIALS:
        raise AbsynthError("dial", dial, f"one of {', '.join(DIALS)}")

    def at(setting: float) -> tuple[G, float]:
        candidate = _turned(grammar, dial, setting)
        total = derivation_entropy(candidate)
        if not is_unambiguous(candidate):
            total -= derivation_doubt(ExactModel(candidate), 2_000, 0)[0]
        return candidate, total / tokens_per_sentence(candidate)

    low, high = DIALS[dial]
    (first, top), (last, bottom) = at(low), at(high)
    if not bottom - 1e-4 <= bits_per_token <= top + 1e-4:
        raise AbsynthError(
            "bits_per_token",
            bits_per_token,
            f"a value from {bottom:.3f} to {top:.3f}: what the dial {dial!r} reaches here",
        )
    above, below = top - bits_per_token, bottom - bits_per_token
    if above <= tolerance:
        return first
    if below >= -tolerance:
        return last
    best, side = first, 0
    for _ in range(100):
        middle = (low * below - high * above) / (below - above)
        best, value = at(middle)
        found = value - bits_per_token
        if abs(found) <= tolerance:
            break
        # An end that stays twice weighs half, so that both ends move.
        if found > 0:
            low, above, below, side = middle, found, below / 2 if side > 0 else below, 1
        else:
            high, below, above, side = middle, found, above / 2 if side < 0 else above, -1
    return best


def _turned(grammar: G, dial: str, setting: float) -> G:
    if dial == "strength":
        return grammar.replace(strength=setting)
    base = grammar.zipf[""].alpha or 1.0
    # One factor for all categories keeps their proportions; a category that was flat stays flat.
    scale = setting / base
    laws = {
        name: Zipf(law.alpha * scale if grammar.zipf[""].alpha else setting, law.q)
        for name, law in grammar.zipf.items()
    }
    return grammar.replace(zipf=laws)
