"""The predicted cost of a run: counts and sums against a hand-made clock, memory against a real run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

import lmtrace
from lmtrace.errors import ConfigError
from lmtrace.jobs.memory import PeakMemory
from lmtrace.jobs.plan import plan_training
from lmtrace.jobs.train import config_of
from lmtrace.live.tracer import Tracer
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Needs, Signal
from lmtrace.records.schema import Field, Record

RUN = """
import json, sys
from lmtrace.observe.instrument import Instrument
from lmtrace.jobs.memory import PeakMemory
from lmtrace.jobs.train import config_of, train
from lmtrace.observe.forward import device_of
used, before, original = [], [], Instrument.measure

def measure(self, step, chosen=None, *rest, **named):
    with PeakMemory(device_of(self.model)) as empty:
        pass
    with PeakMemory(device_of(self.model)) as memory:
        found = original(self, step, chosen, *rest, **named)
    used.append(memory.peak)
    before.append(empty.peak)
    return found

Instrument.measure = measure
run = train(config_of(json.loads(sys.argv[1])))
cost = run.series(signal="cost", metric="seconds", label="all").values[:, 0]
print(json.dumps({"memory": used, "before": before, "seconds": cost.tolist()}))
"""


def test_counts_strides_and_sums(gpt2, panel, monkeypatch):
    clock = [0.0]

    def measure(self, step, chosen=None):
        names = [s.name for i, s in enumerate(self.signals) if chosen is None or i in chosen]
        spent = {"output": 1.0, "curvature": 10.0, "pass": 0.5}
        total = 0.5 + sum(spent[name] for name in names)
        clock[0] += total
        parts = {**{name: spent[name] for name in (*names, "pass")}, "all": total}
        return [Record(step=step, signal="cost", metric="seconds", label=k, value=v, n=1) for k, v in parts.items()]

    monkeypatch.setattr(Instrument, "measure", measure)
    monkeypatch.setattr("lmtrace.jobs.plan.time.perf_counter", lambda: clock[0])
    found = lmtrace.plan(gpt2, panel, signals=["output", "curvature"], every=10, steps=95, step_seconds=2.0)
    # 0, 10, ..., 90 and the last step: 11; curvature at the measurements 0, 5 and the last one
    assert found.num_measurements == 11
    assert {s.signal: s.num_measurements for s in found.signals} == {"output": 11, "curvature": 3}
    assert (found.measurement_seconds, found.full_seconds) == (1.5, 11.5)
    assert found.measuring_seconds == pytest.approx(3 * 11.5 + 8 * 1.5)
    assert found.share == pytest.approx(46.5 / 190)
    assert found.every_for(0.1) == round((46.5 / 11) / (0.1 * 2.0))
    assert json.loads(json.dumps(found.as_dict()))["steps"] == 95


@dataclass(frozen=True, kw_only=True)
class Ticks(Signal):
    """Takes time on a hand-made clock; the first measurement takes three times as long."""

    clock: list[float]
    seconds: float

    name, cost, source = "ticks", "none", "test"
    fields = (Field(metric="x", title="x"),)

    def needs(self, panel):
        return Needs()

    def measure(self, view):
        self.clock[0] += self.seconds if "seen" in view.memory else 3 * self.seconds
        view.memory["seen"] = torch.ones(())
        yield self.record(view, "x", 1.0, n=1)


@dataclass(frozen=True, kw_only=True)
class RareTicks(Ticks):
    name, stride = "rare_ticks", 5


@pytest.mark.parametrize(
    ("every", "steps", "budget"), [(10, 995, None), (50, 1000, None), (4, 2000, 0.03), (100, 2000, 0.2)]
)
def test_the_time_of_a_run_is_what_was_predicted(every, steps, budget, gpt2, panel, tmp_path, monkeypatch):
    clock = [0.0]
    for room in ("jobs.plan", "instrument", "budget", "tracer"):
        monkeypatch.setattr(f"lmtrace.{room}.time.perf_counter", lambda: clock[0])
    signals = [Ticks(clock=clock, seconds=0.5), RareTicks(clock=clock, seconds=4.0)]
    settings = {"signals": signals, "every": every, "budget": budget}
    predicted = lmtrace.plan(gpt2, panel, steps=steps, step_seconds=1.0, **settings)
    tracer = Tracer(gpt2, panel, run=tmp_path / "r", **settings)
    tracer.last_step = steps
    with tracer:
        for _ in range(steps):
            clock[0] += 1.0
            tracer.step(loss=1.0)
    assert predicted.measuring_seconds == pytest.approx(tracer.budget.spent, rel=0.2 if budget else 0.1)
    assert predicted.training_seconds == tracer.budget.training_time()


def test_the_model_is_left_alone(gpt2, panel):
    before = {k: v.clone() for k, v in gpt2.state_dict().items()}
    found = lmtrace.plan(gpt2, panel, signals=["output", "dimension"], every=5, steps=20, step_seconds=0.1)
    assert all(torch.equal(v, before[k]) for k, v in gpt2.state_dict().items())
    assert found.num_measurements == 5
    assert found.measuring_seconds > 0


def test_a_run_without_steps_is_refused():
    with pytest.raises(ConfigError, match="nothing to compare"):
        plan_training(config_of({"steps": 0}))


def test_the_peak_is_that_of_the_body_only():
    size = 2**28
    with PeakMemory(torch.device("cpu")) as empty:
        pass
    with PeakMemory(torch.device("cpu")) as full:
        held = torch.ones(size, dtype=torch.uint8)
        del held
    with PeakMemory(torch.device("cpu")) as after:
        pass
    assert full.peak - empty.peak == pytest.approx(size, rel=0.1)
    assert after.peak - empty.peak < 0.1 * size


@pytest.mark.slow
def test_a_real_run_takes_the_memory_and_roughly_the_time_that_were_predicted(tmp_path):
    settings = {
        "data": {"corpus": "absynth:small", "sentences": 6_000}, "steps": 2, "every": 1, "model": "gpt2", "size": "4x256",
        "signals": "output,probe,weights,curvature", "batch_size": 16,
    }  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    flags = ["--config", str(tmp_path / "run.json"), "--json"]
    (tmp_path / "run.json").write_text(json.dumps(settings))
    # Side by side, so that whatever else the machine does slows both down.
    started = [
        subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
        for arguments in (
            ["-m", "lmtrace.cli.main", "plan", *flags],
            ["-c", RUN, json.dumps({**settings, "run": str(tmp_path / "run")})],
        )
    ]
    said = [process.communicate(timeout=900)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    predicted, run = json.loads(said[0]), json.loads(said[1].splitlines()[-1])
    # The last measurement is by all signals, as the prediction is.
    assert predicted["memory"] == pytest.approx(run["memory"][-1], rel=0.25)
    assert run["memory"][0] > 1.3 * run["before"][0], "the bound above has to be a test of measuring"
    # The first one also draws splits and references, and the clock of a busy machine is no fine instrument.
    later = run["seconds"][1:]
    assert sum(later) / 2 < predicted["measurement_seconds"] + predicted["full_seconds"] < 2 * sum(later)
