"""Things go wrong around a traced training: it never dies of the measurement, and nothing is half-written."""

from __future__ import annotations

import errno
import math
import os
import signal
import sqlite3
import sys
import time

import numpy as np
import pytest
import torch

from lmtrace.errors import RunError
from lmtrace.live.tracer import DRAIN_EVERY, Tracer
from lmtrace.observe.interface import Needs, Signal
from lmtrace.observe.isolation import generator_fingerprint
from lmtrace.records import files, store
from lmtrace.records.schema import Field
from lmtrace.run import open_run


class Remembers(Signal):
    """Yields one number and an array, and remembers something: all that can be written."""

    name, cost, source = "remembers", "none", "test"
    fields = (Field(metric="step", title="step"), Field(metric="row", title="row", axis="place"))

    def needs(self, panel):
        return Needs()

    def measure(self, view):
        view.memory["before"] = torch.full((3,), float(view.step))
        yield self.record(view, "step", float(view.step), n=1)
        yield self.record(view, "row", array=np.full(4, float(view.step)))


def train(tracer, steps, at=None):
    """Make steps; `at` maps a step to what happens right before it."""
    with tracer:
        for step in range(1, steps + 1):
            if at and step in at:
                at[step]()
            tracer.step(loss=float(step), tokens=10)
    return open_run(tracer.folder)


def is_whole(run, steps):
    """The run holds these measurements, each with its number and its array, and nothing else lies in the folder."""
    assert run.steps.tolist() == steps
    assert run.series(signal="remembers", metric="step").values[:, 0].tolist() == steps
    for step in steps:
        assert run.array(step, "remembers", "row").tolist() == [float(step)] * 4
    assert len(list(run.folder.glob("arrays/*"))) == len(steps)
    assert not list(run.folder.rglob("*.tmp"))


def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_ends_measuring_not_training(gpt2, panel, tmp_path, monkeypatch, caplog):
    tracer = Tracer(gpt2, panel, signals=[Remembers()], every=2, run=tmp_path / "r")
    run = train(tracer, 20, {5: lambda: monkeypatch.setattr(files.os, "fsync", full)})
    assert tracer.current_step == 20
    is_whole(run, [0, 2, 4])
    said = [record.getMessage() for record in caplog.records]
    assert [text[:22] for text in said] == [
        "step 6 is not measured",
        "step 8 is not measured",
        "measuring has stopped,",
    ]
    assert all("No space left on device. Free space on this disk" in text for text in said)
    np.testing.assert_array_equal(run.scalars("loss")[1], np.arange(1.0, 21.0))  # SQLite's own pages still fitted


def test_a_disk_that_is_full_for_a_while_costs_what_was_due_then(gpt2, panel, tmp_path, monkeypatch):
    real = files.os.fsync
    at = {
        5: lambda: monkeypatch.setattr(files.os, "fsync", full),
        9: lambda: monkeypatch.setattr(files.os, "fsync", real),
    }
    run = train(Tracer(gpt2, panel, signals=[Remembers()], every=2, run=tmp_path / "r"), 12, at)
    is_whole(run, [0, 2, 4, 10, 12])
    assert run.status == "finished"
    np.testing.assert_array_equal(run.scalars("loss")[1], np.arange(1.0, 13.0))
    np.testing.assert_array_equal(run.tokens_seen, [0, 20, 40, 100, 120])


@pytest.mark.parametrize("fault", [TypeError, KeyError, AttributeError, ZeroDivisionError, MemoryError])
def test_a_fault_of_our_own_code_costs_a_measurement_not_the_training(fault, gpt2, panel, tmp_path, monkeypatch):
    tracer = Tracer(gpt2, panel, signals=[Remembers()], every=2, run=tmp_path / "r")
    real = tracer.instrument.measure

    def broken(*rest, **named):
        raise fault("ours")

    at = {
        3: lambda: monkeypatch.setattr(tracer.instrument, "measure", broken),
        5: lambda: monkeypatch.setattr(tracer.instrument, "measure", real),
    }
    run = train(tracer, 8, at)
    assert tracer.current_step == 8
    is_whole(run, [0, 2, 6, 8])


