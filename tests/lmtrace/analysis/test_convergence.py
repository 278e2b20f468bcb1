from __future__ import annotations

import numpy as np
import pytest

from lmtrace.analysis.convergence import convergence
from lmtrace.errors import ConfigError
from reference.trends import slope_interval


def curve(n=100, tau=10.0, noise=0.01, seed=0):
    steps = np.arange(n) * 100
    rng = np.random.default_rng(seed)
    return steps, np.exp(-np.arange(n) / tau) + noise * rng.standard_normal(n)


def test_slope_and_interval_match_the_reference():
    steps, values = curve(noise=0.1)
    found = convergence(steps, values, window=30, tolerance=1e-9)
    slope, low, high = slope_interval(steps[-30:], values[-30:])
    assert found.slope == pytest.approx(slope, rel=1e-9)
    assert found.interval[0] <= low + 1e-15
    assert found.interval[1] >= high - 1e-15


@pytest.mark.parametrize("level", [0.0, 3.0, -1e6])
def test_constant_is_converged_from_the_first_full_window(level):
    found = convergence(np.arange(50), np.full(50, level), window=10, tolerance=1e-6)
    assert found.converged
    assert found.step == 9
    assert found.interval == (0.0, 0.0)


def test_straight_line_is_not():
    found = convergence(np.arange(50), 0.01 * np.arange(50), window=10, tolerance=1e-3)
    assert not found.converged
    assert found.step is None
    assert found.slope == pytest.approx(0.01)
    assert found.note == "slope"


def test_decay_converges_after_its_descent_and_not_before():
    steps, values = curve()
    found = convergence(steps, values, window=20, tolerance=2e-5)
    assert found.converged
    assert 4000 < found.step < 8000
    assert not convergence(steps[:30], values[:30], window=20, tolerance=2e-5).converged


def test_valley_has_zero_slope_but_no_level():
    x = np.arange(21)
    found = convergence(x, (x - 10.0) ** 2 / 100, window=21, tolerance=0.012)
    assert not found.converged


def test_fall_after_a_plateau_is_not_converged():
    values = np.r_[np.ones(40), np.linspace(1, 0, 20)]
    assert not convergence(np.arange(60), values, window=10, tolerance=1e-3).converged


def test_noise_too_large_for_the_window_is_not_converged():
    rng = np.random.default_rng(0)
    found = convergence(np.arange(10), rng.standard_normal(10), window=10, tolerance=1e-3)
    assert not found.converged


def test_first_true_prefix_is_the_step_it_reports():
    steps, values = curve(seed=3)
    for end in range(20, 101):
        found = convergence(steps[:end], values[:end], window=20, tolerance=2e-5)
        if found.converged:
            assert found.step == steps[end - 1]
            break
    else:
        pytest.fail("never converged")


def test_missing_values_are_left_out():
    steps, values = curve()
    values[50:60] = np.nan
    keep = np.isfinite(values)
    assert convergence(steps, values, window=20, tolerance=2e-5) == convergence(
        steps[keep], values[keep], window=20, tolerance=2e-5
    )


def test_too_few_measurements():
    assert convergence([0, 1], [1.0, 1.0], window=10, tolerance=1).note == "too few measurements"


@pytest.mark.parametrize(
    "bad", [{"window": 2, "tolerance": 1}, {"window": 10, "tolerance": 0.0}, {"window": 10, "tolerance": np.nan}]
)
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=r"convergence: (window|tolerance) is"):
        convergence(np.arange(20), np.zeros(20), **bad)


@pytest.mark.statistical
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_interval_of_the_slope_covers(rho):
    from lmtrace.analysis.noise import ar1

    x = np.arange(60.0)
    noise = ar1(1000, 60, rho, np.random.default_rng(0))
    hits = [low <= 0.02 <= high for low, high in (
        convergence(x, 0.02 * x + row, window=60, tolerance=1.0).interval for row in noise)]  # fmt: skip
    assert np.mean(hits) >= (0.93 if rho == 0 else 0.90)
