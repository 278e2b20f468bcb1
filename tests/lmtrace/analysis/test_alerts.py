from __future__ import annotations

import json

import numpy as np
import pytest

from lmtrace.analysis.alerts import Alarms, alerts
from lmtrace.records.schema import Record

from .synthetic import SyntheticRun

STEPS = np.arange(30) * 10


def losses(n=300, seed=0):
    return 3 + 1.5 * np.exp(-np.arange(n) / 60) + 0.05 * np.random.default_rng(seed).standard_normal(n)


def kinds(found):
    return [(a.kind, a.step) for a in found]


def test_a_quiet_run_rings_nothing():
    run = SyntheticRun(STEPS, floor=2.9).add_scalars("loss", np.arange(300), losses())
    run.add("output", "loss", np.full(30, 3.0), stderr=0.02)
    run.add("gradient", "norm", 1 + 0.1 * np.sin(STEPS))
    run.add("dimension", "effective_rank", np.full((30, 2), 12.0), sites=("block.0", "block.1"))
    assert alerts(run) == []


def test_non_finite_loss_once_per_episode():
    values = losses()
    values[[100, 101, 102, 200]] = np.nan
    values[250] = np.inf
    run = SyntheticRun(STEPS).add_scalars("loss", np.arange(300), values)
    assert kinds(alerts(run)) == [("non-finite loss", 100), ("non-finite loss", 200), ("non-finite loss", 250)]


def test_a_spike_rings_and_a_noisy_descent_does_not():
    values = losses()
    values[150:153] += 4
    run = SyntheticRun(STEPS).add_scalars("loss", np.arange(300), values)
    assert kinds(alerts(run)) == [("spike", 150)]


@pytest.mark.statistical
def test_spikes_are_rare_on_noise():
    rings = [len(Alarms().scalars("loss", range(2000), losses(2000, seed))) for seed in range(10)]
    assert sum(rings) == 0


def test_loss_below_the_floor_is_a_leak():
    run = SyntheticRun(STEPS, floor=3.0).add("output", "loss", np.linspace(4, 2.5, 30), stderr=0.05)
    (leak,) = alerts(run)
    assert leak.kind == "leak"
    assert leak.value < 2.85
    assert leak.limit == pytest.approx(2.85)


def test_luck_within_three_standard_errors_is_not():
    run = SyntheticRun(STEPS, floor=3.0).add("output", "loss", np.full(30, 2.9), stderr=0.05)
    assert alerts(run) == []


def test_the_paired_excess_counts_where_it_is_known():
    run = SyntheticRun(STEPS, floor=3.0).add("output", "loss", np.full(30, 2.7), stderr=0.02)
    run.add("truth", "excess", np.full(30, 0.01), stderr=0.01)
    assert alerts(run) == []
    run.add("truth", "excess", np.full(30, -0.2), stderr=0.01)
    assert [a.kind for a in alerts(run)] == ["leak"]


def test_exploding_norm():
    norms = np.ones(30)
    norms[20] = 50
    run = SyntheticRun(STEPS).add("gradient", "norm", norms)
    assert kinds(alerts(run)) == [("exploding norm", 200)]


def test_dead_block_is_two_measurements_without_gradient():
    norms = np.ones((30, 3))
    norms[10, 1] = 0.0  # once is chance
    norms[20:, 2] = 1e-9
    run = SyntheticRun(STEPS).add("gradient", "norm", norms, sites=("block.0", "block.1", "block.2"))
    (dead,) = alerts(run)
    assert (dead.kind, dead.step, dead.site) == ("dead block", 210, "block.2")


def test_collapse_of_rank():
    rank = np.full(30, 12.0)
    rank[15:] = 1.1
    run = SyntheticRun(STEPS).add("dimension", "effective_rank", rank, sites=("block.1",))
    assert kinds(alerts(run)) == [("collapse of rank", 150)]


def test_a_panel_loss_that_jumps_up_rings_and_one_that_falls_does_not():
    noise = 0.01 * np.random.default_rng(0).standard_normal(30)
    up, down = (
        SyntheticRun(STEPS).add("output", "loss", 3 + noise + jump * (STEPS >= 200), stderr=0.01) for jump in (1, -1)
    )
    assert kinds(alerts(up)) == [("jump", 200)]
    assert alerts(down) == []


def test_the_participation_ratio_may_fall_early():
    ratio = 1.4 + 8 * np.exp(-np.arange(30) / 2) + np.arange(30) / 10
    run = SyntheticRun(STEPS).add("dimension", "participation_ratio", ratio, sites=("block.1",))
    assert alerts(run) == []


def test_the_same_alerts_after_a_resume():
    values = losses()
    values[[120, 121]] = np.nan
    values[180] += 5
    whole, first = Alarms(), Alarms()
    expected = whole.scalars("loss", range(300), values)
    found = first.scalars("loss", range(121), values[:121])
    second = Alarms()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += second.scalars("loss", range(121, 300), values[121:])
    assert [repr(a) for a in found] == [repr(a) for a in expected]
    assert second.update(300, [Record(step=300, signal="output", metric="loss", missing="no batch")]) == []
