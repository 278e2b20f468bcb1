"""Corpora drawn by the workers of a sweep."""

from __future__ import annotations

from typing import Any

from lmtrace.errors import DataError
from lmtrace.integrations.absynth import chunks, draw, joined
from lmtrace.jobs.executors import Died, Executor, run_tasks


def generate(
    grammar: Any,
    n: int,
    *,
    seed: int = 0,
    executor: Executor = "process",
    workers: int | None = None,
    chunk: int = 262_144,
) -> Any:
    """Return ``absynth.generate(grammar, n, seed)``, drawn here, in processes, or on Ray.

    Parameters
    ----------
    grammar
        An `absynth.Grammar`.
    executor, workers
        As for `lmtrace.sweep`; the corpus does not depend on them, nor on a worker that dies.
    chunk
        Sentences per piece of work.

    Raises
    ------
    DataError
        Where the workers of a piece died every time.
    """
    ranges = chunks(n, chunk)
    found: dict[int, Any] = {}
    for i, result in run_tasks(draw, (grammar, seed), ranges, executor=executor, workers=workers, threads=1):
        if isinstance(result, Died):
            raise DataError(f"sentences {ranges[i][0]} to {ranges[i][1]} could not be drawn: {result}")
        found[i] = result
    return joined(grammar, seed, [found[i] for i in range(len(ranges))])
