"""A stand-in for a training run whose every number is known; run as a script, it writes until it is killed.

    python killed_writer.py FOLDER RESUME_STEP LAST_STEP

It prints "measured S" after the measurement at S was acknowledged and "saved S" after `checkpoint(S)`.
"""

from __future__ import annotations

import sys

import numpy as np

from lmtrace.records.schema import Record, RunHeader
from lmtrace.records.store import RunWriter

EVERY, SAVE_EVERY, EVENT_EVERY = 5, 15, 20
SITES = ("embed", "block.0", "block.1", "final")


def records_at(step: int) -> list[Record]:
    records = [
        Record(
            step=step, signal="probe", metric="accuracy", label=f"role={label}", site=site,
            value=label + place / 8 + step, stderr=1 / (1 + label), n=step + place,
        )
        for label in range(30)
        for place, site in enumerate(SITES)
    ]  # fmt: skip
    records.append(Record(step=step, signal="probe", metric="gain", missing=f"not at step {step}"))
    return [*records, Record(step=step, signal="curvature", metric="density", array=array_at(step))]


def array_at(step: int) -> np.ndarray:
    return np.arange(200.0) * (step + 1)


def loss_at(step: int) -> float:
    return 1.0 / (1 + step)


def main(folder: str, resume_step: int, last_step: int) -> None:
    writer = RunWriter.create(folder, RunHeader()) if resume_step < 0 else RunWriter.resume(folder, resume_step)
    if resume_step >= 0:
        measured = resume_step - resume_step % EVERY
        np.testing.assert_array_equal(writer.read_memory()["similarity"]["previous"], array_at(measured))
    with writer:
        for step in range(resume_step + 1, last_step + 1):
            writer.write_scalars("loss", step, loss_at(step))
            if step % EVERY == 0:
                memory = {"similarity": {"previous": array_at(step)}}
                writer.write(step, records_at(step), tokens_seen=64 * step, wall_time=float(step), memory=memory)
                print("measured", step, flush=True)  # noqa: T201
            if step % EVENT_EVERY == 0:
                writer.event(step, "alert", f"step {step}")
            if step % SAVE_EVERY == 0:
                writer.checkpoint(step)
                print("saved", step, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
