"""A small language, a small model, every signal, a report: the whole way of the data in a few minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lmtrace.jobs.data import DataConfig, split
from lmtrace.jobs.train import TrainConfig, train
from lmtrace.run import Run
from lmtrace.signals import resolve
from lmtrace.signals.curvature import Curvature

STEPS = 1200
MEASURED = (5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1000, 1200)
"""Dense where a small model learns most, so that onsets are known to a few steps."""


SAVED = (10, 20, 35, 50, 75, 100, 200, 400)
"""Checkpoints for the inspector, with the untrained model and the final one."""


def demo_config(run: str | Path = "runs/demo", steps: int = STEPS, seed: int = 0) -> TrainConfig:
    """Return the settings of the demonstration: a four-block GPT-2 of width 96 on the small language."""
    return TrainConfig(
        data=DataConfig(corpus="absynth:tiny", sentences=60_000, seed=seed),
        run=str(run),
        model="gpt2",
        size="4x96",
        steps=steps,
        batch_size=64,
        learning_rate=4e-3,
        signals="full",
        every=sorted({max(1, round(step * steps / STEPS)) for step in MEASURED}),
        save_every=sorted({max(1, round(step * steps / STEPS)) for step in SAVED}),
        seed=seed,
        overwrite=True,
    )


def demo(
    run: str | Path = "runs/demo", *, steps: int = STEPS, on_progress: Callable[[int, int, str], None] | None = None
) -> Run:
    """Train and trace the demonstration, look closely at two sentences, write its report, and return the run."""
    from lmtrace.jobs.inspect import inspect_checkpoints
    from lmtrace.show.report import write_report

    config = demo_config(run, steps)
    # The spectrum's density takes more products than a preset should; a model of this size has them for seconds.
    curvature = Curvature(quantities=(*Curvature().quantities, "density"), density_probes=2)
    signals = [curvature if signal.name == curvature.name else signal for signal in resolve(config.signals)]
    result = train(config, on_progress=on_progress, signals=signals)
    for words in _sentences(config.data):
        inspect_checkpoints(run, words, on_progress=on_progress)
    write_report([result], Path(run) / "report.html")
    return result


def _sentences(data: DataConfig) -> list[list[str]]:
    """Return a held-out sentence with two words swapped, so that it has an error, and the sentence itself: the last is shown first."""
    _, held_out = split(data)
    oracle = held_out.oracle
    for sentence in held_out:
        words = list(sentence.tokens)
        if not 7 <= len(words) <= 9:
            continue
        for i in range(1, len(words) - 1):
            wrong = [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
            found = oracle.parse(wrong).diagnosis
            if found is not None and 2 <= found.position <= len(words) - 3:
                return [wrong, words]
    return []
