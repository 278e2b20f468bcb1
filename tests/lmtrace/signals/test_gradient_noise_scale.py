"""The noise scale of planted gradients, and sketches that keep inner products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmtrace.signals.gradient.noise_scale import SKETCH, inverse_noise_scale, noise_scale, sketch


def products(rng: np.random.Generator, m: int, batch: int, mean: np.ndarray, deviation: float) -> np.ndarray:
    gradients = mean + deviation / np.sqrt(batch) * rng.normal(size=(m, len(mean)))
    return gradients @ gradients.T


@pytest.mark.statistical
def test_both_parts_are_unbiased_and_the_error_covers():
    rng = np.random.default_rng(0)
    mean, deviation, batch, m = np.full(500, 0.2), 1.0, 8, 8
    expected = 500 * deviation**2 / float(mean @ mean)
    found = [noise_scale(products(rng, m, batch, mean, deviation), batch) for _ in range(400)]
    assert np.median([e.value for e in found]) == pytest.approx(expected, rel=0.03)
    inside = np.mean([abs(e.value - expected) <= 2.36 * e.stderr for e in found])  # t, 7 degrees of freedom
    assert 0.88 < inside <= 1.0


@pytest.mark.statistical
@pytest.mark.parametrize("expected", [40.0, 640.0, 2500.0])
def test_the_inverse_has_no_bias_where_the_scale_is_far_above_the_sample(expected):
    """Half of the draws have gradients that do not agree: none of them is left out, and the mean is right."""
    rng = np.random.default_rng(2)
    d, m, batch = 1200, 5, 6
    mean = rng.normal(size=d)
    mean /= np.linalg.norm(mean)
    found = [inverse_noise_scale(products(rng, m, batch, mean, np.sqrt(expected / d)), batch) for _ in range(1000)]
    values, errors = np.array([e.value for e in found]), np.array([e.stderr for e in found])
    assert abs(values.mean() - 1 / expected) < 4 * values.std() / np.sqrt(1000)
    assert (values < 0).any() == (expected > 500)
    covered = np.mean(np.abs(values - 1 / expected) < 2.78 * errors)  # t, 4 degrees of freedom
    assert 0.88 < covered < 1.0


def test_a_scale_that_is_not_resolved_says_from_where_on_it_lies():
    rng = np.random.default_rng(7)
    draws = [products(rng, 4, 8, np.zeros(900), 1.0) for _ in range(40)]
    notes = [noise_scale(p, 8).note for p in draws if noise_scale(p, 8).value is None]
    assert len(notes) > 5
    assert all("above" in note and "sequences" in note for note in notes)
    known = [noise_scale(p, 8) for p in draws]
    assert all(e.stderr is not None for e in known if e.value)


def test_closed_forms():
    same = np.ones((3, 3))
    assert noise_scale(same, 4).value == 0.0
    two = np.array([[3.0, 1.0], [1.0, 3.0]])
    assert noise_scale(two, 5).value == pytest.approx(5 * (3 - 1) / 1)
    assert noise_scale(two, 5).stderr is None
    assert inverse_noise_scale(two, 5).value == pytest.approx(1 / (5 * (3 - 1)))
    assert inverse_noise_scale(same, 4).value is None


def test_gradients_that_do_not_agree_are_a_reason():
    assert "do not agree" in noise_scale(np.array([[1.0, -0.1], [-0.1, 1.0]]), 4).note
    assert noise_scale(np.ones((1, 1)), 4).note == "1 micro-batches; at least 2 are needed"


def test_sketches_keep_inner_products():
    generator = torch.Generator().manual_seed(0)
    a = [torch.randn(300, 400, generator=generator), torch.randn(50_000, generator=generator)]
    b = [x + torch.randn(x.shape, generator=generator) for x in a]
    exact = sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b))
    scale = (sum(float(x.norm()) ** 2 for x in a) * sum(float(x.norm()) ** 2 for x in b)) ** 0.5
    one, two = (sketch(x, torch.Generator().manual_seed(1)) for x in (a, b))
    assert len(one) == SKETCH
    assert float(one @ two) == pytest.approx(exact, abs=0.015 * scale)


def test_few_numbers_are_not_folded():
    a, b = torch.randn(7, 9), torch.randn(7, 9)
    one, two = (sketch([x], torch.Generator().manual_seed(1)) for x in (a, b))
    assert float(one @ two) == pytest.approx(float((a.double() * b.double()).sum()), rel=1e-12)
