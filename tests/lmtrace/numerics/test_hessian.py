"""Curvature against dense Hessians, closed forms and float64 finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lmtrace.errors import ConfigError, ModelError
from lmtrace.numerics.hessian import hessian_density, hessian_spectrum, hessian_trace
from lmtrace.numerics.hessian_operator import HessianOperator
from lmtrace.numerics.lanczos import lanczos, warm_start
from reference.curvature import dense_hessian, flat, hvp_finite_difference, quadratic, tiny_gpt_problem


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotated(eigenvalues: np.ndarray, seed: int = 0) -> torch.Tensor:
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator(seed)))
    a = q @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ q.T
    return (a + a.T) / 2


@pytest.fixture(scope="module")
def gpt():
    model, loss = tiny_gpt_problem()
    params = list(model.parameters())
    dense = dense_hessian(loss, params)
    return model, loss, params, (dense + dense.T) / 2


def test_spectrum_of_a_tiny_gpt_equals_its_dense_hessian(gpt):
    model, loss, params, dense = gpt
    assert 800 < sum(p.numel() for p in params) < 1300
    expected = torch.linalg.eigvalsh(dense).numpy()
    spectrum = hessian_spectrum(loss, dict(model.named_parameters()), k=5, tol=1e-5)
    assert spectrum.note == ""
    assert spectrum.largest == pytest.approx(expected[-1], rel=1e-6)
    assert spectrum.smallest == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(spectrum.eigenvalues, expected[::-1][:5], rtol=1e-6)
    scale = np.abs(expected).max()
    for value, residual, vector in zip(spectrum.eigenvalues, spectrum.residuals, spectrum.vectors):
        true_residual = float((dense @ vector - value * vector).norm())
        assert true_residual <= residual * 1.001 + 1e-10 * scale
        assert residual <= 1e-5 * scale


def test_the_sharpest_direction_is_not_the_one_of_largest_magnitude():
    eigenvalues = np.r_[np.linspace(-1, 1, 60), 6.91, -8.06]
    loss, params = quadratic(rotated(eigenvalues))
    spectrum = hessian_spectrum(loss, params)
    assert spectrum.largest == pytest.approx(6.91, rel=1e-4)
    assert spectrum.smallest == pytest.approx(-8.06, rel=1e-4)


def test_trace_and_density_of_a_tiny_gpt(gpt):
    _, loss, params, dense = gpt
    trace = hessian_trace(loss, params, num_probes=200, generator=generator(1))
    assert trace.n == 200
    assert trace.stderr is not None
    assert trace.value == pytest.approx(float(dense.trace()), abs=4 * trace.stderr)
    expected_stderr = (2 * ((dense**2).sum() - (dense.diagonal() ** 2).sum()) / 200) ** 0.5
    assert trace.stderr == pytest.approx(float(expected_stderr), rel=0.2)
    density = hessian_density(loss, params, num_probes=12, num_steps=30)
    frobenius = (density.size * density.weights @ density.nodes**2) ** 0.5
    assert frobenius == pytest.approx(float(dense.norm()), rel=0.15)
    expected = torch.linalg.eigvalsh(dense)
    assert density.nodes.max() == pytest.approx(float(expected[-1]), rel=1e-4)
    assert density.nodes.min() == pytest.approx(float(expected[0]), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_products_are_symmetric_and_equal_finite_differences(seed):
    model, loss = tiny_gpt_problem(seed, num_blocks=2)
    params = list(model.parameters())
    operator = HessianOperator(loss, params)
    u, v = torch.randn(2, operator.size, dtype=torch.float64, generator=generator(seed))
    hu, hv = operator(u), operator(v)
    assert float(u @ hv) == pytest.approx(float(v @ hu), rel=1e-10)
    unit = v / v.norm()
    reference = hvp_finite_difference(loss, params, unit)
    error = (operator(unit) - reference).norm() / reference.norm()
    assert float(error) < 3e-8
    np.testing.assert_allclose(operator.gradient, flat(torch.autograd.grad(loss(), params)), rtol=1e-12, atol=1e-15)
    assert operator.method == "double backward"


def test_central_differences_agree_in_float32_and_leave_the_weights_as_they_were():
    model, loss = tiny_gpt_problem(0, dtype=torch.float32, num_blocks=2)
    params = list(model.parameters())
    before = [p.detach().clone() for p in params]
    versions = [p._version for p in params]
    exact, differences = HessianOperator(loss, params), HessianOperator(loss, params, method="central differences")
    v = torch.randn(exact.size, generator=generator())
    expected, got = exact(v), differences(v)
    assert float((expected - got).norm() / expected.norm()) < 1e-3
    assert differences.method == "central differences"
    assert all(torch.equal(a, b) for a, b in zip(before, params))
    assert versions == [p._version for p in params]
    assert all(p.grad is None for p in params)


class NoSecondDerivative(torch.autograd.Function):
    """A square whose backward cannot be differentiated, like fused attention kernels."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class SilentlyDetached(NoSecondDerivative):
    """The same without an error: the backward's result is a constant to autograd, like that of a raw kernel."""

    @staticmethod
    def backward(ctx, grad):
        return (2 * ctx.saved_tensors[0] * grad).detach()


