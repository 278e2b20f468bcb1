"""Linear CKA from whole n x n matrices, float64, as the papers write it."""

from __future__ import annotations

import numpy as np


def hsic(k: np.ndarray, l: np.ndarray, debiased: bool) -> float:  # noqa: E741  the paper's letters
    """Return HSIC of two kernel matrices: Song et al. (2012) eq. 5, or Gretton et al. (2005)."""
    n = len(k)
    if not debiased:
        h = np.eye(n) - 1 / n
        return float(np.trace(k @ h @ l @ h)) / (n - 1) ** 2
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    total = (
        np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 * (one @ k @ l @ one) / (n - 2)
    )
    return float(total) / (n * (n - 3))


def linear_cka(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """Return HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y))."""
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return hsic(k, l, debiased) / np.sqrt(hsic(k, k, debiased) * hsic(l, l, debiased))
