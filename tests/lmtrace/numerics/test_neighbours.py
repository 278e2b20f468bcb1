"""Neighbours are exact, whatever the tiles, the precision and the offset; duplicates become one point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError, DataError
from lmtrace.numerics import neighbours
from lmtrace.numerics.neighbours import nearest
from reference import neighbours as reference


@pytest.fixture
def small_tiles(monkeypatch):
    """Many tiles, several strips and a ragged end at a size that the reference can afford."""
    monkeypatch.setattr(neighbours, "TILE", 96)
    monkeypatch.setattr(neighbours, "STRIP", 192)


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("n", [3, 20, 95, 96, 97, 500])
@pytest.mark.parametrize("k", [1, 2, 5, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_all_differences(small_tiles, n, k, dtype):
    x = normal(n, 6).astype(dtype)
    found = nearest(x, k)
    expected = reference.distances(x, min(k, n - 1))
    assert found.distances.shape == expected.shape
    np.testing.assert_allclose(found.distances, expected, rtol=1e-6 if dtype == np.float32 else 1e-12)
    between = np.linalg.norm(x[found.indices].astype(float) - x[:, None].astype(float), axis=2)
    np.testing.assert_allclose(between, expected, rtol=1e-6)
    assert not (found.indices == np.arange(n)[:, None]).any()
    assert found.merged == 0.0


def test_equals_all_differences_at_the_real_tile_size():
    x = normal(2100, 5)
    np.testing.assert_allclose(nearest(x, 30).distances, reference.distances(x, 30), rtol=1e-10)


def test_arrays_and_tensors_of_every_precision_agree():
    x = torch.from_numpy(normal(300, 8)).to(torch.bfloat16)
    expected = nearest(x.double().numpy(), 3).distances
    for same in (x, x.float(), x.double().requires_grad_(), x.float().numpy(), x.float().t().contiguous().t()):
        np.testing.assert_allclose(nearest(same, 3).distances, expected, rtol=1e-6)


def test_float32_at_an_offset_of_1000_keeps_the_distances():
    x = (normal(1500, 8) + 1000).astype(np.float32)
    np.testing.assert_allclose(nearest(x, 20).distances, reference.distances(x, 20), rtol=1e-6)


def test_float32_neighbours_that_the_products_cannot_tell_apart():
    # Two tight clusters far apart: squared distances inside are below the rounding of the products.
    x = normal(600, 3) * 0.02
    x[:300, 0] += 1000
    x = x.astype(np.float32)
    np.testing.assert_allclose(nearest(x, 5, tolerance=0).distances[:, 4], reference.distances(x, 5)[:, 4], rtol=0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("jitter", [0.0, 1e-9, 1e-6])
def test_twins_are_merged_and_counted(dtype, jitter):
    x = normal(1000, 8)
    twins = x[:200] + jitter * normal(200, 8, seed=1)
    found = nearest(np.concatenate([x, twins]).astype(dtype), 4)
    assert found.merged == pytest.approx(200 / 1200)
    np.testing.assert_array_equal(found.rows, np.arange(1000))
    np.testing.assert_allclose(found.distances, reference.distances(x, 4), rtol=1e-4)


def test_groups_larger_than_k_are_merged():
    x = normal(400, 6)
    copies = x[:3].repeat(50, axis=0) + 1e-7 * normal(150, 6, seed=1)
    found = nearest(np.concatenate([x, copies]), 2)
    np.testing.assert_array_equal(found.rows, np.arange(400))


def test_a_stranger_between_twins_along_the_sorting_direction_hides_nothing():
    x = normal(500, 4)
    direction = np.cos(np.arange(4.0) ** 2)
    across = np.linalg.svd(direction[None])[2][1:]  # orthogonal to the direction along which twins are looked for
    stranger = x[:50] + across[0] * 2.0
    found = nearest(np.concatenate([x, stranger, x[:50]]), 2)
    np.testing.assert_array_equal(found.rows, np.arange(550))


def test_close_points_of_a_curve_are_no_twins():
    t = np.sort(np.random.default_rng(0).uniform(0, 1, 2000))
    assert nearest(np.stack([t, t], axis=1), 2).merged < 0.001


def test_all_points_equal():
    found = nearest(np.ones((50, 3)), 2)
    assert found.distances.shape == (1, 0)
    assert found.merged == pytest.approx(49 / 50)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_points(n):
    assert nearest(np.zeros((n, 3)), 2).distances.shape == (n, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_a_reason(bad):
    x = normal(300, 3)
    x[7, 1] = bad
    assert nearest(x, 2).problem == "1 of 300 points hold numbers that are not finite"


def test_wrong_input_is_an_error():
    with pytest.raises(DataError, match=r"must be an array \[n, d\], got shape \(3,\)"):
        nearest(np.zeros(3), 2)
    with pytest.raises(ConfigError, match="k must be at least 1, got 0"):
        nearest(np.zeros((3, 2)), 0)
    with pytest.raises(ConfigError, match="tolerance must not be negative"):
        nearest(np.zeros((3, 2)), 1, tolerance=-1.0)
