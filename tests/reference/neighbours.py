"""Nearest neighbours and dimensions the slow way: all differences, one point at a time, float64."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import betaln


def distances(x: np.ndarray, k: int) -> np.ndarray:
    """Return the k smallest distances [n, k] from each point to the others."""
    x = np.asarray(x, dtype=np.float64)
    rows = []
    for i in range(len(x)):
        others = np.delete(x, i, axis=0)
        rows.append(np.sort(np.sqrt(((others - x[i]) ** 2).sum(axis=1)))[:k])
    return np.array(rows)


def two_nn(x: np.ndarray, discard: float = 0.1) -> float:
    """Return the slope of the least-squares line through the origin."""
    r = distances(x, 2)
    log_mu = np.sort(np.log(r[:, 1] / r[:, 0]))[: int(len(x) * (1 - discard))]
    y = [-math.log(1 - (i + 1) / len(x)) for i in range(len(log_mu))]
    return float(np.linalg.lstsq(log_mu[:, None], np.array(y), rcond=None)[0][0])


def gride(x: np.ndarray, s: int) -> float:
    """Maximise Denti et al.'s likelihood of mu = r_2s / r_s over d."""
    r = distances(x, 2 * s)
    mu = r[:, 2 * s - 1] / r[:, s - 1]

    def negative_log_likelihood(d: float) -> float:
        terms = math.log(d) + (s - 1) * np.log(mu**d - 1) - ((2 * s - 1) * d + 1) * np.log(mu) - betaln(s, s)
        return -float(terms.sum())

    return float(
        minimize_scalar(negative_log_likelihood, bounds=(0.05, 100), method="bounded", options={"xatol": 1e-10}).x
    )
