"""Reference predictors on the panel: what a model would say that has learned this much and no more.

Every reference law has the form: a few entries of its own + a mix of shared laws,
p_i = sparse_i + mix_i @ basis, so that its cross-entropy with a model needs one small matrix product and no dense law.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrace.numerics.ngram import NGram, discount, fit
from lmtrace.numerics.sparse_rows import SparseRows
from lmtrace.text.alignment import whole_word_ids
from lmtrace.text.lexicon import END, LAYERS
from lmtrace.text.sentences import iterate_labels, iterate_words
from lmtrace.text.sequences import causal_affixes, encode_causal, special_id
from lmtrace.text.tokenizer import WordTokenizer

if TYPE_CHECKING:
    from lmtrace.text.panel_content import PanelContent

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
    kind : [predictions]
        Predictions of equal kind have equal laws.
    """

    name: str
    sparse: SparseRows
    mix: np.ndarray
    basis: np.ndarray
    targets: np.ndarray
    kind: np.ndarray

    def law(self, index: np.ndarray) -> np.ndarray:
        """Return [n, vocabulary] float64 probabilities for these predictions."""
        return self.mix[index] @ self.basis + self.sparse.take(index).dense(self.basis.shape[1])

    @cached_property
    def surprisal(self) -> np.ndarray:
        """Return [predictions] -log p(target) in nats."""
        gold = np.einsum("nc,cn->n", self.mix, self.basis[:, self.targets]) + self.sparse.at(self.targets)
        with np.errstate(divide="ignore"):
            return -np.log(gold)

    @cached_property
    def entropy(self) -> np.ndarray:
        """Return [predictions] in nats; computed once for each kind of context."""
        _, example, inverse = np.unique(self.kind, return_index=True, return_inverse=True)
        result = np.empty(len(example))
        step = max(1, _CHUNK_NUMBERS // self.basis.shape[1])
        for at in range(0, len(example), step):
            law = self.law(example[at : at + step])
            result[at : at + step] = -np.sum(law * np.log(np.where(law > 0, law, 1.0)), axis=1)
        return result[inverse.reshape(-1)]


def build(panel: PanelContent, training: Iterable[Any] | None) -> tuple[dict[str, Reference], dict[str, str]]:
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

    def add(name: str, sparse: SparseRows, mix: np.ndarray, basis: np.ndarray, kind: np.ndarray) -> None:
        found[name] = Reference(name, sparse, mix, basis, targets, kind)

    alike = np.zeros(n, np.int64)
    add("uniform", SparseRows.empty(n), np.ones((n, 1)), np.full((1, vocabulary), 1.0 / vocabulary), alike)
    sequences = [] if training is None else _sequences(training, panel.tokenizer)
    if not sequences:
        reason = "the panel was built without training=, the corpus that the references count"
        missing |= dict.fromkeys(RUNGS[1:5], reason)
    else:
        previous, before = _contexts(panel)
        kinds = (alike, previous, (before + 1) * (vocabulary + 1) + previous)
        for order, name, kind in zip((1, 2, 3), ("unigram", "bigram", "trigram"), kinds, strict=True):
            model: NGram = fit(sequences, vocabulary, order)
            rows, left = model.rows(previous, before)
            add(name, rows, left[:, None], model.base[None, :], kind)
        built = _construction(panel, training)
        if isinstance(built, str):
            missing["construction"] = built
        else:
            mix, basis = built
            kind = np.unique(mix, axis=0, return_inverse=True)[1].reshape(-1)
            add("construction", SparseRows.empty(n), mix, basis, kind)
    if panel.truth is None:
        missing["oracle"] = panel.truth_reason
    else:
        add("oracle", panel.truth.sparse, np.empty((n, 0)), np.empty((0, vocabulary)), np.arange(n))
    return found, missing


def _sequences(training: Any, tokenizer: Any) -> list[list[int]]:
    """Return the training sentences as a causal model reads them, those of two tokens and more."""
    if isinstance(tokenizer, WordTokenizer):
        begin, end = causal_affixes(tokenizer)
        words = itertools.islice(iterate_words(training), MAX_SENTENCES)
        rows = [[*begin, *tokenizer.encode(list(sentence)), *end] for sentence in words]
    else:
        rows = encode_causal(itertools.islice(training, MAX_SENTENCES), tokenizer)
    return [row for row in rows if len(row) > 1]


def _contexts(panel: PanelContent) -> tuple[np.ndarray, np.ndarray]:
    """Return the last token before each prediction and the one before that (-1 where the sequence begins)."""
    previous, before = [], []
    for ids in panel.encoder.ids:
        previous.append(ids[:-1])
        before.append(np.concatenate([[-1], ids[:-2]])[: max(len(ids) - 1, 0)])
    return np.concatenate(previous), np.concatenate(before)


def _construction(panel: PanelContent, training: Any) -> tuple[np.ndarray, np.ndarray] | str:
    """Return (mix, basis): which categories follow which, and how frequent the words of a category are.

    p(w | prefix) = sum_c p(c | categories of the prefix) p(w | c): the whole prefix of categories, backed off to the last
    two, the last one and none (Witten and Bell 1991). It knows nothing of agreement, selection or meaning.
    """
    if not all(np.array_equal(e.first, np.arange(len(e.ids))) for e in panel.encodings):
        return "the tokenizer splits words; categories are of words"
    if special_id(panel.tokenizer, "bos") is None or (eos := special_id(panel.tokenizer, "eos")) is None:
        return "the tokenizer has no beginning or end of sentence"
    for layer in LAYERS:
        if layer in panel.layers:
            labels = itertools.islice(iterate_labels(training, layer), MAX_SENTENCES)
            paths = [_path(values) for values in labels]
            if any(c not in ("_", END) for path in paths for c in path):
                break
    else:
        return f"neither {' nor '.join(LAYERS)} labels the panel and the training corpus"
    panel_paths = [_path(values) for values in iterate_labels(panel.sentences, layer)]
    names = sorted({c for path in (*paths, *panel_paths) for c in path})
    code = {name: i for i, name in enumerate(names)}
    words = [list(sentence) for sentence in itertools.islice(iterate_words(training), MAX_SENTENCES)]
    forms = sorted({word for sentence in words for word in sentence})
    known = whole_word_ids(forms, panel.tokenizer, panel.sentences, panel.encodings)
    if isinstance(known, str):
        return known
    unknown = special_id(panel.tokenizer, "unk")
    if (known < 0).any() and (unknown is None or not isinstance(panel.tokenizer, WordTokenizer)):
        return "the tokenizer splits words of the training corpus; categories are of words"
    of = dict(zip(forms, np.where(known < 0, unknown or 0, known).tolist(), strict=True))
    ids = [i for sentence in words for i in (*(of[word] for word in sentence), eos)]
    counts = np.zeros((len(names), len(panel.tokenizer)))
    np.add.at(counts, ([code[c] for path in paths for c in path], ids), 1.0)
    follow = _CategoryLaw(paths, code)
    mix = np.zeros((len(panel.predictions), len(names)))
    rows = zip(panel.predictions.sentence.tolist(), panel.predictions.position.tolist(), strict=True)
    for row, (sentence, position) in enumerate(rows):
        mix[row] = follow.law(panel_paths[sentence][:position])
    return mix, np.stack([_word_law(row) for row in counts])


def _path(values: Sequence[str | None]) -> tuple[str, ...]:
    """Return the categories of a sentence and its end."""
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
        for path, times in Counter(paths).items():  # few paths are distinct
            for i, category in enumerate(path):
                for key in self._keys(path[:i]):
                    if key not in self.follow:
                        self.follow[key] = Counter()
                    self.follow[key][code[category]] += times

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
