"""Sphinx configuration; the page of signals is generated from their metadata."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

project = "lmtrace"
copyright = "the lmtrace authors"
extensions = ["myst_parser", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "lmtrace"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["myst.header", "myst.xref_missing"]


def _signals_page() -> None:
    """Write docs/signals.md: what every signal means, its fields with units and nulls, its cost and source."""
    from lmtrace.signals import available

    lines = ["# Signals", "", "Generated from the signals themselves; `lmtrace signals` prints the same.", ""]
    for name, signal in sorted(available().items()):
        text = (sys.modules[signal.__module__].__doc__ or "").strip()
        lines += [f"## {name}", "", text, "", f"Cost: {signal.cost}.", "", f"Source: {signal.source}.", ""]
        lines += ["| metric | unit | null | meaning |", "| --- | --- | --- | --- |"]
        for f in signal.fields:
            cells = (f"`{f.metric}`", f.unit, f.null or "none", f.meaning)
            lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    (Path(__file__).parent / "signals.md").write_text("\n".join(lines), encoding="utf-8")


_signals_page()
