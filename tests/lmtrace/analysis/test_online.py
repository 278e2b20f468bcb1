from __future__ import annotations

import json

import numpy as np
import pytest

from lmtrace.analysis.noise import ar1
from lmtrace.analysis.online import BURN_IN, ChangeDetector, cusum_limit, online_changes, surprises
from lmtrace.errors import ConfigError

N = 80
STEPS = np.arange(N) * 100
U = np.arange(N) / N


def noise(seed=0, rho=0.0, num=1, n=N):
    return ar1(num, n, rho, np.random.default_rng(seed))


NULLS = {
    "iid": lambda: noise(1, 0.0, 1000),
    "AR(.5)": lambda: noise(2, 0.5, 1000),
    "AR(.8)": lambda: noise(3, 0.8, 1000),
    "exponential decay": lambda: np.exp(-U / 0.2) + 0.05 * noise(4, 0.0, 1000),
    "exponential decay, AR(.8)": lambda: np.exp(-U / 0.3) + 0.05 * noise(5, 0.8, 1000),
    "power law": lambda: (1 + STEPS / 100) ** -0.5 + 0.01 * noise(6, 0.0, 1000),
    "straight trend, AR(.5)": lambda: 3 * U + 0.1 * noise(7, 0.5, 1000),
}


def alarms(curves, limit):
    """Tell which curves pass the limit, from the CUSUM written out."""
    up, down, rang = (np.zeros(len(curves)) for _ in range(3))
    for z in surprises(curves):
        up, down = np.maximum(up + z - 1, 0), np.maximum(down - z - 1, 0)
        rang = np.maximum(rang, np.maximum(up, down) > limit)
    return rang.astype(bool)


@pytest.mark.statistical
@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_false_alarm_rate_holds_on_a_thousand_matched_nulls(name, level):
    rate = alarms(NULLS[name](), cusum_limit(N, level)).mean()
    assert rate <= level + 2 * np.sqrt(level * (1 - level) / 1000)


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_the_detector_does_what_was_simulated(rho):
    curves = noise(11, rho, 60)
    limit = cusum_limit(N, 0.3)
    expected = alarms(curves, limit)
    assert 5 < expected.sum() < 55
    assert [bool(online_changes(STEPS, row, 0.3)) for row in curves] == expected.tolist()


@pytest.mark.statistical
@pytest.mark.parametrize(("rho", "least"), [(0.0, 0.9), (0.5, 0.8)])
def test_a_jump_of_five_deviations_is_seen_within_two_measurements_and_is_one_change(rho, least):
    found = [online_changes(STEPS, 5 * (U >= 0.5) + row) for row in noise(12, rho, 60)]
    hits = [any(4000 <= c.step <= 4200 and c.direction == 1 for c in changes) for changes in found]
    assert np.mean(hits) >= least
    assert np.mean([len(changes) for changes in found]) < 1.15
    assert all(c.since <= c.step for changes in found for c in changes)


@pytest.mark.parametrize("n", [60, 120, 240])
def test_doubling_the_checkpoints_leaves_one_change_one(n):
    u = np.arange(n) / n
    values = np.exp(-u / 0.4) - 0.6 * (u >= 0.5) + 0.03 * noise(5, n=n)[0]
    (change,) = online_changes((u * 12_000).astype(int), values)
    assert 6000 <= change.step <= 6000 + 3 * 12_000 / n
    assert change.direction == -1


def test_curves_without_noise():
    assert online_changes(STEPS, np.ones(N)) == []
    assert online_changes(STEPS, np.exp(-U / 0.2)) == []
    assert online_changes(STEPS, 5 - U) == []
    assert [(c.step, c.direction) for c in online_changes(STEPS, 1.0 * (U >= 0.5))] == [(4000, 1)]


def test_a_known_break_is_learned_and_not_reported():
    values = 8 * (U >= 0.5) + 0.3 * noise(3)[0]
    assert [c.step for c in online_changes(STEPS, values)] == [4000]
    assert online_changes(STEPS, values, covariates=(4000,)) == []


def test_scale_and_offset_do_not_matter_and_missing_values_are_passed_over():
    values = 8 * (U >= 0.5) + 0.3 * noise(3)[0]
    assert [c.step for c in online_changes(STEPS, 1e6 + 1e-3 * values)] == [4000]
    holes = values.copy()
    holes[[20, 30, 45]] = np.nan
    assert [c.step for c in online_changes(STEPS, holes)] == [4000]


@pytest.mark.parametrize("at", [1, BURN_IN - 1, BURN_IN + 3, 40, 45])
def test_resume_goes_on_exactly(at):
    values = 6 * (U >= 0.5) + noise(8)[0]
    whole, first = ChangeDetector(horizon=N), ChangeDetector(horizon=N)
    expected = [whole.update(s, v) for s, v in zip(STEPS.tolist(), values.tolist())]
    found = [first.update(s, v) for s, v in zip(STEPS[:at].tolist(), values[:at].tolist())]
    second = ChangeDetector(horizon=N)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    found += [second.update(s, v) for s, v in zip(STEPS[at:].tolist(), values[at:].tolist())]
    assert found == expected
    assert second.state_dict() == whole.state_dict()


HARD = {
    "student t(3)": lambda g, n: g.standard_t(3, n),
    "rare ones": lambda g, n: (g.random(n) < 0.08) + 0.01 * g.standard_normal(n),
    "one outlier": lambda g, n: g.standard_normal(n) + 15 * (np.arange(n) == g.integers(20, n - 10)),
    "three times the noise": lambda g, n: g.standard_normal(n) * np.where(np.arange(n) >= n / 2, 3, 1),
    "five times the noise": lambda g, n: g.standard_normal(n) * np.where(np.arange(n) >= n / 2, 5, 1),
}


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("student t(3)", 0.06),
        ("rare ones", 0.16),
        ("one outlier", 0.14),
        ("three times the noise", 0.33),
        ("five times the noise", 0.45),
    ],
)
def test_outliers_and_noise_that_grows_ring_rarely(name, limit):
    rang = [bool(online_changes(STEPS, HARD[name](np.random.default_rng(s), N), 0.05, holds=3)) for s in range(200)]
    assert np.mean(rang) <= limit  # without that a change must stay, t(3) rang in .3, five times the noise in 1.0


@pytest.mark.statistical
def test_a_change_that_must_hold_is_seen_one_measurement_later():
    found = [online_changes(STEPS, 5 * (U >= 0.5) + row, holds=3) for row in noise(12, 0.0, 60)]
    assert np.mean([any(4000 <= c.step <= 4200 and c.direction == 1 for c in changes) for changes in found]) >= 0.9


def test_bad_use():
    with pytest.raises(ConfigError, match="false_alarm is 0"):
        ChangeDetector(false_alarm=0)
    with pytest.raises(ConfigError, match="horizon is 3"):
        ChangeDetector(horizon=3)
    detector = ChangeDetector()
    detector.update(5, 1.0)
    with pytest.raises(ConfigError, match="step 5 after step 5"):
        detector.update(5, 1.0)
