"""Modules that stood elsewhere until 0.1: their old names still import, and give the same module. They go with 0.3."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

ALIASES = {
    "lmtrace.analysis.changed": "lmtrace.analysis.findings.change",
    "lmtrace.analysis.finding": "lmtrace.analysis.findings.finding",
    "lmtrace.analysis.inspected": "lmtrace.analysis.inspection",
    "lmtrace.analysis.learned": "lmtrace.analysis.findings.learning",
    "lmtrace.budget": "lmtrace.live.budget",
    "lmtrace.instrument": "lmtrace.observe.instrument",
    "lmtrace.numerics.attention": "lmtrace.signals.attention.maps",
    "lmtrace.numerics.codelength": "lmtrace.probing.codelength",
    "lmtrace.numerics.design": "lmtrace.probing.rows",
    "lmtrace.numerics.gradient_noise": "lmtrace.signals.gradient.noise_scale",
    "lmtrace.numerics.landscape": "lmtrace.signals.curvature.landscape",
    "lmtrace.numerics.preconditioner": "lmtrace.signals.curvature.preconditioner",
    "lmtrace.numerics.probe_files": "lmtrace.probing.kept",
    "lmtrace.numerics.probing": "lmtrace.probing.linear",
    "lmtrace.numerics.ridge": "lmtrace.probing.closed_form",
    "lmtrace.numerics.scores": "lmtrace.probing.scores",
    "lmtrace.numerics.softmax": "lmtrace.probing.softmax",
    "lmtrace.numerics.splits": "lmtrace.probing.splits",
    "lmtrace.numerics.stable_rank": "lmtrace.signals.weights.stable_rank",
    "lmtrace.numerics.structural": "lmtrace.signals.tree_probe.structural",
    "lmtrace.observe.curvature": "lmtrace.signals.curvature.problem",
    "lmtrace.provenance": "lmtrace.live.header",
    "lmtrace.ranks": "lmtrace.live.distributed",
    "lmtrace.records.run": "lmtrace.run",
    "lmtrace.remembered": "lmtrace.live.resume",
    "lmtrace.schedule": "lmtrace.live.schedule",
    "lmtrace.show.inspected": "lmtrace.show.inspection",
    "lmtrace.sinks": "lmtrace.live.sinks",
    "lmtrace.text.edges": "lmtrace.probing.edges",
    "lmtrace.text.label_sets": "lmtrace.probing.label_sets",
    "lmtrace.text.probe_task": "lmtrace.probing.tasks",
    "lmtrace.text.spans": "lmtrace.probing.spans",
    "lmtrace.told": "lmtrace.live.training_scalars",
    "lmtrace.tracer": "lmtrace.live.tracer",
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
