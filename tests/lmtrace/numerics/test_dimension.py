"""Intrinsic dimension: equal to scikit-dimension, to the table of the benchmark manifolds, and to its own reference."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import skdim
import torch

from lmtrace.errors import ConfigError
from lmtrace.numerics.dimension import gride, mle, two_nn, two_nn_ml
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.neighbours import nearest
from reference import neighbours as reference
from reference.manifolds import MANIFOLDS, manifold

ESTIMATORS = {
    "two_nn": two_nn,
    "two_nn_ml": two_nn_ml,
    "mle harmonic": mle,
    "mle arithmetic": lambda x: mle(x, average="arithmetic"),
}
# scikit-dimension's manifolds at n = 2,500: TwoNN, its maximum likelihood, MLE harmonic (with k - 2, as it was taken), arithmetic
K_MINUS_ONE = np.array([1, 1, 19 / 18, 1])
TABLE = {
    "M1 sphere": (9.40, 9.41, 8.51, 8.96),
    "M2 affine": (2.90, 2.91, 2.70, 2.86),
    "M3": (3.78, 3.78, 3.56, 3.84),
    "M4": (3.91, 3.93, 3.73, 3.98),
    "M6": (5.96, 5.93, 6.04, 6.51),
    "M7 roll": (1.97, 1.97, 1.85, 1.96),
    "M8": (13.55, 13.51, 12.80, 13.65),
    "M9 affine": (15.64, 15.67, 13.70, 14.41),
    "M10a cube": (9.06, 9.11, 8.25, 8.71),
    "M10d cube": (40.6, 41.0, 33.7, 35.4),
    "M11 Moebius": (2.01, 1.99, 1.86, 1.97),
    "M12 normal": (16.91, 17.02, 14.66, 15.44),
    "Mbeta": (6.61, 6.60, 5.52, 6.22),
    "Mp3": (7.30, 7.27, 5.56, 6.24),
}


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def value(estimate: Estimate) -> float:
    assert estimate.value is not None, estimate.note
    return estimate.value


@pytest.mark.parametrize("name", MANIFOLDS)
def test_two_nn_equals_scikit_dimension(name):
    x = manifold(name, 800, seed=3)
    assert value(two_nn(x)) == pytest.approx(skdim.id.TwoNN().fit(x).dimension_, abs=1e-6)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # its unused line at discard = 0
@pytest.mark.parametrize("discard", [0.0, 0.05, 0.2])
def test_two_nn_ml_equals_scikit_dimension_at_every_discard(discard):
    x = normal(600, 7)
    expected = skdim.id.TwoNN(discard_fraction=discard, method="mle").fit(x).dimension_
    assert value(two_nn_ml(x, discard)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("average", "comb", "unbiased"), [("harmonic", "mle", False), ("arithmetic", "mean", True)])
@pytest.mark.parametrize("k", [5, 12, 20])
def test_mle_equals_scikit_dimension(average, comb, unbiased, k):
    """MacKay and Ghahramani's estimate has k - 1, Levina and Bickel's unbiased one k - 2."""
    x = normal(500, 6)
    expected = skdim.id.MLE(unbiased=unbiased).fit(x, n_neighbors=k, comb=comb).dimension_
    assert value(mle(x, k, average)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("discard", [0.05, 0.3])
def test_two_nn_equals_its_reference(discard):
    x = normal(400, 4)
    assert value(two_nn(x, discard)) == pytest.approx(reference.two_nn(x, discard), rel=1e-9)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_gride_maximises_the_likelihood(scale):
    x = normal(400, 5)
    assert gride(x, (scale,)).dimension[0] == pytest.approx(reference.gride(x, scale), rel=1e-6)


def test_gride_at_scale_one_is_two_nn_ml():
    x = normal(400, 5)
    assert gride(x, (1,)).dimension[0] * 399 / 400 == pytest.approx(value(two_nn_ml(x)), rel=1e-12)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("name", TABLE)
def test_benchmark_manifolds(name):
    found = []
    for seed in range(5):
        neighbours = nearest(manifold(name, 2500, seed), 20)
        found.append([value(estimator(neighbours)) for estimator in ESTIMATORS.values()])
    mean, spread = np.mean(found, axis=0), np.std(found, axis=0)
    np.testing.assert_array_less(np.abs(mean - TABLE[name] * K_MINUS_ONE), 0.03 * mean + 3 * spread / np.sqrt(5) + 0.02)
    assert (spread < 0.06 * mean).all()


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
@pytest.mark.parametrize("change", ["scale", "tiny", "huge", "rotation", "translation", "order"])
def test_invariances(estimator, change):
    rng = np.random.default_rng(1)
    x = normal(700, 9)
    rotation = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    changed = {
        "scale": 37.5 * x,
        "tiny": 1e-12 * x,
        "huge": 1e12 * x,
        "rotation": x @ rotation,
        "translation": x + rng.normal(size=9) * 100,
        "order": x[rng.permutation(700)],
    }[change]
    assert value(estimator(changed)) == pytest.approx(value(estimator(x)), abs=1e-8)


def eight(n: int, width: int = 32, seed: int = 0) -> np.ndarray:
    """A true dimension of 8, bent into `width` variables."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 8))
    return latent @ rng.normal(size=(8, width)) + 0.1 * np.sin(latent @ rng.normal(size=(8, width)))


