"""What the training loop tells the tracer: kept as it is until it is written, so that nothing synchronises."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmtrace.live.distributed import gather

Scalars = dict[str, tuple[list[int], list[float]]]
"""Name -> (steps, values)."""


class TrainingScalars:
    """Losses, tokens and other numbers by step; the parts of a step whose gradients are accumulated become one."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, int, Tensor | float]] = []
        self._losses: list[Tensor | float] = []
        self._tokens: list[int] = []

    def part(self, loss: Tensor | float | None, tokens: int | None) -> None:
        """Take in one micro-batch."""
        if loss is not None:
            self._losses.append(loss.detach() if isinstance(loss, Tensor) else loss)
        if tokens is not None:
            self._tokens.append(tokens)

    def step(self, step: int) -> None:
        """Close a step: its loss is the mean over its micro-batches, its tokens their sum."""
        losses, tokens = self._losses, self._tokens
        self._losses, self._tokens = [], []
        if tokens:
            self.add(step, tokens=sum(tokens))
        if losses:
            self.add(step, loss=sum(losses[1:], losses[0]) / len(losses))

    def add(self, step: int, **scalars: Tensor | float) -> None:
        """Add numbers to a step."""
        self.waiting += [(name, step, value) for name, value in scalars.items()]

    def drain(self, together: bool = True) -> Scalars:
        """Return what was told since the last time, as numbers.

        Over several ranks tokens add up and everything else is the mean; rank 0 gets it, the others nothing.
        """
        waiting, self.waiting = self.waiting, []
        tensors = [value for _, _, value in waiting if isinstance(value, Tensor)]
        numbers = iter(torch.stack([t.float().reshape(()) for t in tensors]).cpu().tolist() if tensors else [])
        mine = {
            (name, step): next(numbers) if isinstance(value, Tensor) else float(value) for name, step, value in waiting
        }
        ranks = gather(mine) if together else [mine]
        by_name: Scalars = {}
        for name, step in ranks[0] if ranks else ():
            found = [rank[name, step] for rank in ranks if (name, step) in rank]
            total = math.fsum(found) if all(map(math.isfinite, found)) else sum(found)
            steps, values = by_name.setdefault(name, ([], []))
            steps.append(step)
            values.append(total if name == "tokens" else total / len(found))
        return by_name
