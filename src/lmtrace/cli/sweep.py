"""`lmtrace sweep`: the same signals over many checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lmtrace.cli.terminal import Progress, out, print_json


def sweep(
    checkpoints: Annotated[
        list[str],
        typer.Argument(metavar="CHECKPOINT", help="Folders of checkpoints or runs, or Hub names (org/name@revision)."),
    ],
    run: Annotated[Path, typer.Option("--run", help="Folder of the run; one that exists is gone on with.")] = Path(
        "runs/sweep"
    ),
    panel: Annotated[
        str | None, typer.Option(help="A file of annotated sentences; default: that of the training.")
    ] = None,
    signals: Annotated[str, typer.Option(help="light, standard, full, or names with commas.")] = "standard",
    pairs: Annotated[str | None, typer.Option(help="A file or folder of minimal pairs.")] = None,
    suites: Annotated[str | None, typer.Option(help="A suite of SyntaxGym, or a folder of them.")] = None,
    executor: Annotated[str, typer.Option(help="serial, process or ray.")] = "serial",
    workers: Annotated[int | None, typer.Option(help="Checkpoints at a time.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of each worker; results depend on it in the last bit.")] = 1,
    steps: Annotated[
        str | None, typer.Option(help="Steps with commas, where the checkpoints do not tell them.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the signals; default: that of the training.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where the folder holds a run.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure many checkpoints: folders, Hub revisions, the checkpoints of runs."""
    from lmtrace.errors import ConfigError
    from lmtrace.jobs.pair_files import with_files
    from lmtrace.jobs.sweep import sweep as job

    try:
        numbers = [int(step) for step in steps.split(",")] if steps else None
    except ValueError as error:
        raise ConfigError(f"--steps {steps!r}: not whole numbers with commas between") from error
    with Progress("sweep", quiet=as_json) as progress:
        result = job(
            checkpoints, panel, run=run, signals=with_files(signals, pairs, suites), executor=executor,  # pyright: ignore[reportArgumentType]  checked there
            workers=workers, threads=threads, steps=numbers, seed=seed, overwrite=overwrite,
            trust_remote_code=trust_remote_code, on_progress=progress,
        )  # fmt: skip
    rows = outcomes(result)
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table("checkpoint", "step", "weights", "what became of it", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        name = row["path"] if row["revision"] is None else f"{row['path']}@{row['revision']}"
        step = "" if row["step"] is None else str(row["step"])
        table.add_row(name, step, row["weights"][:12], row["text"].removeprefix(name).lstrip(": "))
    out().print(table)


def outcomes(run: Any) -> list[dict[str, Any]]:
    """Return what became of every checkpoint of a sweep, by step: path, revision, weights, kind and a sentence."""
    from lmtrace.jobs.sweep import KINDS

    found = [
        {**{k: e.data[k] for k in ("path", "revision", "step", "weights")}, "kind": e.kind, "text": e.text}
        for e in run.events()
        if e.kind in KINDS
    ]
    return sorted(found, key=lambda row: (row["step"] is None, row["step"] or 0))
