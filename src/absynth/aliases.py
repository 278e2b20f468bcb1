"""Modules that stood elsewhere until 0.1: their old names still import, and give the same module. They go with 0.3."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

ALIASES = {
    "absynth.beliefs": "absynth.law.beliefs",
    "absynth.categories": "absynth.rules.categories",
    "absynth.checks": "absynth.rules.checks",
    "absynth.diagnosis": "absynth.law.diagnosis",
    "absynth.edits": "absynth.pairs.edits",
    "absynth.entropy": "absynth.law.entropy",
    "absynth.explanations": "absynth.law.explanations",
    "absynth.filtering": "absynth.law.filtering",
    "absynth.fits": "absynth.description.fits",
    "absynth.frames": "absynth.rules.frames",
    "absynth.grammar_text": "absynth.rules.grammar_text",
    "absynth.interventions": "absynth.pairs.interventions",
    "absynth.layout": "absynth.rules.layout",
    "absynth.lexicon": "absynth.rules.lexicon",
    "absynth.pattern": "absynth.rules.pattern",
    "absynth.plots": "absynth.description.plots",
    "absynth.presets": "absynth.rules.presets",
    "absynth.program": "absynth.rules.program",
    "absynth.quality": "absynth.description.quality",
    "absynth.quality_text": "absynth.description.report",
    "absynth.reading": "absynth.rules.reading",
    "absynth.selection": "absynth.rules.selection",
    "absynth.sentence": "absynth.sentences.sentence",
    "absynth.split": "absynth.sentences.split",
    "absynth.surface": "absynth.rules.surface",
    "absynth.template": "absynth.rules.template",
    "absynth.trie": "absynth.law.trie",
}
"""Old name -> new name."""


# Without its abstract bases: importing `importlib.abc` would double the time that the package takes to start.
class AliasFinder:
    """Finds a module under its old name and hands out the one under its new name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an old name, None for every other."""
        return ModuleSpec(fullname, self) if fullname in ALIASES else None  # pyright: ignore[reportArgumentType]

    def create_module(self, spec: ModuleSpec) -> None:
        """Let importing make an empty module; `exec_module` replaces it."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module under its new name where the old one is looked up; importing returns what stands there."""
        sys.modules[module.__name__] = import_module(ALIASES[module.__name__])


def install() -> None:
    """Put the finder behind all others, once."""
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        sys.meta_path.append(AliasFinder())
