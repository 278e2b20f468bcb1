"""Real processes over gloo: DDP and FSDP2 record what one process records, stop together, and never wait for each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmtrace.errors import TraceError
from lmtrace.live.distributed import gather, is_main_process, num_ranks, on_main
from lmtrace.run import open_run

SCRIPT = Path(__file__).with_name("two_processes.py")
MODES = ("ddp", "fsdp")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Train alone and with two processes, once for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    for ranks in (1, 2):
        port = free_port()
        started = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder), str(rank), str(ranks), str(port)],
                env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for rank in range(ranks)
        ]  # fmt: skip
        try:
            said = [process.communicate(timeout=1000)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        for process, text in zip(started, said, strict=True):
            assert process.returncode == 0, text[-3000:]
    return folder


def seen(folder: Path, rank: int) -> dict:
    return json.loads((folder / f"seen-2-{rank}.json").read_text())


def records_of(folder: Path) -> dict:
    run = open_run(folder)
    assert run.steps.tolist() == [0, 3, 6]
    assert run.status == "finished"
    return {
        (r.step, r.signal, r.metric, r.site, r.label, r.split): r for r in run.records() if r.signal != "cost"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", MODES)
def test_with_the_same_weights_every_record_is_the_same_bit_for_bit(folder, how):
    """Every rank trains on the same batch, so that the weights are those of one process to the last bit."""
    one, two = records_of(folder / "single-all"), records_of(folder / f"{how}-all")
    assert {key[1] for key in one} >= {"output", "probe", "dimension", "lens", "weights", "gradient", "curvature"}
    assert sum(r.value is not None for r in one.values()) > 1000
    assert two == one
    for key, record in one.items():
        if record.array is not None:
            np.testing.assert_array_equal(two[key].array, record.array)


@pytest.mark.slow
@pytest.mark.parametrize("how", MODES)
def test_ranks_that_share_the_batches_record_what_one_process_records(folder, how):
    """Sums in another order change the weights' last bits; that is all that may show."""
    one, two = records_of(folder / "single-shards"), records_of(folder / f"{how}-shards")
    assert two.keys() == one.keys()
    for key, record in one.items():
        assert two[key].missing == record.missing
        assert two[key].n == record.n
        if record.value is not None:
            # The steps of a probe amplify rounding of the weights, twelve of them at the embedding more than four.
            loose = 1e-2 if record.metric == "confidence" else 1e-5
            assert two[key].value == pytest.approx(record.value, rel=loose, abs=loose), key
    a, b = open_run(folder / "single-shards"), open_run(folder / f"{how}-shards")
    np.testing.assert_array_equal(b.tokens_seen, a.tokens_seen)
    for metric in ("loss", "learning_rate", "tokens"):
        for x, y in zip(a.scalars(metric), b.scalars(metric), strict=True):
            np.testing.assert_allclose(y, x, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("how", MODES)
def test_training_is_bit_identical_on_every_rank(folder, how):
    """Weights, and what the generators draw next, with dropout; gradients are checked at every step by the script."""
    for rank in (0, 1):
        found = seen(folder, rank)
        assert found[f"{how}-traced"] == found[f"{how}-plain"]
        assert found[f"{how}-plain"]["classes"] == (["DTensor"] if how == "fsdp" else ["Parameter"])
    assert seen(folder, 0)[f"{how}-plain"]["random"] != seen(folder, 1)[f"{how}-plain"]["random"]


@pytest.mark.slow
@pytest.mark.parametrize("how", MODES)
def test_all_ranks_stop_at_the_same_step(folder, how):
    assert [seen(folder, rank)[f"{how}-stop"]["steps"] for rank in (0, 1)] == [4, 4]
    assert open_run(folder / f"{how}-stop").status == "stopped early"
    assert open_run(folder / f"{how}-stop").steps.tolist() == [0, 2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("how", MODES)
def test_a_signal_that_raises_on_one_rank_holds_nobody_up(folder, how):
    for rank in (0, 1):
        assert seen(folder, rank)[f"{how}-fails"]["steps"] == 6
        assert "error" not in seen(folder, rank)[f"{how}-fails"]
    run = open_run(folder / f"{how}-fails")
    here = run.series(signal="raises", metric="rank")
    assert here.steps.tolist() == [0, 1], "switched off after the second failure in a row"
    assert here.missing[(0, None)] == "RuntimeError: no luck on rank 0"
    there = run.series(signal="raises_on_one", metric="rank")
    assert there.values[:, 0].tolist() == [0.0] * 7, "rank 1 measures nothing, so nothing can fail there"


@pytest.mark.slow
@pytest.mark.parametrize("how", MODES)
def test_an_error_on_rank_0_is_raised_on_all(folder, how):
    errors = [seen(folder, rank)[f"{how}-raise"]["error"] for rank in (0, 1)]
    assert errors == ["RuntimeError: no luck on rank 0", "TraceError: rank 0: RuntimeError: no luck on rank 0"]
    first, second = (seen(folder, rank)[f"{how}-stop-again"]["error"] for rank in (0, 1))
    assert "already holds a run" in first
    assert "rank 0: RunError" in second


@pytest.mark.slow
@pytest.mark.parametrize("how", MODES)
def test_the_budget_is_decided_once_for_all(folder, how):
    for rank in (0, 1):
        assert seen(folder, rank)[f"{how}-budget"]["steps"] == 6
        assert "error" not in seen(folder, rank)[f"{how}-budget"]


def test_one_process_is_its_own_main():
    assert (num_ranks(), is_main_process()) == (1, True)
    assert on_main(lambda: 3) == 3
    assert gather("x") == ["x"]
    with pytest.raises(TraceError, match="mine"):
        on_main(lambda: (_ for _ in ()).throw(TraceError("mine")))
