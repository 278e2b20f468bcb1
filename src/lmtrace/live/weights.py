"""A few numbers of every trained parameter: enough to tell whether the weights are still those of a moment ago."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PER_PARAMETER = 16


def sample_weights(model: nn.Module) -> Tensor | None:
    """Return [sampled] float32 on the CPU: up to 16 evenly spaced numbers of every parameter that is trained, or None without any.

    Of a parameter that is divided over ranks only this rank's part is read, so that no rank waits for another.
    """
    parts = []
    for parameter in model.parameters():
        values = local_part(parameter)
        if parameter.requires_grad and values.numel():
            flat = values.flatten()
            parts.append(flat[:: max(1, flat.numel() // PER_PARAMETER)][:PER_PARAMETER].float())
    if not parts:
        return None
    return torch.cat([part.to(parts[0].device) for part in parts]).cpu()


def local_part(parameter: Tensor) -> Tensor:
    """Return the numbers of a parameter that lie on this rank."""
    values: Any = parameter.detach()
    return values.to_local() if hasattr(values, "to_local") else values


def same_weights(before: Tensor | None, now: Tensor | None) -> bool:
    """Return whether two samples of one model hold the same numbers, bit for bit."""
    if before is None or now is None:
        return False
    return before.shape == now.shape and torch.equal(before.view(torch.int32), now.view(torch.int32))
