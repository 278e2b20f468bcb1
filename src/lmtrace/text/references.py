"""Reference predictors on the panel: what a model would say that has learned this much and no more.

Every reference law has the form: a few entries of its own + a mix of shared laws,
p_i = sparse_i + mix_i @ basis, so that its cross-entropy with a model needs one small matrix product and no dense law.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrace.numerics.ngram import NGram, discount, fit
from lmtrace.numerics.sparse_rows import SparseRows
from lmtrace.text.lexicon import END, LAYERS
from lmtrace.text.sentences import AnnotatedSentence, as_annotated
from lmtrace.text.sequences import encode_causal, special_id

if TYPE_CHECKING:
    from lmtrace.text.panel import Panel

RUNGS = ("uniform", "unigram", "bigram", "trigram", "construction", "oracle")
"""From knowing nothing to knowing the law."""
MAX_SENTENCES = 50_000
_CHUNK_NUMBERS = 2**23


@dataclass(frozen=True, eq=False)
class Reference:
    """One predictor's law at every prediction of the panel.

    Attributes
    ----------
    name
        One of `RUNGS`.
    sparse
        Entries of each prediction's own.
    mix : [predictions, laws]
    basis : [laws, vocabulary]
        Shared laws.
    targets : [predictions]
    """

    name: str
    sparse: SparseRows
    mix: np.ndarray
    basis: np.ndarray
    targets: np.ndarray

    def law(self, index: np.ndarray) -> np.ndarray:
        """Return [n, vocabulary] float64 probabilities for these predictions."""
        dense = self.mix[index] @ self.basis
        self.sparse.add_to(dense, index)
        return dense

    @cached_property
    def _summary(self) -> tuple[np.ndarray, np.ndarray]:
        surprisal, entropy = np.empty((2, len(self.targets)))
        step = max(1, _CHUNK_NUMBERS // self.basis.shape[1])
        for at in range(0, len(self.targets), step):
            index = np.arange(at, min(at + step, len(self.targets)))
            law = self.law(index)
            gold = law[np.arange(len(index)), self.targets[index]]
            with np.errstate(divide="ignore"):
                surprisal[index] = -np.log(gold)
            entropy[index] = -np.sum(law * np.log(np.where(law > 0, law, 1.0)), axis=1)
        return surprisal, entropy

    @property
    def surprisal(self) -> np.ndarray:
        """Return [predictions] -log p(target) in nats."""
        return self._summary[0]

    @property
    def entropy(self) -> np.ndarray:
        """Return [predictions] in nats."""
        return self._summary[1]


def build(panel: Panel, training: Iterable[Any] | None) -> tuple[dict[str, Reference], dict[str, str]]:
    """Return (rung -> reference, rung -> why it is missing).

    Parameters
    ----------
    training
        The training corpus, annotated; only its first `MAX_SENTENCES` sentences are counted. Without it only
        "uniform" and "oracle" can be had.
    """
    if panel.objective != "causal":
        reason = f"the references read from left to right; the objective is {panel.objective}"
        return {}, dict.fromkeys(RUNGS, reason)
    n, vocabulary, targets = len(panel.predictions), len(panel.tokenizer), panel.predictions.target
    found: dict[str, Reference] = {}
    missing: dict[str, str] = {}

    def add(name: str, sparse: SparseRows, mix: np.ndarray, basis: np.ndarray) -> None:
        found[name] = Reference(name, sparse, mix, basis, targets)

    add("uniform", SparseRows.empty(n), np.ones((n, 1)), np.full((1, vocabulary), 1.0 / vocabulary))
    sentences = [] if training is None else _first(training)
    if not sentences:
        reason = "the panel was built without training=, the corpus that the references count"
        missing |= dict.fromkeys(RUNGS[1:5], reason)
    else:
        previous, before = _contexts(panel)
        sequences = [s for s in encode_causal(sentences, panel.tokenizer) if len(s) > 1]
        for order, name in ((1, "unigram"), (2, "bigram"), (3, "trigram")):
            model: NGram = fit(sequences, vocabulary, order)
            rows, left = model.rows(previous, before)
            add(name, rows, left[:, None], model.base[None, :])
        built = _construction(panel, sentences)
        if isinstance(built, str):
            missing["construction"] = built
        else:
            add("construction", SparseRows.empty(n), *built)
    if panel.truth is None:
        missing["oracle"] = panel.truth_reason
    else:
        add("oracle", panel.truth.sparse, np.zeros((n, 1)), np.zeros((1, vocabulary)))
    return found, missing


def _first(training: Iterable[Any]) -> list[AnnotatedSentence]:
    result: list[AnnotatedSentence] = []
    for sentence in training:
        if len(result) == MAX_SENTENCES:
            break
        result.append(as_annotated(sentence))
    return result


def _contexts(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Return the last token before each prediction and the one before that (-1 where the sequence begins)."""
    previous, before = [], []
    for ids in panel.encoder.ids:
        previous.append(ids[:-1])
        before.append(np.concatenate([[-1], ids[:-2]])[: max(len(ids) - 1, 0)])
    return np.concatenate(previous), np.concatenate(before)


