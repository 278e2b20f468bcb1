"""Minimal pairs: how often the good sentence is the more probable one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lmtrace.numerics.estimate import Estimate

Z95 = 1.959964


def minimal_pair_accuracy(good: Any, bad: Any) -> Estimate:
    """Return the share of pairs whose good sentence has the higher log-probability; a tie counts as half.

    Parameters
    ----------
    good, bad : [pairs]
        Log-probabilities (nats) of the acceptable and of the unacceptable sentence.

    Returns
    -------
    Estimate
        `stderr` is `wilson_stderr`; `wilson_interval` gives the 95 % interval (Wilson 1927). Chance is 0.5. Missing where there is no pair with two finite numbers; pairs with a number that is
        not finite are left out and counted in `note`.

    Raises
    ------
    ValueError
        Where the two lists differ in length.

    Examples
    --------
    >>> minimal_pair_accuracy([-3.0, -4.0, -5.0], [-5.0, -4.0, -4.0]).value  # right, tie, wrong
    0.5
    """
    good, bad = (np.asarray(v.detach().cpu() if hasattr(v, "detach") else v, np.float64) for v in (good, bad))
    if good.shape != bad.shape or good.ndim != 1:
        raise ValueError(f"good and bad must be two lists of the same length, got {good.shape} and {bad.shape}")
    usable = np.isfinite(good) & np.isfinite(bad)
    dropped = int((~usable).sum())
    note = f"{dropped} of {len(good)} pairs left out: log-probability not finite" if dropped else ""
    n = int(usable.sum())
    if n == 0:
        return Estimate(None, None, 0, note or "no pairs")
    margin = good[usable] - bad[usable]
    share = float(((margin > 0) + 0.5 * (margin == 0)).mean())
    return Estimate(share, wilson_stderr(share, n), n, note)


def wilson_stderr(share: float, n: int) -> float:
    """Return the distance from a share of n to the farther end of its 95 % Wilson interval, over 1.96.

    Two of it hold the interval, also at 0 and 1, where the spread of the sample itself is zero.
    """
    low, high = wilson_interval(share, n)
    return max(high - share, share - low) / Z95


def wilson_interval(share: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a share of n; z = 1.96 gives 95 %."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