@pytest.mark.parametrize("function", [NoSecondDerivative, SilentlyDetached])
def test_falls_back_to_central_differences_and_says_why(function):
    a = torch.randn(12, 12, generator=generator(3), dtype=torch.float64)
    w = torch.randn(12, generator=generator(4), dtype=torch.float64, requires_grad=True)
    b = torch.randn(12, generator=generator(5), dtype=torch.float64, requires_grad=True)

    def loss(square):
        return (square(a @ w) * b).sum() + (w**4).sum() / 4 + (b**2).sum()

    expected = torch.linalg.eigvalsh(dense_hessian(lambda: loss(lambda x: x**2), [w, b]))
    spectrum = hessian_spectrum(lambda: loss(function.apply), [w, b])
    assert spectrum.largest == pytest.approx(float(expected[-1]), rel=1e-3)
    assert spectrum.smallest == pytest.approx(float(expected[0]), rel=1e-3)
    assert spectrum.method == "central differences"
    assert spectrum.reason
    with pytest.raises(ModelError, match="double backward"):
        hessian_spectrum(lambda: loss(function.apply), [w, b], method="double backward")


def test_softmax_regression_at_zero_has_its_closed_form():
    n, d, c = 150, 12, 4
    x = torch.randn(n, d, dtype=torch.float64, generator=generator(1))
    y = torch.randint(0, c, (n,), generator=generator(2))
    w = torch.zeros(c, d, dtype=torch.float64, requires_grad=True)
    covariance = x.T @ x / n

    def loss():
        return nn.functional.cross_entropy(x @ w.T, y)

    expected = torch.linalg.eigvalsh(covariance) / c
    spectrum = hessian_spectrum(loss, [w], k=7, tol=1e-6)
    # Every eigenvalue appears C - 1 times: one Krylov space alone would find each once.
    np.testing.assert_allclose(spectrum.eigenvalues, np.repeat(expected.flip(0)[:3].numpy(), c - 1)[:7], rtol=1e-6)
    assert spectrum.smallest == pytest.approx(0.0, abs=1e-8)
    trace = hessian_trace(loss, [w], num_probes=300)
    assert trace.value == pytest.approx(float(covariance.trace()) * (c - 1) / c, abs=4 * trace.stderr)
    density = hessian_density(loss, [w], num_probes=40, num_steps=48)
    zeros = density.weights[np.abs(density.nodes) < 1e-8].sum()
    assert zeros == pytest.approx(1 / c, abs=0.05)  # rank (C - 1) d of C d


