"""Stable rank against singular values, and closed forms."""

from __future__ import annotations

import pytest
import torch

from lmtrace.signals.weights.stable_rank import stable_rank


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def exact(weight: torch.Tensor) -> float:
    singular = torch.linalg.svdvals(weight.double())
    return float(singular.square().sum() / singular[0] ** 2)


@pytest.mark.parametrize("shape", [(5, 3), (64, 200), (300, 700), (900, 320)])
def test_equals_the_singular_values(shape):
    weight = torch.randn(*shape, generator=generator())
    assert stable_rank(weight, generator()).value == pytest.approx(exact(weight), rel=5e-3)
    assert stable_rank(weight.T, generator()).value == pytest.approx(exact(weight), rel=5e-3)


def test_closed_forms():
    outer = torch.randn(400, 1, generator=generator()) @ torch.randn(1, 300, generator=generator())
    assert stable_rank(outer, generator()).value == pytest.approx(1, rel=1e-4)
    assert stable_rank(torch.eye(300), generator()).value == pytest.approx(300, rel=1e-4)
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])), generator()).value == pytest.approx(6 / 4)


def test_stacked_experts_are_averaged():
    experts = torch.randn(3, 40, 20, generator=generator())
    assert stable_rank(experts, generator()).value == pytest.approx(sum(map(exact, experts)) / 3, rel=1e-4)


def test_scale_and_precision_do_not_matter():
    weight = torch.randn(300, 280, generator=generator())
    for same in (1e-20 * weight, 1e15 * weight, weight.double(), weight.bfloat16().float()):
        assert stable_rank(same, generator()).value == pytest.approx(exact(weight), rel=1e-2)


def test_zeros_are_a_reason():
    assert stable_rank(torch.zeros(3, 4), generator()).note == "a matrix of zeros"
