from __future__ import annotations

import numpy as np
import pytest

from lmtrace.analysis.compression import compression
from lmtrace.analysis.noise import ar1
from lmtrace.analysis.trends import (
    between,
    breakpoints,
    combined_event,
    memorisation,
    order,
    separated,
)
from lmtrace.errors import DataError

STEPS = np.arange(60) * 100
T = np.arange(60) / 60


def rng(seed=0):
    return np.random.default_rng(seed)


def test_order_from_paired_differences_although_seeds_differ_more():
    first = np.array([100, 400, 1600, 6400, 900.0])
    later = first * np.array([1.3, 1.4, 1.25, 1.35, 1.5])
    found = order(first, later)
    assert found.verdict == "first"
    assert found.ratio == pytest.approx(1.36, abs=0.02)
    assert found.interval[0] > 1
    assert order(later, first).verdict == "second"
    assert order(later, first).ratio == pytest.approx(1 / found.ratio)


def test_order_is_not_resolved_within_the_grid_or_with_few_or_mixed_seeds():
    first = np.array([1000, 1100, 900, 1000, 1050.0])
    later = first * np.array([1.05, 1.06, 1.04, 1.05, 1.05])
    assert order(first, later).verdict == "first"
    assert order(first, later, grid=0.1).verdict == "not resolved"
    assert order(first[:2], later[:2]).verdict == "not resolved"
    assert order(first, first[::-1]).verdict == "not resolved"


def test_order_where_it_mostly_did_not_happen():
    later = np.array([2000, 2100, 2050, np.nan, np.nan, np.nan, np.nan])
    found = order(np.full(7, 1000.0), later)
    assert found.verdict == "not resolved"
    assert "4 of 7" in found.note
    with pytest.raises(DataError, match="not paired"):
        order([1, 2], [1, 2, 3])


@pytest.mark.statistical
def test_order_false_alarms():
    alarms = [order(*np.exp(rng(s).normal(6, 0.5, (2, 6)))).verdict != "not resolved" for s in range(1000)]
    assert 0.03 <= np.mean(alarms) <= 0.07


def test_intervals_must_be_disjoint():
    assert separated((1, 2), (3, 4)) == "first"
    assert separated((3, 4), (1, 2)) == "second"
    assert separated((1, 3), (2, 4)) == "not resolved"


def test_compression_finds_the_peak():
    for seed in range(5):
        hump = 10 + 5 * np.exp(-((T - 0.4) ** 2) / 0.02) + 0.3 * rng(seed).standard_normal(60)
        found = compression(STEPS, hump)
        assert found.interval[0] <= 2400 <= found.interval[1]
        assert found.rise == pytest.approx(5, abs=1)
        assert found.fall == pytest.approx(5, abs=1)
        assert found.level == pytest.approx(15, abs=1)


@pytest.mark.parametrize(
    "curve", [T, -T, 1 / (1 + np.exp(-(T - 0.5) / 0.05)), np.exp(-T / 0.2), 0 * T, -(np.exp(-((T - 0.4) ** 2) / 0.02))]
)
def test_no_compression_of_what_does_not_rise_and_fall(curve):
    assert compression(STEPS, curve) is None
    assert compression(STEPS, curve + 0.02 * rng().standard_normal(60)) is None


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("trend", [0 * T, 4 / (1 + np.exp(-(T - 0.4) / 0.08)), 4 * np.exp(-T / 0.2)])
def test_compression_false_alarms(trend, rho):
    rows = ar1(100, 60, rho, rng(1))
    assert np.mean(
        [compression(STEPS, trend + row, seed=i) is not None for i, row in enumerate(rows)]
    ) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 100)


@pytest.mark.statistical
def test_interval_of_the_peak_covers():
    hits = []
    for seed in range(40):
        hump = 10 + 5 * np.exp(-((T - 0.4) ** 2) / 0.02) + 0.3 * rng(seed).standard_normal(60)
        low, high = compression(STEPS, hump).interval
        hits.append(low <= 2400 <= high)
    assert np.mean(hits) >= 0.9


