"""`Oracle`: exact probabilities, entropies, beliefs, ceilings and parses under a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from absynth.grammar import Grammar
from absynth.law.walk import CHUNK, ExactModel, Score, Step
from absynth.sentences.columns import Columns

if TYPE_CHECKING:
    from absynth.law.beliefs import Beliefs, Ceiling
    from absynth.law.diagnosis import Parse
    from absynth.law.entropy import EntropyRate

__all__ = ["CHUNK", "Oracle", "Score", "Step", "oracle_of"]


# What needs more than the walk is imported where it is asked for: an oracle that only scores starts without it.
class Oracle(ExactModel):
    """Everything that can be known exactly about a grammar's sentences.

    Method: forward filtering over the prefix trie (`absynth.law.trie`); sums over unseen heads run over clusters, never
    over words. Cost: about one table look-up per word and continuation; prefixes are shared between sentences.

    Parameters
    ----------
    grammar
        The language.
    """

    grammar: Grammar  # pyright: ignore[reportIncompatibleVariableOverride]

    def entropy_rate(self, unit: str = "bits", samples: int = 10_000, seed: int = 0) -> EntropyRate:
        """Return the entropy per token, see `absynth.law.entropy.entropy_rate`."""
        from absynth.law.entropy import entropy_rate

        return entropy_rate(self, unit, samples, seed)

    def beliefs(self, prefix: Sequence[str]) -> Beliefs:
        """Return what a prefix tells about the sentence, see `absynth.law.beliefs.beliefs`."""
        from absynth.law.beliefs import beliefs

        return beliefs(self, prefix)

    def construction_beliefs(self, corpus: Columns | Sequence[Sequence[str]]) -> np.ndarray:
        """Return [words, constructions]: p(construction | the words up to and including this one)."""
        from absynth.law.beliefs import construction_beliefs

        return construction_beliefs(self, corpus)

    def ceiling(self, layer: str, corpus: Columns | None = None) -> Ceiling:
        """Return the best possible accuracy of predicting a layer, see `absynth.law.beliefs.ceiling`."""
        from absynth.law.beliefs import ceiling

        return ceiling(self, layer, corpus)

    def parse(self, tokens: Sequence[str] | str, threshold: float | None = None) -> Parse:
        """Return the derivations of a string, or why it has none, see `absynth.law.diagnosis.parse`."""
        from absynth.law.diagnosis import parse

        return parse(self, tokens, threshold)


def oracle_of(grammar: Grammar) -> Oracle:
    """Return the grammar's oracle; made once."""
    found = grammar.__dict__.get("_oracle")
    if found is None:
        found = grammar.__dict__["_oracle"] = Oracle(grammar)
    return found
