from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from lmtrace.analysis.noise import ar1, autocorrelation, thin, whiten


@pytest.mark.parametrize("rho", [0.0, 0.4, 0.9])
def test_ar1_is_the_filtered_noise_and_whitening_undoes_it(rho):
    noise = ar1(50, 80, rho, np.random.default_rng(0))
    shocks = np.random.default_rng(0).standard_normal((50, 80))
    scaled = shocks.copy()
    scaled[:, 1:] *= np.sqrt(1 - rho**2)
    np.testing.assert_allclose(noise, lfilter([1.0], [1.0, -rho], scaled, axis=1), atol=1e-12)
    np.testing.assert_allclose(whiten(noise, rho), shocks, atol=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("n", [30, 200])
def test_autocorrelation_is_nearly_unbiased_after_taking_out_the_mean(rho, n):
    rows = ar1(2000, n, rho, np.random.default_rng(1))
    found = [autocorrelation(row - row.mean(), 1) for row in rows]
    assert np.median(found) == pytest.approx(rho, abs=0.05)


def test_thinning_keeps_means_and_short_curves():
    x = np.arange(1000.0)
    (short,) = thin([x], 10)
    np.testing.assert_allclose(short, x.reshape(10, 100).mean(axis=1))
    assert thin([x], 1000)[0] is x