@pytest.mark.parametrize("jitter", [0.0, 1e-8, 1e-6])
def test_twins_do_not_move_the_estimate(jitter):
    x = eight(1600)
    twins = x[:400] + jitter * normal(400, 32, seed=1)
    for estimator in ESTIMATORS.values():
        assert value(estimator(np.concatenate([x, twins]))) == pytest.approx(value(estimator(x)), rel=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        naive = skdim.id.TwoNN().fit(np.concatenate([x, twins])).dimension_
    assert abs(naive - value(two_nn(x))) > 1  # what happens without merging


def test_float32_at_an_offset_of_1000():
    x = eight(2000)
    shifted = (x + 1000).astype(np.float32)
    for estimator in ESTIMATORS.values():
        assert value(estimator(shifted)) == pytest.approx(value(estimator(x)), rel=2e-3)


def test_float32_equals_float64():
    x = torch.from_numpy(eight(1500)).float()
    for estimator in ESTIMATORS.values():
        assert value(estimator(x)) == pytest.approx(value(estimator(x.double())), rel=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_too_few_distinct_points_are_a_reason(estimator):
    x = normal(150, 4)
    found = estimator(np.concatenate([x, x]))
    assert found.value is None
    assert found.stderr is None
    assert found.n == 150
    assert found.note == "150 distinct points of 300; at least 200 are needed"
    assert value(estimator(normal(200, 4))) > 1


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_no_number_gives_nan(estimator):
    broken = normal(300, 4)
    broken[0, 0] = np.nan
    assert "not finite" in estimator(broken).note
    assert estimator(broken).value is None
    assert estimator(np.ones((300, 4))).value is None
    lattice = np.stack(np.meshgrid(*[np.arange(20.0)] * 2), axis=-1).reshape(-1, 2)
    found = estimator(lattice)
    assert found.value is None or np.isfinite(found.value)


def test_a_lattice_has_no_two_nn():
    lattice = np.stack(np.meshgrid(*[np.arange(20.0)] * 2), axis=-1).reshape(-1, 2)
    for estimator in (two_nn, two_nn_ml):
        assert "a lattice" in estimator(lattice).note
    assert gride(lattice, (1,)).note == "neighbours are equally far everywhere (a lattice)"


def test_high_dimensions_are_flagged_as_lower_bounds():
    high = two_nn(normal(2000, 50))
    assert value(high) == pytest.approx(31.9, abs=2.5)
    assert high.note == "lower bound: above 20 dimensions 2000 points are too few"
    assert two_nn(normal(2000, 12)).note == ""


def test_gride_falls_with_scale_on_a_plane_with_noise():
    rng = np.random.default_rng(0)
    plane = np.concatenate([rng.uniform(size=(2000, 2)), np.zeros((2000, 18))], axis=1)
    curve = gride(plane + 0.01 * rng.normal(size=plane.shape), (1, 2, 4, 8, 16, 32, 64))
    assert (np.diff(curve.dimension) < 0).all()
    assert (np.diff(curve.distance) > 0).all()
    assert curve.dimension[0] > 5
    assert curve.dimension[-1] < 3.5
    np.testing.assert_array_equal(curve.scales, [1, 2, 4, 8, 16, 32, 64])


def test_gride_leaves_out_scales_beyond_the_points():
    curve = gride(normal(250, 3), (1, 64, 128, 256))
    np.testing.assert_array_equal(curve.scales, [1, 64])
    assert curve.note == "scales above 124 need more than 249 neighbours"
    assert gride(normal(100, 3)).note == "100 distinct points of 100; at least 200 are needed"
    assert len(gride(normal(100, 3)).dimension) == 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: two_nn(x, 1.0), r"discard must be in \[0, 1\), got 1.0"),
        (lambda x: mle(x, 2), "k must be at least 3, got 2"),
        (lambda x: mle(x, average="median"), "average must be 'harmonic' or 'arithmetic', got 'median'"),
        (lambda x: gride(x, (2, 1)), "scales must be rising integers"),
    ],
)
def test_wrong_settings_are_errors(call, match):
    with pytest.raises(ConfigError, match=match):
        call(normal(300, 3))


def torus(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """A flat torus: no boundary, uniform, of dimension d exactly."""
    angle = rng.uniform(0, 2 * np.pi, (n, d))
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("d", [1, 2])
def test_intervals_cover_at_their_level(d):
    rng = np.random.default_rng(0)
    inside = np.zeros(2)
    repeats = 500
    for _ in range(repeats):
        neighbours = nearest(torus(500, d, rng), 2)
        for i, estimator in enumerate((two_nn, two_nn_ml)):
            found = estimator(neighbours)
            inside[i] += abs(value(found) - d) <= 1.96 * found.stderr
    # 95 % +- three standard errors of a share of 500, a little more above: the widening is conservative
    assert ((inside / repeats > 0.92) & (inside / repeats < 0.985)).all(), inside / repeats


@pytest.mark.slow
@pytest.mark.statistical
def test_standard_errors_are_those_of_repeats():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(150):
        neighbours = nearest(torus(500, 4, rng), 20)
        curve = gride(neighbours, (1, 2, 4, 8))
        estimates = [estimator(neighbours) for estimator in ESTIMATORS.values()]
        found.append([(e.value, e.stderr) for e in estimates] + list(zip(curve.dimension, curve.stderr)))
    values, stderr = np.moveaxis(np.array(found), 2, 0)
    ratio = stderr.mean(axis=0) / values.std(axis=0)
    assert (ratio > 0.85).all(), ratio
    assert (ratio < 1.45).all(), ratio
