"""Participation ratio, effective rank, principal components, anisotropy: closed forms, references, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError
from lmtrace.numerics.covariance import anisotropy, covariance, effective_rank, participation_ratio, pca_dimension

FUNCTIONS = (participation_ratio, effective_rank, pca_dimension)


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def with_variances(variances: list[float], n: int = 64) -> np.ndarray:
    """Return points whose covariance has exactly these eigenvalues."""
    basis = np.linalg.qr(np.column_stack([np.ones(n), normal(n, len(variances))]))[0][:, 1:]
    rotation = np.linalg.qr(normal(len(variances), len(variances), seed=1))[0]
    return basis * np.sqrt(np.array(variances) * n) @ rotation + 5.0


@pytest.mark.parametrize("shape", [(300, 10), (10, 300), (50, 50)])
def test_equal_the_singular_values(shape):
    x = normal(*shape) * np.linspace(0.1, 3, shape[1])
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    singular = singular[singular > 1e-10 * singular[0]]
    share = singular / singular.sum()
    held = np.cumsum(singular**2) / (singular**2).sum()
    assert effective_rank(x).value == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)
    assert participation_ratio(x).value == pytest.approx((singular**2).sum() ** 2 / (singular**4).sum(), rel=1e-9)
    assert pca_dimension(x).value == 1 + np.argmax(held >= 0.95)


def test_closed_forms():
    equal = with_variances([2.0] * 6)
    assert [f(equal).value for f in FUNCTIONS] == pytest.approx([6, 6, 6], abs=1e-8)
    line = with_variances([3.0])
    assert [f(line).value for f in FUNCTIONS] == pytest.approx([1, 1, 1], abs=1e-8)
    assert participation_ratio(with_variances([3.0, 1.0])).value == pytest.approx(16 / 10)
    p = np.sqrt([3, 1]) / (np.sqrt(3) + 1)
    assert effective_rank(with_variances([3.0, 1.0])).value == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert pca_dimension(with_variances([90.0, 5.0, 5.0]), 0.9).value == 1
    assert pca_dimension(with_variances([90.0, 5.0, 5.0]), 0.91).value == 2
    assert pca_dimension(with_variances([90.0, 5.0, 5.0]), 1.0).value == 3


@pytest.mark.parametrize("function", [*FUNCTIONS])
def test_invariances(function):
    x = normal(400, 12) * np.linspace(0.5, 2, 12)
    rotation = np.linalg.qr(normal(12, 12, seed=2))[0]
    expected = function(x).value
    for changed in (1e-12 * x, 1e12 * x, x @ rotation, x + 100.0, x[::-1], np.column_stack([x, np.zeros((400, 30))])):
        assert function(changed).value == pytest.approx(expected, abs=1e-8)


def test_float32_at_an_offset_of_1000():
    x = with_variances([4.0, 2.0, 1.0], n=500)
    shifted = torch.from_numpy(np.column_stack([x, np.zeros((500, 20))]) + 1000).float()
    for function in FUNCTIONS:
        assert function(shifted).value == pytest.approx(function(x).value, rel=1e-3)


def test_anisotropy_is_the_mean_cosine_of_pairs():
    x = normal(60, 5) + 0.5
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(60) for j in range(60) if i != j]
    assert anisotropy(x).value == pytest.approx(np.mean(pairs), rel=1e-10)
    assert anisotropy(np.ones((10, 3)) * np.arange(1, 11)[:, None]).value == pytest.approx(1.0)
    assert anisotropy(np.eye(8)).value == pytest.approx(0.0, abs=1e-12)
    assert anisotropy(37 * x).value == pytest.approx(anisotropy(x).value, rel=1e-10)


@pytest.mark.parametrize("function", [*FUNCTIONS, anisotropy])
def test_what_cannot_be_computed_is_a_reason(function):
    broken = normal(10, 3)
    broken[2, 2] = np.inf
    for x in (np.ones((1, 3)), np.zeros((50, 3)), broken, np.zeros((0, 3))):
        found = function(x)
        assert found.value is None
        assert found.note
    if function is not anisotropy:
        assert function(np.full((50, 3), 7.1)).note == "all points are equal"


def test_wrong_share_is_an_error():
    with pytest.raises(ConfigError, match=r"variance must be in \(0, 1\], got 1.5"):
        pca_dimension(normal(10, 3), 1.5)


def test_one_decomposition_serves_all():
    x = normal(100, 7)
    components = covariance(x)
    for function in FUNCTIONS:
        assert function(components) == function(x)


@pytest.mark.statistical
def test_standard_errors_are_those_of_repeats():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        x = rng.normal(size=(400, 8)) * np.linspace(1, 3, 8) + 1.0
        found.append([(e.value, e.stderr) for e in (participation_ratio(x), effective_rank(x), anisotropy(x))])
    values, stderr = np.moveaxis(np.array(found), 2, 0)
    np.testing.assert_allclose(stderr.mean(axis=0) / values.std(axis=0), 1, atol=0.15)
