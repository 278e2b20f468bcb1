"""One optimizer or several: what signals see, and with which learning rates a step was made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from lmtrace.errors import ConfigError
from lmtrace.observe.sites import unwrap_optimizer


class JointOptimizer:
    """Several optimizers that divide a model's parameters among them (Muon with AdamW), read as one.

    Attributes
    ----------
    parts
        The torch optimizers.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return the groups of all of them, in order."""
        return list(chain.from_iterable(part.param_groups for part in self.parts))

    @property
    def state(self) -> dict[Any, Any]:
        """Return parameter -> state, of all of them."""
        return dict(chain.from_iterable(part.state.items() for part in self.parts))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each."""
        return {"parts": [part.state_dict() for part in self.parts]}


def one_optimizer(given: Any) -> Any:
    """Return what stands for one optimizer, several or none.

    Parameters
    ----------
    given
        A torch optimizer, one that a framework has wrapped, a list of these, or None.

    Raises
    ------
    ConfigError
        For anything else.
    """
    several = isinstance(given, list | tuple)
    parts = [unwrap_optimizer(part) for part in (given if several else [given]) if part is not None]
    for part in parts:
        if not hasattr(part, "param_groups"):
            raise ConfigError(
                f"Tracer: optimizer= holds a {type(part).__name__}", "Pass a torch optimizer, or a list of them"
            )
    if len(parts) > 1:
        return JointOptimizer(parts)
    return parts[0] if parts else None


def learning_rates(optimizer: Any) -> dict[str, Any]:
    """Return name -> learning rate as it is now: of the first group, and of every group with another one.

    "learning_rate" is that of the first group that has one, "learning_rate.3" that of group 3 (counted over all optimizers) where it
    is another one. A group without a learning rate (Adafactor's own) gives none.
    """
    rates = [(i, group.get("lr")) for i, group in enumerate(optimizer.param_groups)]
    known = [(i, rate) for i, rate in rates if rate is not None]
    if not known:
        return {}
    first = known[0][1]
    others = {f"learning_rate.{i}": rate for i, rate in known[1:] if rate is not first and not _same(rate, first)}
    return {"learning_rate": first, **others}


def _same(rate: Any, other: Any) -> bool:
    """Compare numbers; tensors on a device are not read, which would synchronise, and count as others."""
    tensors = [value for value in (rate, other) if isinstance(value, torch.Tensor)]
    return not any(value.device.type != "cpu" for value in tensors) and float(rate) == float(other)


def torch_optimizers(optimizer: Any) -> tuple[torch.optim.Optimizer, ...]:
    """Return the torch optimizers in what `one_optimizer` gave."""
    parts = optimizer.parts if isinstance(optimizer, JointOptimizer) else (optimizer,)
    return tuple(part for part in parts if isinstance(part, torch.optim.Optimizer))
