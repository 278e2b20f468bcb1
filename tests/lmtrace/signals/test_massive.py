"""A few coordinates that are a thousand times the rest at a few tokens: what is told of them, and what they do not decide."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

import lmtrace
from lmtrace.numerics.covariance import effective_rank, participation_ratio
from lmtrace.numerics.robust import coordinate_shares, spatial_median, spatial_signs
from lmtrace.numerics.similarity import linear_cka
from lmtrace.run import open_run
from lmtrace.signals.dimension import Dimension
from lmtrace.signals.similarity import Similarity
from lmtrace_helpers import tiny
from planted_view import PlantedView, find, measured

WIDTH, LENGTH, SENTENCES = 64, 11, 60
SCALES = np.arange(1, WIDTH + 1) ** -0.6


def cloud(seed):
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(np.random.default_rng(99).normal(size=(WIDTH, WIDTH)))[0]
    return torch.tensor((rng.normal(size=(LENGTH * SENTENCES, WIDTH)) * SCALES) @ turned).float()


def massive(x, level, where=slice(0, None, LENGTH), seed=1):
    """Return the same with two coordinates of that size at some tokens, the first ones of the sequences by default."""
    y, rng = x.clone(), np.random.default_rng(seed)
    size = torch.tensor(1 + 0.02 * rng.normal(size=len(y[where]))).float()
    y[where, 21] += level * size
    y[where, 50] -= 0.6 * level * size
    return y


def view(**activations):
    return PlantedView({name.replace("_", "."): x for name, x in activations.items()}, lengths=(LENGTH,) * SENTENCES,
                       extra={"tokenizer": lmtrace.WordTokenizer(["a"])})  # fmt: skip


class Noting(PlantedView):
    """A planted view whose panel has tokens, and that keeps notes."""

    notes: ClassVar[list] = []

    @property
    def panel(self):
        found = super().panel
        found.encoder.ids = [np.array([2, *[5] * (LENGTH - 2), 3])] * SENTENCES
        return found

    def note(self, kind, text, data):
        self.notes.append((kind, text, data))


@pytest.mark.parametrize("level", [150, 4000])
@pytest.mark.parametrize("where", [slice(0, None, LENGTH), slice(7, 8)], ids=["first tokens", "one token"])
def test_robust_numbers_do_not_move(level, where):
    x = cloud(0)
    big = massive(x, level, where)
    for number in (participation_ratio, effective_rank):
        clean, moved = number(spatial_signs(x)).value, number(spatial_signs(big)).value
        assert moved == pytest.approx(clean, rel=0.15)
        assert abs(number(big).value / number(x).value - 1) > 0.5  # what they are the companions of


def test_signs_are_unit_vectors_around_a_median_that_few_points_do_not_move():
    x = cloud(3) + 5
    far = x.clone()
    far[::4] += 1e6
    assert float((spatial_median(far) - spatial_median(x)).norm()) < 3
    signs = spatial_signs(far)
    torch.testing.assert_close(signs.norm(dim=1), torch.ones(len(x)))
    turned = torch.tensor(np.linalg.qr(np.random.default_rng(4).normal(size=(WIDTH, WIDTH)))[0]).float()
    torch.testing.assert_close(spatial_signs(x @ turned), spatial_signs(x) @ turned, atol=1e-4, rtol=0)
    torch.testing.assert_close(spatial_signs(3 * x - 8), spatial_signs(x), atol=1e-5, rtol=0)
    assert not spatial_signs(torch.ones(30, 8)).any()
    assert spatial_signs(torch.full((3, 4), float("nan"))).isnan().all()


def test_the_median_is_the_point_of_least_distance():
    from scipy.optimize import minimize

    x = np.random.default_rng(0).standard_t(2, size=(81, 5)) + np.arange(5)
    best = minimize(lambda m: np.linalg.norm(x - m, axis=1).sum(), np.median(x, axis=0), tol=1e-12).x
    np.testing.assert_allclose(spatial_median(torch.tensor(x)).numpy(), best, atol=1e-4)


@pytest.mark.parametrize("level", [0, 900])
def test_the_null_of_cka_is_that_of_unrelated_tokens(level):
    """Tokens that have nothing in common but their place: CKA says .99 with massive activations, and its null says the same."""
    x, other = cloud(0), cloud(5)
    related = x + 0.3 * cloud(6)
    sites = {"embed": massive(x, level), "block_0": massive(other, level), "block_1": massive(related, level)}
    records = measured(Similarity(num_points=400), view(**sites))
    unrelated = find(records, "cka_below", site="block.0")
    assert unrelated.value == pytest.approx(unrelated.null, abs=0.05)
    assert (unrelated.null > 0.95) == (level > 0)
    robust = find(records, "cka_below_robust", site="block.0")
    assert robust.value < 0.15
    assert robust.value == pytest.approx(robust.null, abs=0.05)
    pair = measured(Similarity(num_points=400), view(embed=sites["embed"], block_0=sites["block_1"]))
    assert find(pair, "cka_below_robust").value > 0.75
    assert find(pair, "cka_below_robust").null < 0.15


def test_drift_is_there_where_a_few_coordinates_own_the_variance():
    signal, first = Similarity(num_points=500), view(block_0=massive(cloud(0), 3000))
    measured(signal, first)
    second = measured(signal, first.then(activations={"block.0": massive(cloud(0) + 0.1 * cloud(8), 3000)}))
    assert find(second, "drift_previous_robust").value < 0.2


def test_shares_of_coordinates():
    x = torch.zeros(50, 4)
    x[:, 1] = torch.arange(50).float()
    x[:25, 3] = 10.0
    expected = np.array([0, np.var(np.arange(50)), 0, 25.0])
    np.testing.assert_allclose(coordinate_shares(x).numpy(), expected / expected.sum(), rtol=1e-6)
    assert not coordinate_shares(torch.ones(5, 3)).any()


def test_dimensions_and_token_are_named_once():
    planted = Noting({"block.0": cloud(0), "block.1": massive(cloud(0), 700)}, lengths=(LENGTH,) * SENTENCES,
                     extra={"tokenizer": lmtrace.WordTokenizer(["a"])})  # fmt: skip
    planted.notes.clear()
    signal = Dimension(num_points=500)
    records = measured(signal, planted)
    [(kind, text, data)] = planted.notes
    assert kind == "massive"
    assert data["site"] == "block.1"
    assert set(data["dimensions"]) == {21, 50}
    assert data["token"] == "<s>"
    assert data["at_first"] == 1.0
    assert data["share"] > 0.99
    assert "Dimensions 21 (" in text
    assert "'<s>'" in text
    assert find(records, "top_coordinates", site="block.0").value < 0.5
    assert find(records, "top_coordinates", site="block.1").null == pytest.approx(3 / WIDTH)
    measured(signal, planted)
    assert len(planted.notes) == 1


def test_a_run_says_it_in_its_findings(panel, tokenizer, tmp_path):
    model = tiny("gpt2", tokenizer)
    with torch.no_grad():
        model.transformer.wte.weight[tokenizer.bos_token_id, 13] = 400.0
    run = lmtrace.analyze(model, panel, signals=[Dimension()], run=tmp_path / "r")
    [finding] = [f for f in run.findings() if "own" in f.sentence and f.kind == "alert"]
    assert finding.numbers["dimensions"] == [13]
    assert "Dimension 13 (" in finding.sentence
    assert "'<s>'" in finding.sentence
    clean = lmtrace.analyze(tiny("gpt2", tokenizer), panel, signals=[Dimension()], run=tmp_path / "clean")
    assert not clean.events("massive")
    assert open_run(tmp_path / "r").events("massive")


def test_equal_points_and_plain_cka_are_what_they_were():
    x, y = cloud(1), cloud(2)
    records = measured(Similarity(num_points=10_000), view(embed=x, block_0=y))
    assert find(records, "cka_below").value == pytest.approx(linear_cka(x, y).value, abs=1e-5)
