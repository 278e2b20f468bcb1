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

from lmtrace.errors import RunError
from lmtrace.records.schema import Series, SeriesKey
from lmtrace.records.wording import reach
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
    """Print what a run is and what was found in it.

    Without `everything`, findings on whole quantities only (not on "role=Agent"): what emerged as a table in the order of
    time, each quantity at the site where it did first; gains of probes side by side; then one line each for the rest.
    """
    rows = [finding(f) for f in findings]
    console.print(Text.assemble((run.header.name or "run", "bold"), f"  {run.header.status}, {reach(run.steps)}"))
    console.print()
    if not rows:
        console.print(findings_table(rows))
    chosen = rows if everything else _main_findings(rows)
    lines = [row for row in chosen if everything or row.get("kind") not in (*_TABLED, *_NOTHING)]
    first = [row for row in lines if row.get("kind") in _FIRST]
    shown = len(lines)
    for row in first:
        _print_line(row, console)
    if not everything:
        shown += _print_emergence(run, [row for row in chosen if row.get("kind") == "emergence"], console)
        shown += _print_gains([row for row in chosen if row.get("kind") in (*_GAINS, *_NOTHING)], console)
    for row in lines:
        if row.get("kind") not in _FIRST:
            _print_line(row, console)
    if shown < len(rows):
        console.print(Text(f"... and {len(rows) - shown} more: lmtrace findings {run.folder} --all", style="dim"))


_FIRST = ("leak", "alert", "floor")
_GAINS = {
    "selectivity": "over control",
    "contextual gain": "over embedding",
    "gain over the untrained model": "over step 0",
}
_NOTHING = tuple(f"no {kind}" for kind in _GAINS)
_TABLED = ("emergence", *_GAINS)
MOST = 20
"""Rows of the table of what emerged."""


def _print_line(row: Mapping[str, Any], console: Console) -> None:
    kind = str(row.get("kind", "finding"))
    style = _STYLE.get(kind, "dim" if kind.startswith(_QUIET) else "bold green")
    console.print(Text.assemble((f"{kind}: ", style), str(row.get("sentence", ""))), soft_wrap=not console.is_terminal)


def _print_emergence(run: Any, rows: Sequence[Mapping[str, Any]], console: Console) -> int:
    """Print a line per quantity that emerged, earliest first; return how many."""
    if not rows:
        return 0
    wide = console.width >= 110
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("what emerged, in order", overflow="fold", min_width=18)
    table.add_column("first at", no_wrap=True)
    for name in ("onset", "half", *(("90 %", "untrained") if wide else ()), "end", "null"):
        table.add_column(name, justify="right", no_wrap=True)

    def numbers(row: Mapping[str, Any]) -> Mapping[str, Any]:
        return row.get("numbers") or {}

    def step(value: Any) -> str:
        return "" if value is None else f"{value:,.0f}"

    ordered = sorted(rows, key=lambda row: (numbers(row).get("onset") or 0.0, numbers(row).get("midpoint") or math.inf))
    for row in ordered[:MOST]:
        n = numbers(row)
        key = _first_key(row)
        try:
            title = run.series(key.signal, key.metric, key.label, key.split).field.title
        except RunError:
            title = f"{key.signal} {key.metric}"
        name = " ".join(part for part in (title, key.label, key.split and f"({key.split})") if part)
        error = number(n.get("stderr"), 2)
        more = (step(n.get("saturation")), number(n.get("start"), 3)) if wide else ()
        table.add_row(
            name, str(row.get("site") or ""), step(n.get("onset")), step(n.get("midpoint")), *more,
            number(n.get("final"), 3) + (f" ± {error}" if error else ""), number(n.get("null"), 3),
        )  # fmt: skip
    console.print()
    console.print(table)
    console.print(Text("onset: the step from which it stays clear of its null; half: half of its way", style="dim"))
    console.print()
    return min(len(rows), MOST)


def _print_gains(rows: Sequence[Mapping[str, Any]], console: Console) -> int:
    """Print what each probe reads beyond its nulls, one line per label layer; return how many findings that tells."""
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        kind = str(row.get("kind")).removeprefix("no ")
        key = _first_key(row)
        name = " ".join(part for part in (key.label, key.split and f"({key.split})") if part)
        n = row.get("numbers") or {}
        mark = "~ " if str(row.get("kind")).startswith("no ") else ""
        cells.setdefault(name, {})[kind] = f"{mark}{number(n.get('final'), 3)} ± {number(n.get('stderr'), 2)}"
    if not cells:
        return 0
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("probe reads more", overflow="fold")
    for title in _GAINS.values():
        table.add_column(title, justify="right")
    for name, found in sorted(cells.items()):
        table.add_row(name, *(found.get(kind, "") for kind in _GAINS))
    console.print(table)
    console.print(Text("at the best site; ~ is not clear of zero", style="dim"))
    console.print()
    return len(rows)


def _first_key(row: Mapping[str, Any]) -> SeriesKey:
    """Return the series that a finding rests on first."""
    series = row.get("series")
    first = next(iter(series), None) if isinstance(series, Sequence) and not isinstance(series, str) else series
    return SeriesKey(**first) if isinstance(first, Mapping) and "signal" in first else SeriesKey("?", "?")


def _main_findings(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return findings on whole quantities; of what emerged at many sites only the first, of what did not none."""
    whole = [row for row in rows if not any("=" in str(_label(key)) for key in row.get("series") or ())]
    first: dict[str, tuple[float, int]] = {}
    for i, row in enumerate(whole):
        if row.get("kind") == "emergence":
            time = (row.get("numbers") or {}).get("midpoint")
            rank = (math.inf if time is None else float(time), i)
            name = str(row.get("series"))
            first[name] = min(first.get(name, rank), rank)
    kept = {i for _, i in first.values()}
    hidden = ("no emergence", "no compression")
    return [
        row
        for i, row in enumerate(whole)
        if (i in kept if row.get("kind") == "emergence" else row.get("kind") not in hidden)
    ]


def _label(key: Any) -> Any:
    return key.get("label") if isinstance(key, Mapping) else getattr(key, "label", None)


def run_summary(run: Any) -> RenderableType:
    """Return what a run is and where its quantities stand: first, last, error, null, for every series at its best site."""
    header, steps = run.header, run.steps
    facts = Table.grid(padding=(0, 2))
    model = ", ".join(str(header.model[k]) for k in ("class", "num_parameters") if k in header.model)
    for name, value in {
        "run": header.name, "status": header.status, "created": header.created, "measurements": reach(steps), "model": model,
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
        colour = {
            "running": "cyan",
            "finished": "green",
            "interrupted": "yellow",
            "crashed": "red",
            "unreadable": "red",
        }.get(status, "")
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


def _interval(interval: Sequence[float | None] | None) -> str:
    if not interval:
        return ""
    low, high = interval
    return f"{'…' if low is None else number(low)} to {'…' if high is None else number(high)}"
