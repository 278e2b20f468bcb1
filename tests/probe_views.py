"""A view that holds planted activations of a real panel, for the signals that read words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer


@dataclass
class PlantedView:
    panel: Panel
    activations: dict[str, torch.Tensor]
    step: int = 0
    memory: dict[str, torch.Tensor] = field(default_factory=dict)
    cache: dict[Any, Any] = field(default_factory=dict)
    truth: Any = None
    last: bool = False

    @property
    def sites(self):
        return tuple(self.activations)

    def tokens(self, site):
        return self.activations[site]

    def words(self, site, rows=None):
        words = self.activations[site]
        return words if rows is None else words[rows]

    def labels(self, layer):
        return self.panel.labels(layer)


class PlantedTruth:
    """A truth with ceilings and beliefs given by hand."""

    def __init__(self, beliefs=None, ceilings=()):
        self._beliefs, self._ceilings = beliefs, dict(ceilings)

    def beliefs(self):
        return self._beliefs

    def ceiling(self, layer):
        return self._ceilings.get(layer)


def word_panel(num_sentences=200, seed=0, num_types=60, min_words=3, max_words=9):
    """Words of Zipf frequency: "upos" is decided by the type, "role" by the word before it, "governor" by the head in a random tree."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, num_types + 1)
    sentences = []
    for i in range(num_sentences):
        types = rng.choice(num_types, rng.integers(min_words, max_words + 1), p=p / p.sum())
        heads = [0, *(int(rng.integers(1, j + 1)) for j in range(1, len(types)))]
        sentences.append(
            AnnotatedSentence(
                tokens=tuple(f"w{t}" for t in types),
                labels={
                    "upos": tuple("ABCDE"[t % 5] for t in types),
                    "role": (None, *("XYZ"[t % 3] for t in types[:-1])),
                    "governor": tuple("XYZ"[types[h - 1] % 3] if h else None for h in heads),
                    "same": ("one",) * len(types),
                },
                heads=tuple(heads),
                sent_id=str(i),
            )
        )
    tokenizer = WordTokenizer.from_words(sorted({t for s in sentences for t in s.tokens}))
    return Panel.from_annotated(sentences, tokenizer, size=num_sentences, seed=0)


def planted_activations(panel, seed=0, noise=0.3, d=32):
    """embed: a vector per word type; context: the same with the vector of the word before it, elsewhere."""
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((len(panel.type_names), d))
    embed = table[panel.word_types]
    before = np.zeros_like(embed)
    inside = panel.word_position > 0
    before[inside] = embed[np.flatnonzero(inside) - 1]
    embed, both = (x + noise * rng.standard_normal(x.shape) for x in (embed, np.concatenate([embed, before], 1)))
    return {"embed": torch.as_tensor(embed).float(), "block.0": torch.as_tensor(both).float()}


def by(records, metric, **where):
    """Return the one record of a metric at a place."""
    found = [r for r in records if r.metric == metric and all(getattr(r, k) == v for k, v in where.items())]
    assert len(found) == 1, (metric, where, len(found))
    return found[0]
