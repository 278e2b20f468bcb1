from __future__ import annotations

import numpy as np
import pytest

from lmtrace.analysis.noise import ar1
from lmtrace.analysis.phases import change_points
from lmtrace.errors import ConfigError, DataError
from reference.trends import bic_segmentation

N = 100
STEPS = np.arange(N) * 100
T = np.arange(N) / N


def noise(scale, seed=0, rho=0.0, n=N):
    return scale * ar1(1, n, rho, np.random.default_rng(seed))[0]


# Smooth curves with autocorrelated noise, on 60 measurements so that a thousand simulations take seconds.
M = 60
U, MEASURED = np.arange(M) / M, np.arange(M) * 100
NULLS = {
    "iid": lambda s: noise(1.0, s, n=M),
    "AR(.5)": lambda s: noise(1.0, s, 0.5, M),
    "AR(.8)": lambda s: noise(1.0, s, 0.8, M),
    "exponential decay": lambda s: np.exp(-U / 0.2) + noise(0.05, s, n=M),
    "exponential decay, AR(.5)": lambda s: np.exp(-U / 0.3) + noise(0.05, s, 0.5, M),
    "power law": lambda s: (1 + MEASURED / 100) ** -0.5 + noise(0.02, s, n=M),
    "sigmoid": lambda s: 1 / (1 + np.exp(-(U - 0.5) / 0.08)) + noise(0.03, s, n=M),
    "sigmoid in log step": lambda s: 1 / (1 + np.exp(-(np.log1p(MEASURED) - 7.5) / 0.5)) + noise(0.05, s, n=M),
}


def test_an_abrupt_change_is_found_where_it_is():
    found = change_points(STEPS, 5.0 * (T >= 0.4) + noise(1.0))
    assert len(found) == 1
    assert found[0].interval[0] <= 4000 <= found[0].interval[1]
    assert abs(found[0].step - 4000) <= 200
    assert found[0].size == pytest.approx(5, abs=1)
    assert found[0].p_value <= 0.05


def test_on_a_smooth_decay():
    found = change_points(STEPS, np.exp(-T / 0.3) - 0.5 * (T >= 0.6) + noise(0.05))
    assert [c.step for c in found] == [6000]
    assert found[0].size < 0


def test_without_noise():
    assert [c.step for c in change_points(STEPS, (T >= 0.3) * 1.0)] == [3000]
    assert change_points(STEPS, np.exp(-T / 0.1)) == []
    assert change_points(STEPS, (1.0 + STEPS) ** -0.5) == []
    assert change_points(STEPS, np.ones(N)) == []


def test_two_changes():
    found = change_points(STEPS, 8.0 * (T >= 0.3) - 8.0 * (T >= 0.65) + noise(1.0))
    assert [round(c.step / 500) * 500 for c in found] == [3000, 6500]
    assert found[0].size > 0 > found[1].size


@pytest.mark.parametrize("seed", range(4))
def test_doubling_the_checkpoints_leaves_one_change_one(seed):
    for n in (60, 120, 240):
        t = np.arange(n) / n
        values = np.exp(-t / 0.4) - 0.6 * (t >= 0.5) + noise(0.05, seed, n=n)
        found = change_points((t * 12_000).astype(int), values, false_alarm=0.01)
        assert len(found) == 1
        assert abs(found[0].step - 6000) <= 300


def test_a_known_breakpoint_is_not_a_phase():
    values = 5.0 * (T >= 0.4) + noise(1.0)
    assert change_points(STEPS, values, covariates=[4000]) == []
    both = values + 8.0 * (T >= 0.75)
    found = change_points(STEPS, both, covariates=(4000,))
    assert len(found) == 1
    assert abs(found[0].step - 7500) <= 200


def test_same_input_same_answer_whatever_the_scale():
    values = 5.0 * (T >= 0.4) + noise(1.0)
    one, other = change_points(STEPS, values), change_points(STEPS, 3 + 1000 * values)
    assert one == change_points(STEPS, values)
    assert [c.step for c in one] == [c.step for c in other]
    assert other[0].size == pytest.approx(1000 * one[0].size)


def test_one_outlier_is_no_phase():
    values = noise(0.05) + (np.arange(N) == 50) * 3.0
    assert change_points(STEPS, values) == []


def test_bad_input():
    with pytest.raises(DataError, match="at least 12"):
        change_points([0, 1, 2], [0.0, 1.0, 2.0])
    with pytest.raises(ConfigError, match="false_alarm is 2"):
        change_points(STEPS, noise(1.0), false_alarm=2)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("name", NULLS)
def test_false_alarm_rate_holds_on_matched_nulls(name):
    alarms = np.mean([len(change_points(MEASURED, NULLS[name](seed), seed=seed)) > 0 for seed in range(1000)])
    assert alarms <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.slow
@pytest.mark.statistical
def test_the_standard_segmentation_fails_on_the_same_nulls():
    rate = {k: np.mean([bic_segmentation(NULLS[k](seed)) > 0 for seed in range(20)]) for k in NULLS}
    assert rate["exponential decay"] > 0.9
    assert rate["sigmoid"] > 0.9
    assert rate["AR(.5)"] > 3 * rate["iid"]


@pytest.mark.slow
@pytest.mark.statistical
def test_power_on_jumps_of_five_standard_deviations():
    hits = [change_points(STEPS, 5.0 * np.heaviside(T - 0.3 - 0.01 * s, 1) + noise(1.0, s), seed=s) for s in range(40)]
    assert np.mean([len(h) == 1 for h in hits]) >= 0.85
    assert np.mean([len(h) >= 1 for h in hits]) >= 0.95
