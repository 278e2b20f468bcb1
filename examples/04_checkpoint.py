"""Inference time: measure a saved model, with the signals of a live run and the same numbers.

Run: python examples/04_checkpoint.py [CHECKPOINT PANEL.conllu]      without arguments it trains a small one first
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from lmtrace.jobs.analyze import analyze_checkpoint
from lmtrace.jobs.data import DataConfig
from lmtrace.jobs.train import TrainConfig, train


def main(folder: Path = Path("runs/examples/04"), steps: int = 100, sentences: int = 10_000) -> float:
    """Train with tracing, analyze the saved checkpoint, and return the largest difference between the two."""
    data = DataConfig(corpus="absynth:tiny", sentences=sentences, panel_size=128)
    live = train(
        TrainConfig(
            data=data, run=str(folder / "live"), size="tiny", steps=steps, every=steps, signals="light", overwrite=True
        )
    )
    saved = analyze_checkpoint(
        str(folder / "live" / "checkpoints" / "final"), run=folder / "saved", signals="light", overwrite=True
    )
    worst = 0.0
    for key in saved.keys():
        if key.signal == "cost" or key not in live.keys() or "start" in key.metric:
            continue
        a, b = (
            run.series(signal=key.signal, metric=key.metric, label=key.label, split=key.split) for run in (live, saved)
        )
        worst = max(worst, float(np.nanmax(np.abs(a.values[-1] - b.values[-1]), initial=0.0)))
    print(f"largest difference between live and saved, over {len(saved.keys())} series: {worst:.1e}")
    return worst


if __name__ == "__main__":
    if len(sys.argv) == 3:
        for finding in analyze_checkpoint(
            sys.argv[1], run="runs/examples/04/given", panel=sys.argv[2], overwrite=True
        ).findings():
            print(finding.sentence)
    else:
        main()
