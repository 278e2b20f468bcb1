"""The exact next-token law of a panel, from a corpus that knows its own grammar."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrace.errors import DataError
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.sparse_rows import SparseRows
from lmtrace.text.alignment import whole_word_ids
from lmtrace.text.sentences import take
from lmtrace.text.sequences import special_id

if TYPE_CHECKING:
    from lmtrace.text.panel_content import PanelContent

LN2 = float(np.log(2.0))
FORBIDDEN = 1e-12
"""Probabilities up to this are rounding of a zero."""
_CACHE_BYTES = 512 * 2**20


def find_truth(panel: PanelContent, oracle: Any, originals: Any) -> tuple[Truth | None, str]:
    """Return (`Truth`, "") where the corpus has an oracle that speaks the panel's tokens, else (None, the reason)."""
    if oracle is None:
        return None, "the corpus has no oracle"
    if panel.objective != "causal":
        return None, f"the exact law is of the next token; the objective is {panel.objective}"
    if not all(len(e.ids) == len(e.first) and np.array_equal(e.first, e.last) for e in panel.encodings):
        return None, "the tokenizer splits words; the exact law is over words (use lmtrace.WordTokenizer)"
    eos = special_id(panel.tokenizer, "eos")
    if eos is None:
        return None, "the tokenizer has no end of sentence, which the exact law includes"
    forms = [str(form) for form in oracle.vocabulary]
    ids = whole_word_ids(forms, panel.tokenizer, panel.sentences, panel.encodings)
    if isinstance(ids, str):
        return None, f"{ids} (use lmtrace.WordTokenizer)"
    lost = int((ids < 0).sum())
    if lost or len(np.unique(ids)) != len(ids):
        return None, (
            f"the tokenizer does not know {lost} of the grammar's {len(forms)} forms; "
            "build it with WordTokenizer.from_words(oracle.vocabulary)"
        )
    return Truth(panel, oracle, originals, np.append(ids, eos)), ""


