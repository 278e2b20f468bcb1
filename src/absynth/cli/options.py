"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from absynth.errors import AbsynthError

if TYPE_CHECKING:
    from absynth.corpus import Corpus
    from absynth.grammar import Grammar

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
File = Annotated[Path, typer.Argument(help="A corpus: .parquet, .jsonl, .conllu, .txt, .tsv or .json.")]
Preset = Annotated[str | None, typer.Option(help="A grammar that comes with absynth: tiny, small or paper.")]
GrammarFile = Annotated[Path | None, typer.Option("--grammar", help="A grammar file (TOML).")]
Bits = Annotated[float | None, typer.Option("--entropy", help="Turn the grammar to this entropy, bits per token.")]
Dial = Annotated[str, typer.Option(help="What --entropy turns: alpha or strength.")]
Form = Annotated[str | None, typer.Option(help="Of .json: list or object.")]
Dialect = Annotated[str | None, typer.Option(help="Semantics of .json: roles or events.")]


def grammar_of(preset: str | None, path: Path | None, entropy: float | None, dial: str) -> Grammar:
    """Return the grammar that the options name, turned to an entropy where they ask for it."""
    from absynth.grammar import Grammar

    if preset and path:
        raise AbsynthError("usage", f"--preset {preset} --grammar {path}", "one of --preset and --grammar")
    language = Grammar.from_toml(path) if path else Grammar.preset(preset or "small")
    return language if entropy is None else language.with_entropy(entropy, dial=dial)


def load(path: Path) -> Corpus:
    """Read a corpus; the readers are imported only now."""
    from absynth.files import load

    return load(path)


def published(form: str | None, dialect: str | None) -> dict[str, Any]:
    """Return the options of the published format that were given."""
    return {name: value for name, value in (("form", form), ("dialect", dialect)) if value is not None}
