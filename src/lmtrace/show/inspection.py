"""An inspected sentence in a terminal and in a notebook: one row per token. The page of report and dashboard shows all of it."""

from __future__ import annotations

import html as escaping
import math
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lmtrace.records.inspection import Inspection
from lmtrace.show.tables import number


def headline(inspection: Inspection) -> tuple[str, str]:
    """Return (style, sentence): whether the language has this sentence, or why that is not known."""
    oracle = inspection.oracle
    if oracle is None or "accepted" not in oracle:
        return "dim", f"Not judged: {inspection.oracle_reason or 'the oracle cannot parse'}."
    wrong = oracle["error"]
    return (
        ("green", "Well-formed.")
        if wrong is None
        else ("red", f"{str(wrong['kind']).capitalize()}: {wrong['message']}.")
    )


def rows(inspection: Inspection) -> tuple[list[str], list[list[str]]]:
    """Return column names and one row per token, at the last checkpoint."""
    last, oracle = inspection.moments[-1], inspection.oracle
    several = len(inspection.moments) > 1
    read = {layer: _best(entry) for layer, entry in last["probes"].items() if "reading" in entry}
    names = ["token", "surprisal", "exact", "rank", "most probable", *(["got from step"] if several else []), *read]
    found = []
    for t, column in enumerate(inspection.columns):
        word = len(inspection.words) if column["word"] is None else column["word"]
        exact = oracle["surprisal"][word] if oracle is not None and inspection.objective == "causal" else math.nan
        value = last["surprisal"][t]
        row = [
            column["text"], "" if value is None else f"{value:.2f}", "impossible" if exact is None else number(exact, 3),
            str(last["rank"][t]), ", ".join(f"{token} {p:.2f}" for token, p in last["top"][t][:1]),
        ]  # fmt: skip
        if several:
            got = inspection.got["columns"][t]
            row.append("-" if got is None else f"{got:,}")
        for layer, at in read.items():
            row.append(_reading(inspection, layer, at, column))
        found.append(row)
    keep = [i for i, _ in enumerate(names) if names[i] != "exact" or any(row[i] for row in found)]
    return [names[i] for i in keep], [[row[i] for i in keep] for row in found]


def _best(entry: dict[str, Any]) -> int:
    return max(range(len(entry["sites"])), key=lambda i: entry["accuracy"][i])


def _reading(inspection: Inspection, layer: str, at: int, column: dict[str, Any]) -> str:
    if column["word"] is None or not column["end"]:
        return ""
    entry = inspection.moments[-1]["probes"][layer]
    code, sure = entry["reading"][at][column["word"]], entry["confidence"][at][column["word"]]
    if code is None:
        return ""
    name = inspection.layers[layer][code]
    gold = inspection.gold[layer][column["word"]] if layer in inspection.gold else None
    if layer in inspection.gold and gold is None:
        return ""  # the word has no label of this kind
    return f"{name} {sure:.2f}" + (f" (not {gold})" if gold is not None and gold != name else "")


def inspection_table(inspection: Inspection) -> RenderableType:
    """Return what a terminal shows."""
    style, verdict = headline(inspection)
    last = inspection.moments[-1]
    names, body = rows(inspection)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in names:
        table.add_column(
            escape(name), justify="right" if name in ("surprisal", "exact", "rank", "got from step") else "left"
        )
    for row in body:
        table.add_row(*(escape(value) for value in row))
    facts = f"{inspection.model}, step {last['step']:,}"
    if len(inspection.moments) > 1:
        facts += f"; {len(inspection.moments)} checkpoints from step {inspection.moments[0]['step']:,}"
    notes = [Text(note, style="yellow") for note in inspection.notes]
    missing = [Text(f"{what}: {reason}", style="dim") for what, reason in reasons(last)]
    rule = [Text(f"got: {inspection.got['rule']}", style="dim")] if len(inspection.moments) > 1 else []
    return Group(
        Text(inspection.sentence, style="bold"), Text(verdict, style=style), *notes, Text(facts, style="dim"), Text(""), table, *rule, *missing,
    )  # fmt: skip


def reasons(moment: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is missing, and why."""
    parts = {"lens": moment["lens"], "attention": moment["attention"], **moment["probes"]}
    return [(name, part["missing"]) for name, part in parts.items() if "missing" in part]


def text(inspection: Inspection) -> str:
    """Return the table as plain text."""
    console = Console(width=140, no_color=True)
    with console.capture() as capture:
        console.print(inspection_table(inspection))
    return capture.get()


def html(inspection: Inspection) -> str:
    """Return the table as HTML, for notebooks."""
    names, body = rows(inspection)
    head = "".join(f"<th>{escaping.escape(name)}</th>" for name in names)
    lines = "".join("<tr>" + "".join(f"<td>{escaping.escape(v)}</td>" for v in row) + "</tr>" for row in body)
    notes = "".join(f"<br><small>{escaping.escape(note)}</small>" for note in inspection.notes)
    return (
        f"<table><caption><b>{escaping.escape(inspection.sentence)}</b><br>{escaping.escape(headline(inspection)[1])}{notes}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    )


class InspectionTable(Inspection):
    """An inspection that shows itself: as a table of text when printed, of HTML in a notebook."""

    def __str__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)
