from __future__ import annotations

import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from lmtrace.errors import RunError
from lmtrace.records import memory, store
from lmtrace.records.schema import Field, Record, RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run


def loss(step: int, value: float = 1.0, **rest) -> Record:
    return Record(step=step, signal="output", metric="loss", value=value, **rest)


@pytest.fixture
def writer(tmp_path, header):
    writer = RunWriter.create(tmp_path / "run", header)
    yield writer
    writer.finish()


# ------------------------------------------------------------------------------------------------------- create
def test_a_folder_with_a_run_is_refused_unless_told_to_overwrite(tmp_path, header):
    with RunWriter.create(tmp_path, header) as writer:
        writer.write(0, [loss(0), Record(step=0, signal="a", metric="b", array=np.ones(3))])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        RunError, match=r"already holds a run. Choose another folder, resume the run, or pass overwrite=True"
    ):
        RunWriter.create(tmp_path, header)
    assert open_run(tmp_path).steps.tolist() == [0]
    with RunWriter.create(tmp_path, header, overwrite=True) as writer:
        writer.write(5, [loss(5)])
    assert open_run(tmp_path).steps.tolist() == [5]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [".writer", "notes.txt", "run.sqlite"]
    assert list(tmp_path.glob("arrays/*")) == []


def test_overwriting_a_crashed_run_takes_nothing_of_its_log(tmp_path, header):
    code = (
        "import os, sys; from lmtrace.records.store import *; from lmtrace.records.schema import *;"
        "w = RunWriter.create(sys.argv[1], RunHeader());"
        "w.write(3, [Record(step=3, signal='a', metric='b', value=1.0)]);"
        "os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "run.sqlite-wal").stat().st_size > 0
    assert open_run(tmp_path).status == "crashed"
    with RunWriter.create(tmp_path, header, overwrite=True) as writer:
        writer.write(5, [loss(5)])
    assert open_run(tmp_path).steps.tolist() == [5]


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path, writer, header):
    for second in (
        lambda: RunWriter.resume(tmp_path / "run", 0),
        lambda: RunWriter.create(tmp_path / "run", header, overwrite=True),
    ):
        with pytest.raises(RunError, match=rf"process {os.getpid()} on .* is writing to it. Wait for it"):
            second()
    code = "import sys; from lmtrace.records.store import RunWriter; RunWriter.resume(sys.argv[1], 0)"
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert other.returncode == 1
    assert "is writing to it" in other.stderr
    writer.write(0, [loss(0)])
    writer.finish()
    RunWriter.resume(tmp_path / "run", 0).finish()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_worker_neither_writes_nor_keeps_the_run_locked(tmp_path):
    code = """
import os, sys, time
from lmtrace.errors import RunError
from lmtrace.records.schema import RunHeader
from lmtrace.records.store import RunWriter
writer = RunWriter.create(sys.argv[1], RunHeader())
writer.write(0, [])
if os.fork() == 0:
    try:
        writer.write(1, [])
    except RunError as error:
        print(error, flush=True)
    writer.finish()
    print("child", os.getpid(), flush=True)
    time.sleep(60)
os.kill(os.getpid(), 9) if sys.stdin.readline() else None
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert f"belongs to process {process.pid}" in process.stdout.readline()
    child = int(process.stdout.readline().split()[1])
    try:
        assert open_run(tmp_path).status == "running"
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait()
        assert open_run(tmp_path).status == "crashed"
        RunWriter.resume(tmp_path, 0).finish()
        assert open_run(tmp_path).steps.tolist() == [0]
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()


# -------------------------------------------------------------------------------------------------------- write
@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([loss(1), loss(1, 2.0)], r"output.loss at step 1, .*: two records of one name"),
        ([loss(2)], r"output.loss at step 2, .*: cannot be written to step 1"),
        ([loss(1, math.nan)], r"holds nan. Give missing=reason instead"),
        ([loss(1, stderr=math.inf)], r"holds inf"),
        ([Record(step=1, signal="a", metric="b")], r"a.b .* exactly one of value, array and missing"),
        ([Record(step=1, signal="a", metric="b", value=1.0, missing="x")], r"exactly one of"),
        ([Record(step=1, signal="a", metric="b", array=np.array(["x"]))], r"array a.b has dtype <U1"),
    ],
)
def test_a_record_that_is_not_allowed_stores_nothing_of_the_measurement(tmp_path, writer, records, message):
    writer.write(0, [loss(0)])
    good = [loss(1, label="good"), Record(step=1, signal="a", metric="good", array=np.ones(2))]
    with pytest.raises(RunError, match=message):
        writer.write(1, [*good, *records])
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == [0]
    assert len(run.keys()) == 1
    assert list((tmp_path / "run").glob("arrays/*")) == []
    writer.write(1, good)
    assert run.steps.tolist() == [0, 1]


def test_a_step_is_written_once(writer):
    writer.write(np.int64(3), [loss(3)])
    with pytest.raises(RunError, match=r"step 3 of .* was written before"):
        writer.write(3, [loss(3, label="x")])
    for bad in (-1, 1.5, None):
        with pytest.raises(RunError, match="is not a step"):
            writer.write(bad, [])


def test_steps_may_come_in_any_order_and_are_read_in_theirs(tmp_path, writer):
    for step in (5, 1, 3):
        writer.write(step, [loss(step, float(step))])
    series = open_run(tmp_path / "run").series(signal="output")
    assert series.steps.tolist() == [1, 3, 5]
    np.testing.assert_array_equal(series.values[:, 0], [1, 3, 5])


def test_scalars_keep_nan_and_infinity_and_refuse_falling_steps(tmp_path, writer):
    writer.write_scalars("loss", [1, 2, 3], [1.0, math.nan, math.inf])
    with pytest.raises(RunError, match="step 3 comes after step 3"):
        writer.write_scalars("loss", 3, 0.0)
    with pytest.raises(RunError, match="2 steps but 1 values"):
        writer.write_scalars("loss", [4, 5], [0.0])
    writer.write_scalars("loss", [], [])
    writer.write_scalars("rate", 1, np.float32(0.5))
    writer.flush()
    run = open_run(tmp_path / "run")
    np.testing.assert_array_equal(run.scalars("loss")[1], [1.0, math.nan, math.inf])
    assert run.scalar_metrics == ("loss", "rate")


def test_scalars_reach_readers_after_a_few_seconds_without_a_measurement(tmp_path, writer, monkeypatch):
    monkeypatch.setattr(store, "FLUSH_SECONDS", 0.05)
    run = open_run(tmp_path / "run")
    writer.write_scalars("loss", 1, 1.0)
    time.sleep(0.06)
    writer.write_scalars("loss", 2, 1.0)
    assert run.scalars("loss")[0].tolist() == [1, 2]


def test_several_threads_may_use_one_writer(tmp_path, writer):
    def work(first: int) -> None:
        for step in range(first, 60, 3):
            writer.write(step, [loss(step, label=f"{step % 7}")])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == list(range(60))
    assert [r.step for r in run.records()] == list(range(60))


def test_readers_see_whole_measurements_while_the_writer_writes(tmp_path, writer):
    shared, wrong, done = open_run(tmp_path / "run"), [], threading.Event()

    def read(run) -> None:
        cursor, seen = 0, []
        while not done.is_set() or run.cursor > cursor:
            changes = run.since(cursor)
            cursor = changes.cursor
            seen += [r.step for r in changes.records]
            if len(run.series(signal="output", label="0").steps if run.keys() else ()) < len(seen) // 20:
                wrong.append("a series shorter than what was seen before")
        if seen != [step for step in range(60) for _ in range(20)]:
            wrong.append(seen)

    runs = [shared] * 4 + [open_run(tmp_path / "run") for _ in range(4)]
    threads = [threading.Thread(target=read, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for step in range(60):
        writer.write(step, [loss(step, label=f"{i}") for i in range(20)])
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


# ------------------------------------------------------------------------------------------------------- ending
def test_the_status_tells_how_it_ended(tmp_path, header):
    with RunWriter.create(tmp_path / "a", header):
        assert open_run(tmp_path / "a").status == "running"
    assert open_run(tmp_path / "a").status == "finished"
    with pytest.raises(ZeroDivisionError), RunWriter.create(tmp_path / "b", header):
        _ = 1 / 0
    assert open_run(tmp_path / "b").status == "crashed"
    with RunWriter.create(tmp_path / "c", header) as writer:
        writer.finish("stopped early")
        writer.finish()
    assert open_run(tmp_path / "c").status == "stopped early"
    with pytest.raises(RunError, match=r"was finished. Resume it to write more"):
        writer.write(1, [])


def test_a_finished_run_is_one_plain_file(tmp_path, header):
    with RunWriter.create(tmp_path, header) as writer:
        writer.write(0, [loss(0)])
    assert sorted(p.name for p in tmp_path.iterdir()) == [".writer", "run.sqlite"]


def test_finishing_does_not_wait_for_readers(tmp_path, header):
    writer = RunWriter.create(tmp_path, header)
    writer.write(0, [loss(0)])
    run = open_run(tmp_path)
    reading = run.records()
    with run._db.snapshot():
        next(reading)
        start = time.perf_counter()
        writer.finish()
        assert time.perf_counter() - start < 1.0
    assert run.status == "finished"


# ------------------------------------------------------------------------------------------------------- resume
def write_all(writer: RunWriter, steps: range, shift: float = 0.0) -> None:
    for step in steps:
        writer.write_scalars("loss", step, step + shift)
        if step % 10 == 0:
            array = Record(step=step, signal="curvature", metric="density", array=np.full(4, step + shift))
            extra = [loss(step, 1.0, label="late")] if step >= 30 else []
            memory = {"similarity": {"previous": np.full((2, 2), step + shift)}}
            writer.write(step, [loss(step, step + shift), array, *extra], memory=memory)
        if step % 20 == 0:
            writer.event(step, "alert", f"{step + shift}")


def contents(folder):
    run = open_run(folder)
    return (
        [(r, None if r.array is None else r.array.tolist()) for r in run.records()],
        {metric: [x.tolist() for x in run.scalars(metric)] for metric in run.scalar_metrics},
        [(e.step, e.text) for e in run.events()],
        run.keys(),
        run.read_memory()["similarity"]["previous"].tolist(),
    )


@pytest.mark.parametrize("step", [0, 5, 10, 20, 29, 60, 99])
def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, header, step):
    with RunWriter.create(tmp_path / "whole", header) as writer:
        write_all(writer, range(50))
    with RunWriter.create(tmp_path / "parts", header) as writer:
        write_all(writer, range(min(step, 49) + 1))
        writer.checkpoint(step)
        write_all(writer, range(step + 1, 50), shift=0.5)
    with RunWriter.resume(tmp_path / "parts", step) as writer:
        assert writer.steps == tuple(s for s in range(0, 50, 10) if s <= step)
        assert writer.read_memory()["similarity"]["previous"][0, 0] == min(step, 49) // 10 * 10
        write_all(writer, range(step + 1, 50))
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    first, second = open_run(tmp_path / "parts").attempts
    assert (first.step, second.step) == (None, step)
    assert second.superseded == sum(s > step for s in range(0, 50, 10))
    assert second.provenance["pid"] == os.getpid()


def test_resume_adds_new_signals_to_the_header(tmp_path, header):
    RunWriter.create(tmp_path, header).finish()
    fields = {"lens": [Field(metric="depth", title="Depth")], "probe": [Field(metric="gain", title="Gain")]}
    new = RunHeader(signals={"lens": [{}]}, fields=fields, command="again")
    RunWriter.resume(tmp_path, 0, new).finish()
    run = open_run(tmp_path)
    assert set(run.header.signals) == {"probe", "lens"}
    assert run.field("lens", "depth").title == "Depth"
    assert [field.metric for field in run.header.fields["probe"]] == ["accuracy", "gain"]
    assert run.header.seeds == {"run": 0}
    assert run.attempts[1].provenance["command"] == "again"


def test_nothing_to_resume_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(RunError, match=r"there is no run in .*nothing to resume. Name the folder"):
        RunWriter.resume(tmp_path / "nothing", 0)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- memory
def test_memory_that_is_no_longer_kept_is_an_error_not_an_older_one(tmp_path, header):
    with RunWriter.create(tmp_path, header) as writer:
        for step in range(8):
            writer.write(step, [loss(step)])
            writer.write_memory(step, {"s": {"x": np.array([step], dtype=np.float32)}})
            if step == 2:
                writer.checkpoint(2)
        assert len(list(tmp_path.glob("memory/*"))) == memory.MEMORIES_KEPT + 1
        assert writer.read_memory(2)["s"]["x"].tolist() == [2]
        assert writer.read_memory()["s"]["x"].dtype == np.float32
        with pytest.raises(RunError, match=r"memory of step 3 .* is no longer kept"):
            writer.read_memory(3)
        with pytest.raises(RunError, match="no such measurement"):
            writer.write_memory(99, {})
        writer.write(20, [loss(20)])
        assert writer.read_memory() == {}
    assert open_run(tmp_path).read_memory(7)["s"]["x"].tolist() == [7]


def test_a_forgotten_run_closes_itself_without_a_warning(tmp_path, header):
    RunWriter.create(tmp_path, header).finish()
    run = open_run(tmp_path)
    del run
    gc.collect()
