"""Paired timing: A and B in turn, in one process, medians of their ratios.

Times are processor time unless wall time is asked for, so that neighbours on the machine do not count; `python -m
benchmarks` therefore keeps torch to one thread, because waiting threads would count as work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Clock = Callable[[], float]


def seconds(action: Callable[[], object], clock: Clock = time.process_time) -> float:
    """Return how long one call takes."""
    start = clock()
    action()
    return clock() - start


def median(action: Callable[[], object], repeats: int = 7, warmup: int = 1) -> float:
    """Return the median time of a call."""
    for _ in range(warmup):
        action()
    return statistics.median(seconds(action) for _ in range(repeats))


def ratio(
    action: Callable[[], object],
    base: Callable[[], object],
    repeats: int = 7,
    warmup: int = 1,
    clock: Clock = time.process_time,
) -> float:
    """Return the median over pairs of time(action) / time(base)."""
    for _ in range(warmup):
        action()
        base()
    ratios = []
    for i in range(repeats):
        first, second = (action, base) if i % 2 else (base, action)
        times = {first: seconds(first, clock), second: seconds(second, clock)}
        ratios.append(times[action] / times[base])
    return statistics.median(ratios)
