"""ABSynth: annotated synthetic languages whose truth is known exactly.

Names are loaded when they are first used, so that importing the package costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from absynth.corpus import Corpus
    from absynth.errors import AbsynthError
    from absynth.files import generate_to, load
    from absynth.frames import Construction, Frame
    from absynth.grammar import Grammar
    from absynth.interventions import minimal_pairs
    from absynth.lexicon import Zipf
    from absynth.oracle import Oracle
    from absynth.plots import plot
    from absynth.quality import describe
    from absynth.sample import generate, stream
    from absynth.sentence import Sentence

__version__ = "0.1.0"

_HOME = {
    "AbsynthError": "errors",
    "Construction": "frames",
    "Corpus": "corpus",
    "Frame": "frames",
    "Grammar": "grammar",
    "Oracle": "oracle",
    "Sentence": "sentence",
    "Zipf": "lexicon",
    "describe": "quality",
    "generate": "sample",
    "generate_to": "files",
    "load": "files",
    "minimal_pairs": "interventions",
    "plot": "plots",
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
    if name not in _HOME:
        raise AttributeError(f"module 'absynth' has no attribute {name!r}")
    value = getattr(import_module(f"absynth.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
