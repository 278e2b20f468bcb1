"""Spectral densities against laws that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import wasserstein_distance

from lmtrace.numerics.density import (
    density_of,
    estimate_shape,
    quadrature,
    shape_of_density,
    shape_of_eigenvalues,
    trace_of_density,
)
from lmtrace.numerics.hessian import hessian_density
from reference.curvature import marchenko_pastur, quadratic


def test_marchenko_pastur():
    n, d = 4000, 1000
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    w = torch.zeros(d, requires_grad=True)
    density = hessian_density(lambda: 0.5 * ((x @ w) ** 2).mean(), [w])
    law = marchenko_pastur(d / n, 4000)
    assert wasserstein_distance(density.nodes, law, density.weights) < 0.03
    assert wasserstein_distance(density.grid, law, density.density) < 0.03
    assert density.nodes.min() == pytest.approx(0.25, abs=0.02)
    assert density.nodes.max() == pytest.approx(2.25, abs=0.03)
    assert density.weights @ density.nodes**2 == pytest.approx(1.25, abs=0.06)  # its standard error is .02
    assert trapezoid(density.density, density.grid) == pytest.approx(1.0, abs=1e-9)
    assert density.weights.sum() == pytest.approx(1.0)


def test_moments_are_exact_in_expectation_and_the_quadrature_is_exact_when_the_space_is_exhausted():
    values = torch.tensor([-2.0, -0.5, 0.0, 1.0, 1.0, 4.0], dtype=torch.float64)
    a = torch.diag(values)
    nodes, weights = quadrature(lambda v: a @ v, 6, 400, 6, torch.Generator().manual_seed(0), torch.float64)
    live = nodes[weights > 1e-12]
    assert all(np.min(np.abs(live[:, None] - values.numpy()), axis=1) < 1e-6)
    density = density_of(nodes, weights, 6, width=0.01)
    assert trace_of_density(density) == pytest.approx(3.5, abs=0.5)
    for value, share in ((-2.0, 1 / 6), (1.0, 2 / 6)):
        assert density.weights[np.abs(density.nodes - value) < 1e-6].sum() == pytest.approx(share, abs=0.05)


def test_shape_of_a_list_by_hand():
    shape = shape_of_eigenvalues(np.array([5.0, 3.0, -1.0, 1.0]))
    p = np.array([0.5, 0.3, 0.1, 0.1])
    assert shape.entropy_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert shape.rank_95 == 4
    assert shape.condition_number == pytest.approx(5.0)
    assert shape.negative_mass == pytest.approx(0.1)
    assert shape.num_negative == 1
    assert shape_of_eigenvalues(np.array([1.0, 0.0])).rank_95 == 1
    assert shape_of_eigenvalues(np.zeros(3)) is None


def test_decay_recovers_a_power_law():
    shape = shape_of_eigenvalues(np.arange(1, 3000) ** -1.3)
    assert shape.decay == pytest.approx(1.3, rel=1e-6)


def test_shape_of_a_density_is_that_of_all_eigenvalues():
    generator = torch.Generator().manual_seed(1)
    values = torch.cat([torch.linspace(-1, 2, 280, dtype=torch.float64), torch.tensor([10.0, 12.0, 20.0, 25.0, -9.0])])
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=generator))
    loss, params = quadratic(q @ torch.diag(values) @ q.T)
    density = hessian_density(loss, params, num_probes=60, num_steps=60)
    exact, estimated = shape_of_eigenvalues(values.numpy()), shape_of_density(density)
    assert estimated.entropy_rank == pytest.approx(exact.entropy_rank, rel=0.05)
    assert estimated.rank_95 == pytest.approx(exact.rank_95, rel=0.05)
    assert estimated.negative_mass == pytest.approx(exact.negative_mass, abs=0.03)
    assert estimated.num_negative == pytest.approx(exact.num_negative, rel=0.1)
    assert estimated.decay == pytest.approx(exact.decay, abs=0.15)
    assert trace_of_density(density) == pytest.approx(float(values.sum()), rel=0.1)


SPECTRA = {
    "power": np.concatenate([5 * np.arange(1, 4001) ** -0.7, -3 * np.arange(1, 4001) ** -0.7]),
    "spikes": np.concatenate([np.linspace(5, 20, 10), np.random.default_rng(0).normal(0, 0.01, 7990)]),
    "null directions": np.concatenate([25 * np.exp(-np.arange(200) / 20), -10 * np.exp(-np.arange(300) / 25), np.zeros(7500)]),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECTRA)
def test_errors_of_the_shape_cover_the_exact_spectrum(name):
    values = SPECTRA[name]
    diagonal, exact = torch.tensor(values), shape_of_eigenvalues(values)
    truth = {m: getattr(exact, m) for m in ("entropy_rank", "negative_mass")}
    truth["frobenius"] = np.linalg.norm(values)
    inside = dict.fromkeys(truth, 0)
    for seed in range(12):
        nodes, weights = quadrature(
            lambda v: diagonal * v, len(values), 4, 40, torch.Generator().manual_seed(seed), torch.float64
        )
        found = estimate_shape(nodes, weights, len(values))
        for metric, value in truth.items():
            inside[metric] += abs(found[metric].value - value) <= 2.5 * found[metric].stderr
    assert min(inside.values()) >= 9, inside


def test_shape_of_an_exhausted_space_is_exact_and_one_probe_has_no_error():
    values = torch.tensor([3.0, 3.0, -1.0, -1.0, 0.5, 0.5], dtype=torch.float64)
    nodes, weights = quadrature(lambda v: values * v, 6, 400, 5, torch.Generator().manual_seed(0), torch.float64)
    found = estimate_shape(nodes, weights, 6)
    assert found["frobenius"].value == pytest.approx(20.5**0.5, abs=3 * found["frobenius"].stderr)
    assert found["condition_number"].value == pytest.approx(6.0)
    assert estimate_shape(nodes[:1], weights[:1], 6)["score"].stderr is None
    assert estimate_shape(np.zeros((2, 3)), np.ones((2, 3)), 6) is None


def test_a_loss_that_is_not_finite_is_a_note_as_in_trace_and_spectrum():
    w = torch.ones(2, requires_grad=True)
    found = hessian_density(lambda: (w * float("nan")).sum(), [w])
    assert found.note == "the loss is nan"
    assert found.nodes.size == found.density.size == 0
