"""The signal dimension: the sample, the duplicates, the null, the lower bound, the reasons."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError
from lmtrace.numerics.covariance import anisotropy, effective_rank, participation_ratio, pca_dimension
from lmtrace.numerics.dimension import gride, mle, two_nn, two_nn_ml
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.dimension import Dimension
from planted_view import PlantedView, find, measured


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def embedded(n: int, dimension: int, width: int = 24) -> torch.Tensor:
    return normal(n, dimension) @ normal(dimension, width, seed=1)


def test_every_number_is_that_of_the_plain_function():
    x = embedded(600, 5) + 1
    records = measured(Dimension(), PlantedView({"block.0": x}))
    expected = {
        "two_nn": two_nn(x),
        "two_nn_ml": two_nn_ml(x),
        "mle": mle(x, 20),
        "participation_ratio": participation_ratio(x),
        "effective_rank": effective_rank(x),
        "pca_95": pca_dimension(x),
        "anisotropy": anisotropy(x),
    }
    for metric, estimate in expected.items():
        record = find(records, metric, site="block.0")
        assert record.value == pytest.approx(estimate.value, rel=1e-6), metric
        assert record.stderr == pytest.approx(estimate.stderr, rel=1e-4) if estimate.stderr else record.stderr is None
        assert record.n == 600
    curve = find(records, "gride").array
    np.testing.assert_allclose(curve[1], gride(x, (1, 2, 4, 8)).dimension, rtol=1e-6)
    assert len(records) == len(Dimension.fields)


def test_planted_dimension_against_the_null_of_a_full_cloud():
    records = measured(
        Dimension(num_points=1000), PlantedView({"block.0": embedded(1500, 4), "block.1": normal(1500, 24)})
    )
    low, full = (find(records, "two_nn", site=site) for site in ("block.0", "block.1"))
    assert low.value == pytest.approx(4, abs=0.5)
    assert low.null == full.null
    assert full.value == pytest.approx(full.null, rel=0.1)
    assert low.null > 3 * low.value
    assert find(records, "participation_ratio", site="block.1").null == pytest.approx(24, rel=0.05)


def test_the_same_tokens_at_every_step_and_site():
    x = normal(3000, 6)
    view = PlantedView({"embed": x, "final": 2 * x + 1})
    first = measured(Dimension(num_points=500), view)
    assert find(first, "two_nn", site="embed").value == pytest.approx(
        find(first, "two_nn", site="final").value, rel=1e-5
    )
    second = measured(Dimension(num_points=500), view.then())
    assert [r.value for r in first] == [r.value for r in second]
    assert find(first, "two_nn", site="embed").n == 500


def test_duplicates_are_merged_and_reported():
    x = embedded(400, 5)
    records = measured(Dimension(), PlantedView({"embed": torch.cat([x, x[:100], x[:100]])}))
    assert find(records, "duplicates").value == pytest.approx(200 / 600)
    assert find(records, "duplicates").n == 600
    assert find(records, "two_nn").value == pytest.approx(two_nn(x).value, rel=1e-6)
    assert find(records, "participation_ratio").value == pytest.approx(participation_ratio(x).value, rel=1e-6)
    assert find(records, "two_nn").n == 400


def test_too_few_distinct_points_are_missing_with_the_reason():
    records = measured(Dimension(), PlantedView({"embed": normal(50, 6).repeat(20, 1)}))
    assert find(records, "duplicates").value == pytest.approx(0.95)
    rest = [r for r in records if r.metric != "duplicates"]
    assert len(rest) == len(Dimension.fields) - 1
    assert {r.missing for r in rest} == {"50 distinct points of 1000; at least 200 are needed"}


def test_numbers_that_are_not_finite_are_missing_with_the_reason():
    x = normal(500, 6)
    x[3] = torch.nan
    records = measured(Dimension(), PlantedView({"embed": x}))
    assert {r.missing for r in records if r.metric != "duplicates"} == {
        "1 of 500 points hold numbers that are not finite"
    }


def test_high_dimensions_are_marked_as_lower_bounds():
    records = measured(Dimension(), PlantedView({"block.0": normal(1000, 60), "block.1": embedded(1000, 6)}))
    assert find(records, "lower_bound", site="block.0").value == 1.0
    assert find(records, "lower_bound", site="block.1").value == 0.0


def test_sentences_are_the_means_of_their_tokens():
    lengths = tuple(3 + i % 4 for i in range(300))
    x = normal(sum(lengths), 8)
    means = torch.stack([part.double().mean(dim=0) for part in x.split(list(lengths))])
    records = measured(Dimension(level="sentence"), PlantedView({"block.0": x}, lengths=lengths))
    assert find(records, "two_nn").value == pytest.approx(two_nn(means).value, rel=1e-6)


def test_the_null_is_measured_once_and_remembered():
    view = PlantedView({"block.0": normal(400, 6)})
    measured(Dimension(), view)
    assert list(view.memory) == ["nulls 400 6"]
    view.memory["nulls 400 6"] = torch.full((8,), 7.0, dtype=torch.float64)
    assert find(measured(Dimension(), view.then()), "two_nn").null == 7.0


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"num_points": 100}, "num_points must be at least 200, got 100"),
        ({"level": "word"}, "level must be 'token' or 'sentence', got 'word'"),
        ({"k": 2}, "k must be at least 3, got 2"),
    ],
)
def test_wrong_settings_are_errors(wrong, match):
    with pytest.raises(ConfigError, match=match):
        Dimension(**wrong)


def test_on_a_model(gpt2, panel):
    records = Instrument(gpt2, panel, [Dimension()], on_error="raise").measure(0)
    assert find(records, "duplicates", site="embed").value > 0.5  # a small language: few (token, position) pairs
    assert find(records, "two_nn", site="block.1").value > 1
