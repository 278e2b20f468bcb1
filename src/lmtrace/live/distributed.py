"""Several processes train one model: rank 0 measures and writes, the others keep in step with it.

Every function is called by all ranks in the same order; with one process it does nothing special. What rank 0 raises
is raised on all ranks, so that none waits for another that has left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed

from lmtrace.errors import TraceError

T = TypeVar("T")

RECOVERABLE = (
    TraceError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError,
)  # fmt: skip
"""What may go wrong with measuring while training goes on: the machine's faults, and ours."""


class OtherRankError(Exception):
    """Rank 0 left with an error that ends training; so does this rank."""


def num_ranks() -> int:
    """Return the number of processes that train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_main_process() -> bool:
    """Return whether this process measures and writes: rank 0, or the only one."""
    return num_ranks() == 1 or torch.distributed.get_rank() == 0


def on_main(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 only and return its result (plain data) on every rank.

    Raises
    ------
    TraceError
        On the other ranks, where rank 0 raised an error that training survives.
    OtherRankError
        On the other ranks, where it raised anything else.
    """
    if num_ranks() == 1:
        return action()
    outcome: list[Any] = [("ended", "rank 0 was interrupted")]
    if not is_main_process():
        torch.distributed.broadcast_object_list(outcome, src=0)
        how, result = outcome[0]
        if how == "done":
            return result
        raise TraceError(f"rank 0: {result}") if how == "failed" else OtherRankError(f"rank 0: {result}")
    try:
        result = action()
        outcome = [("done", result)]
        return result
    except RECOVERABLE as error:
        outcome = [("failed", f"{type(error).__name__}: {error}")]
        raise
    finally:
        torch.distributed.broadcast_object_list(outcome, src=0)


def gather(value: T) -> list[T]:
    """Return, on rank 0, what every rank gave, by rank; nothing on the others."""
    if num_ranks() == 1:
        return [value]
    found: list[Any] | None = [None] * num_ranks() if is_main_process() else None
    torch.distributed.gather_object(value, found, dst=0)
    return found or []
