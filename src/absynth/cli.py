"""`absynth`: the command line. Exit codes: 0 done, 1 failed, 2 wrong usage. Errors are one line on standard error."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from absynth.errors import AbsynthError

if TYPE_CHECKING:
    from absynth.corpus import Corpus
    from absynth.grammar import Grammar

app = typer.Typer(
    name="absynth",
    help="Annotated synthetic languages whose truth is known exactly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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
}
"""Fields of errors that are the caller's: exit code 2."""

_PARSER_ERROR: Any = typer.BadParameter.__mro__[2]
"""The base of all usage errors of the parser, wherever typer takes it from."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
File = Annotated[Path, typer.Argument(help="A corpus: .parquet, .jsonl, .conllu, .txt, .tsv or .json.")]
Preset = Annotated[str | None, typer.Option(help="A grammar that comes with absynth: tiny, small or paper.")]
GrammarFile = Annotated[Path | None, typer.Option("--grammar", help="A grammar file (TOML).")]
Bits = Annotated[float | None, typer.Option("--entropy", help="Turn the grammar to this entropy, bits per token.")]
Dial = Annotated[str, typer.Option(help="What --entropy turns: alpha or strength.")]
Form = Annotated[str | None, typer.Option(help="Of .json: list or object.")]
Dialect = Annotated[str | None, typer.Option(help="Semantics of .json: roles or events.")]


@app.command()
def generate(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; its suffix is its format.")],
    n: Annotated[int, typer.Option("-n", help="Number of sentences.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Same grammar, seed and n: the same file.")] = 0,
    preset: Preset = None,
    grammar: GrammarFile = None,
    entropy: Bits = None,
    dial: Dial = "alpha",
    workers: Annotated[int, typer.Option(help="Processes; the file does not depend on it.")] = 1,
    exact: Annotated[bool, typer.Option(help="Draw exact quotas instead of independent sentences.")] = False,
    form: Form = None,
    dialect: Dialect = None,
    as_json: Json = False,
) -> None:
    """Write sentences to a file, in constant memory."""
    from absynth.files import generate_to

    language = _grammar(preset, grammar, entropy, dial)
    start = time.perf_counter()
    with _progress("generating", n) as tick:
        generate_to(
            out, language, n, seed=seed, workers=workers, exact=exact, progress=tick, **_published(form, dialect)
        )
    seconds = time.perf_counter() - start
    size = out.stat().st_size
    _show(
        {
            "path": str(out),
            "sentences": n,
            "bytes": size,
            "seconds": round(seconds, 3),
            "grammar": language.name,
            "fingerprint": language.fingerprint,
            "seed": seed,
        },
        f"{out}: {n:,} sentences, {size / max(n, 1):.1f} bytes each, {seconds:.1f} s",
        as_json,
    )


@app.command()
def describe(
    file: File,
    scored: Annotated[int, typer.Option(help="Sentences to score for the entropy; 0 for none.")] = 20_000,
    as_json: Json = False,
) -> None:
    """Compare what a corpus is with what its grammar asked for."""
    from absynth.quality import describe as measure

    found = measure(_load(file), scored=scored)
    _show(found.to_dict(), str(found), as_json)


@app.command()
def plot(
    file: File,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the figures.")],
    scored: Annotated[int, typer.Option(help="Sentences to score for the entropy; 0 for none.")] = 20_000,
    as_json: Json = False,
) -> None:
    """Draw what `describe` says."""
    from absynth.plots import plot as draw

    paths = [str(path) for path in draw(_load(file), out, scored=scored)]
    _show({"figures": paths}, "\n".join(paths), as_json)


@app.command()
def pairs(
    file: File,
    kind: Annotated[str, typer.Option(help="role_violation, role_swap, agreement_violation, ...")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSONL file; without it the pairs are printed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which place and which word.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Try only the first sentences.", min=0)] = None,
    as_json: Json = False,
) -> None:
    """Make minimal pairs with exact severity (JSONL with the keys of BLiMP)."""
    from absynth import minimal_pairs

    found = minimal_pairs(_load(file), kind=kind, seed=seed, limit=limit)
    counts = {"kind": kind, "attempted": found.attempted, "made": len(found), "impossible": dict(found.impossible)}
    summary = (
        f"{counts['made']:,} pairs from {found.attempted:,} sentences; impossible: {counts['impossible'] or 'none'}"
    )
    if out is None:
        for record in found.records():
            typer.echo(_json(record) if as_json else f"{record['sentence_good']}\n  * {record['sentence_bad']}")
        typer.echo(_json(counts) if as_json else summary, err=True)
        return
    _write_lines(out, (_json(record) for record in found.records()))
    _show({**counts, "path": str(out)}, f"{out}: {summary}", as_json)


@app.command()
def convert(
    file: File,
    out: Annotated[Path, typer.Argument(help="File to write; its suffix is its format.")],
    form: Form = None,
    dialect: Dialect = None,
    as_json: Json = False,
) -> None:
    """Write a corpus in another format."""
    from absynth.files import save

    corpus = _load(file)
    save(corpus, out, **_published(form, dialect))
    _show(
        {"path": str(out), "sentences": len(corpus), "bytes": out.stat().st_size},
        f"{out}: {len(corpus):,} sentences",
        as_json,
    )


@app.command()
def score(
    file: File,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSONL file for the values of every token.")] = None,
    preset: Preset = None,
    grammar: GrammarFile = None,
    as_json: Json = False,
) -> None:
    """Give exact surprisal and entropy, under the corpus' own grammar or another."""
    import numpy as np

    from absynth.oracle import oracle_of

    corpus = _load(file)
    if corpus.grammar is None or preset or grammar:
        if not preset and not grammar:
            raise AbsynthError(
                "usage", str(file), "a generated corpus, or --preset or --grammar to say by which language to score"
            )
        oracle = oracle_of(_grammar(preset, grammar, None, "alpha"))
    else:
        oracle = oracle_of(corpus.grammar)
    found = oracle.score(corpus)
    inside = np.isfinite(found.log2_probability)
    rows = np.repeat(inside, np.diff(found.offsets))
    means = {
        name: float(getattr(found, name)[rows].mean()) if rows.any() else None
        for name in ("surprisal", "entropy", "structural", "lexical")
    }
    facts = {
        "sentences": len(corpus),
        "outside": int((~inside).sum()),
        "tokens": int(rows.sum()),
        "unit": "bits",
        **means,
    }
    if out is not None:
        _write_lines(out, _scored(corpus, found))
        facts["path"] = str(out)
    text = f"{len(corpus):,} sentences, {facts['outside']:,} outside the language\n" + "\n".join(
        f"  {name:<10} {'none' if value is None else f'{value:.4f} bits per token, end of sentence included'}"
        for name, value in means.items()
    )
    _show(facts, text, as_json)


