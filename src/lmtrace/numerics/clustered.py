"""Means whose errors come in clusters: the tokens of one sentence are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmtrace.numerics.estimate import Estimate

SAME = 1e-10
"""Sums of deviations up to this share of the values' range are rounding of a zero."""


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Return the mean of `values` with a standard error that treats whole clusters as the sampling units.

    With r_g the sum of (value - mean) over cluster g, G clusters and N values: stderr = sqrt(G / (G - 1) * sum_g
    r_g^2) / N (the linearised ratio estimator; Cameron and Miller 2015). One cluster gives no standard error, nor do
    clusters whose means are equal though their values are not: that they agree says too little of the next one.

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
    if np.abs(sums).max() < SAME * np.ptp(values):
        return Estimate(mean, None, len(values), "all clusters have one mean: no standard error")
    return Estimate(mean, float(np.sqrt(groups / (groups - 1) * np.sum(sums**2)) / len(values)), len(values))


@dataclass(frozen=True, slots=True)
class GroupedMeans:
    """Means of several quantities in several groups.

    Attributes
    ----------
    mean, stderr : [groups, quantities]
        NaN for an empty group; `stderr` is NaN where `clustered_mean` gives none.
    n : [groups]
        Values in each group.
    """

    mean: np.ndarray
    stderr: np.ndarray
    n: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Rows in groups of one or more groupings, one after the other; made once for means of many quantities.

    Attributes
    ----------
    row : [members]
        Which row each member of a group is; a row is a member once in every grouping that does not leave it out.
    group : [members]
    cell : [members]
        The members of one cluster of one group are a cell.
    cell_group, cell_size : [cells]
        Group, and number of members.
    n, clusters : [groups]
        Members, and clusters that contribute.
    """

    row: np.ndarray
    group: np.ndarray
    cell: np.ndarray
    cell_group: np.ndarray
    cell_size: np.ndarray
    n: np.ndarray
    clusters: np.ndarray

    @classmethod
    def of(cls, groupings: Sequence[tuple[np.ndarray, int]], clusters: np.ndarray) -> Groups:
        """Return the groups of several groupings.

        Parameters
        ----------
        groupings
            (codes [rows], number of groups) each; rows with code -1 are left out.
        clusters : [rows]
            Non-negative integers.
        """
        clusters = np.asarray(clusters).astype(np.int64)
        starts = np.cumsum([0, *(num for _, num in groupings)])
        kept = [np.flatnonzero(codes >= 0) for codes, _ in groupings]
        row = np.concatenate(kept)
        group = np.concatenate(
            [codes[k].astype(np.int64) + at for (codes, _), k, at in zip(groupings, kept, starts, strict=False)]
        )
        width = int(clusters.max(initial=-1)) + 1
        cells, cell, size = np.unique(group * width + clusters[row], return_inverse=True, return_counts=True)
        cell_group, num = cells // max(width, 1), int(starts[-1])
        return cls(
            row, group, cell.reshape(-1), cell_group, size,
            np.bincount(group, minlength=num), np.bincount(cell_group, minlength=num),
        )  # fmt: skip

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return [groups, quantities]: means of values: [quantities, members]; NaN for an empty group."""
        with np.errstate(invalid="ignore"):
            return np.stack([self._sums(v)[1] / self.n for v in values], 1)

    def means(self, values: np.ndarray) -> GroupedMeans:
        """Return `clustered_mean` of every row of values: [quantities, members] in every group."""
        mean, stderr = np.empty((2, len(self.n), len(values)))
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.where(self.clusters < 2, np.nan, self.clusters / (self.clusters - 1))
            for i, column in enumerate(values):
                cells, total = self._sums(column)
                mean[:, i] = total / self.n
                residual = (cells - self.cell_size * mean[:, i].take(self.cell_group)) ** 2
                squares = np.bincount(self.cell_group, residual, len(self.n))
                stderr[:, i] = np.sqrt(scale * squares) / self.n
                agree = squares < (SAME * np.abs(column).max(initial=0.0)) ** 2
                if agree.any():
                    within = np.bincount(self.group, (column - mean[:, i].take(self.group)) ** 2, len(self.n))
                    stderr[agree & (SAME**2 * within > squares), i] = np.nan
        return GroupedMeans(mean, stderr, self.n)

    def _sums(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of values: [members] over the cells, and over the groups."""
        cells = np.bincount(self.cell, values, len(self.cell_group))
        return cells, np.bincount(self.cell_group, cells, len(self.n))


def grouped_means(values: np.ndarray, codes: np.ndarray, clusters: np.ndarray, num_groups: int) -> GroupedMeans:
    """Return `clustered_mean` of every column in every group of one grouping (see `Groups`).

    Parameters
    ----------
    values : [n, quantities]
    codes : [n]
        Group of each row; rows with -1 are left out.
    clusters : [n]
        Non-negative integers.
    """
    groups = Groups.of([(np.asarray(codes), num_groups)], clusters)
    return groups.means(np.asarray(values, np.float64).T.take(groups.row, 1))