def test_linear_regression_has_its_closed_form():
    x = torch.randn(100, 30, generator=generator(2))
    model = nn.Linear(30, 1, bias=False)
    spectrum = hessian_spectrum(lambda: 0.5 * (model(x) ** 2).mean(), model.parameters(), k=3)
    expected = torch.linalg.eigvalsh(x.double().T @ x.double() / 100)
    np.testing.assert_allclose(spectrum.eigenvalues, expected.flip(0)[:3], rtol=1e-4)


def test_frozen_parameters_are_left_out_and_tied_ones_count_once():
    model, loss = tiny_gpt_problem()
    model.h.requires_grad_(False)
    named = dict(model.named_parameters(remove_duplicate=False))
    assert "lm_head.weight" in named
    operator = HessianOperator(loss, named)
    left = [p for p in model.parameters() if p.requires_grad]
    assert operator.size == sum(p.numel() for p in left)
    dense = dense_hessian(loss, left)
    v = torch.randn(operator.size, dtype=torch.float64, generator=generator())
    np.testing.assert_allclose(operator(v), dense @ v, rtol=1e-9, atol=1e-11)
    with pytest.raises(ModelError, match="no parameter requires a gradient"):
        HessianOperator(loss, [torch.zeros(3)])


def test_unused_parameters_are_zero_blocks():
    used, unused = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    operator = HessianOperator(lambda: (used**3).sum(), [used, unused])
    np.testing.assert_allclose(operator(torch.ones(5)), [6, 6, 6, 0, 0])
    linear = HessianOperator(lambda: used.sum(), [used, unused])
    np.testing.assert_allclose(linear(torch.ones(5)), np.zeros(5))
    assert hessian_spectrum(lambda: used.sum(), [used]).largest == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_missing_with_a_reason(value):
    w = torch.ones(3, requires_grad=True)
    loss = lambda: w.sum() * value  # noqa: E731
    spectrum = hessian_spectrum(loss, [w])
    assert spectrum.largest is None
    assert spectrum.smallest is None
    assert len(spectrum.eigenvalues) == 0
    assert "loss is" in spectrum.note
    trace = hessian_trace(loss, [w])
    assert trace.value is None
    assert "loss is" in trace.note


def test_what_does_not_converge_is_missing():
    loss, params = quadratic(rotated(np.linspace(1, 2, 400)))
    spectrum = hessian_spectrum(loss, params, k=3, tol=1e-6, max_products=12)
    assert spectrum.largest is None
    assert spectrum.smallest is None
    assert "converged after 12 products" in spectrum.note


def test_restarts_bound_the_basis_and_keep_the_answer():
    a = rotated(np.r_[np.linspace(-1, 1, 300) ** 3, 1.05, 1.1, -1.2])
    start = torch.randn(len(a), dtype=torch.float64, generator=generator())
    spectrum = lanczos(lambda v: a @ v, start, k=3, tol=1e-6, max_basis=20)
    np.testing.assert_allclose(spectrum.eigenvalues, [1.1, 1.05, 1.0], rtol=1e-6)
    assert spectrum.smallest == pytest.approx(-1.2, rel=1e-6)
    assert spectrum.num_products > 20
    assert spectrum.asymmetry < 1e-10


@pytest.mark.parametrize("k", [1, 5])
def test_the_basis_stays_orthonormal_in_float32(k):
    """Each product is with a basis vector; one pass over the basis alone would lose half of the digits here."""
    size = 20_000
    diagonal = torch.cat([torch.tensor([9.0, 8.0, 7.0, 6.9, 5.0]), torch.linspace(-0.3, 0.3, size - 5)])
    vectors = []

    def product(v):
        vectors.append(v.clone())
        return diagonal * v

    start = torch.randn(size, generator=torch.Generator().manual_seed(0))
    found = lanczos(product, start, k=k, tol=1e-4, smallest=False)
    basis = torch.stack(vectors).double()
    assert len(basis) == found.num_products <= 48, "no restart"
    assert float((basis @ basis.T - torch.eye(len(basis), dtype=torch.float64)).abs().max()) < 2e-5
    np.testing.assert_allclose(found.eigenvalues, [9.0, 8.0, 7.0, 6.9, 5.0][:k], rtol=1e-5)


