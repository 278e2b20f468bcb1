"""Long vectors: lengths and inner products do not lose digits with the number of entries."""

import numpy as np
import pytest
import torch

from lmtrace.numerics.lanczos import lanczos
from lmtrace.numerics.vectors import dot, inner, norm
from lmtrace.signals.curvature.landscape import alignment, subspace_overlap

SIZES = [1_000_003, 5_000_011]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [3.3, 11.7])
def test_length_of_equal_numbers(size, value):
    x = torch.full((size,), value)
    exact = float(x[0].double())
    # P roundings of float64: P * 1.1e-16 at most.
    assert norm(x) == pytest.approx(exact * size**0.5, rel=1e-9)
    assert dot(x, 2 * x) == pytest.approx(2 * exact**2 * size, rel=1e-9)


def test_inner_products_are_those_of_float64():
    a, b = torch.randn(2, 3, 300_007, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(inner(a, b[:2]), a.double() @ b[:2].double().T, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_alignment_with_a_constant_direction(size):
    """g is the eigenvector itself, so every number is known: H g = 11.7 g."""
    gradient = torch.full((size,), 3.3)
    vectors = torch.full((1, size), size**-0.5)
    found = alignment(gradient, 11.7 * gradient, np.array([11.7]), vectors)
    # Entries of the image and of the eigenvector are rounded once, by 6e-8.
    assert found.rayleigh == pytest.approx(11.7, rel=2e-7)
    assert found.amplification == pytest.approx(11.7, rel=2e-7)
    assert found.top_share == pytest.approx(1.0, rel=3e-7)
    assert subspace_overlap(vectors, -vectors) == pytest.approx(1.0, rel=3e-7)


@pytest.mark.parametrize("size", SIZES[:1])
def test_largest_eigenvalue_of_a_million_parameters(size):
    """H = 7 + 11.7 u u', started at u = 1 / sqrt(P), whose length in float32 would be off by 5e-4."""
    start = torch.full((size,), 3.3)
    found = lanczos(lambda v: 7 * v + 11.7 * (v.double().sum() / size).float(), start, smallest=False, max_products=2)
    # The start and its image are rounded entry by entry, all in one direction at worst: a few times 6e-8.
    assert found.largest == pytest.approx(18.7, rel=5e-7)


def test_numbers_that_are_not_finite_are_seen():
    assert np.isnan(norm(torch.tensor([1.0, float("nan")])))
    assert norm(torch.tensor([1.0, float("inf")])) == float("inf")
