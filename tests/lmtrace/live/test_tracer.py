"""The tracer in a plain loop: what is measured when, what is written, and what happens when things go wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lmtrace
from lmtrace.errors import ConfigError, DataError, ModelError, RunError
from lmtrace.live.schedule import Schedule
from lmtrace.live.tracer import Tracer
from lmtrace.observe.interface import Needs, Signal
from lmtrace.records.schema import Field
from lmtrace.run import open_run
from lmtrace.signals.curvature import Curvature
from lmtrace_helpers import PlainModel, tiny


class Counter(Signal):
    """Yields how often it was asked."""

    name, cost, source = "counter", "none", "test"
    fields = (Field(metric="calls", title="calls"),)

    def needs(self, panel):
        return Needs()

    def measure(self, view):
        calls = view.memory.get("calls", torch.zeros(()))
        view.memory["calls"] = calls + 1
        yield self.record(view, "calls", float(calls + 1), n=1)


class Broken(Counter):
    name = "broken"

    def measure(self, view):
        raise RuntimeError("no luck")
        yield


def loop(tracer, steps, loss=1.0):
    with tracer:
        for _ in range(steps):
            tracer.step(loss=torch.tensor(loss), tokens=10)
            if tracer.should_stop:
                break


def test_step_zero_every_nth_and_the_last_are_measured(gpt2, panel, tmp_path):
    loop(Tracer(gpt2, panel, signals=[Counter()], every=4, run=tmp_path / "r"), 10)
    run = open_run(tmp_path / "r")
    series = run.series(signal="counter", metric="calls")
    assert series.steps.tolist() == [0, 4, 8, 10]
    assert series.values[:, 0].tolist() == [1, 2, 3, 4]
    steps, losses = run.scalars("loss")
    assert list(steps) == list(range(1, 11))
    assert np.allclose(losses, 1.0)
    assert run.header.status == "finished"
    assert run.header.model["class"] == "GPT2LMHeadModel"


def test_strides_thin_out_expensive_signals(gpt2, panel, tmp_path):
    class Rare(Counter):
        name, stride = "rare", 2

    schedule = Schedule(every=2, strides={"counter": 3})
    loop(Tracer(gpt2, panel, signals=[Counter(), Rare()], every=schedule, run=tmp_path / "r"), 12)
    run = open_run(tmp_path / "r")
    assert run.series(signal="counter", metric="calls").steps.tolist() == [0, 6, 12]
    assert run.series(signal="rare", metric="calls").steps.tolist() == [0, 4, 8, 12]


def test_what_is_listed_is_measured_whatever_the_strides(gpt2, panel, tmp_path):
    class Rare(Counter):
        name, stride = "rare", 5

    loop(Tracer(gpt2, panel, signals=[Counter(), Rare()], every=[1, 4, 10], run=tmp_path / "r"), 12)
    with open_run(tmp_path / "r") as run:
        assert run.series(signal="rare", metric="calls").steps.tolist() == [0, 1, 4, 10, 12]
    assert [Schedule(steps=frozenset([4]), strides={"rare": 2}).signal_due("rare", 5, n) for n in range(3)] == [1, 0, 1]


def test_list_of_steps_and_decades(gpt2, panel, tmp_path):
    assert [s for s in range(30) if Schedule.of([3, 7]).due(s)] == [0, 3, 7]
    dense = [s for s in range(1001) if Schedule(per_decade=4).due(s)]
    assert dense[:6] == [0, 1, 2, 4, 6, 10]
    assert dense[-1] == 1000
    with pytest.raises(ConfigError, match="every must be a positive int"):
        Schedule.of(0)


def test_a_signal_that_raises_is_missing_with_its_reason_and_then_off(gpt2, panel, tmp_path):
    loop(Tracer(gpt2, panel, signals=[Broken(), Counter()], every=1, run=tmp_path / "r"), 4)
    run = open_run(tmp_path / "r")
    broken = run.series(signal="broken", metric="calls")
    assert np.isnan(broken.values).all()
    assert broken.missing[(0, None)] == "RuntimeError: no luck"
    assert broken.steps.tolist() == [0, 1], "switched off after the second failure in a row"
    assert run.series(signal="counter", metric="calls").steps.tolist() == [0, 1, 2, 3, 4]
    said = "off since step 1: RuntimeError: no luck"
    assert broken.missing[(1, None)] == said
    assert [(e.step, e.text) for e in run.events("warning")] == [(1, f"signal broken is {said}")]
    assert f"The signal broken is {said}." in [f.sentence for f in run.findings()]
    assert "counter is" not in str([f.sentence for f in run.findings()])


def test_on_error_raise(gpt2, panel, tmp_path):
    with pytest.raises(RuntimeError, match="no luck"):
        loop(Tracer(gpt2, panel, signals=[Broken()], every=1, run=tmp_path / "r", on_error="raise"), 2)


def test_a_nan_loss_is_an_alert_not_a_crash(gpt2, panel, tmp_path):
    loop(Tracer(gpt2, panel, signals=[Counter()], every=2, run=tmp_path / "r"), 3, loss=math.nan)
    run = open_run(tmp_path / "r")
    alerts = [event for event in run.events() if event.kind == "alert"]
    assert len(alerts) == 1, "one alert, not one per step"
    assert "loss is nan at step 1" in alerts[0].text


def test_a_crash_in_the_loop_closes_the_run(gpt2, panel, tmp_path):
    with pytest.raises(ZeroDivisionError), Tracer(gpt2, panel, signals=[Counter()], run=tmp_path / "r") as tracer:
        tracer.step(loss=1.0)
        raise ZeroDivisionError
    assert open_run(tmp_path / "r").header.status == "crashed"


def test_a_folder_with_a_run_is_not_overwritten(gpt2, panel, tmp_path):
    loop(Tracer(gpt2, panel, signals=[Counter()], run=tmp_path / "r"), 1)
    with pytest.raises(RunError, match="already"):
        loop(Tracer(gpt2, panel, signals=[Counter()], run=tmp_path / "r"), 1)
    loop(Tracer(gpt2, panel, signals=[Counter()], every=1, run=tmp_path / "r", overwrite=True), 2)
    assert open_run(tmp_path / "r").steps.tolist() == [0, 1, 2]


def test_a_stop_rule_stops_and_is_recorded(gpt2, panel, tmp_path):
    class Rule:
        def update(self, step, records):
            return "enough" if step >= 3 else None

    loop(Tracer(gpt2, panel, signals=[Counter()], every=1, run=tmp_path / "r", stop=Rule()), 10)
    run = open_run(tmp_path / "r")
    assert run.header.status == "stopped early"
    assert run.steps.tolist() == [0, 1, 2, 3]
    assert [e.text for e in run.events() if e.kind == "stop"] == ["enough"]


def test_wrong_wishes_are_one_line(gpt2, panel, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match=r"no signal or preset is called 'prob'.*pairs"):
        Tracer(gpt2, panel, signals="prob", run=tmp_path / "r")
    with pytest.raises(ConfigError, match="budget is a share"):
        Tracer(gpt2, panel, budget=3, run=tmp_path / "r")
    with pytest.raises(ModelError, match=r"vocabulary has .*tokenizer"):
        Tracer(tiny("gpt2", lmtrace.WordTokenizer(["a"])), panel, run=tmp_path / "r")

    long = max(len(ids) for ids in panel.encoder.ids)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=long - 1)
    with pytest.raises(
        ModelError, match=rf"sequence of {long} tokens .* context has {long - 1}.*max_length={long - 1}"
    ):
        Tracer(GPT2LMHeadModel(config), panel, run=tmp_path / "r")

    class Wants(Counter):
        def needs(self, panel):
            return Needs(labels=("nothing",))

    with pytest.raises(DataError, match=r"nothing.*role.*upos"):
        Tracer(gpt2, panel, signals=[Wants()], run=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_costs_are_records(gpt2, panel, tmp_path):
    loop(Tracer(gpt2, panel, signals=["output"], every=1, run=tmp_path / "r"), 2)
    run = open_run(tmp_path / "r")
    labels = {key.label for key in run.find(signal="cost", metric="seconds")}
    assert labels == {"pass", "output", "all"}
    total = run.series(signal="cost", metric="seconds", label="all").values
    assert (total > 0).all()


def test_converged_decides_the_same_live_resumed_and_replayed(gpt2, panel, tmp_path):
    from lmtrace.analysis.replay import replay
    from lmtrace.analysis.stopping import Converged

    class Falling(Signal):
        """A panel loss that falls and then stays."""

        name, cost, source = "output", "none", "test"
        fields = (Field(metric="loss", title="loss", low=0.0),)

        def needs(self, panel):
            return Needs()

        def measure(self, view):
            noise = 0.001 * np.random.default_rng(view.step).standard_normal()
            yield self.record(view, "loss", 3.0 * math.exp(-view.step / 4) + 1.0 + noise, n=1)

    def run(name, steps, start=0, **more):
        settings = {"signals": [Falling()], "every": 1, "run": tmp_path / name, "start_step": start, **more}
        tracer = Tracer(gpt2, panel, stop=Converged(window=8, patience=2), **settings)
        with tracer:
            while tracer.current_step < steps and not tracer.should_stop:
                tracer.step(loss=3.0 * math.exp(-(tracer.current_step + 1) / 4) + 1.0)
        return tracer

    live = run("live", 200)
    assert live.should_stop
    assert 10 < live.current_step < 120
    part = run("part", live.current_step - 5)
    assert not part.should_stop
    resumed = run("part", 200, start=live.current_step - 5, resume=True)
    assert resumed.should_stop
    assert resumed.current_step == live.current_step
    again = replay(open_run(tmp_path / "live"), Converged(window=8, patience=2))
    assert again.step == live.current_step
    events = [e for e in open_run(tmp_path / "live").events() if e.kind == "stop"]
    assert len(events) == 1, "the decision is written once"


def landscape(model, panel, folder, step, **settings):
    """Train one step and return (train loss or None, its reason) as curvature sees the batch."""
    signal = Curvature(sequences=4, num_probes=2, quantities=("spectrum", "trace", "landscape"))
    with Tracer(model, panel, run=folder, every=1, signals=[signal], on_error="raise", **settings) as tracer:
        tracer.last_step = 1
        step(model.train())
        tracer.step()
    series = open_run(folder).series(signal="curvature", metric="train_loss")
    return series.values[1, 0], series.missing.get((1, None))


def next_token(logits, ids):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def test_the_training_batch_of_a_plain_module_needs_a_loss(tokenizer, panel, tmp_path):
    model = PlainModel(len(tokenizer))
    ids = torch.randint(5, len(tokenizer), (4, 6), generator=torch.Generator().manual_seed(0))
    value, reason = landscape(model, panel, tmp_path / "a", lambda m: m(ids))
    assert np.isnan(value)
    assert "expected one number as the loss of a training batch" in reason
    assert "pass loss=lambda model, batch" in reason
    value, reason = landscape(
        model, panel, tmp_path / "b", lambda m: m(ids), loss=lambda m, batch: next_token(m(batch["ids"]), batch["ids"])
    )
    assert reason is None
    assert value == pytest.approx(next_token(model.eval()(ids), ids).item(), rel=1e-5)


class Pair(torch.nn.Module):
    """A model in the style of nanoGPT: takes ids and targets by position, returns (logits, loss)."""

    def __init__(self, vocabulary):
        super().__init__()
        self.net = PlainModel(vocabulary)

    def forward(self, idx, targets=None):
        logits = self.net(idx)
        if targets is None:
            return logits, None
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def test_positional_arguments_and_tuples(tokenizer, panel, tmp_path):
    model = Pair(len(tokenizer))
    ids = torch.randint(5, len(tokenizer), (4, 7), generator=torch.Generator().manual_seed(0))
    x, y = ids[:, :-1], ids[:, 1:]
    value, reason = landscape(model, panel, tmp_path / "run", lambda m: m(x, y))
    assert reason is None
    assert value == pytest.approx(model.eval()(x, y)[1].item(), rel=1e-5)


def test_batches_of_one_token(gpt2, panel, tmp_path):
    """Nothing is predicted in them, so they have no loss; training and measuring go on."""
    ids = torch.full((3, 1), 7)
    value, reason = landscape(gpt2, panel, tmp_path / "run", lambda m: m(input_ids=ids))
    assert np.isnan(value)
    assert reason
    assert open_run(tmp_path / "run").steps.tolist() == [0, 1]


def test_micro_batches_are_one_step(gpt2, panel, tmp_path):
    with Tracer(gpt2, panel, run=tmp_path / "run", every=2, signals="pairs") as tracer:
        for i, loss in enumerate((1.0, torch.tensor(2.0), 6.0, 4.0, 5.0, 9.0)):
            tracer.step(loss=loss, tokens=10, complete=(i + 1) % 3 == 0)
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == [0, 2]
    assert [list(column) for column in run.scalars("loss")] == [[1, 2], [3.0, 6.0]]
    assert run.scalars("tokens")[1].tolist() == [30, 30]
