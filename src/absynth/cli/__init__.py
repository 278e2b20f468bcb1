"""`absynth`: the command line. Exit codes: 0 done, 1 failed, 2 wrong usage. Errors are one line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

from absynth.cli import corpora, languages
from absynth.errors import AbsynthError

app = typer.Typer(
    name="absynth",
    help="Annotated synthetic languages whose truth is known exactly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for _command in (
    corpora.generate,
    corpora.describe,
    corpora.plot,
    corpora.pairs,
    corpora.convert,
    corpora.score,
    languages.parse,
):
    app.command()(_command)
app.command(name="grammar")(languages.show_grammar)

_USAGE = {
    "n",
    "seed",
    "workers",
    "preset",
    "kind",
    "limit",
    "scored",
    "form",
    "dialect",
    "dial",
    "suffix",
    "chunk",
    "usage",
    "bits_per_token",
}
"""Fields of errors that are the caller's: exit code 2."""

_PARSER_ERROR: Any = typer.BadParameter.__mro__[2]
"""The base of all usage errors of the parser, wherever typer takes it from."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(
            args=None if arguments is None else list(arguments), prog_name="absynth", standalone_mode=False
        )
    except AbsynthError as error:
        code = 2 if error.field in _USAGE else 1
        _complain(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader has left; nothing more to say
        code = 1
    except typer.Abort:
        code = 130
    except _PARSER_ERROR as error:
        code = error.exit_code
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())
        else:
            _complain(error.format_message())
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    typer.echo("absynth: " + " ".join(message.split()), err=True)
