from __future__ import annotations

import numpy as np
import pytest

from lmtrace.analysis.emergence import emergence
from lmtrace.errors import DataError
from reference.trends import best_sigmoid

STEPS = np.arange(50) * 200


def sigmoid(steps, middle, width):
    return 1 / (1 + np.exp(-(np.log1p(steps) - np.log1p(middle)) / width))


def noisy(scale=0.03, seed=0, n=50):
    return scale * np.random.default_rng(seed).standard_normal(n)


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("middle", [1500, 4000])
def test_the_published_sigmoid_matches_a_general_fit_and_the_times_need_none(flip, middle):
    values = 0.2 + flip * sigmoid(STEPS, middle, 0.3) + noisy()
    found = emergence(STEPS, values)
    expected, width, start, end = best_sigmoid(STEPS, values)
    assert found.direction == ("up" if flip > 0 else "down")
    assert found.sigmoid.midpoint == pytest.approx(expected, rel=0.01)
    assert found.sigmoid.width == pytest.approx(width, rel=0.03)
    assert (found.sigmoid.start, found.sigmoid.end) == pytest.approx((start, end), abs=0.01)
    assert 0.5 < found.sigmoid.misfit < 1.6
    assert found.midpoint == pytest.approx(expected, rel=0.06)
    assert found.interval[0] < middle <= found.interval[1]
    assert found.onset_after < found.onset < found.midpoint


@pytest.mark.parametrize("values", [np.zeros(50), np.full(50, 0.3), np.full(50, 1e6)])
def test_nothing_emerges_from_a_constant(values):
    assert emergence(STEPS, values) is None
    assert emergence(STEPS, values, stderr=0.01, null=0.0) is None


def test_noise_free_curve_has_a_narrow_interval():
    found = emergence(STEPS, sigmoid(STEPS, 3000, 0.3))
    assert found.midpoint == pytest.approx(3000, rel=0.02)  # half of the way that was measured
    assert 2800 <= found.interval[0] < 3000 <= found.interval[1] <= 3200


def test_a_jump_is_known_to_the_gap_between_two_measurements():
    values = (STEPS >= 4000) * 1.0 + noisy(0.01)
    found = emergence(STEPS, values)
    assert found.onset == 4000
    assert found.onset_after == 3800
    assert found.interval[0] == pytest.approx(3800, abs=60)
    assert found.interval[1] == pytest.approx(4000, abs=60)
    assert 3800 < found.midpoint < 4000


@pytest.mark.parametrize("planted", [1000, 3000, 6000])
@pytest.mark.parametrize("with_stderr", [True, False])
def test_planted_onset_within_two_measurements(planted, with_stderr):
    late = np.maximum(STEPS - planted, 0)
    values = 0.3 + 0.5 * (1 - np.exp(-late / 400)) + noisy(0.02, seed=planted)
    found = emergence(STEPS, values, stderr=0.02 if with_stderr else None, null=0.3)
    assert planted - 200 <= found.onset <= planted + 400


def test_onset_is_the_first_step_from_which_it_stays():
    values = np.r_[np.zeros(10), 0.9, 0.0, np.ones(10)]
    found = emergence(np.arange(22), values, stderr=0.05)
    assert found.onset == 12


def test_null_may_be_a_curve_of_its_own():
    values = sigmoid(STEPS, 3000, 0.3)
    against_zero = emergence(STEPS, values, stderr=0.01, null=0.0)
    against_half = emergence(STEPS, values, stderr=0.01, null=np.full(50, 0.5))
    assert against_zero.onset < against_half.onset == 3200
    assert emergence(STEPS, values, stderr=0.01, null=1.0) is None


def test_already_beyond_the_null_is_said():
    values = 0.5 + 0.3 * sigmoid(STEPS, 3000, 0.3) + noisy(0.01)
    found = emergence(STEPS, values, stderr=0.01, null=0.2)
    assert found.onset == 0
    assert found.onset_after is None
    assert "already beyond" in found.note


def test_a_curve_still_rising_has_no_saturation():
    values = sigmoid(STEPS, 30_000, 0.6) + noisy(0.002)
    found = emergence(STEPS, values)
    assert found.saturation is None
    assert found.midpoint is None
    assert "not levelled off" in found.note


def test_missing_values_and_scale_change_nothing():
    values = sigmoid(STEPS, 3000, 0.3) + noisy()
    holes = values.copy()
    holes[[3, 20]] = np.nan
    keep = np.isfinite(holes)
    assert emergence(STEPS, holes) == emergence(STEPS[keep], values[keep])
    one, other = emergence(STEPS, values), emergence(STEPS, 5 - 1000 * values)
    assert other.midpoint == pytest.approx(one.midpoint, rel=1e-6)
    assert (other.onset, other.direction) == (one.onset, "down")


def test_few_points_with_standard_errors():
    found = emergence([0, 100, 200, 300, 400, 500], [0.1, 0.1, 0.11, 0.9, 0.9, 0.91], stderr=0.02)
    assert found.onset == 300
    assert 200 < found.midpoint < 300


@pytest.mark.parametrize(
    ("steps", "values", "text"),
    [
        ([0, 1], [0.0, 1.0], "at least 5"),
        ([0, 1, 1, 2, 3], [0.0] * 5, "rise strictly"),
        ([0, 1, 2, 3, 4], [0.0, 1.0, np.inf, 1.0, 1.0], "finite"),
        ([0, 1, 2], [0.0, 1.0], "one length"),
    ],
)
def test_bad_curves(steps, values, text):
    with pytest.raises(DataError, match=text):
        emergence(steps, values)
