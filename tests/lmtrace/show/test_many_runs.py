"""A hundred runs and a million scalars: the list comes, the page is drawn, and the hand is followed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmtrace.records.schema import Field, Record, RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.show.dashboard import dashboard
from lmtrace.show.library import Library
from reference.example_run import write_example

pytestmark = [pytest.mark.browser, pytest.mark.slow]
Serving = Callable[[Any], AbstractContextManager[str]]

# Milliseconds from one input of the slider to the frame after it is drawn, forty times.
FRAMES = """async () => {
  const slider = document.querySelector('.replay input'), times = [];
  for (let i = 0; i < 40; i++) {
    const began = performance.now();
    slider.value = String(10 * i);
    slider.dispatchEvent(new Event('input'));
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    times.push(performance.now() - began);
  }
  return times.sort((a, b) => a - b);
}"""


def write_million(folder: Path) -> int:
    """A run of two training curves of 300,000 points, and 2,000 measurements of 8 layers at 25 sites."""
    sites, rng = [*(f"block.{i}" for i in range(24)), "final"], np.random.default_rng(0)
    field = Field(metric="accuracy", title="Accuracy", low=0.0, high=1.0, better="up", null="majority")
    num = 0
    with RunWriter.create(folder, RunHeader(fields={"probe": [field]}, model={"sites": sites})) as writer:
        for metric in ("loss", "learning_rate"):
            writer.write_scalars(metric, np.arange(1, 300_001), 2 + rng.normal(size=300_000))
            num += 300_000
        for step in range(0, 300_000, 150):
            values = rng.uniform(size=(8, 25)).tolist()
            writer.write(step, [
                Record(step=step, signal="probe", metric="accuracy", site=site, label=f"layer{i}", value=value, stderr=0.01, null=0.2, n=100)
                for i, row in enumerate(values) for site, value in zip(sites, row, strict=True)
            ])  # fmt: skip
            num += 200
    return num


def test_a_hundred_runs_and_a_million_scalars_stay_fluid(
    tmp_path: Path, serving: Serving, visit: Callable[..., Any]
) -> None:
    runs = tmp_path / "runs"
    write_example(runs / "run-000", num_steps=400)
    for i in range(1, 100):
        shutil.copytree(runs / "run-000", runs / f"run-{i:03d}")
    assert write_million(runs / "large") == 1_000_000
    library = Library(runs)
    start = time.perf_counter()
    assert len(library.summaries()) == 101
    first = time.perf_counter() - start
    start = time.perf_counter()
    library.summaries()
    again = time.perf_counter() - start
    library.close()
    with serving(dashboard(runs)) as address:
        seen = visit()
        page = seen.open(f"{address}?run=large")
        assert page.locator(".runs label").count() == 101
        drawn = page.evaluate("performance.now()")
        frames = page.evaluate(FRAMES)
        page.get_by_role("checkbox", name="run-000").check()
        page.wait_for_selector("h1:text('2 runs')", timeout=30_000)
        assert seen.problems == []

    figures = f"list {first:.2f} s, again {again:.3f} s; page {drawn:.0f} ms; frame {frames[20]:.0f} ms, slowest {frames[-1]:.0f} ms"
    assert first < 5, f"{first:.1f} s for the list of 101 runs"
    assert again < 0.5, f"{again:.2f} s for the list asked for again"
    assert drawn < 15_000, figures
    assert frames[20] < 100, figures
