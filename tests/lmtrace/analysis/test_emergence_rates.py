"""Rates of what is said about when and whether: 200 draws and more of curves whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from lmtrace.analysis import emergence as module
from lmtrace.analysis.emergence import emergence
from lmtrace.analysis.noise import ar1
from lmtrace.analysis.trends import order, separated

pytestmark = [pytest.mark.slow, pytest.mark.statistical]

STEPS = np.arange(48) * 180.0
DENSE = np.linspace(0, STEPS[-1], 40_001)
PYTHIA = np.array([0, *(2**i for i in range(10)), *range(1000, 143_001, 1000)], float)

SHAPES = {
    "sigmoid": lambda s, m: 1 / (1 + np.exp(-(np.log1p(s) - np.log1p(m)) / 0.25)),
    "exponential": lambda s, m: 1 - np.exp(-s * np.log(2) / m),
    "power law": lambda s, m: 1 - (1 + s / m) ** -0.7,
    "step with drift": lambda s, m: np.where(s >= m, 0.75 + 0.25 * (1 - np.exp(-(s - m) / 2500)), 0.0),
    "two stages": lambda s, m: 0.4 * (s >= m / 3) + 0.6 / (1 + np.exp(-(s - 1.4 * m) / (0.1 * m))),
}


@pytest.fixture(autouse=True)
def no_description(monkeypatch):
    """The published sigmoid is a description that no verdict rests on, and most of the time of a call."""
    monkeypatch.setattr(module, "_sigmoid", lambda *_: None)


def normed(shape, steps, middle):
    """Return the curve from 0 to 1 over the run."""
    whole = SHAPES[shape](STEPS, middle)
    return (SHAPES[shape](steps, middle) - whole[0]) / (whole[-1] - whole[0])


def half_of(shape, middle):
    return DENSE[np.argmax(normed(shape, DENSE, middle) >= 0.5)]


@pytest.mark.parametrize("size", [9.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_interval_of_the_half_covers(shape, size):
    g = np.random.default_rng(17)
    hits = []
    for _ in range(200):
        middle = np.exp(g.uniform(np.log(500), np.log(3000)))
        found = emergence(STEPS, size * normed(shape, STEPS, middle) + g.standard_normal(48), stderr=1.0)
        assert found is not None
        low, high = found.interval
        hits.append(low <= half_of(shape, middle) <= high)
        inside = (low < STEPS) & (high > STEPS)
        assert high - low >= 180 * (1 + inside.sum())  # never less than the gap that holds it
    assert np.mean(hits) >= 0.9


def test_the_interval_is_not_too_wide_where_measurements_are_dense():
    steps, hits = np.arange(400) * 25.0, []
    for seed in range(200):
        g = np.random.default_rng(seed)
        middle = np.exp(g.uniform(np.log(800), np.log(3000)))
        curve = 1 / (1 + np.exp(-(steps - 2 * middle) / middle))
        curve = (curve - curve[0]) / (curve[-1] - curve[0])
        found = emergence(steps, 12 * curve + g.standard_normal(400), stderr=1.0)
        half = np.interp(0.5, curve, steps)
        hits.append(found.interval[0] <= half <= found.interval[1])
    assert 0.9 <= np.mean(hits) <= 0.995


@pytest.mark.parametrize("middle", [48, 700, 30_000])
@pytest.mark.parametrize("width", [0.05, 0.15])
def test_sharp_emergences_on_an_uneven_grid(middle, width):
    hits = []
    for seed in range(60):
        y = 0.3 + 0.5 / (1 + np.exp(-(np.log1p(PYTHIA) - np.log1p(middle)) / width))
        y += 0.012 * np.random.default_rng(seed).standard_normal(PYTHIA.size)
        found = emergence(PYTHIA, y, stderr=0.012, null=0.3)
        hits.append(found.interval[0] <= middle <= found.interval[1])
    assert np.mean(hits) >= 0.9


@pytest.mark.parametrize("n", [12, 25, 60])
@pytest.mark.parametrize("shape", SHAPES)
def test_rises_of_eight_standard_errors_are_found(shape, n):
    steps = np.linspace(0, STEPS[-1], n)
    noise = np.random.default_rng(n).standard_normal((200, n))
    curve = normed(shape, steps, 1800.0)
    found = [emergence(steps, 8 * curve + row, stderr=1.0, null=0.0) is not None for row in noise]
    assert np.mean(found) >= 0.95
    falls = [emergence(steps, -8 * curve + row, stderr=1.0) is not None for row in noise]
    assert np.mean(falls) >= 0.95


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_late_rise_is_found_and_is_not_timed(share):
    u = np.arange(41) / 40
    curve = 0.47 + 0.33 * np.clip((u - 1 + share) / share, 0, 1)
    found = [emergence(np.arange(41) * 15, curve + 0.03 * row, stderr=0.03, null=0.5) for row in ar1(200, 41, 0, np.random.default_rng(4))]  # fmt: skip
    assert np.mean([e is not None for e in found]) >= 0.95
    still = [e.verdict == "time not resolved" and "still on its way" in e.why for e in found if e is not None]
    assert share == 0.5 or np.mean(still) >= 0.9  # a rise over half of the run may well be half done


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("n", [10, 20, 45])
def test_flat_noise_does_not_emerge(rho, n):
    rows = ar1(400, n, rho, np.random.default_rng(n))
    steps = np.arange(n) * 70
    for given in ({"stderr": 1.0}, {"stderr": 1.0, "null": 0.0}):
        assert np.mean([emergence(steps, row, **given) is not None for row in rows]) <= 0.02
    # Without errors, too: one more standard error of 400 draws.
    assert np.mean([emergence(steps, row) is not None for row in rows]) <= 0.027


PAIRS = [("sigmoid", "exponential"), ("step with drift", "exponential"), ("two stages", "power law")]


@pytest.mark.parametrize("pair", PAIRS)
def test_curves_that_are_half_way_together_are_not_ordered(pair):
    verdicts = []
    for seed in range(200):
        g = np.random.default_rng(seed)
        half = np.exp(g.uniform(np.log(700), np.log(2500)))
        found = [_with_half(shape, half, g) for shape in pair]
        if any(e is None or e.midpoint is None for e in found):
            continue
        verdicts.append(separated(found[0].interval, found[1].interval))
    assert len(verdicts) > 120
    assert np.mean([v != "not resolved" for v in verdicts]) <= 0.05


@pytest.mark.parametrize("pair", PAIRS)
def test_nor_over_paired_seeds(pair):
    resolved = []
    for trial in range(40):
        g = np.random.default_rng(trial)
        found = [[_with_half(shape, half, g) for shape in pair] for half in 1500 * np.exp(0.15 * g.standard_normal(6))]
        times = [[np.nan if e is None or e.midpoint is None else e.midpoint for e in row] for row in found]
        slack = np.log1p(1500 + 180) - np.log1p(1500)
        first, second = np.array(times).T
        resolved.append(order(first, second, grid=slack).verdict != "not resolved")
    assert np.mean(resolved) <= 0.05


def _with_half(shape, half, g):
    """Return the emergence of a noisy curve of this shape that is half way of its way at this step."""
    low, high = 50.0, 20_000.0
    for _ in range(30):  # bisection for the parameter
        middle = np.sqrt(low * high)
        low, high = (middle, high) if half_of(shape, middle) < half else (low, middle)
    return emergence(STEPS, 25 * normed(shape, STEPS, low) + g.standard_normal(48), stderr=1.0)