def _scored(corpus: Corpus, found: Any) -> Iterator[str]:
    for i, sentence in enumerate(corpus):
        a, b = int(found.offsets[i]), int(found.offsets[i + 1])
        values = {
            name: getattr(found, name)[a:b].tolist() for name in ("surprisal", "entropy", "structural", "lexical")
        }
        yield _json({"tokens": sentence.tokens, **values})


@app.command()
def parse(
    sentence: Annotated[str, typer.Argument(help="Words with spaces between.")],
    preset: Preset = None,
    grammar: GrammarFile = None,
    corpus: Annotated[Path | None, typer.Option(help="Use the grammar of this corpus.")] = None,
    as_json: Json = False,
) -> None:
    """Say how a sentence is derived, or why it is none."""
    from absynth.oracle import oracle_of

    if corpus is not None:
        if preset or grammar:
            raise AbsynthError("usage", "--corpus", "one of --corpus, --preset and --grammar")
        language = _load(corpus).grammar
        if language is None:
            raise AbsynthError("usage", str(corpus), "a generated corpus: this one has no grammar")
    else:
        language = _grammar(preset, grammar, None, "alpha")
    found = oracle_of(language).parse(sentence)
    facts: dict[str, Any] = {
        "accepted": found.accepted,
        "log2_probability": found.log2_probability,
        "derivations": [
            {
                "probability": d.probability,
                "construction": d.sentence.construction,
                "tree": d.sentence.tree,
                "logical_form": d.sentence.logical_form,
            }
            for d in found.derivations
        ],
        "diagnosis": None,
    }
    lines = [f"log2 p = {found.log2_probability:.3f}"] if found.derivations else []
    for d in found.derivations:
        lines += [
            f"{d.probability:.4f}  {d.sentence.construction}",
            f"  {d.sentence.tree}",
            f"  {d.sentence.logical_form}",
        ]
    if found.diagnosis is not None:
        fault = found.diagnosis
        facts["diagnosis"] = {
            "kind": fault.kind,
            "position": fault.position,
            "message": fault.message,
            "role": fault.role,
            "log_odds": fault.log_odds,
        }
        lines.append(f"{fault.kind} at word {fault.position + 1}: {fault.message}")
    _show(facts, "\n".join(lines), as_json)


