"""Commands on files of sentences: generate, describe, plot, pairs, convert, score."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from absynth.cli.options import Bits, Dial, Dialect, File, Form, GrammarFile, Json, Preset, grammar_of, load, published
from absynth.cli.output import answer, progress, to_json, write_lines
from absynth.errors import AbsynthError

if TYPE_CHECKING:
    from absynth.corpus import Corpus


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

    language = grammar_of(preset, grammar, entropy, dial)
    start = time.perf_counter()
    with progress("generating", n) as tick:
        generate_to(
            out, language, n, seed=seed, workers=workers, exact=exact, progress=tick, **published(form, dialect)
        )
    seconds = time.perf_counter() - start
    size = out.stat().st_size
    answer(
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


def describe(
    file: File,
    scored: Annotated[int, typer.Option(help="Sentences to score for the entropy; 0 for none.")] = 20_000,
    as_json: Json = False,
) -> None:
    """Compare what a corpus is with what its grammar asked for."""
    from absynth.description.quality import describe as measure

    found = measure(load(file), scored=scored)
    answer(found.to_dict(), str(found), as_json)


def plot(
    file: File,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the figures.")],
    scored: Annotated[int, typer.Option(help="Sentences to score for the entropy; 0 for none.")] = 20_000,
    as_json: Json = False,
) -> None:
    """Draw what `describe` says."""
    from absynth.description.plots import plot as draw

    paths = [str(path) for path in draw(load(file), out, scored=scored)]
    answer({"figures": paths}, "\n".join(paths), as_json)


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
    from absynth.pairs.interventions import minimal_pairs

    found = minimal_pairs(load(file), kind=kind, seed=seed, limit=limit)
    counts = {"kind": kind, "attempted": found.attempted, "made": found.made, "impossible": found.impossible}
    reasons = "; ".join(f"{reason}: {number:,}" for reason, number in found.reasons.items()) or "none"
    summary = f"{found.made:,} pairs from {found.attempted:,} sentences; impossible: {reasons}"
    if out is None:
        for record in found.records():
            typer.echo(to_json(record) if as_json else f"{record['sentence_good']}\n  * {record['sentence_bad']}")
        typer.echo(to_json({**counts, "reasons": dict(found.reasons)}) if as_json else summary, err=True)
        return
    write_lines(out, (to_json(record) for record in found.records()))
    answer({**counts, "reasons": dict(found.reasons), "path": str(out)}, f"{out}: {summary}", as_json)


def convert(
    file: File,
    out: Annotated[Path, typer.Argument(help="File to write; its suffix is its format.")],
    form: Form = None,
    dialect: Dialect = None,
    as_json: Json = False,
) -> None:
    """Write a corpus in another format."""
    from absynth.files import save

    corpus = load(file)
    save(corpus, out, **published(form, dialect))
    answer(
        {"path": str(out), "sentences": len(corpus), "bytes": out.stat().st_size},
        f"{out}: {len(corpus):,} sentences",
        as_json,
    )


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

    corpus = load(file)
    if corpus.grammar is None or preset or grammar:
        if not preset and not grammar:
            raise AbsynthError(
                "usage", str(file), "a generated corpus, or --preset or --grammar to say by which language to score"
            )
        oracle = oracle_of(grammar_of(preset, grammar, None, "alpha"))
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
        write_lines(out, _scored(corpus, found))
        facts["path"] = str(out)
    text = f"{len(corpus):,} sentences, {facts['outside']:,} outside the language\n" + "\n".join(
        f"  {name:<10} {'none' if value is None else f'{value:.4f} bits per token, end of sentence included'}"
        for name, value in means.items()
    )
    answer(facts, text, as_json)


def _scored(corpus: Corpus, found: Any) -> Iterator[str]:
    for i, sentence in enumerate(corpus):
        a, b = int(found.offsets[i]), int(found.offsets[i + 1])
        values = {
            name: getattr(found, name)[a:b].tolist() for name in ("surprisal", "entropy", "structural", "lexical")
        }
        yield to_json({"tokens": sentence.tokens, **values})
