"""kill -9 at random moments: what was acknowledged is there, whole; a resumed run equals an uninterrupted one."""

from __future__ import annotations

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lmtrace.run import Run, open_run

SCRIPT = Path(__file__).with_name("killed_writer.py")
known = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def start(folder: Path, resume_step: int, last_step: int = 10**6) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(folder), str(resume_step), str(last_step)]
    source = str(Path(__file__).parents[3] / "src")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source})


def kill_after(process: subprocess.Popen[str], seconds: float) -> list[tuple[str, int]]:
    """Kill -9 the writer `seconds` after its first word; return all that it acknowledged."""
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.stdout.close()
    process.wait()
    lines = [line.split() for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]
    return [(word, int(step)) for word, step in lines]


def check_whole(run: Run, steps: list[int]) -> None:
    """Every measurement of the run is whole and right, and they are `steps` and at most one more."""
    assert run.steps[: len(steps)].tolist() == steps
    assert len(run.steps) <= len(steps) + 1  # written, but killed before it could say so
    for step in run.steps.tolist():
        np.testing.assert_array_equal(run.array(step, "curvature", "density"), known.array_at(step))
    records: dict[int, list] = {step: [] for step in run.steps.tolist()}
    for record in run.records():
        records[record.step].append(record)
    for step, found in records.items():
        assert found == known.records_at(step)


def interrupted(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    saved, resume_step, resumed = [], -1, 0
    for _ in range(kills):
        said = kill_after(start(folder, resume_step), rng.expovariate(1 / 0.08))
        run = open_run(folder)
        assert run.status == "crashed"
        acknowledged = [step for word, step in said if word == "measured"]
        before = list(range(0, resume_step + 1, known.EVERY)) if resume_step >= 0 else []
        check_whole(run, before + acknowledged)
        saved = [s for s in saved if s <= resume_step] + [step for word, step in said if word == "saved"]
        if saved:
            steps, values = run.scalars("loss")
            assert steps[-1] >= saved[-1]
            np.testing.assert_array_equal(steps, np.arange(len(steps)))
            np.testing.assert_array_equal(values, 1 / (1.0 + steps))
            resume_step = rng.choice(saved[-3:])  # not always the last one
            resumed += 1
        run.close()
        if not saved:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    last = resume_step + 40
    process = start(folder, resume_step, last)
    process.communicate()
    assert process.returncode == 0
    run = open_run(folder)
    assert run.status == "finished"
    check_whole(run, list(range(0, last + 1, known.EVERY)))
    assert run.steps[-1] <= last
    steps, values = run.scalars("loss")
    np.testing.assert_array_equal(steps, np.arange(last + 1))
    np.testing.assert_array_equal(values, 1 / (1.0 + steps))
    assert [e.step for e in run.events("alert")] == list(range(0, last + 1, known.EVENT_EVERY))
    assert len(run.attempts) == 1 + resumed
    files = {path.name for path in folder.glob("arrays/*")}
    assert len(files) == len(run.steps)
    assert not list(folder.rglob("*.tmp"))


def test_four_kills_lose_nothing_acknowledged_and_tear_nothing(tmp_path):
    interrupted(tmp_path / "run", kills=4, seed=0)


@pytest.mark.slow
def test_fifty_kills_lose_nothing_acknowledged_and_tear_nothing(tmp_path):
    interrupted(tmp_path / "run", kills=50, seed=1)
