"""The signal similarity: what it remembers, and what it says when nothing, a little or everything changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError
from lmtrace.numerics.similarity import linear_cka
from lmtrace.signals.similarity import Similarity
from planted_view import PlantedView, find, measured


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.linspace(3, 1, d)


def test_between_sites_equals_the_plain_function():
    x = normal(300, 20)
    sites = {"embed": x, "block.0": x + normal(300, 20, 1), "final": normal(300, 30, 2)}
    records = measured(Similarity(), PlantedView(sites))
    expected = [[linear_cka(a, b).value for b in sites.values()] for a in sites.values()]
    found = find(records, "cka_sites")
    np.testing.assert_allclose(found.array, expected, atol=1e-5)
    assert found.n == 300
    below = find(records, "cka_below", site="block.0")
    assert below.value == pytest.approx(expected[0][1], abs=1e-5)
    assert below.stderr == pytest.approx(linear_cka(sites["embed"], sites["block.0"]).stderr, rel=0.05)
    assert not [r for r in records if r.metric == "cka_below" and r.site == "embed"]


def test_over_time():
    x, y = normal(400, 20), normal(400, 20, 1).flip(1)  # the large directions become the small ones
    start = PlantedView({"block.0": x})
    first = measured(Similarity(), start)
    for metric in ("cka_previous", "cka_first", "drift_previous", "drift_first"):
        assert find(first, metric).missing == "nothing to compare with yet"
    second_view = start.then(activations={"block.0": y})
    second = measured(Similarity(), second_view)
    assert abs(find(second, "cka_previous").value) < 0.05
    assert find(second, "drift_previous").value > 0.9
    assert find(second, "drift_previous").null == pytest.approx(0.5)
    third = measured(Similarity(), second_view.then(activations={"block.0": 4 * y + 1}))
    assert find(third, "cka_previous").value == pytest.approx(1.0, abs=1e-5)
    assert find(third, "drift_previous").value == pytest.approx(0.0, abs=1e-5)
    assert find(third, "cka_first").value == pytest.approx(find(second, "cka_first").value, abs=1e-5)
    assert find(third, "drift_first").value == pytest.approx(find(second, "drift_first").value, abs=1e-4)


def test_the_sample_bounds_what_is_remembered():
    view = PlantedView({"block.0": normal(3000, 20)})
    records = measured(Similarity(num_points=100), view)
    assert find(records, "cka_sites").n == 100
    assert max(value.numel() for value in view.memory.values()) == 100 * 100


def test_streams_are_kept_apart():
    sites = {"encoder.embed": normal(300, 12), "encoder.final": normal(300, 12, 1), "decoder.embed": normal(250, 12, 2)}
    records = measured(Similarity(), PlantedView(sites))
    assert find(records, "cka_sites", split="encoder").array.shape == (2, 2)
    assert find(records, "cka_sites", split="decoder").array.shape == (1, 1)
    assert [r.site for r in records if r.metric == "cka_below"] == ["encoder.final"]


def test_flat_and_broken_sites_are_missing_with_the_reason():
    broken = normal(300, 12)
    broken[0, 0] = torch.inf
    for bad in (torch.ones(300, 12), broken):
        view = PlantedView({"block.0": bad, "block.1": normal(300, 12)})
        records = measured(Similarity(), view)
        assert "block.0: no variance" in find(records, "cka_sites").missing
        assert "block.0: no variance" in find(records, "cka_below", site="block.1").missing
        assert "num_directions" in find(records, "drift_previous", site="block.0").missing


def test_wrong_settings_are_errors():
    with pytest.raises(ConfigError, match="num_points must be at least 10, got 5"):
        Similarity(num_points=5)
    with pytest.raises(ConfigError, match="num_directions must be at least 1, got 0"):
        Similarity(num_directions=0)
