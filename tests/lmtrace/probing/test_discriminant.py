"""The discriminant against scikit-learn where few rows, long tails, borders on a line and word types made it fail before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

from lmtrace.numerics.moments import Sample
from lmtrace.probing.discriminant import GRID, Spectrum, left_out
from lmtrace.probing.linear import linear_probe
from lmtrace.probing.splits import sentence_split


def clouds(n, d, classes, power, seed):
    """Gaussian classes of one covariance, whose eigenvalues fall with the power, turned."""
    rng = np.random.default_rng([seed, n, d])
    y = rng.integers(classes, size=n)
    x = 3.5 / np.sqrt(d) * rng.standard_normal((classes, d))[y] + rng.standard_normal((n, d))
    return (x * np.arange(1, d + 1) ** (-power / 2)) @ np.linalg.qr(rng.standard_normal((d, d)))[0], y


def best_of_two(x, y, groups):
    """The better of two converged references on the same split, and the tolerance: a point, or one binomial error."""
    test = sentence_split(groups, 0)
    scaler = StandardScaler().fit(x[~test])
    train, held_out = scaler.transform(x[~test]), scaler.transform(x[test])
    models = (LogisticRegression(max_iter=1000), RidgeClassifierCV(alphas=np.logspace(-3, 6, 19)))
    best = max(model.fit(train, y[~test]).score(held_out, y[test]) for model in models)
    return best, max(0.01, np.sqrt(best * (1 - best) / test.sum()))


def assert_as_good(x, y, groups):
    best, tolerance = best_of_two(x, y, groups)
    assert linear_probe(x, y, groups, kind="discriminant").accuracy >= best - tolerance


@pytest.mark.slow
@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("ratio", [0.6, 1.3, 2.5, 7])
def test_few_rows_for_the_width(ratio, power):
    n = int(ratio * 160 / 0.75)
    assert_as_good(*clouds(n, 160, 7, power, 2), np.arange(n) // 8)


def on_a_line(rng):
    u = rng.uniform(-1, 1, 3600)
    return np.outer(u, rng.standard_normal(40)) + 0.03 * rng.standard_normal((3600, 40)), np.digitize(u, [-0.5, 0, 0.5])


def a_thin_class(rng):
    u = rng.uniform(-1, 1, 3600)
    return np.outer(u, rng.standard_normal(40)) + 0.03 * rng.standard_normal((3600, 40)), np.digitize(u, [-0.07, 0.07])


def of_types(rng):
    p = 1 / np.arange(1, 401)
    kind = rng.choice(400, 5000, p=p / p.sum())
    return rng.standard_normal((400, 96))[kind] + 0.3 * rng.standard_normal((5000, 96)), rng.integers(9, size=400)[kind]


def one_wide_direction(rng):
    y = rng.integers(5, size=3600)
    x = 0.25 * rng.standard_normal((5, 72))[y] + rng.standard_normal((3600, 72))
    x[:, 11] *= 2500
    return x, y


def imbalanced(rng):
    y = rng.choice(3, 3600, p=(0.93, 0.05, 0.02))
    return 0.3 * rng.standard_normal((3, 72))[y] + rng.standard_normal((3600, 72)), y


@pytest.mark.slow
@pytest.mark.parametrize("case", [on_a_line, a_thin_class, of_types, one_wide_direction, imbalanced])
def test_shapes_of_rows_and_labels(case):
    x, y = case(np.random.default_rng(31))
    assert_as_good(x, y, np.arange(len(y)) // 9)


@pytest.mark.parametrize("size", [1, 3])
def test_rows_without_their_unit_equal_fits_without_it(size):
    """Exact for single rows, and for units whose rows are equal."""
    rng = np.random.default_rng(4)
    distinct, d = 60, 9
    x = torch.as_tensor(np.repeat(rng.standard_normal((distinct, d)), size, 0))
    units = torch.arange(distinct).repeat_interleave(size)
    codes = torch.as_tensor(rng.integers(3, size=distinct * size))
    sample = Sample.of(x)
    spectrum = Spectrum.of(sample)
    onehot = torch.nn.functional.one_hot(codes, 3).double()
    share = onehot.mean(0)
    cross = spectrum.vectors.T @ (sample.rows.T @ onehot)
    found = left_out(sample, spectrum, cross, share, codes[None], units)
    for place, penalty in list(enumerate(GRID))[4::2]:
        for unit in (0, 17, 59):
            kept, gone = units != unit, units == unit
            # The intercept is a column that bears no penalty; the share of the classes is that of all rows.
            design = torch.cat([sample.rows, torch.ones(len(x), 1, dtype=torch.float64)], 1)
            weight = torch.full((d + 1,), penalty * spectrum.unit, dtype=torch.float64)
            weight[-1] = 0
            target = onehot - share
            solved = torch.linalg.solve(
                design[kept].T @ design[kept] + torch.diag(weight), design[kept].T @ target[kept]
            )
            torch.testing.assert_close(found.scores[place][gone], design[gone] @ solved, atol=1e-8, rtol=1e-6)


def test_a_block_that_turns_the_embedding_gains_nothing():
    """The same rows in other directions: the gain of one over the other is that of rounding."""
    rng = np.random.default_rng(5)
    p = 1 / np.arange(1, 301)
    kind = rng.choice(300, 1800, p=p / p.sum())
    of_type = rng.integers(8, size=300)
    x = 0.5 * rng.standard_normal((8, 128))[of_type[kind]] + 0.6 * rng.standard_normal((300, 128))[kind]
    x += 0.3 * rng.standard_normal((48, 128))[rng.integers(48, size=1800)]
    turned = x @ np.linalg.qr(rng.standard_normal((128, 128)))[0]
    for split in ("sentence", "lexical"):
        a, b = (
            linear_probe(v.astype("float32"), of_type[kind], np.arange(1800) // 12, kind, split, "discriminant")
            for v in (x, turned)
        )
        assert abs(a.accuracy - b.accuracy) < 0.006
        assert a.regularisation == pytest.approx(b.regularisation)


def test_labels_that_nothing_predicts_get_the_largest_penalty():
    rng = np.random.default_rng(6)
    found = linear_probe(
        np.ones((400, 5)) + 1e-9 * rng.standard_normal((400, 5)),
        np.arange(400) % 2,
        np.arange(400) // 4,
        kind="discriminant",
    )
    assert abs(found.accuracy - 0.5) < 0.15
    assert 0.3 < found.confidence < 0.7
