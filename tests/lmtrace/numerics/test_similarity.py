"""Linear CKA equals the papers' matrices, its invariances hold, and independent representations read 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError, DataError
from lmtrace.numerics.similarity import cka_of_grams, gram, linear_cka, principal_directions, subspace_drift
from reference import similarity as reference


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def related(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    x = normal(n, 7) + 3
    return x, x[:, :4] @ normal(4, 5, seed=1) + normal(n, 5, seed=2)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("n", [4, 9, 60])
def test_equals_its_reference(debiased, n):
    x, y = related(n)
    found = linear_cka(x, y, debiased)
    if found.value is None:
        pytest.fail(found.note)
    assert found.value == pytest.approx(reference.linear_cka(x, y, debiased), rel=1e-9)


def test_gram_matrices_give_the_same():
    x, y = map(torch.from_numpy, related())
    expected = linear_cka(x, y)
    found = cka_of_grams(gram(x, torch.float64), gram(y, torch.float64))
    assert found.value == pytest.approx(expected.value, rel=1e-10)
    assert found.stderr == pytest.approx(expected.stderr, rel=0.02)
    assert cka_of_grams(gram(x.float()), gram(y.float())).value == pytest.approx(expected.value, rel=1e-5)


@pytest.mark.parametrize("debiased", [True, False])
def test_invariances(debiased):
    x, y = related()
    rotation = np.linalg.qr(normal(7, 7, seed=3))[0]
    expected = linear_cka(x, y, debiased).value
    assert linear_cka(5 * x @ rotation + 100, y - 7, debiased).value == pytest.approx(expected, abs=1e-8)
    assert linear_cka(y, x, debiased).value == pytest.approx(expected, abs=1e-12)
    assert linear_cka(x, -3 * x @ rotation + 1, debiased).value == pytest.approx(1.0, abs=1e-10)


def test_independent_representations_read_zero_only_when_debiased():
    pairs = [(normal(50, 400, seed=2 * i), normal(50, 400, seed=2 * i + 1)) for i in range(30)]
    assert abs(np.mean([linear_cka(x, y).value for x, y in pairs])) < 0.02
    assert np.mean([linear_cka(x, y, debiased=False).value for x, y in pairs]) > 0.85


def test_float32_at_an_offset():
    x, y = related(300)
    shifted = linear_cka((x + 1000).astype(np.float32), (y - 1000).astype(np.float32))
    assert shifted.value == pytest.approx(linear_cka(x, y).value, abs=1e-4)
    assert cka_of_grams(
        gram(torch.from_numpy(x + 1000).float()), gram(torch.from_numpy(y).float())
    ).value == pytest.approx(linear_cka(x, y).value, abs=1e-4)


@pytest.mark.statistical
def test_the_standard_error_is_that_of_repeats():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        x = rng.normal(size=(150, 7))
        estimate = linear_cka(x, x[:, :3] + rng.normal(size=(150, 3)))
        found.append((estimate.value, estimate.stderr))
    values, stderr = np.array(found).T
    assert stderr.mean() / values.std() == pytest.approx(1, abs=0.15)


def test_what_cannot_be_computed_is_a_reason():
    x = normal(10, 3)
    broken = x.copy()
    broken[0, 0] = np.nan
    assert linear_cka(x[:3], x[:3]).note == "3 points; at least 4 are needed"
    assert linear_cka(x, broken).note == "points hold numbers that are not finite"
    assert linear_cka(x, np.full((10, 2), 3.3)).note == "a representation has no variance that points share"
    assert gram(torch.full((10, 2), 3.3)) is None
    assert gram(torch.from_numpy(broken)) is None
    with pytest.raises(DataError, match="x has 10 points, y has 9"):
        linear_cka(x, x[:9])


def test_principal_directions_are_those_of_the_singular_vectors():
    for shape in ((200, 12), (9, 40)):
        x = torch.from_numpy(normal(*shape) * np.linspace(1, 4, shape[1]) + 2)
        basis = principal_directions(x, 3)
        expected = torch.linalg.svd(x - x.mean(dim=0))[2][:3]
        assert subspace_drift(basis, expected.T) == pytest.approx(0, abs=1e-9)
        torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    assert principal_directions(torch.from_numpy(normal(200, 2)) @ torch.ones(2, 5, dtype=torch.float64), 3) is None


def test_drift_of_known_angles():
    one = torch.eye(6, dtype=torch.float64)
    angle = 0.3
    turned = one[:, :2].clone()
    turned[:, 0] = np.cos(angle) * one[:, 0] + np.sin(angle) * one[:, 4]
    assert subspace_drift(one[:, :2], turned) == pytest.approx(np.sin(angle) ** 2 / 2)
    assert subspace_drift(one[:, :2], one[:, 2:4]) == 1.0
    bases = [torch.linalg.qr(torch.from_numpy(normal(40, 5, seed=s)))[0] for s in range(60)]
    drift = np.mean([subspace_drift(a, b) for a, b in zip(bases[::2], bases[1::2])])
    assert drift == pytest.approx(1 - 5 / 40, abs=0.02)
    with pytest.raises(ConfigError, match="bases of shape"):
        subspace_drift(one[:, :2], one[:, :3])
