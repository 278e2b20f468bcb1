"""Hutchinson's estimator: its variance, its coverage, its blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmtrace.numerics.hutchinson import mean_estimate, quadratic_forms, rademacher


def symmetric(n: int, seed: int) -> torch.Tensor:
    a = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (a + a.T) / 2


def samples_of(a: torch.Tensor, num: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return quadratic_forms(lambda v: a @ v, len(a), num, generator, dtype=a.dtype)[:, 0]


def test_probes_are_signs_of_equal_chance():
    v = rademacher(20_000, torch.Generator().manual_seed(0), torch.float32, torch.device("cpu"))
    assert set(v.tolist()) == {-1.0, 1.0}
    assert abs(float(v.mean())) < 4 / 20_000**0.5


def test_no_variance_on_a_diagonal_matrix():
    a = torch.diag(torch.linspace(-3, 5, 40, dtype=torch.float64))
    estimate = mean_estimate(samples_of(a, 7, 0))
    assert estimate.value == pytest.approx(float(a.trace()), rel=1e-12)
    assert estimate.stderr == pytest.approx(0.0, abs=1e-12)
    assert estimate.n == 7


def test_variance_on_a_full_matrix_has_its_closed_form():
    a = symmetric(30, 1)
    expected = float(2 * ((a**2).sum() - (a.diagonal() ** 2).sum()))
    assert samples_of(a, 4000, 2).var(ddof=1) == pytest.approx(expected, rel=0.1)


@pytest.mark.statistical
def test_the_standard_error_covers():
    a = symmetric(30, 3)
    hits = 0
    for seed in range(500):
        estimate = mean_estimate(samples_of(a, 30, seed))
        hits += abs(estimate.value - float(a.trace())) < 2.045 * estimate.stderr  # t quantile, 29 degrees of freedom
    assert 0.92 < hits / 500 < 0.98


def test_blocks_share_products_and_add_up():
    a = symmetric(24, 5)
    blocks = [slice(0, 10), slice(10, 24)]

    def sums(x: torch.Tensor) -> np.ndarray:
        return np.array([float(x[b].sum()) for b in blocks])

    product_count = 0

    def product(v: torch.Tensor) -> torch.Tensor:
        nonlocal product_count
        product_count += 1
        return a @ v

    forms = quadratic_forms(product, 24, 2000, torch.Generator().manual_seed(0), dtype=a.dtype, reduce=sums)
    assert product_count == 2000
    for column, block in enumerate(blocks):
        estimate = mean_estimate(forms[:, column])
        assert estimate.value == pytest.approx(float(a[block, block].trace()), abs=4 * estimate.stderr)
    np.testing.assert_allclose(forms.sum(1), samples_of(a, 2000, 0), rtol=1e-10)


def test_a_single_probe_has_no_standard_error():
    assert mean_estimate([3.0]).stderr is None
