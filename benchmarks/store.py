"""The run store: scalars per second, bytes per scalar, seconds to acknowledge and to read."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmtrace.records.schema import Record, RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run

SITES = tuple(f"block.{i}" for i in range(24))


def rows(num_steps: int = 100, num_series: int = 200) -> list[dict[str, Any]]:
    """Return the figures of a run of `num_steps` measurements of `num_series` series at 24 sites each."""
    rng = np.random.default_rng(0)
    per_step = num_series * len(SITES)
    numbers = rng.normal(size=per_step).tolist()

    def records(step: int) -> list[Record]:
        values = iter(numbers)
        return [
            Record(step=step, signal="probe", metric="loss", label=f"role={i}", site=site, value=next(values) + step)
            for i in range(num_series)
            for site in SITES
        ]

    with tempfile.TemporaryDirectory() as name:
        batches = [records(step) for step in range(num_steps)]
        seconds = []
        with RunWriter.create(Path(name, "bare"), RunHeader()) as writer:
            for step, batch in enumerate(batches):
                start = time.perf_counter()
                writer.write(step, batch)
                seconds.append(time.perf_counter() - start)
        bare = Path(name, "bare", "run.sqlite").stat().st_size / (per_step * num_steps)
        with RunWriter.create(Path(name, "full"), RunHeader()) as writer:
            for step in range(num_steps):
                writer.write(step, [replace(r, stderr=abs(r.value or 0), n=512, null=0.2) for r in records(step)])
        full = Path(name, "full", "run.sqlite").stat().st_size / (per_step * num_steps)

        with RunWriter.create(Path(name, "small"), RunHeader()) as writer:
            small = []
            for step in range(100):
                batch = [replace(record, step=step) for record in batches[0][: 10 * len(SITES)]]
                start = time.perf_counter()
                writer.write(step, batch)
                small.append(time.perf_counter() - start)
            start = time.perf_counter()
            for step in range(100_000):
                writer.write_scalars("loss", step, 1.0)
            loss = (time.perf_counter() - start) / 100_000

        with open_run(Path(name, "bare")) as run:
            start = time.perf_counter()
            for i in range(num_series):
                run.series(label=f"role={i}")
            read = (time.perf_counter() - start) / num_series
            start = time.perf_counter()
            count = sum(1 for _ in run.records())
            iterate = count / (time.perf_counter() - start)

    return [
        {"name": "store: write", "value": per_step / float(np.median(seconds)), "unit": "scalars/s",
         "bound": "", "note": f"median of {num_steps} synced transactions, {num_series} series x {len(SITES)} sites"},
        {"name": "store: size, values alone", "value": bare, "unit": "bytes/scalar", "bound": "<= 10.0", "note": "float64"},
        {"name": "store: size, with stderr, n, null", "value": full, "unit": "bytes/scalar", "bound": "<= 20.0",
         "note": "float64; n and null are equal at all sites and stored once"},
        {"name": "store: acknowledge a small measurement", "value": 1000 * float(np.median(small)), "unit": "ms",
         "bound": "", "note": "240 scalars, synced to disk"},
        {"name": "store: training scalar", "value": 1e6 * loss, "unit": "us/call", "bound": "<= 20.0", "note": "buffered"},
        {"name": "store: read one series", "value": 1000 * read, "unit": "ms", "bound": "",
         "note": f"{num_steps} steps"},
        {"name": "store: read records", "value": iterate, "unit": "records/s", "bound": "", "note": "as objects"},
    ]  # fmt: skip


if __name__ == "__main__":
    for row in rows():
        print(f"{row['name']:45} {row['value']:12.4g} {row['unit']:14} {row['note']}")
