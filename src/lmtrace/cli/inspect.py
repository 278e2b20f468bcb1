"""`lmtrace inspect`: one sentence, looked at closely."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmtrace.cli.terminal import Progress, out, print_json


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A checkpoint, a run or folder with several of them, or a Hub name.",
            show_default=False,
        ),
    ],
    sentence: Annotated[str, typer.Argument(metavar="SENTENCE", help='"the dog sees"', show_default=False)],
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Run to keep it in, for report and dashboard; default: MODEL, if it is one."),
    ] = None,
    panel: Annotated[
        str | None, typer.Option(help="Annotated sentences for the probes; default: the panel of the training.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Look closely at one sentence: surprisal, lens, probes, attention, errors; at every checkpoint there is."""
    from lmtrace.jobs.inspect import inspect_checkpoints
    from lmtrace.records.layout import DATABASE
    from lmtrace.show.inspection import inspection_table

    with Progress("inspect", quiet=as_json) as progress:
        found = inspect_checkpoints(model, sentence, panel=panel, run=run, on_progress=progress)
    if as_json:
        print_json(found.to_dict())
        return
    out().print(inspection_table(found))
    kept = run or (Path(model) if (Path(model) / DATABASE).is_file() else None)
    if kept is not None:
        out().print(f"\nKept in {kept}: lmtrace view {kept}, or lmtrace report {kept}", soft_wrap=True)
