"""False alarms of `change_points` on the grids of published checkpoints, smooth curves, and noise of every kind."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from lmtrace.analysis.noise import ar1
from lmtrace.analysis.phases import change_points

pytestmark = [pytest.mark.slow, pytest.mark.statistical]

GRIDS = {
    "Pythia": [0, *(2**i for i in range(10)), *range(1000, 143_001, 1000)],
    "OLMo": range(0, 700_000, 8000),
    "MultiBERTs": [*range(0, 200_001, 20_000), *range(300_000, 2_000_001, 100_000)],
    "BabyLM": [*(i * 10**6 for i in (*range(1, 11), *range(20, 101, 10), *range(200, 1001, 100)))],
    "log-spaced": np.unique(np.r_[0, np.round(np.geomspace(1, 90_000, 55))]),
    "even": range(0, 7000, 100),
    "mixed": [*range(0, 160, 8), *range(200, 9001, 220)],
}
CURVES = {
    "fast exponential": lambda s: np.exp(-s / (s[-1] / 210)),
    "exponential": lambda s: np.exp(-s / (s[-1] / 6)),
    "power law": lambda s: (1 + s / (s[-1] / 2500)) ** -0.45,
    "sigmoid": lambda s: 1 / (1 + np.exp((np.log1p(s) - np.log1p(s[-1] / 9)) / 0.45)),
}
NOISE = {
    "small": lambda f, g: 0.008 * g.standard_normal(f.size),
    "large": lambda f, g: 0.06 * g.standard_normal(f.size),
    "relative": lambda f, g: 0.04 * (f + 0.05) * g.standard_normal(f.size),
    "variance change": lambda f, g: np.where(np.arange(f.size) < f.size / 2, 0.05, 0.01) * g.standard_normal(f.size),
    "t(3)": lambda f, g: 0.02 * g.standard_t(3, f.size),
}
RUNS = 10  # of each of 20 kinds: 200 on every grid, 350 of every curve


def test_smooth_curves_have_no_phase_on_any_grid():
    alarms = {}
    for grid, (curve, noise), run in product(GRIDS, product(CURVES, NOISE), range(RUNS)):
        steps = np.asarray(GRIDS[grid], float)
        g = np.random.default_rng(1000 * run + 7)
        f = CURVES[curve](steps)
        alarm = bool(change_points(steps, 3 + 9 * (f + NOISE[noise](f, g)), false_alarm=0.05, seed=run))
        for name in (grid, curve, noise):
            alarms.setdefault(name, []).append(alarm)
    rates = {name: float(np.mean(rang)) for name, rang in alarms.items()}
    assert max(rates.values()) <= 0.07, rates


def test_relative_noise_down_to_nothing():
    """Positive quantities that fall by orders of magnitude, such as a trace, with errors in proportion."""
    alarms = []
    for seed in range(200):
        g = np.random.default_rng(seed)
        n = (25, 50, 90)[seed % 3]
        decay = np.exp(-np.arange(n) / (n / 5)) * np.exp((0.03, 0.15, 0.25)[seed % 3] * g.standard_normal(n))
        alarms.append(bool(change_points(np.arange(n) * 40, decay)))
    assert np.mean(alarms) <= 0.07


@pytest.mark.parametrize(("grid", "least"), [("Pythia", 0.85), ("log-spaced", 0.7), ("mixed", 0.55)])
def test_jumps_are_found_where_they_are_on_uneven_grids(grid, least):
    """Fewer of them where measurements are few: a spline of 15 knots follows a third of 60 values."""
    steps, hits = np.asarray(GRIDS[grid], float), []
    at = steps[int(0.6 * steps.size)]
    for seed in range(80):
        values = (
            4 * CURVES["power law"](steps)
            + 0.8 * (steps >= at)
            + 0.1 * ar1(1, steps.size, 0, np.random.default_rng(seed))[0]
        )
        found = change_points(steps, values)
        hits.append(len(found) == 1 and found[0].interval[0] < at <= found[0].interval[1])
    assert np.mean(hits) >= least
