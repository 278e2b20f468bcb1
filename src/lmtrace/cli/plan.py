"""`lmtrace plan`: what measuring will cost, before the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmtrace.cli.terminal import Progress, out, print_json


def plan(
    corpus: Annotated[str | None, typer.Option(help="absynth:PRESET, absynth:GRAMMAR.toml, or a file.")] = None,
    model: Annotated[str | None, typer.Option(help="gpt2, llama, ..., as for `lmtrace train`.")] = None,
    size: Annotated[str | None, typer.Option(help="tiny, small, medium, large, or LAYERSxWIDTH.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sentences per step.")] = None,
    every: Annotated[int | None, typer.Option(help="Steps between measurements.")] = None,
    signals: Annotated[str | None, typer.Option(help="light, standard, full, or names with commas.")] = None,
    panel_size: Annotated[int | None, typer.Option(help="Sentences in the panel.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file, as for `lmtrace train`.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, as in the file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict seconds and memory of measuring, by a few steps and measurements of the very run."""
    from lmtrace.analysis.findings.finding import say_duration
    from lmtrace.cli.settings import merge
    from lmtrace.jobs.plan import plan_training
    from lmtrace.jobs.train import config_of, settings_file

    flags = {
        "data.corpus": corpus, "model": model, "size": size, "steps": steps, "batch_size": batch_size, "every": every,
        "signals": signals, "data.panel_size": panel_size,
    }  # fmt: skip
    values = merge(settings_file(config) if config else {}, flags, settings or [])
    with Progress("plan", quiet=as_json) as progress:
        found = plan_training(config_of(values), on_progress=progress)
    if as_json:
        print_json(found.as_dict())
        return
    from rich.table import Table

    from lmtrace.records.wording import counted

    table = Table("signal", "every n-th", "seconds", "times", "% of training", box=None, pad_edge=False)
    for cost in sorted(found.signals, key=lambda c: -c.seconds * c.num_measurements):
        share = 100 * cost.seconds * cost.num_measurements / found.training_seconds
        table.add_row(cost.signal, str(cost.stride), f"{cost.seconds:.2f}", str(cost.num_measurements), f"{share:.1f}")
    console = out()
    console.print(table)
    console.print(
        f"\n{counted(found.steps, 'step')} of {1e3 * found.step_seconds:.0f} ms: training takes {say_duration(found.training_seconds)}.\n"
        f"{counted(found.num_measurements, 'measurement')} of {found.measurement_seconds:.2f} s "
        f"({found.full_seconds:.2f} s with every signal, {found.pass_seconds:.2f} s of it the shared pass): "
        f"{say_duration(found.measuring_seconds)}, {100 * found.share:.1f} % of training.\n"
        f"Memory: {found.training_memory / 2**20:.0f} MiB at most while training, "
        f"{found.memory / 2**20:.0f} MiB while measuring.\n"
        f"For 3 %: --every {found.every_for(0.03)}, or --budget 0.03."
    )
