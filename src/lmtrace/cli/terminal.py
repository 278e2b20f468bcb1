"""What commands print: tables and JSON on the standard output, progress on the standard error."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console


def out() -> Console:
    """Return the console for results; a file has no edge, so tables in it are wide."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 140
    return console


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


class Progress:
    """A progress bar for training; silent where nobody looks."""

    def __init__(self, title: str, quiet: bool = False) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self.console, self.quiet, self.title = console, quiet, title
        self.task = self.bar.add_task(title, total=None)
        self._last = ""

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, step: int, steps: int, message: str) -> None:
        """Show where the work is."""
        self.bar.update(self.task, description=message, completed=step, total=steps or None)
        if not self.quiet and self.bar.disable and message != self._last:
            self.console.print(message)
        self._last = message
