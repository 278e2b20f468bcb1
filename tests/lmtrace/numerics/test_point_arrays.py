"""Every estimator on clouds of points reads every kind of array and every scale, and says what it cannot read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import lmtrace.functional as F
from lmtrace.errors import DataError

ESTIMATORS = {
    "two_nn": F.two_nn,
    "two_nn_ml": F.two_nn_ml,
    "mle": F.mle,
    "gride": F.gride,
    "participation_ratio": F.participation_ratio,
    "effective_rank": F.effective_rank,
    "pca_dimension": F.pca_dimension,
    "anisotropy": F.anisotropy,
    "linear_cka": lambda x: F.linear_cka(x, np.arange(600.0)[:, None] % 7),
}


def cloud() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((600, 5)) @ rng.standard_normal((5, 12))


def number(found) -> float:
    value = found.dimension[0] if isinstance(found, F.Gride) else found.value
    assert value is not None, found.note
    assert math.isfinite(value)
    return float(value)


def reason(found) -> str:
    assert len(found.dimension) == 0 if isinstance(found, F.Gride) else found.value is None
    return found.note


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


KINDS = {
    "list": (lambda x: x.tolist(), 1e-12),
    "float32": (lambda x: x.astype(np.float32), 1e-5),
    "float16": (lambda x: x.astype(np.float16), 1e-2),
    "longdouble": (lambda x: x.astype(np.longdouble), 1e-12),
    "big-endian": (lambda x: x.astype(">f8"), 1e-12),
    "columns": (np.asfortranarray, 1e-10),
    "strided": (lambda x: np.repeat(x, 2, axis=0)[::2], 1e-10),
    "read-only": (read_only, 1e-12),
    "tensor": (lambda x: torch.from_numpy(x).requires_grad_(), 1e-12),
    "transposed tensor": (lambda x: torch.from_numpy(x.T.copy()).T, 1e-10),
    "bfloat16": (lambda x: torch.from_numpy(x).bfloat16(), 2e-2),
    "integers": (lambda x: (x * 1000).round().astype(np.int64), 1e-2),
}
SCALES = {"1e200": 1e200, "1e-200": 1e-200, "1e-3": 1e-3}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array(name, kind):
    convert, tolerance = KINDS[kind]
    expected = number(ESTIMATORS[name](cloud()))
    assert number(ESTIMATORS[name](convert(cloud()))) == pytest.approx(expected, rel=tolerance, abs=1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("scale", SCALES)
def test_squares_neither_overflow_nor_vanish(name, scale):
    expected = number(ESTIMATORS[name](cloud()))
    assert number(ESTIMATORS[name](cloud() * SCALES[scale])) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_float32_at_the_ends_of_its_range(name, scale):
    expected = number(ESTIMATORS[name](cloud().astype(np.float32)))
    assert number(ESTIMATORS[name]((cloud() * scale).astype(np.float32))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_reason(name, bad):
    x = cloud()
    x[[3, 77], 2] = bad
    note = reason(ESTIMATORS[name](x))
    assert "not finite" in note
    assert name == "linear_cka" or "2 of 600" in note


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("shape", [(0, 5), (600, 0), (1, 5)])
def test_nothing_to_read_is_a_reason(name, shape):
    if name == "linear_cka":
        assert reason(F.linear_cka(np.ones(shape), np.ones((shape[0], 2))))
    else:
        assert reason(ESTIMATORS[name](np.ones(shape)))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("make", [lambda x: x[:, 0], lambda x: x[None], lambda x: x + 0j, lambda x: x.astype(object)])
def test_what_is_no_cloud_is_an_error(name, make):
    with pytest.raises(DataError, match="points must be"):
        ESTIMATORS[name](make(cloud()))