def test_memorisation_of_curves_that_part():
    train = 4 * np.exp(-T / 0.1)
    panel = 1.0 + 3 * np.exp(-T / 0.1) + np.where(T > 0.3, (T - 0.3) * 2, 0)
    found = memorisation(STEPS, train + 0.02 * rng().standard_normal(60), panel, stderr=0.02)
    assert found.gap == pytest.approx(panel[-1] - train[-1], abs=0.1)
    assert found.panel_rises
    assert 1800 < found.onset <= 2400  # the panel turns at 1,800
    assert found.kind == "memorisation"
    assert found.closed is None


def test_no_memorisation_of_curves_that_agree():
    train = 4 * np.exp(-T / 0.2)
    assert (
        memorisation(STEPS, train + 0.02 * rng(1).standard_normal(60), train + 0.02 * rng(2).standard_normal(60))
        is None
    )
    assert memorisation(STEPS, train, train) is None
    assert memorisation(STEPS, train, 0.5 * train) is None  # the panel is easier: no memorisation


def grown(seed, floor, speed, size=3.8):
    return floor + size * np.exp(-STEPS / speed) + 0.012 * rng(seed).standard_normal(60)


@pytest.mark.parametrize("given", [{"stderr": 0.025}, {}])
def test_what_is_memorisation_and_what_is_not(given):
    """A constant difference, a lag, floors and speeds of their own are none; a rise, and a fall of train alone, are."""
    for seed in range(20):
        train = grown(seed, 2.2, 300)
        lag = np.r_[train[0], (train[1:] + train[:-1]) / 2]
        other = grown(seed + 50, 2.2, 300)
        assert memorisation(STEPS, lag, other, **given) is None
        assert memorisation(STEPS, train, other + 0.3, **given).kind == "gap"
        assert memorisation(STEPS, grown(seed, 2.2, 500), grown(seed + 50, 2.7, 250, 3.3), **given).kind == "gap"
        both = 0.9 * (STEPS > 3000)  # training data that turn harder
        assert memorisation(STEPS, train + both, other + both, **given) is None
        late = np.maximum(STEPS - 2500, 0)
        found = memorisation(STEPS, train - 0.0005 * late, other, **given)
        assert (found.kind, found.panel_rises, found.closed) == ("memorisation", False, None)
        assert found.onset > 2500
        found = memorisation(STEPS, train, other + 0.0003 * late, **given)
        assert (found.kind, found.panel_rises) == ("memorisation", True)
        assert 2500 < found.onset < 3800


@pytest.mark.statistical
def test_a_panel_that_wanders_is_no_memorisation():
    train = grown(0, 2.2, 300)
    for noise in (ar1(200, 60, 0.0, rng(2)), ar1(200, 60, 0.9, rng(3))):
        rang = [memorisation(STEPS, train, grown(1, 2.2, 300) + 0.03 * row, 0.03) for row in noise]
        assert np.mean([m is not None and m.kind == "memorisation" for m in rang]) <= 0.02


def test_mean_between_measurements():
    dense = np.arange(1, 11)
    values = dense.astype(float)
    values[2] = np.nan
    found = between([0, 2, 5, 10], dense, values)
    assert np.isnan(found[0])
    assert found[1:].tolist() == [1.5, 4.5, 8.0]


def test_published_event_always_happens():
    rows = []
    for i, scale in enumerate((0.05, 0.1, 0.3, 0.8)):
        falling = np.exp(-T / scale) + 0.02 * rng(i).standard_normal(60)
        rising = 1 - np.exp(-T / 0.5) + 0.02 * rng(i + 9).standard_normal(60)
        rows.append(combined_event(STEPS, falling, rising))
    for row in rows:
        assert row.step is not None
        assert row.p_value > 0.95
    assert combined_event(STEPS, T, T).step is None


def test_breakpoints_of_schedules():
    x = np.arange(1000)
    warm = np.minimum(x / 100, 1.0)
    assert breakpoints(x, warm) == [100]
    assert breakpoints(x, np.where(x < 400, 1.0, 0.1)) == pytest.approx([399], abs=2)
    cosine = np.where(x < 100, x / 100, 0.5 * (1 + np.cos(np.pi * (x - 100) / 900)))
    assert breakpoints(x, cosine) == [100]
    assert breakpoints(x, np.ones(1000)) == []
    assert breakpoints(x, 1 - x / 1000) == []
