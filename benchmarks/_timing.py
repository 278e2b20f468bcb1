"""Paired timing: A and B in turn, in one process, medians of their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(action: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def median(action: Callable[[], object], repeats: int = 7, warmup: int = 1) -> float:
    """Return the median time of a call."""
    for _ in range(warmup):
        action()
    return statistics.median(seconds(action) for _ in range(repeats))


def ratio(action: Callable[[], object], base: Callable[[], object], repeats: int = 7, warmup: int = 1) -> float:
    """Return the median over pairs of time(action) / time(base)."""
    for _ in range(warmup):
        action()
        base()
    ratios = []
    for i in range(repeats):
        first, second = (action, base) if i % 2 else (base, action)
        times = {first: seconds(first), second: seconds(second)}
        ratios.append(times[action] / times[base])
    return statistics.median(ratios)
