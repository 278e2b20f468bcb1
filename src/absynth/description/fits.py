"""The two fits that `describe` needs, without SciPy."""

from __future__ import annotations

import math

import numpy as np


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Return P(chi-square with `degrees` >= statistic) = Q(degrees / 2, statistic / 2).

    Q(a, x) is the regularised upper incomplete gamma function: by the power series of P = 1 - Q below x = a + 1, by
    Lentz's continued fraction above.
    """
    a, x = degrees / 2, statistic / 2
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        k = a
        while abs(term) > 1e-17 * abs(total):
            k += 1
            term *= x / k
            total += term
        return max(0.0, 1.0 - scale * total)
    b = x + 1 - a
    c, d = 1e300, 1 / b
    value = d
    for i in range(1, 100_000):
        numerator = -i * (i - a)
        b += 2
        d = 1 / (numerator * d + b)
        c = b + numerator / c
        value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return scale * value


def fit_exponent(counts: np.ndarray, q: float) -> tuple[float, float]:
    """Return (alpha, standard error) of p(rank) proportional to (rank + q)^-alpha, by maximum likelihood.

    Parameters
    ----------
    counts : [words]
        Occurrences of the words of rank 1, 2, ...

    Notes
    -----
    With y = log(rank + q) the likelihood equation is E_alpha[y] = mean of y over tokens; the left side falls with slope
    -Var_alpha[y], so it has one root: Newton's steps, halved where they leave the bracket. The standard error is
    1 / sqrt(N Var_alpha[y]). -inf or inf where all tokens are of the last or first rank.
    """
    y = np.log(np.arange(1, len(counts) + 1) + q)
    n = counts.sum()
    target = float((counts * y).sum() / n)
    if target <= y[0] or target >= y[-1]:
        return (math.inf if target <= y[0] else -math.inf), math.inf
    low, high = -50.0, 50.0

    def moments(alpha: float) -> tuple[float, float]:
        logs = -alpha * y
        p = np.exp(logs - logs.max())
        p /= p.sum()
        mean = float((p * y).sum())
        return mean, float((p * (y - mean) ** 2).sum())

    alpha = 1.0
    for _ in range(200):
        mean, variance = moments(alpha)
        low, high = (alpha, high) if mean > target else (low, alpha)
        step = alpha + (mean - target) / variance if variance > 0 else math.inf
        new = step if low < step < high else 0.5 * (low + high)
        if abs(new - alpha) < 1e-12:
            break
        alpha = new
    return alpha, 1.0 / math.sqrt(n * moments(alpha)[1])
