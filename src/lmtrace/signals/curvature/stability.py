"""Where an optimizer becomes unstable: the largest curvature at which it still converges on a quadratic.

With learning rate eta, momentum beta and weight decay w, for an eigenvalue lambda of what the optimizer descends:

- SGD: 2 (1 + beta) / (eta (1 - dampening)), and 2 (1 + beta) / ((1 + 2 beta) eta) with Nesterov momentum; decay adds w to lambda
  (Polyak 1964; Cohen et al. 2021).
- Adam, after preconditioning: (2 + 2 beta_1) / ((1 - beta_1) eta), 38 / eta at beta_1 = .9 (Cohen et al. 2022). Decay of the
  gradient adds w to the Hessian before preconditioning; decoupled decay (AdamW) shrinks the limit by 1 - eta w / 2.

Both are ratios to the limit here, which exist for a learning rate of zero as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmtrace.errors import SignalError

_SGD = ("momentum", "dampening", "nesterov")


class NoLimitError(SignalError):
    """The limit of stability of the optimizer is not known, or its groups differ."""


def sgd_share(lr: float, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False) -> float:
    """Return one over the limit of SGD."""
    if nesterov:
        return lr * (1 + 2 * momentum) / (2 * (1 + momentum))
    rate = lr * (1 - dampening) if momentum else lr
    return rate / (2 * (1 + momentum))


def adam_share(lr: float, beta_1: float, decoupled_decay: float = 0.0) -> float:
    """Return one over the limit of Adam, of curvature after preconditioning; infinity where decay alone diverges."""
    room = 2 - lr * decoupled_decay
    return lr * (1 - beta_1) / (room * (1 + beta_1)) if room > 0 else float("inf")


def sgd_limit_of(optimizer: Any, params: Mapping[str, Tensor]) -> float:
    """Return `sgd_share` of an optimizer that is SGD with the same settings for all of these parameters.

    Raises
    ------
    NoLimitError
        Where it is another optimizer, or its groups differ.
    """
    groups = _groups(optimizer, params)
    if any("betas" in group for group in groups):
        raise NoLimitError("2 (1 + momentum) / lr is the limit of SGD: for Adam measure the quantity preconditioned")
    if not all(set(_SGD) <= set(group) and "alpha" not in group for group in groups):
        raise NoLimitError(f"the limit of stability of {type(optimizer).__name__} is not known")
    lr, momentum, dampening, nesterov = (float(shared(groups, name)) for name in ("lr", *_SGD))
    return sgd_share(lr, momentum, dampening, bool(nesterov))


def adam_limit_of(optimizer: Any, params: Mapping[str, Tensor], along: Mapping[str, float]) -> float:
    """Return `adam_share` of an optimizer that is Adam with one learning rate and one beta_1 for all of these parameters.

    Parameters
    ----------
    along
        Share of the sharpest direction that lies in each parameter, by name: the decoupled decay is the mean over it.

    Raises
    ------
    NoLimitError
        Where it is another optimizer, or its groups differ.
    """
    groups = _groups(optimizer, params)
    if not all("amsgrad" in group and "train_mode" not in group for group in groups):
        raise NoLimitError(f"the limit of stability of {type(optimizer).__name__} is not known")
    lr, betas = shared(groups, "lr"), shared(groups, "betas")
    decay = sum(along[name] * value for name, value in decays(optimizer, params, decoupled=True).items())
    return adam_share(float(lr), float(betas[0]), decay)


def decays(optimizer: Any, params: Mapping[str, Tensor], decoupled: bool) -> dict[str, float]:
    """Return parameter -> weight decay, of the kind that is decoupled from the gradient, or of that which is not; else 0."""
    found = {}
    for name, p in params.items():
        group = next((g for g in optimizer.param_groups if any(q is p for q in g["params"])), {})
        own = bool(group.get("decoupled_weight_decay", "AdamW" in type(optimizer).__name__))
        found[name] = float(group.get("weight_decay", 0.0)) if own == decoupled else 0.0
    return found


def shared(groups: list[dict[str, Any]], name: str) -> Any:
    """Return the setting that all groups share, or raise."""
    values = {tuple(value) if isinstance(value := group[name], list) else value for group in map(_plain, groups)}
    if len(values) != 1:
        raise NoLimitError(f"the optimizer's groups differ in {name}")
    return values.pop()


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    return {k: float(v) if isinstance(v, torch.Tensor) and v.numel() == 1 else v for k, v in group.items()}


def _groups(optimizer: Any, params: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    wanted = {id(p) for p in params.values()}
    return [group for group in optimizer.param_groups if any(id(p) in wanted for p in group["params"])]
