"""The signal weights: norms, updates and stable ranks of planted matrices."""

from __future__ import annotations

import pytest
import torch

from lmtrace.errors import ConfigError
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.weights import Weights
from planted_view import PlantedView, find, measured


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_norm_and_rank():
    weight = normal(30, 20)
    records = measured(Weights(), PlantedView(weights={"w": weight, "bias": torch.ones(3)}))
    assert find(records, "norm").value == pytest.approx(float(weight.norm()), rel=1e-6)
    singular = torch.linalg.svdvals(weight)
    rank = find(records, "stable_rank")
    assert rank.value == pytest.approx(float(singular.square().sum() / singular[0] ** 2), rel=1e-4)
    assert rank.null == pytest.approx(rank.value, rel=0.2)  # it is a Gaussian matrix
    assert {r.label for r in records} == {"w"}


def test_update_ratio_is_exact_on_small_matrices():
    weight, change = normal(30, 20), 0.01 * normal(30, 20, seed=1)
    view = PlantedView(weights={"w": weight})
    assert find(measured(Weights(), view), "update_ratio").missing == "nothing to compare with yet"
    found = find(measured(Weights(), view.then(weights={"w": weight + change})), "update_ratio")
    assert found.value == pytest.approx(float(change.norm() / weight.norm()), rel=1e-5)
    assert found.stderr is None
    assert found.n == 100  # steps between
    assert find(measured(Weights(), view.then(weights={"w": weight + change})), "update_ratio").value == 0.0


@pytest.mark.statistical
def test_update_ratio_on_a_sample_of_entries_covers():
    weight, change = normal(200, 100), normal(200, 100, seed=1) * torch.linspace(0, 0.02, 100)
    exact = float(change.norm() / weight.norm())
    inside = 0
    for size in range(1000, 1100):  # another size is another sample
        view = PlantedView(weights={"w": weight})
        measured(Weights(num_entries=size), view)
        found = find(measured(Weights(num_entries=size), view.then(weights={"w": weight + change})), "update_ratio")
        inside += abs(found.value - exact) <= 1.96 * found.stderr
    assert 88 <= inside <= 100
    assert view.memory["w"].numel() == 1099


def test_what_cannot_be_computed_is_missing():
    broken = normal(5, 5)
    broken[0, 0] = torch.nan
    view = PlantedView(weights={"broken": broken, "zero": torch.zeros(4, 4)})
    records = measured(Weights(), view)
    assert {r.missing for r in records if r.label == "broken"} == {"weights that are not finite"}
    assert find(records, "norm", label="zero").value == 0.0
    assert find(records, "stable_rank", label="zero").missing == "a matrix of zeros"
    again = measured(Weights(), view.then())
    assert find(again, "update_ratio", label="zero").missing == "the weights were all zero"


def test_wrong_settings_are_errors():
    with pytest.raises(ConfigError, match="num_entries must be at least 2, got 1"):
        Weights(num_entries=1)


def test_a_step_of_gradient_descent_shows_on_a_model(gpt2, panel):
    instrument = Instrument(gpt2, panel, [Weights()], on_error="raise")
    instrument.measure(0)
    name = "transformer.h.0.mlp.c_fc.weight"
    weight = gpt2.get_parameter(name)
    with torch.no_grad():
        weight *= 1.001
    records = instrument.measure(1)
    assert find(records, "update_ratio", label=name).value == pytest.approx(0.001, rel=1e-3)
    assert find(records, "update_ratio", label="transformer.h.1.mlp.c_fc.weight").value == 0.0
