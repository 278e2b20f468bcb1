"""Commands on a grammar: parse a sentence, show the grammar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from absynth.cli.options import Bits, Dial, GrammarFile, Json, Preset, grammar_of, load
from absynth.cli.output import answer
from absynth.errors import AbsynthError


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
        language = load(corpus).grammar
        if language is None:
            raise AbsynthError("usage", str(corpus), "a generated corpus: this one has no grammar")
    else:
        language = grammar_of(preset, grammar, None, "alpha")
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
    answer(facts, "\n".join(lines), as_json)


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
    from absynth.oracle import oracle_of
    from absynth.rules.grammar_text import to_toml

    language = grammar_of(preset, grammar, entropy, dial)
    if show:
        answer(language.to_dict(), to_toml(language).rstrip("\n"), as_json)
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
    answer(facts, text, as_json)
