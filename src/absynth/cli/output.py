"""How commands answer: text or JSON, files of lines, a progress bar."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer


def write_lines(path: Path, lines: Iterator[str]) -> None:
    """Write a file of lines, whole or not at all."""
    from absynth.formats.by_suffix import whole_file

    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)


def answer(facts: dict[str, Any], text: str, as_json: bool) -> None:
    """Print the facts as JSON, or else the text."""
    typer.echo(to_json(facts) if as_json else text)


def to_json(value: Any) -> str:
    """Return one line of JSON."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """Return the value with null for infinities and NaN, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