def test_a_store_that_somebody_locks_is_written_to_afterwards(gpt2, panel, tmp_path):
    tracer = Tracer(gpt2, panel, signals=[Remembers()], every=2, run=tmp_path / "r")
    blocker = []

    def lock():
        tracer._writer._db.execute("PRAGMA busy_timeout = 20")
        blocker.append(sqlite3.connect(tmp_path / "r" / "run.sqlite", isolation_level=None))
        blocker[0].execute("BEGIN IMMEDIATE")

    run = train(tracer, 8, {3: lock, 5: lambda: blocker[0].close()})
    is_whole(run, [0, 2, 6, 8])
    np.testing.assert_array_equal(run.scalars("loss")[1], np.arange(1.0, 9.0))


def test_a_folder_that_cannot_be_written_is_said_before_training(gpt2, panel, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"cannot create a run in .*: .* Choose a folder") as caught:
        train(Tracer(gpt2, panel, signals=[Remembers()], run=tmp_path / "file" / "r"), 2)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), MemoryError()]
)
def test_a_signal_that_runs_out_of_memory_is_missing_with_that_reason(error, gpt2, panel, tmp_path):
    class Greedy(Remembers):
        name = "greedy"

        def measure(self, view):
            raise error
            yield

    gpt2.train()
    before, generators = {k: v.clone() for k, v in gpt2.state_dict().items()}, generator_fingerprint()
    run = train(Tracer(gpt2, panel, signals=[Greedy(), Remembers()], every=2, run=tmp_path / "r"), 4)
    is_whole(run, [0, 2, 4])
    reasons = {r.missing for r in run.records() if r.signal == "greedy"}
    (first,) = [reason for reason in reasons if not reason.startswith("off since step 2: ")]
    assert reasons == {first, f"off since step 2: {first}"}
    assert "out of memory" in first.lower() or isinstance(error, MemoryError)
    assert all(torch.equal(v, before[k]) for k, v in gpt2.state_dict().items())
    assert gpt2.training
    assert generator_fingerprint() == generators


@pytest.mark.parametrize("where", ["everywhere", "one weight"])
def test_a_model_of_nans_gives_missing_numbers_never_wrong_ones(where, gpt2, panel, tmp_path):
    with torch.no_grad():
        for p in gpt2.parameters() if where == "everywhere" else [gpt2.transformer.h[1].mlp.c_fc.weight]:
            p[0].fill_(math.nan)
    run = train(Tracer(gpt2, panel, signals="full", every=1, run=tmp_path / "r"), 1)
    assert run.steps.tolist() == [0, 1]
    loss = run.series(signal="output", metric="loss", label=None)
    assert np.isnan(loss.values).all()
    found = [r for r in run.records() if r.signal in ("curvature", "gradient", "output")]
    assert found
    assert all(r.value is None or math.isfinite(r.value) for r in found)
    assert all(r.missing or r.value is not None or r.array is not None for r in found)


def test_a_slow_disk_is_part_of_the_cost(gpt2, panel, tmp_path, monkeypatch):
    real = files.os.fsync

    def slow(descriptor):
        time.sleep(0.05)
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", slow)
    tracer = Tracer(gpt2, panel, signals=[Remembers()], every=1, run=tmp_path / "r", budget=0.02)
    begin = time.perf_counter()
    run = train(tracer, 400)
    assert tracer.budget.spent > 0.1 * len(run.steps)
    assert len(run.steps) < 5, "what the disk takes counts"
    assert tracer.budget.spent < time.perf_counter() - begin
    is_whole(run, run.steps.tolist())


