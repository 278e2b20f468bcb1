"""Adam's preconditioner, read from the optimizer's state, and the edge of stability of Adam."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lmtrace.errors import SignalError


class NoPreconditionerError(SignalError):
    """The optimizer has no Adam state for these parameters (yet)."""


def adam_preconditioner(optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the diagonal of Adam's preconditioner, one tensor per parameter.

    P = (1 - beta_1^t) (sqrt(v / (1 - beta_2^t)) + eps) with the second moments v after t steps (Cohen et al. 2022, eq.
    2), so that the next step is -eta P^-1 m.

    Raises
    ------
    NoPreconditionerError
        Where a parameter has no second moment: another optimizer, or no step yet.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    result = []
    for name, p in params.items():
        state, group = optimizer.state.get(p, {}), groups.get(id(p))
        second = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
        if group is None or second is None or "step" not in state:
            raise NoPreconditionerError(f"the optimizer has no second moments of Adam for {name}")
        step, (beta_1, beta_2) = float(state["step"]), group["betas"]
        root = (second.detach().float() / (1 - float(beta_2) ** step)).sqrt()
        result.append((root + float(group["eps"])) * (1 - float(beta_1) ** step))
    return result
