"""Means whose errors come in clusters: the tokens of one sentence are not independent."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class GroupedMeans:
    """Means of several quantities in several groups.

    Attributes
    ----------
    mean, stderr : [groups, quantities]
        NaN for an empty group; `stderr` is NaN where fewer than two clusters contribute.
    n : [groups]
        Values in each group.
    """

    mean: np.ndarray
    stderr: np.ndarray
    n: np.ndarray


def grouped_means(values: np.ndarray, codes: np.ndarray, clusters: np.ndarray, num_groups: int) -> GroupedMeans:
    """Return `clustered_mean` of every column in every group, in one pass.

    Parameters
    ----------
    values : [n, quantities]
    codes : [n]
        Group of each row; rows with -1 are left out.
    clusters : [n]
        Non-negative integers.
    """
    values, codes = np.asarray(values, np.float64), np.asarray(codes)
    kept = codes >= 0
    values, codes, clusters = values[kept], codes[kept].astype(np.int64), np.asarray(clusters)[kept].astype(np.int64)
    n = np.bincount(codes, minlength=num_groups)
    if not len(values):
        empty = np.full((num_groups, values.shape[1]), np.nan)
        return GroupedMeans(empty, empty.copy(), n)
    num_clusters = int(clusters.max()) + 1
    cell, shape = codes * num_clusters + clusters, (num_groups, num_clusters)
    size = np.bincount(cell, minlength=num_groups * num_clusters).reshape(shape)
    count = (size > 0).sum(1)
    mean, stderr = np.empty((num_groups, values.shape[1])), np.empty((num_groups, values.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        for i, column in enumerate(values.T):
            sums = np.bincount(cell, column, minlength=num_groups * num_clusters).reshape(shape)
            mean[:, i] = sums.sum(1) / n
            residual = ((sums - size * mean[:, i, None]) ** 2).sum(1)
            stderr[:, i] = np.sqrt(count / (count - 1) * residual) / n
    stderr[count < 2] = np.nan
    return GroupedMeans(mean, stderr, n)
