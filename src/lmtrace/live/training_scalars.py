"""What the training loop tells the tracer: kept as it is until it is written, so that nothing synchronises."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.live.distributed import gather

Scalars = dict[str, tuple[list[int], list[float]]]
"""Name -> (steps, values)."""


Number = Tensor | float
"""One number; a tensor of one element is kept on its device until it is written."""


class TrainingScalars:
    """Losses, tokens and other numbers by step; the parts of a step whose gradients are accumulated become one."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, int, Tensor | float]] = []
        self._losses: list[Number] = []
        self._tokens: list[Number] = []

    def part(self, loss: Number | None, tokens: Number | None) -> None:
        """Take in one micro-batch."""
        if loss is not None:
            self._losses.append(_copy("loss", loss))
        if tokens is not None:
            self._tokens.append(_copy("tokens", tokens))

    def step(self, step: int) -> None:
        """Close a step: its loss is the mean over its micro-batches, its tokens their sum."""
        losses, tokens = self._losses, self._tokens
        self._losses, self._tokens = [], []
        if tokens:
            self.add(step, tokens=sum(tokens[1:], tokens[0]))
        if losses:
            self.add(step, loss=sum(losses[1:], losses[0]) / len(losses))

    def add(self, step: int, **scalars: Number | None) -> None:
        """Add numbers to a step; None is no number and is left out."""
        self.waiting += [(name, step, _copy(name, value)) for name, value in scalars.items() if value is not None]

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


def _copy(name: str, value: Number) -> Number:
    """Return the number as it is now: a loop may fill the same buffer again before it is written. Nothing synchronises.

    Raises
    ------
    ConfigError
        Where it is not one number.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ConfigError(
                f"Tracer.step: {name} has the shape {tuple(value.shape)}", "Pass one number, such as its mean"
            )
        return value.detach().clone()
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Tracer.step: {name} is a {type(value).__name__}", "Pass one number") from error
