"""Modules under their old names: ``import absynth.lexicon`` gives `absynth.rules.lexicon`, the same object.

The old names go with version 0.3.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
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


class MovedModules:
    """A finder and loader of modules under their old names.

    It stands last on `sys.meta_path`, so that it is asked only for names that nothing else knows.

    Parameters
    ----------
    moved
        Old name -> new name.
    """

    def __init__(self, moved: Mapping[str, str]) -> None:
        self.moved = moved

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load an old name; None for all other names."""
        return ModuleSpec(fullname, self) if fullname in self.moved else None  # pyright: ignore[reportArgumentType]

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system make an empty module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name where the old name is looked up; the import system returns what stands there."""
        sys.modules[module.__name__] = import_module(self.moved[module.__name__])
