"""The whole language, sentence by sentence: for small grammars, examples and tests."""

from __future__ import annotations

import numpy as np

from absynth.corpus import Corpus
from absynth.grammar import Grammar
from absynth.law.enumeration import derivations, enumerate_columns, language_size

__all__ = ["derivations", "enumerate_language", "language_size"]


def enumerate_language(grammar: Grammar, limit: int = 2_000_000) -> tuple[Corpus, np.ndarray]:
    """Return every derivation as a sentence of a corpus, with its probability: [derivations] float64.

    Raises
    ------
    AbsynthError
        Where there are more than `limit`.
    """
    columns, probabilities = enumerate_columns(grammar, limit)
    return Corpus.of(columns), probabilities