def test_a_clock_that_jumps_back_changes_no_order(gpt2, panel, tmp_path, monkeypatch):
    clock = iter(range(2_000_000_000, 0, -86_400))
    monkeypatch.setattr(store.time, "time", lambda: float(next(clock)))
    tracer = Tracer(gpt2, panel, signals=[Remembers()], every=1, run=tmp_path / "r")
    train(
        tracer, 4, {2: lambda: tracer._writer.event(1, "alert", "a"), 4: lambda: tracer._writer.event(3, "alert", "b")}
    )
    with Tracer(gpt2, panel, signals=[Remembers()], every=1, run=tmp_path / "r", resume=True, start_step=4) as tracer:
        tracer.step(loss=5.0)
    run = open_run(tmp_path / "r")
    is_whole(run, [0, 1, 2, 3, 4, 5])
    assert [e.text for e in run.events("alert")] == ["a", "b"]
    assert (np.diff(run.wall_time) >= 0).all(), "seconds of training come from a clock that cannot jump"
    assert len(run.attempts) == 2


class Interrupted(Remembers):
    """Is interrupted from outside in the middle of a measurement."""

    name = "interrupted"

    def needs(self, panel):
        return Needs(model=True)

    def measure(self, view):
        if view.step == 2:
            view.model.train()
            torch.rand(5)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        yield from super().measure(view)


def test_sigterm_with_a_handler_closes_the_run_and_restores_the_model(gpt2, panel, tmp_path):
    """As cluster schedulers and their wrappers do it: the signal becomes an exception, here in mid-measurement."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    gpt2.eval()
    generators = generator_fingerprint()
    try:
        with pytest.raises(SystemExit):
            train(Tracer(gpt2, panel, signals=[Interrupted()], every=1, run=tmp_path / "r"), 5)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not any(module.training for module in gpt2.modules())
    assert generator_fingerprint() == generators
    run = open_run(tmp_path / "r")
    assert run.status == "crashed"
    assert run.steps.tolist() == [0, 1]
    assert run.scalars("loss")[1].tolist() == [1.0, 2.0]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_sigterm_without_a_handler_leaves_a_run_that_can_be_resumed(gpt2, panel, tmp_path):
    settings = {"signals": [Remembers()], "every": 1, "run": tmp_path / "r"}
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        train(Tracer(gpt2, panel, **settings), 5, {4: lambda: os.kill(os.getpid(), signal.SIGTERM)})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    run = open_run(tmp_path / "r")
    assert run.status == "crashed"
    is_whole(run, [0, 1, 2, 3])
    with Tracer(gpt2, panel, resume=True, start_step=2, **settings) as tracer:
        tracer.step(loss=3.0)
        tracer.step(loss=4.0)
    is_whole(open_run(tmp_path / "r"), [0, 1, 2, 3, 4])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_writes_nothing_and_takes_nothing_along(gpt2, panel, tmp_path):
    """Workers of a data loader are forks; when one ends, or even goes on to train, the run stays the parent's."""
    with Tracer(gpt2, panel, signals=[Remembers()], every=1, run=tmp_path / "r") as tracer:
        tracer.step(loss=1.0, tokens=10)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(5):
                    tracer.step(loss=9.0)
                tracer.__exit__(None, None, None)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert status == 0, "the child's training died of the measurement"
        loader = torch.utils.data.DataLoader(torch.arange(4), num_workers=1, multiprocessing_context="fork")
        for _ in loader:
            tracer.step(loss=1.0, tokens=10)
    run = open_run(tmp_path / "r")
    is_whole(run, [0, 1, 2, 3, 4, 5])
    assert run.status == "finished"
    assert run.scalars("loss")[1].tolist() == [1.0] * 5


def test_what_was_told_is_written_at_least_every_thousand_steps(gpt2, panel, tmp_path):
    with Tracer(gpt2, panel, signals=[Remembers()], every=10**6, run=tmp_path / "r") as tracer:
        for _ in range(2 * DRAIN_EVERY + 10):
            tracer.step(loss=torch.tensor(1.0))
        assert len(tracer._scalars.waiting) == 10
        tracer.schedule = type(tracer.schedule)(every=0)
    assert len(open_run(tmp_path / "r").scalars("loss")[0]) == 2 * DRAIN_EVERY + 10
