"""Many checkpoints: the same signals over all of them, in processes; what is done is not done again.

Run: python examples/09_sweep.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import lmtrace
from lmtrace.jobs.data import DataConfig
from lmtrace.jobs.train import TrainConfig, train


def main(
    folder: Path = Path("runs/examples/09"), steps: int = 200, sentences: int = 10_000,
    executor: Literal["serial", "process", "ray"] = "process",
) -> lmtrace.run.Run:  # fmt: skip
    """Train without looking, keeping checkpoints; then measure them all."""
    data = DataConfig(corpus="absynth:tiny", sentences=sentences, panel_size=128)
    config = TrainConfig(
        data=data,
        run=str(folder / "train"),
        size="tiny",
        steps=steps,
        every=steps,
        signals="output",
        save_every=steps // 4,
        overwrite=True,
    )
    train(config)
    run = lmtrace.sweep(
        [folder / "train"], run=folder / "sweep", signals="light", executor=executor, workers=2, overwrite=True
    )
    role = run.series(signal="probe", metric="accuracy", label="role", site="final")
    for step, value, error in zip(run.steps, role.values[:, 0], role.stderr[:, 0], strict=True):
        print(f"step {step:>4}: role {value:.2f} ± {error:.2f}")
    return run


if __name__ == "__main__":
    main()
