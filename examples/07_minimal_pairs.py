"""Minimal pairs: does the model prefer the grammatical sentence? Pairs from ABSynth, and any file with BLiMP's keys.

Run: python examples/07_minimal_pairs.py [FILE.jsonl or FOLDER]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import absynth
import lmtrace
from lmtrace.jobs.analyze import load_checkpoint
from lmtrace.jobs.data import DataConfig
from lmtrace.jobs.train import TrainConfig, train
from lmtrace.signals.pairs import Pairs


def main(
    folder: Path = Path("runs/examples/07"), steps: int = 300, sentences: int = 20_000, given: str | None = None
) -> dict[str, float]:
    """Train a small model, write pairs as BLiMP does, and print the share that it gets right of every kind."""
    data = DataConfig(corpus="absynth:tiny", sentences=sentences, panel_size=64)
    train(
        TrainConfig(
            data=data,
            run=str(folder / "train"),
            size="tiny",
            learning_rate=4e-3,
            steps=steps,
            every=steps,
            signals="output",
            overwrite=True,
        )
    )
    checkpoint = folder / "train" / "checkpoints" / "final"

    held_out = absynth.generate(absynth.Grammar.preset("tiny"), n=300, seed=1)
    source = folder / "pairs.jsonl"
    with source.open("w", encoding="utf-8") as file:
        for kind in ("agreement_violation", "word_order_violation", "role_swap"):
            for record in absynth.minimal_pairs(held_out, kind=kind, seed=0).records():
                file.write(json.dumps(record) + "\n")  # sentence_good, sentence_bad, UID, and more

    panel = lmtrace.Panel.from_annotated(held_out, lmtrace.WordTokenizer.load(checkpoint), size=64, seed=0)
    run = lmtrace.analyze(
        load_checkpoint(str(checkpoint)),
        panel,
        signals=[Pairs(pairs=given or str(source))],
        run=folder / "pairs",
        overwrite=True,
    )
    found = {}
    for key in run.find(signal="pairs", metric="accuracy"):
        series = run.series(signal="pairs", metric="accuracy", label=key.label)
        kind = (key.label or "all").removeprefix("kind=")
        found[kind] = float(series.values[-1, 0])
        print(
            f"{kind:<30} {series.values[-1, 0]:.2f} ± {series.stderr[-1, 0]:.2f} of {series.n[-1, 0]:.0f} pairs (chance .5)"
        )
    return found


if __name__ == "__main__":
    main(given=sys.argv[1] if len(sys.argv) > 1 else None)