@app.command(name="grammar")
def show_grammar(
    show: Annotated[
        bool, typer.Option("--show", help="Print the whole grammar, as a file that --grammar reads.")
    ] = False,
    preset: Preset = None,
    grammar: GrammarFile = None,
    entropy: Bits = None,
    dial: Dial = "alpha",
    as_json: Json = False,
) -> None:
    """Say what a grammar is."""
    from absynth.grammar_text import to_toml
    from absynth.oracle import oracle_of

    language = _grammar(preset, grammar, entropy, dial)
    if show:
        _show(language.to_dict(), to_toml(language).rstrip("\n"), as_json)
        return
    rate = oracle_of(language).entropy_rate(unit="bits", samples=1_000)
    facts = {
        "name": language.name,
        "fingerprint": language.fingerprint,
        "words": sum(language.sizes.values()),
        "forms": len(language.vocabulary),
        "frames": len(language.frames),
        "constructions": len(language.constructions),
        "templates": len(language.templates),
        "entropy_bits_per_token": rate.value,
        "entropy_stderr": rate.stderr,
        "shares": language.shares,
        "selection_bits": language.selection_information(),
    }
    text = (
        f"{language!r}\n{facts['forms']:,} forms, {facts['frames']} frames, "
        f"{facts['constructions']} constructions, {facts['templates']} templates\n"
        f"entropy {rate.value:.4f} bits per token{f' ± {rate.stderr:.4f}' if rate.stderr else ''}, "
        "end of sentence included\n"
        "--show prints all of it"
    )
    _show(facts, text, as_json)


# ---- shared ----
def _grammar(preset: str | None, path: Path | None, entropy: float | None, dial: str) -> Grammar:
    from absynth.grammar import Grammar

    if preset and path:
        raise AbsynthError("usage", f"--preset {preset} --grammar {path}", "one of --preset and --grammar")
    language = Grammar.from_toml(path) if path else Grammar.preset(preset or "small")
    return language if entropy is None else language.with_entropy(entropy, dial=dial)


def _load(path: Path) -> Corpus:
    from absynth.files import load

    return load(path)


def _published(form: str | None, dialect: str | None) -> dict[str, Any]:
    return {name: value for name, value in (("form", form), ("dialect", dialect)) if value is not None}


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    try:
        with path.open("w", encoding="utf-8") as out:
            out.writelines(line + "\n" for line in lines)
    except OSError as error:
        raise AbsynthError("path", str(path), f"a path that can be written ({error.strerror})") from error


def _show(facts: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(_json(facts) if as_json else text)


def _json(value: Any) -> str:
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
def _progress(label: str, total: int) -> Iterator[Callable[[int], None] | None]:
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


if __name__ == "__main__":
    main()
