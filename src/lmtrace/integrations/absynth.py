"""The one place that names both packages: corpora from ABSynth presets, grammars and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

import absynth
from absynth.pairs.interventions import KINDS
from absynth.sample import BLOCK, part
from lmtrace.errors import ConfigError, DataError
from lmtrace.text.pairs import MinimalPair

PREFIX = "absynth:"


def is_absynth(source: str) -> bool:
    """Return whether a source names an ABSynth preset, grammar or corpus file."""
    if source.startswith(PREFIX) or source.endswith(".parquet"):
        return True
    path = Path(source)
    if path.suffix != ".jsonl" or not path.exists():
        return False
    with path.open("rb") as file:
        return b'"absynth"' in file.read(4096)


def load_corpus(source: str, *, n: int = 50_000, seed: int = 0) -> Any:
    """Return an `absynth.Corpus`.

    Parameters
    ----------
    source
        "absynth:small" (a preset), "absynth:my.toml" (a grammar), or the path of a saved corpus.
    n, seed
        How many sentences to generate, and from which seed; ignored for saved corpora.

    Raises
    ------
    ConfigError, DataError
        For a preset that does not exist or a file that is not a corpus.
    """
    try:
        if not source.startswith(PREFIX):
            return absynth.load(source)
        name = source.removeprefix(PREFIX)
        grammar = absynth.Grammar.from_toml(name) if name.endswith(".toml") else absynth.Grammar.preset(name)
        return absynth.generate(grammar, n=n, seed=seed)
    except absynth.AbsynthError as error:
        kind = ConfigError if source.startswith(PREFIX) else DataError
        raise kind(str(error)) from error


def chunks(n: int, size: int) -> list[tuple[int, int]]:
    """Return ranges of about `size` sentences that cover n, each a whole number of the sampler's blocks."""
    step = max(1, size // BLOCK) * BLOCK
    return [(first, min(first + step, n)) for first in range(0, n, step)]


def draw(shared: tuple[Any, int], task: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one range of (grammar, seed); plain arrays travel back, not the grammar."""
    drawn = part(shared[0], *task, seed=shared[1])
    return drawn.ids, drawn.offsets, cast(np.ndarray, drawn.templates)  # what was drawn knows its templates


def joined(grammar: Any, seed: int, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Any:
    """Return the `absynth.Corpus` of what `draw` gave, in the order of the ranges."""
    if not parts:
        return absynth.generate(grammar, 0, seed=seed)
    origin = {"seed": seed, "exact": False}
    return absynth.Corpus.concatenate([absynth.Corpus.generated(grammar, *arrays, origin) for arrays in parts])


def minimal_pairs(corpus: Any, *, per_kind: int = 100, seed: int = 0) -> tuple[MinimalPair, ...]:
    """Return minimal pairs of every kind of intervention on an `absynth.Corpus`, with their exact severity in nats."""
    found: list[MinimalPair] = []
    for kind in KINDS:
        for pair in absynth.minimal_pairs(corpus, kind=kind, seed=seed, limit=per_kind):
            severity = pair.severity * math.log(2) if math.isfinite(pair.severity) else None
            found.append(MinimalPair(tuple(pair.good.tokens), tuple(pair.bad.tokens), kind, severity))
    return tuple(found)
