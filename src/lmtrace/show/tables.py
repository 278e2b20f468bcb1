"""What a terminal shows: findings, the summary of a run, a list of runs. Rich renderables; printing is the command line's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lmtrace.records.schema import Series, SeriesKey
from lmtrace.show.payload import finding

_STYLE = {"alert": "bold red", "leak": "bold red", "memorisation": "bold red"}
_QUIET = ("no ", "not ")


def findings_table(findings: Iterable[Any], caveats: bool = True) -> RenderableType:
    """Return findings as a table: what kind, the sentence, its interval and null, its caveats below it."""
    rows = [finding(f) for f in findings]
    if not rows:
        return Text("No findings: the run has too few measurements, or nothing to compare with its null.", style="dim")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True)
    table.add_column("finding", no_wrap=True)
    table.add_column("", ratio=1)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("null", max_width=28)
    for row in rows:
        kind = str(row.get("kind", "finding"))
        style = _STYLE.get(kind, "dim" if kind.startswith(_QUIET) else "bold green")
        text = Text(str(row.get("sentence", "")))
        for caveat in row.get("caveats") or () if caveats else ():
            text.append(f"\n· {caveat}", style="dim")
        null = row.get("null")
        table.add_row(
            Text(kind, style=style), text, _interval(row.get("interval")),
            number(null) if isinstance(null, int | float) else escape(str(null or "")),
        )  # fmt: skip
    return table


def print_findings(run: Any, findings: Iterable[Any], console: Console, everything: bool = False) -> None:
    """Print what a run is and what was found in it; findings on single label values ("role=Agent") only with `everything`."""
    rows = [finding(f) for f in findings]
    chosen = rows if everything else _main_findings(rows)
    console.print(Text.assemble((run.header.name or "run", "bold"), f"  {run.header.status}, {_reach(run.steps)}"))
    console.print()
    if not rows:
        console.print(findings_table(rows))
    for row in chosen:
        kind = str(row.get("kind", "finding"))
        style = _STYLE.get(kind, "dim" if kind.startswith(_QUIET) else "bold green")
        console.print(
            Text.assemble((f"{kind}: ", style), str(row.get("sentence", ""))), soft_wrap=not console.is_terminal
        )
    if len(chosen) < len(rows):
        console.print(Text(f"... and {len(rows) - len(chosen)} more: lmtrace findings {run.folder} --all", style="dim"))


def _main_findings(rows: Sequence[Mapping[str, Any]], most: int = 40) -> list[Mapping[str, Any]]:
    """Return findings on whole quantities, of a curve at many sites only the site where it emerged first."""
    whole = [row for row in rows if not any("=" in str(_label(key)) for key in row.get("series") or ())]
    first: dict[str, tuple[float, int]] = {}
    for i, row in enumerate(whole):
        if row.get("kind") == "emergence":
            time = (row.get("numbers") or {}).get("midpoint")
            rank = (math.inf if time is None else float(time), i)
            name = str(row.get("series"))
            first[name] = min(first.get(name, rank), rank)
    kept = {i for _, i in first.values()}
    chosen = [row for i, row in enumerate(whole) if row.get("kind") != "emergence" or i in kept]
    loud = [row for row in chosen if not str(row.get("kind", "")).startswith(_QUIET)]
    return (chosen if len(chosen) <= most else loud)[:most]


def _label(key: Any) -> Any:
    return key.get("label") if isinstance(key, Mapping) else getattr(key, "label", None)


def run_summary(run: Any) -> RenderableType:
    """Return what a run is and where its quantities stand: first, last, error, null, for every series at its best site."""
    header, steps = run.header, run.steps
    facts = Table.grid(padding=(0, 2))
    model = ", ".join(str(header.model[k]) for k in ("class", "num_parameters") if k in header.model)
    for name, value in {
        "run": header.name, "status": header.status, "created": header.created, "measurements": _reach(steps), "model": model,
        "panel": ", ".join(f"{header.panel[k]:,} {k[4:]}" for k in ("num_sentences", "num_words") if k in header.panel),
        "command": header.command,
    }.items():  # fmt: skip
        if value:
            facts.add_row(Text(name, style="dim"), escape(str(value)))
    return Group(
        facts, Text(""), series_table([run.series(k.signal, k.metric, k.label, k.split) for k in tuple(run.keys())])
    )


def series_table(series: Sequence[Series]) -> Table:
    """Return one row per series that has a number: first and last value where it ended best, with error and null."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("series", "site"):
        table.add_column(name, overflow="fold")
    for name in ("first", "last", "± s.e.", "null", "unit"):
        table.add_column(name, justify="right" if name != "unit" else "left", no_wrap=True)
    for s in series:
        column = best_site(s)
        if column is None:
            reason = next(iter(s.missing.values()), "no value")
            table.add_row(key_name(s.key), "", "", Text("missing", style="yellow"), "", "", Text(reason, style="dim"))
            continue
        there = np.flatnonzero(np.isfinite(s.values[:, column]))
        last = there[-1]
        table.add_row(
            key_name(s.key), s.sites[column] or "", number(s.values[there[0], column]), number(s.values[last, column]),
            number(s.stderr[last, column], 2), number(s.null[last, column]), "" if s.field.unit == "1" else s.field.unit,
        )  # fmt: skip
    return table


def runs_table(runs: Iterable[Mapping[str, Any]]) -> Table:
    """Return a list of runs (`Library.summaries`)."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("run", "status", "step", "measurements", "created"):
        table.add_column(name, justify="right" if name in ("step", "measurements") else "left")
    for run in runs:
        step = "" if run.get("step") is None else f"{run['step']:,}"
        status = str(run.get("status", ""))
        colour = {"running": "cyan", "finished": "green", "crashed": "red", "unreadable": "red"}.get(status, "")
        table.add_row(
            escape(str(run.get("name", ""))), Text(status, style=colour), step, f"{run.get('measurements', 0):,}",
            str(run.get("created", "")),
        )  # fmt: skip
    return table


def best_site(series: Series) -> int | None:
    """Return the column that ended best: highest, or lowest where training pushes the quantity down; None without numbers."""
    last = np.full(len(series.sites), np.nan)
    for column in range(len(series.sites)):
        there = np.flatnonzero(np.isfinite(series.values[:, column]))
        if len(there):
            last[column] = series.values[there[-1], column]
    if not np.isfinite(last).any():
        return None
    return int(np.nanargmin(last) if series.field.better == "down" else np.nanargmax(last))


def key_name(key: SeriesKey) -> Text:
    """Return how a table calls a series: "probe.accuracy role (lexical)"."""
    text = Text(f"{key.signal}.{key.metric}")
    if key.label is not None:
        text.append(f" {key.label}", style="cyan")
    if key.split is not None:
        text.append(f" ({key.split})", style="dim")
    return text


def number(value: float | None, digits: int = 4) -> str:
    """Return a number for a reader; empty where there is none."""
    if value is None or not math.isfinite(value):
        return ""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.{digits - 1}e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def _reach(steps: np.ndarray) -> str:
    return f"{len(steps)} measurements, steps {steps[0]:,} to {steps[-1]:,}" if len(steps) else "no measurement yet"


def _interval(interval: Sequence[float | None] | None) -> str:
    if not interval:
        return ""
    low, high = interval
    return f"{'…' if low is None else number(low)} to {'…' if high is None else number(high)}"
