"""Rows that two splits share, and rows that are alike: the same probes as one split and one row at a time."""

import numpy as np
import pytest
import torch

from lmtrace.numerics.moments import Moments, square
from lmtrace.probing.linear import fit
from lmtrace.probing.rows import Arranged, Arrangement, Design, Targets


@pytest.mark.parametrize(("n", "d"), [(50, 5), (300, 64), (300, 130), (5000, 257), (9, 300), (0, 70)])
def test_products_of_halves_are_the_whole_product(n, d):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    found, exact = square(x), x.double().T @ x.double()
    assert torch.equal(found, found.T)
    assert_products(found, exact, x)


U = torch.finfo(torch.float32).eps / 2
"""Half a unit of rounding: the relative error of one float32 operation."""


def assert_products(found, exact, x):
    """Sums of k float32 products err by k u |x_i|'|x_j| at most, in any order (Higham 2002, 3.1); diagonals are float64."""
    bound = min(len(x), 4096) * U * x.double().abs().T @ x.double().abs()
    assert bool(((found - exact).abs() <= bound + 1e-30).all())
    torch.testing.assert_close(found.diagonal(), exact.diagonal(), rtol=1e-12, atol=1e-12)


def two_splits(n=600, seed=0):
    rng = np.random.default_rng(seed)
    return {"sentence": rng.random(n) < 0.25, "lexical": rng.random(n) < 0.25}


def test_training_parts_are_slices_that_overlap():
    tests, rows = two_splits(), np.random.default_rng(1).permutation(2000)[:600]
    arrangement = Arrangement(tests, rows)
    assert sorted(arrangement.taken) == sorted(rows)
    for split, test in tests.items():
        one, other = arrangement.cells(split)
        assert one.stop == other.start
        assert sorted(arrangement.training(split)) == np.flatnonzero(~test).tolist()
        assert np.array_equal(arrangement.taken[one.start : other.stop], rows[arrangement.training(split)])
        assert np.array_equal(arrangement.taken[arrangement.held_out(split)], rows[test])
    assert arrangement.cells("sentence")[1] == arrangement.cells("lexical")[0]


@pytest.mark.parametrize("missing", ["shared", "first", "second", "no"])
def test_cells_may_be_empty(missing):
    first, second = np.zeros((2, 40), bool)
    first[:10], second[:10] = True, missing != "no"
    if missing == "shared":
        second = ~first
    elif missing == "first":
        first[10:20] = True  # what the first split trains on, the second does as well
    elif missing == "second":
        second[10:20] = True
    tests = {"sentence": first, "lexical": second}
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    arrangement = Arrangement(tests)
    arranged = Arranged(x[arrangement.taken], arrangement)
    for split, test in tests.items():
        assert_moments(arranged.design(split).training.moments, Moments.of(x[~test]))


