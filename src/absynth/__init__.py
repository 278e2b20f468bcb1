"""ABSynth: annotated synthetic languages whose truth is known exactly."""

from __future__ import annotations

from absynth.corpus import VERSION as __version__
from absynth.corpus import Corpus
from absynth.errors import AbsynthError
from absynth.files import load
from absynth.frames import Construction, Frame
from absynth.grammar import Grammar
from absynth.lexicon import Zipf
from absynth.oracle import Oracle
from absynth.sample import generate, stream
from absynth.sentence import Sentence

__all__ = [
    "AbsynthError",
    "Construction",
    "Corpus",
    "Frame",
    "Grammar", "Oracle",
    "Sentence",
    "Zipf",
    "__version__",
    "generate",
    "load",
    "stream",
]
