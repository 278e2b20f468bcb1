"""Means whose errors come in clusters: the tokens of one sentence are not independent."""

from __future__ import annotations

import numpy as np

from lmtrace.numerics.estimate import Estimate


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Return the mean of `values` with a standard error that treats whole clusters as the sampling units.

    With r_g the sum of (value - mean) over cluster g, G clusters and N values: stderr = sqrt(G / (G - 1) * sum_g
    r_g^2) / N (the linearised ratio estimator; Cameron and Miller 2015). One cluster gives no standard error.

    Parameters
    ----------
    values : [n]
    clusters : [n]
        Any integers; the sentence of each value.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return Estimate(None, None, 0, "no values")
    mean = float(values.mean())
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(codes.reshape(-1), weights=values - mean)
    groups = len(sums)
    if groups < 2:
        return Estimate(mean, None, len(values), "one cluster: no standard error")
    return Estimate(mean, float(np.sqrt(groups / (groups - 1) * np.sum(sums**2)) / len(values)), len(values))
