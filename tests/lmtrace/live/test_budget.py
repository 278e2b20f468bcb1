"""A budget holds: on a hand-made clock over many settings, in the tracer on that clock, and for real."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError
from lmtrace.live import budget as room
from lmtrace.live.budget import Budget, smaller
from lmtrace.live.tracer import Tracer
from lmtrace.observe.interface import Needs, Signal
from lmtrace.records.schema import Field
from lmtrace.run import open_run
from lmtrace.signals import available, resolve


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for name in ("budget", "tracer", "instrument"):
        monkeypatch.setattr(f"lmtrace.{name}.time.perf_counter", clock)
    return clock


def simulated(clock, *, share, strides, costs, first, step, noise, due_steps, seed):
    """Run a budget as the tracer does; return (share spent, times measured per signal, what it would be without)."""
    rng = np.random.default_rng(seed)
    budget, begin = Budget(share), clock.now
    budget.start()
    times = [0] * len(strides)

    def measure(chosen, factor=1.0):
        parts = {i: costs[i] * factor * float(np.exp(noise * rng.standard_normal())) for i in chosen}
        whole = 0.3 * min(costs) + sum(parts.values())
        clock.now += whole
        budget.add(whole, parts, strides)
        for i in chosen:
            times[i] += 1

    measure(range(len(strides)), first)
    for k in range(1, due_steps + 1):
        clock.now += step * float(np.exp(noise * rng.standard_normal()))
        if chosen := budget.choose(strides, [k % stride == 0 for stride in strides]):
            measure(chosen)
    measure(range(len(strides)))  # the last step
    free = sum((due_steps // stride + 1 + first) * cost for stride, cost in zip(strides, costs, strict=True))
    free += (due_steps + 2) * 0.3 * min(costs)
    return budget.spent / (clock.now - begin), times, free / (free + due_steps * step)


@pytest.mark.parametrize("share", [0.01, 0.03, 0.2])
@pytest.mark.parametrize(
    ("strides", "costs"), [((1,), (1.0,)), ((1, 1, 5), (0.2, 0.1, 3.0)), ((1, 5, 10), (1.0, 1.0, 20.0))]
)
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_share_is_kept_within_a_fifth(share, strides, costs, noise, clock):
    for seed, (over, first) in enumerate(((0.5, 2.0), (1.1, 1.0), (1.1, 3.0), (1.7, 2.0), (4.0, 1.0), (12.0, 2.0))):
        mean = sum(cost / stride for stride, cost in zip(strides, costs, strict=True)) + 0.3 * min(costs)
        step = mean * (1 - share) / share / over  # measuring at every due step would take about `over` times the share
        all_ = sum(costs)
        due_steps = int(8 * all_ * (first + 1) / (share * step)) + 20  # a run that can pay for some measurements by all
        found, times, free = simulated(
            clock, share=share, strides=strides, costs=costs, first=first, step=step, noise=noise,
            due_steps=due_steps, seed=seed,
        )  # fmt: skip
        assert found <= 1.2 * share, (over, first)
        if over > 1:
            assert found >= 0.8 * share, (over, first, found)
        else:
            assert found == pytest.approx(free, rel=0.25), "what fits is measured as asked for"
        # The ratios between the signals stay what was asked for.
        for stride, number in zip(strides, times, strict=True):
            assert number == pytest.approx(times[0] / (stride / strides[0]), rel=0.25 if noise == 0.0 else 0.5, abs=2)


def test_without_a_share_what_is_due_is_measured():
    budget = Budget(None)
    assert budget.choose([1, 5], [True, False]) == [0]
    assert budget.stretch == 1.0
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ConfigError, match="budget is a share"):
            Budget(share)


def test_signals_of_one_stride_stay_together_and_rare_ones_wait_for_the_pass(clock):
    budget, strides = Budget(0.1), [1, 1, 3]
    budget.start()
    budget.add(4.0, {0: 1.0, 1: 1.0, 2: 2.0}, strides)
    seen = []
    for k in range(1, 400):
        clock.now += 5.0
        chosen = budget.choose(strides, [True, True, k % 3 == 0])
        if chosen:
            clock.now += float(len(chosen))
            budget.add(float(len(chosen)), dict.fromkeys(chosen, 1.0), strides)
            seen.append(tuple(chosen))
    assert set(seen) == {(0, 1), (0, 1, 2)}
    assert seen.count((0, 1, 2)) == pytest.approx(len(seen) / 3, rel=0.2)


@dataclass(frozen=True, kw_only=True)
class Sampled(Signal):
    """Takes time in proportion to its sample, on the hand-made clock."""

    size: int = 64
    unit: float = 0.1
    clock: Clock | None = None

    name, cost, source = "sampled", "none", "test"
    fields = (Field(metric="mean", title="mean"),)
    shrinks = MappingProxyType({"size": 10})

    def needs(self, panel):
        return Needs()

    def measure(self, view):
        sample = torch.randn(self.size, generator=view.generator("sample"))
        if self.clock is None:
            time.sleep(self.unit * self.size)
        else:
            self.clock.now += self.unit * self.size
        yield self.record(view, "mean", float(sample.mean()), n=self.size)


@dataclass(frozen=True, kw_only=True)
class Fixed(Sampled):
    """Costs a little, and its sample never changes."""

    name = "fixed"
    shrinks = MappingProxyType({})


def run_on(clock, gpt2, panel, folder, steps, step, start=0, **settings):
    tracer = Tracer(gpt2, panel, run=folder, start_step=start, resume=start > 0, **settings)
    with tracer:
        while tracer.current_step < steps:
            clock.now += step
            tracer.step(loss=1.0)
            if tracer.current_step % 50 == 0:
                tracer.checkpoint()
    return tracer, open_run(folder)


def test_the_tracer_stretches_first_and_then_shrinks_and_says_so(clock, gpt2, panel, tmp_path):
    """Steps of 10 ms; 6.4 s at every second step are far more than 20 %."""
    signals = [Sampled(clock=clock), Fixed(clock=clock, size=2)]
    begin = clock.now
    tracer, run = run_on(clock, gpt2, panel, tmp_path / "r", 25_000, 0.01, signals=signals, every=2, budget=0.2)
    assert tracer.budget.spent / (clock.now - begin) == pytest.approx(0.2, rel=0.1)
    events = run.events("budget")
    shrunk = [e for e in events if "signal" in e.data]
    assert [(e.data["before"]["size"], e.data["after"]["size"]) for e in shrunk] == [(64, 32), (32, 16), (16, 10)]
    assert {e.data["signal"] for e in shrunk} == {"sampled"}, "a sample that must not change does not"
    assert shrunk[0].text.startswith(
        "to keep to 20 % of the time, sampled is measured with size = 32 instead of 64 from"
    )
    assert any("times as long as asked for" in e.text for e in events)
    assert len(events) < 12, "what changes little is not said again"
    n = {r.step: r.n for r in run.records() if r.signal == "sampled"}
    for event in shrunk:
        assert n[event.step] == event.data["after"]["size"], "the event lies at the first measurement that is smaller"
    assert {r.n for r in run.records() if r.signal == "fixed"} == {2}
    same = {r.value for r in run.records() if r.signal == "sampled" and r.n == 10}
    assert len(same) == 1, "the smaller sample is the same at every step as well"


def test_what_fits_is_neither_stretched_nor_shrunk(clock, gpt2, panel, tmp_path):
    signals = [Sampled(clock=clock, unit=0.001)]
    _, run = run_on(clock, gpt2, panel, tmp_path / "r", 3000, 0.1, signals=signals, every=50, budget=0.05)
    assert run.events("budget") == ()
    assert len(run.steps) >= 59  # the first one waits until step 0 is paid off


def test_a_resumed_run_keeps_its_credit_and_its_samples(clock, gpt2, panel, tmp_path):
    settings = {"signals": [Sampled(clock=clock), Fixed(clock=clock, size=2)], "every": 2, "budget": 0.2}
    first, _ = run_on(clock, gpt2, panel, tmp_path / "r", 12_000, 0.01, **settings)
    assert first.budget.sizes == {0: {"size": 10}}
    second, run = run_on(clock, gpt2, panel, tmp_path / "r", 18_000, 0.01, start=12_000, **settings)
    assert second.budget.sizes == {0: {"size": 10}}
    assert {r.n for r in run.records() if r.signal == "sampled" and r.step > 12_000} == {10}
    assert len([e for e in run.events("budget") if "signal" in e.data]) == 3
    assert json.loads(json.dumps(second.budget.state())) == second.budget.state()


def test_it_holds_on_the_real_clock(gpt2, panel, tmp_path):
    """One measurement that a busy machine draws out cannot be taken back, so it is allowed for."""
    share, signals = 0.2, [Sampled(size=20, unit=1e-4), Fixed(size=4, unit=1e-4)]
    begin = time.perf_counter()
    with Tracer(gpt2, panel, signals=signals, every=1, run=tmp_path / "r", budget=share) as tracer:
        while time.perf_counter() - begin < 2.5:
            time.sleep(0.002)
            tracer.step(loss=1.0)
    passed = time.perf_counter() - begin
    run = open_run(tmp_path / "r")
    costs = run.series(signal="cost", metric="seconds", label="all").values
    assert len(run.steps) > 5
    assert 0.8 * share - costs.max() / passed <= tracer.budget.spent / passed <= 1.2 * share + costs.max() / passed


def test_smaller_samples_are_the_beginning_of_the_larger_ones():
    """Only signals that say so shrink, never below what they allow, and the result is a valid signal."""
    shrinking = {name for name, signal in available().items() if signal.shrinks}
    assert shrinking >= {"curvature", "lens"}
    for name in shrinking:
        [signal] = resolve([name])
        for _ in range(20):
            after = smaller(signal)
            if after is None:
                break
            signal = after
        assert smaller(signal) is None
        assert {k: getattr(signal, k) for k in signal.shrinks} == dict(signal.shrinks)
    assert room.smaller(resolve(["dimension"])[0]) is None, "its estimate depends on the number of points"