class Truth:
    """The exact law of the panel's sentences, row-aligned with `Panel.predictions`.

    The oracle is recognised by what it offers: `vocabulary`, `score(sentences)` with `.surprisal`, `.entropy` (bits
    per token, the end of sentence included) and `.offsets`, `laws(sentences)`, and optionally `ceiling(layer,
    sentences)`, `construction_beliefs(sentences)` and `categories`. Everything is computed on first use.

    Attributes
    ----------
    token_ids : [forms + 1]
        Tokenizer id of every form of the oracle's vocabulary, then of the end of sentence.
    """

    def __init__(self, panel: PanelContent, oracle: Any, originals: Any, token_ids: np.ndarray) -> None:
        self.oracle, self.token_ids = oracle, token_ids
        self._sentences = originals
        self._vocabulary = len(panel.tokenizer)
        self._targets, self._sentence = panel.predictions.target, panel.predictions.sentence
        lengths = np.array([len(s) for s in panel.sentences], np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
        # find_truth made sure of an end of sentence, which also serves as a beginning: every word is predicted.
        self._local = panel.predictions.position
        self._row = self._offsets[self._sentence] + self._local
        self._num_words = panel.num_words
        self._scores: tuple[np.ndarray, np.ndarray] | None = None
        self._ceilings: dict[str, Any] = {}
        self._beliefs: np.ndarray | None = None
        self._laws: dict[int, np.ndarray] = {}
        self._law_bytes = 0

    def _score(self) -> tuple[np.ndarray, np.ndarray]:
        if self._scores is None:
            score = self.oracle.score(self._sentences)
            if not np.array_equal(np.asarray(score.offsets), self._offsets):
                raise DataError(
                    "the oracle's scores do not have one row per word and end of sentence of the panel",
                    "Pass the corpus whose grammar the oracle knows",
                )
            rows = [np.asarray(x, np.float64)[self._row] * LN2 for x in (score.surprisal, score.entropy)]
            self._scores = rows[0], rows[1]
        return self._scores

    @property
    def surprisal(self) -> np.ndarray:
        """Return [predictions] -log p(target | prefix) in nats."""
        return self._score()[0]

    @property
    def entropy(self) -> np.ndarray:
        """Return [predictions] entropy of the next-token law in nats."""
        return self._score()[1]

    @property
    def floor(self) -> Estimate:
        """Return the mean surprisal on the panel (nats per prediction), its standard error clustered by sentence.

        A model that knows the law has this loss on the panel; the standard error says how far the panel may lie from
        the language's entropy rate.
        """
        return self.floor_over(np.ones(len(self._sentence), bool))

    def floor_over(self, kept: np.ndarray) -> Estimate:
        """Return `floor` over the predictions that are `kept` [predictions]."""
        from lmtrace.numerics.clustered import clustered_mean

        return clustered_mean(self.surprisal[kept], self._sentence[kept])

    def law(self, index: np.ndarray) -> np.ndarray:
        """Return [n, tokenizer vocabulary] float64: the law of the next token at these rows of the predictions."""
        index = np.asarray(index, np.int64)
        sentences = np.unique(self._sentence[index])
        missing = [int(i) for i in sentences if int(i) not in self._laws]
        fresh: dict[int, np.ndarray] = {}
        if missing:
            for i, rows in zip(missing, self.oracle.laws(take(self._sentences, missing)), strict=True):
                rows = np.asarray(rows, np.float64)
                expected = (int(self._offsets[i + 1] - self._offsets[i]), len(self.token_ids))
                if rows.shape != expected:
                    raise DataError(f"the oracle's law of a sentence has shape {rows.shape}, expected {expected}")
                fresh[i] = rows
                if self._law_bytes + rows.nbytes <= _CACHE_BYTES:
                    self._laws[i] = rows
                    self._law_bytes += rows.nbytes
        result = np.zeros((len(index), self._vocabulary))
        for i in sentences.tolist():
            here = np.flatnonzero(self._sentence[index] == i)
            rows = fresh[i] if i in fresh else self._laws[i]
            result[here[:, None], self.token_ids[None, :]] = rows[self._local[index[here]]]
        return result

    @cached_property
    def sparse(self) -> SparseRows:
        """Return the law of every prediction as the tokens that it allows; made once (16 bytes an allowed token)."""
        tokens, values, counts = [], [], []
        for at in range(0, len(self._targets), 1024):
            law = self.law(np.arange(at, min(at + 1024, len(self._targets))))
            row, column = np.nonzero(law > FORBIDDEN)
            tokens.append(column)
            values.append(law[row, column])
            counts.append(np.bincount(row, minlength=len(law)))
        self._laws.clear()
        self._law_bytes = 0
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return SparseRows(offsets, np.concatenate(tokens), np.concatenate(values))

    def ceiling(self, layer: str) -> Any:
        """Return the oracle's best possible accuracy of a label layer on the panel, or None where it knows none."""
        if layer not in self._ceilings:
            self._ceilings[layer] = None
            if hasattr(self.oracle, "ceiling"):
                # A layer that the grammar knows nothing of ("position") is an error there, and no news here.
                with contextlib.suppress(ValueError):
                    self._ceilings[layer] = self.oracle.ceiling(layer, self._sentences)
        return self._ceilings[layer]

    def beliefs(self) -> np.ndarray | None:
        """Return [words, constructions]: the posterior after each word, or None where the oracle offers none."""
        if not hasattr(self.oracle, "construction_beliefs"):
            return None
        if self._beliefs is not None:
            return self._beliefs
        beliefs = np.asarray(self.oracle.construction_beliefs(self._sentences), np.float64)
        if beliefs.ndim != 2 or len(beliefs) != self._num_words:
            raise DataError(
                f"the oracle's beliefs have shape {beliefs.shape}, expected [{self._num_words}, constructions]"
            )
        self._beliefs = beliefs
        return beliefs

    @property
    def token_category(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Return ([tokenizer vocabulary] category codes, names), or None where the oracle names no categories.

        The end of sentence is a category of its own ("</s>"); other special tokens and forms of several categories
        (None in `oracle.categories`) have code -1.
        """
        categories = getattr(self.oracle, "categories", None)
        if categories is None or len(categories) != len(self.token_ids) - 1:
            return None
        values = [None if c is None else str(c) for c in categories] + ["</s>"]
        names = tuple(sorted({v for v in values if v is not None}))
        codes = np.full(self._vocabulary, -1, np.int64)
        codes[self.token_ids] = [-1 if v is None else names.index(v) for v in values]
        return codes, names

    @cached_property
    def category_law(self) -> np.ndarray | None:
        """Return [predictions, categories + 1]: the law of the next category, the last for tokens of none; made once."""
        known = self.token_category
        if known is None:
            return None
        codes, names = known
        rows, num = self.sparse, len(names) + 1
        of_token = np.where(codes >= 0, codes, len(names))
        cells = rows.row * num + of_token[rows.tokens]
        return np.bincount(cells, rows.values, len(rows) * num).reshape(len(rows), num)