def test_a_start_that_is_already_an_eigenvector_does_not_hide_the_largest():
    a = torch.diag(torch.tensor([3.0, 5.0, *np.linspace(0, 1, 40)], dtype=torch.float64))
    stale = torch.zeros(1, len(a), dtype=torch.float64)
    stale[0, 0] = 1.0  # was the largest once
    spectrum = lanczos(lambda v: a @ v, warm_start(stale, generator()), tol=1e-3)
    assert spectrum.largest == pytest.approx(5.0, rel=1e-5)
    exact = lanczos(lambda v: a @ v, stale[0], tol=1e-3)
    assert exact.largest == pytest.approx(5.0, rel=1e-5)


def test_a_warm_start_saves_products():
    a = rotated(np.r_[np.linspace(-1, 1, 500), 1.3])
    cold = lanczos(
        lambda v: a @ v, torch.randn(501, dtype=torch.float64, generator=generator()), smallest=False, tol=1e-4
    )
    moved = a + 0.001 * rotated(np.linspace(-1, 1, 501), seed=1)
    warm = lanczos(lambda v: moved @ v, warm_start(cold.vectors, generator()), smallest=False, tol=1e-4)
    assert warm.largest == pytest.approx(float(torch.linalg.eigvalsh(moved)[-1]), rel=1e-5)
    assert warm.num_products < cold.num_products


def test_the_global_generator_is_not_used():
    loss, params = quadratic(rotated(np.linspace(0, 1, 30)))
    state = torch.get_rng_state()
    first = hessian_trace(loss, params, 5).value
    hessian_spectrum(loss, params, k=2)
    hessian_density(loss, params, 2, 5)
    assert torch.equal(state, torch.get_rng_state())
    assert first == hessian_trace(loss, params, 5).value
    assert first != hessian_trace(loss, params, 5, generator(9)).value


def test_wrong_arguments_are_named():
    loss, params = quadratic(rotated(np.linspace(0, 1, 5)))
    with pytest.raises(ConfigError, match="num_probes: expected at least 1, got 0"):
        hessian_trace(loss, params, 0)
    with pytest.raises(ConfigError, match="expected k, max_products >= 1"):
        hessian_spectrum(loss, params, k=0)
    with pytest.raises(ModelError, match=r"scalar tensor, got \(5,\)"):
        hessian_spectrum(lambda: params[0] * 2, params)
    with pytest.raises(ConfigError, match="method: expected"):
        HessianOperator(loss, params, method="jvp")  # pyright: ignore[reportArgumentType]


def test_parameters_in_every_form():
    w = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    table = torch.diag(torch.tensor([5.0, -7.0, 1.0]))
    for params in (w, [w], [w, w], {"w": w}, [("w", w)], nn.ParameterList([w]).named_parameters(), (p for p in [w])):
        found = hessian_spectrum(lambda: 0.5 * w @ table @ w, params)
        assert found.largest == pytest.approx(5, rel=1e-5)
        assert found.smallest == pytest.approx(-7, rel=1e-5)


def test_losses_that_no_gradient_reaches_are_named():
    w = nn.Parameter(torch.ones(3))
    for call in (hessian_spectrum, hessian_trace, hessian_density):
        with pytest.raises(ModelError, match="the loss is detached"):
            call(lambda: (w.detach() ** 2).sum(), [w])
    with pytest.raises(ModelError, match="is complex"):
        hessian_trace(lambda: w.sum(), [nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(ModelError, match="must be tensors, got str"):
        hessian_trace(lambda: w.sum(), ["w"])
