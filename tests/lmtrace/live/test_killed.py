"""kill -9 at random moments of a traced training: nothing acknowledged is lost, and the end is that of an uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lmtrace.jobs.train import last_checkpoint
from lmtrace.live.tracer import Tracer
from lmtrace.observe.interface import Needs, Signal
from lmtrace.records.schema import Field
from lmtrace.run import open_run

SCRIPT = Path(__file__).with_name("killed_training.py")


@pytest.mark.slow
@pytest.mark.parametrize(("how", "kills"), [("loop", 50), ("trainer", 15)])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(how, kills, tmp_path):
    """Records, scalars, events, tokens and the step at which the stop rule fires, to the last bit (checked by the script)."""
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "runs"), str(kills), "1", how],
        env=env, capture_output=True, text=True, timeout=2000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["killed"] == kills
    assert seen["runs"] >= 1, "no run came to its end"
    assert seen["resumed"] > kills / 3, "most kills have to hit a run that can be resumed"
    happened = [
        kind for _, kind, _, _ in seen["events"] if kind != "panel"
    ]  # ends of sentences, where a model has learned enough
    assert happened == ["example", "warning", "stop"]  # a signal that is switched off


class Seen(Signal):
    """Fails at first, then yields the layout of what it remembers."""

    name, cost, source = "seen", "none", "test"
    fields = (Field(metric="sum", title="sum"),)

    def needs(self, panel):
        return Needs()

    def measure(self, view):
        before = view.memory.get("matrix")
        view.memory["matrix"] = torch.arange(6.0).reshape(2, 3).T
        if before is None:
            yield self.record(view, "sum", missing="first")
        else:
            assert before.is_contiguous()
            yield self.record(view, "sum", float(before.sum()), n=1)


def test_tokens_and_time_go_on_after_a_resume(gpt2, panel, tmp_path):
    settings = {"signals": [Seen()], "every": 4, "run": tmp_path / "r"}
    with Tracer(gpt2, panel, **settings) as tracer:
        for _ in range(6):
            tracer.step(loss=1.0, tokens=10)
        tracer.checkpoint()
        tracer.step(loss=1.0, tokens=10)
    before = open_run(tmp_path / "r").wall_time
    with Tracer(gpt2, panel, resume=True, start_step=6, **settings) as tracer:
        for _ in range(2):
            tracer.step(loss=1.0, tokens=100)
    run = open_run(tmp_path / "r")
    assert run.steps.tolist() == [0, 4, 8]
    assert run.tokens_seen.tolist() == [0, 40, 260]
    assert run.wall_time[-1] >= before[1]
    np.testing.assert_array_equal(run.scalars("tokens")[1], [10] * 6 + [100] * 2)
    assert run.series(signal="seen", metric="sum").values[:, 0].tolist()[1:] == [15.0, 15.0]


def test_a_run_that_was_killed_before_it_began_starts_anew(gpt2, panel, tmp_path):
    (tmp_path / "r").mkdir()
    with Tracer(gpt2, panel, signals=[Seen()], run=tmp_path / "r", resume=True):
        pass
    assert open_run(tmp_path / "r").steps.tolist() == [0]


def test_a_checkpoint_that_a_kill_cut_off_is_passed_over(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step, text in ((5, '{"global_step": 5}'), (10, '{"global_step": 10}'), (15, '{"glob'), (20, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if text is not None:
            (folder / "trainer_state.json").write_text(text)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
