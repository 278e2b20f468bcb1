"""Which weights are measured: those that train, or those that the optimizer keeps for being judged.

Schedule-free optimizers step with one set of weights and are judged by another, an average; `optimizer.eval()` and
`optimizer.train()` go from one to the other in place (Defazio et al. 2024), with rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

AVERAGED = "averaged: those of optimizer.eval()"
COPY = "averaged: a copy that does not train"
TRAINED = "those that train"
_COPIES = ("AveragedModel", "ModelEma", "ModelEmaV2", "ModelEmaV3", "EMAModel", "ExponentialMovingAverage")


def measured_weights(model: nn.Module, optimizer: Any = None) -> str:
    """Return in words which weights of a training are measured."""
    if switches(optimizer):
        return AVERAGED
    return COPY if type(model).__name__ in _COPIES else TRAINED


def switches(optimizer: Any) -> bool:
    """Return whether an optimizer has weights of its own for being judged."""
    return callable(getattr(optimizer, "eval", None)) and callable(getattr(optimizer, "train", None))


@contextlib.contextmanager
def judged_weights(optimizer: Any) -> Iterator[None]:
    """Put the weights that are to be judged in place, and afterwards those that train, bit for bit.

    Nothing happens with other optimizers, nor where the weights to be judged are in place already. While the body runs, there is a
    second copy of the weights: going back by `optimizer.train()` alone would leave rounding in them.
    """
    if not switches(optimizer) or not all(group.get("train_mode", True) for group in optimizer.param_groups):
        yield
        return
    kept = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    try:
        optimizer.eval()
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for p, before in kept:
                p.data.copy_(before)
