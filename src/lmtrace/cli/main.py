"""`lmtrace`: train, analyze, look."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lmtrace.cli.inspect import inspect
from lmtrace.cli.plan import plan
from lmtrace.cli.sweep import sweep
from lmtrace.cli.terminal import Progress, out, print_json
from lmtrace.errors import ConfigError, TraceError

app = typer.Typer(
    name="lmtrace",
    help="What a language model knows, when it learned it, and where it is kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

WIDE = 110
"""Columns of a terminal from which a table of four columns of words can be read."""

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_PARSER_ERROR: Any = typer.BadParameter.__mro__[2]
"""The base of all usage errors of the parser, wherever typer takes it from."""

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already there.")]


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", help="Folder of the run.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Train a small model on a small language with every signal, and write a report (a few minutes)."""
    from lmtrace.jobs.demo import demo as job

    with Progress("demo", quiet=as_json) as progress:
        result = job(run, on_progress=progress)
    _show_findings(result, as_json)
    if not as_json:
        out().print(f"\nReport: {run / 'report.html'}", soft_wrap=True)


@app.command()
def train(
    corpus: Annotated[str | None, typer.Option(help="absynth:PRESET, absynth:GRAMMAR.toml, or a file.")] = None,
    panel: Annotated[str | None, typer.Option(help="A file of annotated sentences; default: held-out ones.")] = None,
    run: Annotated[str | None, typer.Option(help="Folder of the run.")] = None,
    model: Annotated[
        str | None, typer.Option(help="gpt2, llama, gpt_neox, opt, qwen, gemma, mixtral, mamba, bert, t5.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="tiny, small, medium, large, or LAYERSxWIDTH.")] = None,
    task: Annotated[str | None, typer.Option(help="auto, causal, masked, seq2seq.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sentences per step.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Gradient accumulation.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    every: Annotated[int | None, typer.Option(help="Steps between measurements.")] = None,
    signals: Annotated[str | None, typer.Option(help="light, standard, full, or names with commas.")] = None,
    pairs: Annotated[str | None, typer.Option(help="A file or folder of minimal pairs.")] = None,
    suites: Annotated[str | None, typer.Option(help="A suite of SyntaxGym, or a folder of them.")] = None,
    budget: Annotated[float | None, typer.Option(help="Largest share of time for measuring.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="auto, word, bpe, or a folder.")] = None,
    panel_size: Annotated[int | None, typer.Option(help="Sentences in the panel.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints; 0: only the last.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, data order and signals.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file with any of these.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, as in the file.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Train a small model from scratch and trace it."""
    from lmtrace.cli.settings import merge
    from lmtrace.jobs.train import config_of, settings_file
    from lmtrace.jobs.train import train as job

    flags = {
        "data.corpus": corpus, "data.panel": panel, "run": run, "model": model, "size": size, "task": task, "steps": steps,
        "batch_size": batch_size, "accumulate": accumulate, "learning_rate": learning_rate, "every": every,
        "signals": signals, "pairs": pairs, "suites": suites, "budget": budget, "data.tokenizer": tokenizer, "data.panel_size": panel_size,
        "save_every": save_every, "seed": seed, "data.seed": seed,
        "overwrite": overwrite or None, "resume": resume or None,
    }  # fmt: skip
    values = merge(settings_file(config) if config else {}, flags, settings or [])
    with Progress("train", quiet=as_json) as progress:
        result = job(config_of(values), on_progress=progress)
    _show_findings(result, as_json)


@app.command()
def analyze(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint's folder, or a Hub name.")],
    run: Annotated[Path, typer.Option("--run", help="Folder of the run.")] = Path("runs/analyze"),
    panel: Annotated[str | None, typer.Option(help="A file of annotated sentences.")] = None,
    signals: Annotated[str, typer.Option(help="light, standard, full, or names with commas.")] = "standard",
    revision: Annotated[str | None, typer.Option(help="Revision on the Hub.")] = None,
    step: Annotated[int | None, typer.Option(help="The optimizer step that the checkpoint is at.")] = None,
    pairs: Annotated[str | None, typer.Option(help="A file or folder of minimal pairs.")] = None,
    suites: Annotated[str | None, typer.Option(help="A suite of SyntaxGym, or a folder of them.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure a saved model once, with the same signals as during training."""
    from lmtrace.jobs.analyze import analyze_checkpoint
    from lmtrace.jobs.pair_files import with_files

    chosen = with_files(signals, pairs, suites)
    result = analyze_checkpoint(
        model, run=run, panel=panel, signals=chosen, revision=revision, step=step, overwrite=overwrite
    )
    _show_findings(result, as_json)


app.command()(sweep)
app.command()(plan)
app.command()(inspect)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: report.html in the run.")] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML report of one or more runs."""
    from lmtrace.run import open_run
    from lmtrace.show.report import write_report

    path = output or runs[0] / "report.html"
    write_report([open_run(run) for run in runs], path)
    _show_path("Report", path, as_json)


@app.command()
def view(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Anything but localhost needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    token: Annotated[str | None, typer.Option(help="Secret that readers must give.")] = None,
) -> None:
    """Serve the live dashboard on localhost."""
    from lmtrace.show.dashboard import serve

    serve(folder, host=host, port=port, token=token)


@app.command()
def findings(
    run: RunFolder,
    everything: Annotated[bool, typer.Option("--all", help="Also those on single label values.")] = False,
    as_json: Json = False,
) -> None:
    """Say what emerged, when, where, and how sure that is."""
    from lmtrace.run import open_run

    _show_findings(open_run(run), as_json, everything)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Two runs; or three and more seeds.")],
    against: Annotated[list[Path] | None, typer.Option(help="Partners of the runs, in the same order.")] = None,
    as_json: Json = False,
) -> None:
    """Say what differs between runs, and whether the difference is clear of zero."""
    from lmtrace.analysis.compare import compare as job
    from lmtrace.run import open_run
    from lmtrace.show.tables import findings_table

    found = job([open_run(r) for r in runs], [open_run(r) for r in against] if against else None)
    if as_json:
        print_json([f.to_dict() for f in found])
    else:
        out().print(findings_table(found))


@app.command()
def replay(
    run: RunFolder,
    stop: Annotated[str, typer.Option(help="A rule: 'output.loss probe.accuracy[role]@final window=10 patience=2'.")],
    as_json: Json = False,
) -> None:
    """Say what a stop rule would have saved, and given up, on a finished run."""
    from lmtrace.analysis.replay import replay as job
    from lmtrace.run import open_run

    found = job(open_run(run), stop).finding()
    if as_json:
        print_json(found.to_dict())
    else:
        out().print(found.sentence, soft_wrap=True)


@app.command()
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option("--to", help="parquet or csv.")] = "csv",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: records.* in the run.")] = None,
    as_json: Json = False,
) -> None:
    """Write every record of a run as a table."""
    from lmtrace.records.export import export as job
    from lmtrace.run import open_run

    path = output or run / f"records.{to}"
    job(open_run(run), path, to=to)  # pyright: ignore[reportArgumentType]  a wrong word is an error of ours
    _show_path("Records", path, as_json)


@app.command()
def signals(as_json: Json = False) -> None:
    """List the signals that exist: what they measure, and what they cost."""
    from rich.markup import escape
    from rich.table import Table

    from lmtrace.signals import available

    found = available()
    if as_json:
        print_json(
            {
                name: {"cost": c.cost, "source": c.source, "fields": [f.metric for f in c.fields], "stride": c.stride}
                for name, c in sorted(found.items())
            }
        )
        return
    console = out()
    narrow = console.width < WIDE
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=not narrow)
    for title in ("signal", "what it measures") if narrow else ("signal", "what it measures", "cost", "metrics"):
        table.add_column(title, overflow="fold")
    for name, c in sorted(found.items()):
        what = (sys.modules[c.__module__].__doc__ or c.__doc__ or "").strip().splitlines()[0]
        metrics = ", ".join(f.metric for f in c.fields)
        if narrow:
            table.add_row(f"[bold]{name}[/]", f"{escape(what)}\ncost: {escape(c.cost)}\nmetrics: {escape(metrics)}")
        else:
            table.add_row(name, escape(what), escape(c.cost), escape(metrics))
    console.print(table)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint's folder.")],
    panel: Annotated[str | None, typer.Option(help="A file of annotated sentences.")] = None,
    signals: Annotated[str, typer.Option(help="light, standard, full, or names with commas.")] = "full",
    steps: Annotated[int, typer.Option(help="Training steps to compare.")] = 4,
    train_step: Annotated[
        str | None, typer.Option(help="FILE.py:FUNCTION of your own (model, optimizer, step) -> loss, which is run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove on your own model, and your own training step, that measuring changes nothing, bit for bit."""
    from dataclasses import asdict

    from lmtrace.jobs.analyze import checkpoint_and_panel
    from lmtrace.jobs.verify import load_train_step
    from lmtrace.jobs.verify import verify as job

    step = load_train_step(train_step) if train_step else None
    loaded, built, chosen = checkpoint_and_panel(model, panel=panel, signals=signals)
    verdict = job(loaded, built, signals=chosen, steps=steps, train_step=step)
    if as_json:
        print_json(asdict(verdict))
    else:
        out().print(str(verdict))
    raise typer.Exit(0 if verdict.identical else 1)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check the environment: versions, accelerator, optional parts, speed of the disk."""
    from lmtrace.jobs.doctor import doctor as job

    rows = job()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        out().print(
            f"[{'green' if row['ok'] else 'yellow'}]{'ok  ' if row['ok'] else 'none'}[/] {row['name']:<14} {row['detail']}"
        )


def _show_path(what: str, path: Path, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(path)})
    else:
        out().print(f"{what}: {path}", soft_wrap=True)


def _show_findings(run: Any, as_json: bool, everything: bool = False) -> None:
    from lmtrace.analysis.findings import findings as find
    from lmtrace.show.tables import print_findings

    found = find(run)
    if as_json:
        print_json([f.to_dict() for f in found])
    else:
        print_findings(run, found, out(), everything)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: 0 done, 1 failed (one line says why), 2 wrong usage."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # which kernels it lacks is no news about a measurement
    logging.basicConfig(level=os.environ.get("LMTRACE_LOG", "WARNING"), format="%(levelname)s %(name)s: %(message)s")
    try:
        code = typer.main.get_command(app).main(
            args=None if arguments is None else list(arguments), prog_name="lmtrace", standalone_mode=False
        )
    except TraceError as error:
        _complain(str(TraceError(error.message, _in_flags(error.fix))))
        code = 2 if isinstance(error, ConfigError) else 1
    except BrokenPipeError:
        sys.stderr.close()  # the reader has left; nothing more to say
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; what was measured is kept")
        code = 130
    except _PARSER_ERROR as error:
        code = error.exit_code
        if type(error).__name__ != "NoArgsIsHelpError":  # that one has printed the help
            _complain(error.format_message())
    raise SystemExit(code if isinstance(code, int) else 0)


def _in_flags(advice: str) -> str:
    """Return advice in which the arguments of functions ("overwrite=True") are the flags of commands ("--overwrite")."""
    commands = typer.main.get_command(app).commands.values()  # pyright: ignore[reportAttributeAccessIssue]
    flags = {p.name: p.opts[-1] for command in commands for p in command.params if p.opts[-1].startswith("--")}

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2].strip("\"'")
        if name not in flags:
            return match[0]
        return flags[name] if value == "True" else f"{flags[name]} {value}"

    return re.sub(r"\b([a-z_]+)=(\"[^\"]*\"|'[^']*'|[\w.]+)", flag, advice)


def _complain(message: str) -> None:
    Console(stderr=True).print(
        f"lmtrace: {' '.join(message.split())}", style="red", highlight=False, soft_wrap=True, markup=False
    )


if __name__ == "__main__":
    main()
