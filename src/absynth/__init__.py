"""ABSynth: annotated synthetic languages whose truth is known exactly.

Names are loaded when they are first used, so that importing the package costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from absynth.aliases import ALIASES, install
from absynth.version import VERSION

if TYPE_CHECKING:
    from absynth.corpus import Corpus
    from absynth.description.plots import plot
    from absynth.description.quality import describe
    from absynth.errors import AbsynthError
    from absynth.files import generate_to, load
    from absynth.grammar import Grammar
    from absynth.oracle import Oracle
    from absynth.pairs.interventions import minimal_pairs
    from absynth.rules.frames import Construction, Frame
    from absynth.rules.lexicon import Zipf
    from absynth.sample import generate, stream
    from absynth.sentences.sentence import Sentence

__version__ = VERSION

install()

_HOME = {
    "AbsynthError": "errors",
    "Construction": "rules.frames",
    "Corpus": "corpus",
    "Frame": "rules.frames",
    "Grammar": "grammar",
    "Oracle": "oracle",
    "Sentence": "sentences.sentence",
    "Zipf": "rules.lexicon",
    "describe": "description.quality",
    "generate": "sample",
    "generate_to": "files",
    "load": "files",
    "minimal_pairs": "pairs.interventions",
    "plot": "description.plots",
    "stream": "sample",
}

__all__ = [
    "AbsynthError",
    "Construction",
    "Corpus",
    "Frame",
    "Grammar",
    "Oracle",
    "Sentence",
    "Zipf",
    "describe",
    "generate",
    "generate_to",
    "load",
    "minimal_pairs",
    "plot",
    "stream",
]


def __getattr__(name: str) -> Any:
    if f"absynth.{name}" in ALIASES:
        return import_module(f"absynth.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'absynth' has no attribute {name!r}")
    value = getattr(import_module(f"absynth.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