def assert_moments(found, expected, tolerance=1e-9):
    assert found.n == expected.n
    torch.testing.assert_close(found.mean, expected.mean, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found.scatter, expected.scatter, atol=tolerance * found.n, rtol=tolerance)
    torch.testing.assert_close(found.scale, expected.scale, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("far", [0.0, 1e4])
def test_two_splits_of_shared_rows_are_probed_as_if_alone(far):
    rng = np.random.default_rng(2)
    x = torch.as_tensor(rng.standard_normal((600, 20)) * np.geomspace(0.1, 10, 20) + far).float()
    tests, arrangement = two_splits(), Arrangement(two_splits())
    codes = np.stack([(x.double().numpy() @ rng.standard_normal((20, 4)) + rng.gumbel(size=(600, 4))).argmax(1)] * 2)
    codes[1, rng.random(600) < 0.3] = -1
    tasks = [(codes[0], 4), (codes[1], 4)]
    arranged = Arranged(x[arrangement.taken], arrangement)
    for split, test in tests.items():
        design, alone = arranged.design(split), Design.of(x, test)
        assert_moments(design.training.moments, alone.training.moments, 1e-4)
        for kind in ("ridge", "logistic", "lda"):
            some = tasks[:1] if kind == "lda" else tasks
            ours = fit(design, Targets(some, arrangement, split), kind)
            theirs = fit(alone, Targets.of(some, test), kind)
            for a, b in zip(ours, theirs, strict=True):
                assert (a.predicted == b.predicted).mean() > 0.99
                np.testing.assert_allclose(a.probability, b.probability, atol=0.02)


@pytest.mark.parametrize("n", [100, 600, 20_000])
@pytest.mark.parametrize("value", [1e-3, 7.0, 1e5])
def test_a_feature_that_the_training_rows_do_not_have_is_constant_there(n, value):
    """Its variance around the mean of all rows is rounding, which must not become the unit of the feature."""
    rng = np.random.default_rng(0)
    tests, arrangement = two_splits(n), Arrangement(two_splits(n))
    x = torch.as_tensor(rng.standard_normal((n, 3))).float()
    x[:, 2] = value * torch.as_tensor(tests["sentence"])
    arranged = Arranged(x[arrangement.taken], arrangement)
    assert arranged.design("sentence").training.moments.scale[2] == 1.0
    # Each row is rounded twice as it is centred, and its square doubles that: 4 u = 2.4e-7, however many there are.
    assert arranged.design("lexical").training.moments.scale[2] == pytest.approx(
        float(x[torch.as_tensor(~tests["lexical"]), 2].double().std(correction=0)), rel=4 * U
    )


def exact_moments(x):
    mean = x.double().mean(0)
    return mean, (x.double() - mean).T @ (x.double() - mean)


@pytest.mark.parametrize("n", [4096, 30_011])
@pytest.mark.parametrize("value", [3.3, 11.7, 1e5])
def test_sums_of_many_alike_rows_do_not_drift(n, value):
    """Roundings of equal numbers all have one sign, so a float32 sum of them is off by far more than sqrt(n) roundings."""
    x = torch.zeros(n, 2)
    x[: n // 3, 0] = value
    x[:, 1] = torch.randn(n, generator=torch.Generator().manual_seed(1))
    found, (mean, scatter) = Moments.of(x), exact_moments(x)
    # What is left is the rounding of single rows less their origin.
    assert bool(((found.mean - mean).abs() <= U * x.abs().amax(0)).all())
    torch.testing.assert_close(found.scatter.diagonal(), scatter.diagonal(), rtol=4 * U, atol=0)


@pytest.mark.parametrize("n", [4096, 30_011])
@pytest.mark.parametrize("value", [3.3, 11.7, 1e5])
@pytest.mark.parametrize("spread", [0.0, 1e-3])
def test_a_feature_far_from_the_mean_of_all_rows_keeps_its_digits(n, value, spread):
    """Its value on the test rows moves the origin a thousand spreads away from the training rows; or there is no spread."""
    rng = np.random.default_rng(1)
    tests = {"sentence": rng.random(n) < 0.25, "lexical": rng.random(n) < 0.25}
    arrangement, x = Arrangement(tests), torch.as_tensor(rng.standard_normal((n, 3))).float()
    x[:, 2] = value * (torch.as_tensor(tests["sentence"]) + spread * x[:, 1])
    arranged = Arranged(x[arrangement.taken], arrangement)
    for split, test in tests.items():
        found, (_, scatter) = arranged.design(split).training.moments, exact_moments(x[torch.as_tensor(~test)])
        size = torch.outer(scatter.diagonal(), scatter.diagonal()).sqrt()
        # Rows less the origin are rounded at the size of `value`, 1,000 spreads: 2e3 u. The products add sqrt(4096) u.
        assert bool(((found.scatter - scatter).abs() <= 2e3 * U * size).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_alike_are_regressed_once(dtype, monkeypatch):
    rng = np.random.default_rng(3)
    types = torch.as_tensor(rng.standard_normal((40, 12)), dtype=dtype)
    kind, test = rng.integers(40, size=500), rng.random(500) < 0.25
    x, y = types[kind], rng.integers(3, size=40)[kind]
    partly = np.where(rng.random(500) < 0.5, y, -1)
    noisy = np.where(rng.random(500) < 0.2, rng.integers(3, size=500), y)
    tasks = [(y, 3), (partly, 3), (noisy, 3)]
    design, targets = Design.of(x, test), Targets.of(tasks, test)
    sample, into = design.merged
    assert len(sample.rows) == len(np.unique(kind[~test]))
    assert torch.equal(sample.rows[into], design.training.rows)
    for way in ("embedding", "types"):
        once = fit(design, targets, way)
        with monkeypatch.context() as patch:
            patch.setattr(Design, "merged", None)
            every = fit(Design.of(x, test), targets, way)
        for a, b in zip(once, every, strict=True):
            difference = float((a.linear.weight - b.linear.weight).norm() / b.linear.weight.norm())
            assert difference < 1e-3
            assert a.linear.penalty == b.linear.penalty


def test_rows_of_which_few_are_alike_stay_apart():
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    x[:50] = x[50:100]
    assert Design.of(x, np.arange(400) % 4 == 0).merged is None


def test_rows_with_a_number_that_is_not_finite_are_told():
    x = torch.zeros(10, 2)
    test = np.arange(10) < 3
    assert Design.of(x, test).arranged.finite
    for value in (float("nan"), float("inf"), float("-inf")):
        assert not Design.of(x.index_fill(0, torch.tensor([4]), value), test).arranged.finite