def _construction(panel: Panel, sentences: Sequence[AnnotatedSentence]) -> tuple[np.ndarray, np.ndarray] | str:
    """Return (mix, basis) of the predictor that knows which categories follow which, and how frequent words of a category are.

    p(w | prefix) = sum_c p(c | categories of the prefix) p(w | c): the whole prefix of categories, backed off to the
    last two, the last one and none (Witten and Bell 1991). It knows nothing of agreement, selection or meaning.
    """
    layer = next((name for name in LAYERS if name in panel.layers and any(name in s.labels for s in sentences)), None)
    if layer is None:
        return f"neither {' nor '.join(LAYERS)} labels the panel and the training corpus"
    if not all(np.array_equal(e.first, np.arange(len(e.ids))) for e in panel.encodings):
        return "the tokenizer splits words; categories are of words"
    if panel.tokenizer.bos_token_id is None or (eos := special_id(panel.tokenizer, "eos")) is None:
        return "the tokenizer has no beginning or end of sentence"
    paths = [_categories(s, layer) for s in sentences]
    panel_paths = [_categories(s, layer) for s in panel.sentences]
    names = sorted({c for path in (*paths, *panel_paths) for c in path})
    code = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(panel.tokenizer)))
    ids = [panel.tokenizer.convert_tokens_to_ids(list(s.tokens)) for s in sentences]
    np.add.at(
        counts,
        ([code[c] for path in paths for c in path], [i for row in ids for i in (*row, eos)]),
        1.0,
    )
    follow = _CategoryLaw(paths, code)
    mix = np.zeros((len(panel.predictions), len(names)))
    rows = zip(panel.predictions.sentence.tolist(), panel.predictions.position.tolist(), strict=True)
    for row, (sentence, position) in enumerate(rows):
        mix[row] = follow.law(panel_paths[sentence][:position])
    return mix, np.stack([_word_law(row) for row in counts])


def _categories(sentence: AnnotatedSentence, layer: str) -> tuple[str, ...]:
    values = sentence.labels.get(layer, (None,) * len(sentence))
    return (*(v or "_" for v in values), END)


def _word_law(counts: np.ndarray) -> np.ndarray:
    """Return p(word | category): discounted counts, the rest spread evenly over the vocabulary."""
    total = counts.sum()
    if not total:
        return np.full(len(counts), 1.0 / len(counts))
    d = discount(counts[counts > 0].astype(np.int64))
    return np.maximum(counts - d, 0) / total + d * np.count_nonzero(counts) / total / len(counts)


class _CategoryLaw:
    """p(next category | categories so far), Witten-Bell interpolated over contexts: all, the last two, the last, none."""

    def __init__(self, paths: Sequence[tuple[str, ...]], code: dict[str, int]) -> None:
        self.code = code
        self.follow: dict[Any, Counter[int]] = {}
        self.memory: dict[tuple[str, ...], np.ndarray] = {}
        for path in paths:
            for i, category in enumerate(path):
                for key in self._keys(path[:i]):
                    self.follow.setdefault(key, Counter())[code[category]] += 1

    @staticmethod
    def _keys(prefix: tuple[str, ...]) -> list[Any]:
        """Return the contexts from the shortest to the longest; the beginning of the sentence is part of the short ones."""
        padded = ("<s>", "<s>", *prefix)
        return [None, padded[-1:], padded[-2:], ("all", *prefix)]

    def law(self, prefix: tuple[str, ...]) -> np.ndarray:
        """Return [categories]."""
        if prefix not in self.memory:
            p = np.full(len(self.code), 1.0 / len(self.code))
            for key in self._keys(prefix):
                seen = self.follow.get(key)
                if seen:
                    total, kinds = sum(seen.values()), len(seen)
                    p = p * (kinds / (total + kinds))
                    for category, count in seen.items():
                        p[category] += count / (total + kinds)
            self.memory[prefix] = p
        return self.memory[prefix]
