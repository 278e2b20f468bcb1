"""Limits of stability against what optimizers do on a quadratic just below and just above them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lmtrace.signals.curvature import Curvature
from lmtrace.signals.curvature.stability import NoLimitError, adam_limit_of, decays, sgd_limit_of
from reference.curvature import dense_hessian

SGD = (
    {"lr": 0.3},
    {"lr": 0.05, "momentum": 0.6},
    {"lr": 0.02, "momentum": 0.95},
    {"lr": 0.1, "momentum": 0.7, "nesterov": True},
    {"lr": 0.04, "momentum": 0.5, "dampening": 0.3},
    {"lr": 0.2, "dampening": 0.4},
    {"lr": 0.1, "momentum": 0.8, "weight_decay": 2.0},
)
ADAM = (
    {"lr": 0.01, "betas": (0.9, 1 - 1e-12)},
    {"lr": 0.05, "betas": (0.5, 1 - 1e-12)},
    {"lr": 0.1, "betas": (0.8, 1 - 1e-12), "weight_decay": 3.0},
)


def grows(make, curvature, steps=3000):
    """Return whether an optimizer walks away from the minimum of curvature x^2 / 2."""
    x = torch.full((1,), 1e-3, dtype=torch.float64, requires_grad=True)
    optimizer = make([x])
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * curvature * x.square().sum()).backward()
        optimizer.step()
        if abs(x.item()) > 10:
            return True
    assert abs(x.item()) < 1e-3
    return False


def edge_of(model, loss, optimizer):
    signal = Curvature(quantities=("spectrum",), tolerance=1e-3, max_products=200)
    view = SimpleNamespace(
        model=model, optimizer=optimizer, memory={}, step=0, loss=lambda num_sequences: loss,
        parameters=lambda: dict(model.named_parameters()), panel=None,
        generator=lambda purpose="": torch.Generator().manual_seed(len(purpose)),
    )  # fmt: skip
    [record] = [r for r in signal.measure(view) if r.metric == "edge"]
    assert record.stderr is not None
    return record.value


def frozen(kind, settings):
    """Return an optimizer whose second moments are 4 and stay so: the preconditioner is 2."""

    def make(params):
        optimizer = kind(params, eps=0.0, **settings)
        for p in params:
            optimizer.state[p] = {"step": torch.tensor(1e14), "exp_avg": torch.zeros_like(p),
                                  "exp_avg_sq": torch.full_like(p, 4.0)}  # fmt: skip
        return optimizer

    return make


@pytest.mark.parametrize("settings", SGD, ids=str)
def test_sgd_converges_below_its_limit_and_not_above(settings):
    p = torch.ones(1, requires_grad=True)
    share = sgd_limit_of(torch.optim.SGD([p], **settings), {"p": p})
    limit = 1 / share - settings.get("weight_decay", 0.0)
    make = lambda params: torch.optim.SGD(params, **settings)  # noqa: E731
    assert not grows(make, 0.98 * limit)
    assert grows(make, 1.02 * limit)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("settings", ADAM, ids=str)
def test_adam_converges_below_its_limit_and_not_above(kind, settings):
    p = torch.ones(1, requires_grad=True)
    optimizer = kind([p], **settings)
    share = adam_limit_of(optimizer, {"p": p}, {"p": 1.0})
    coupled = decays(optimizer, {"p": p}, decoupled=False)["p"]
    limit = 2 / share - coupled  # the preconditioner is 2
    assert not grows(frozen(kind, settings), 0.98 * limit)
    assert grows(frozen(kind, settings), 1.02 * limit)
    if kind is torch.optim.AdamW:
        plain = {**settings, "weight_decay": 0.0}
        beta = settings["betas"][0]
        assert adam_limit_of(kind([p], **plain), {"p": p}, {"p": 1.0}) == pytest.approx(
            settings["lr"] * (1 - beta) / (2 * (1 + beta))
        )


def test_other_optimizers_have_no_limit():
    p = torch.ones(2, 2, requires_grad=True)
    for optimizer in (torch.optim.RMSprop([p], momentum=0.9), torch.optim.RAdam([p]), torch.optim.NAdam([p])):
        with pytest.raises(NoLimitError):
            sgd_limit_of(optimizer, {"p": p})
        with pytest.raises(NoLimitError, match=f"limit of stability of {type(optimizer).__name__} is not known"):
            adam_limit_of(optimizer, {"p": p}, {"p": 1.0})
    with pytest.raises(NoLimitError, match="for Adam measure the quantity preconditioned"):
        sgd_limit_of(torch.optim.Adam([p]), {"p": p})
    q = torch.ones(1, requires_grad=True)
    two = torch.optim.SGD([{"params": [p], "momentum": 0.9}, {"params": [q], "momentum": 0.5}], lr=0.1)
    with pytest.raises(NoLimitError, match="groups differ in momentum"):
        sgd_limit_of(two, {"p": p, "q": q})
    assert sgd_limit_of(two, {"p": p}) == pytest.approx(0.1 / (2 * 1.9))


def test_a_stable_training_with_momentum_is_not_above_its_edge():
    """Full batches, momentum .7: the sharpness settles above 2 / lr, which is the limit without momentum, and below its own."""
    torch.manual_seed(1)
    x = torch.linspace(-1, 1, 24, dtype=torch.float64)[:, None]
    y = 8 * x**4 - 8 * x**2 + 1
    net = torch.nn.Sequential(torch.nn.Linear(1, 40), torch.nn.Tanh(), torch.nn.Linear(40, 40), torch.nn.Tanh(),
                              torch.nn.Linear(40, 1)).double()  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), lr=0.15, momentum=0.7)
    loss = lambda: 0.5 * (net(x) - y).square().mean()  # noqa: E731
    for _ in range(1000):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    edge = edge_of(net, loss, optimizer)
    assert edge < 1 < 1.7 * edge
    sharpness = float(torch.linalg.eigvalsh(dense_hessian(loss, list(net.parameters())))[-1])
    assert edge == pytest.approx(sharpness * 0.15 / (2 * 1.7), rel=1e-4)


@pytest.mark.statistical
@pytest.mark.parametrize(("n", "d"), [(300, 900), (250, 1500), (420, 1300)])
def test_the_error_of_the_sharpness_holds_on_a_bulk_without_a_gap(n, d):
    from lmtrace.numerics.lanczos import lanczos, random_start

    x = torch.randn(n, d, generator=torch.Generator().manual_seed(n))
    top = float(torch.linalg.eigvalsh((x @ x.T / n).double())[-1])
    outside = []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        start = random_start(d, generator, torch.float32, torch.device("cpu"))
        found = lanczos(
            lambda v: x.T @ (x @ v) / n, start, tol=Curvature().tolerance, smallest=False, max_products=60,
            generator=generator,
        )  # fmt: skip
        outside.append((top - found.largest) / found.residuals[0])
    assert np.mean(np.array(outside) > 1) <= 0.32
    assert np.mean(np.array(outside) > 2) <= 0.05
