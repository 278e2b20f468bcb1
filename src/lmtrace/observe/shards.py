"""Parameters that are divided over the ranks (FSDP2, tensor parallelism), put together for one measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lmtrace.errors import DataError, ModelError


@dataclass(eq=False)
class WholeOptimizer:
    """What signals see of an optimizer whose parameters are divided: its settings; its state stays divided."""

    param_groups: list[dict[str, Any]]

    @property
    def state(self) -> Any:
        """Refuse: the state is several times the parameters, and is not put together."""
        raise DataError("the optimizer's state is divided over the ranks and is not put together")


def check_division(model: nn.Module) -> None:
    """Refuse, before anything hangs, ways of dividing a model whose forward on one rank waits for the others.

    Raises
    ------
    ModelError
        For the first FSDP (a wrapper with flat parameters) and for DeepSpeed ZeRO stage 3.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        name = "FullyShardedDataParallel (FSDP 1)"
    elif any(hasattr(p, "ds_id") for p in model.parameters()):
        name = "DeepSpeed ZeRO 3"
    else:
        return
    raise ModelError(f"a model divided by {name} cannot be measured", "Use torch.distributed.fsdp.fully_shard (FSDP2)")


@contextlib.contextmanager
def whole(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, keep: bool = True) -> Iterator[Any]:
    """Put divided parameters together; inside, on the ranks that `keep` them, the model is one ordinary module.

    All ranks enter together, since every parameter is one collective. Where nothing is divided nothing happens. Inside,
    parameters are ordinary tensors in the precision in which they are stored, and the hooks by which FSDP gathers and
    frees them are set aside, so no forward or backward waits for another rank. On leaving, everything is put back.

    Parameters
    ----------
    keep
        Whether this rank is the one that measures; the others free each parameter at once.

    Yields
    ------
    The optimizer, as signals are to see it.
    """
    places = [
        (module, name, p)
        for module in model.modules()
        for name, p in module._parameters.items()
        if p is not None and hasattr(p, "full_tensor")
    ]
    if not places:
        yield optimizer
        return
    full: dict[int, nn.Parameter] = {}
    for p in {id(p): p for _, _, p in places}.values():  # tied ones once, on every rank
        tensor: Any = p.detach()
        tensor = tensor.full_tensor()
        if keep:
            full[id(p)] = nn.Parameter(tensor, requires_grad=p.requires_grad)
        del tensor
    if not keep:
        yield optimizer
        return
    hooks = [
        (known, dict(known))
        for module in model.modules()
        for known in (module._forward_pre_hooks, module._forward_hooks)
    ]
    seen: Any = optimizer
    if optimizer is not None:
        groups = [{**g, "params": [full.get(id(p), p) for p in g["params"]]} for g in optimizer.param_groups]
        seen = WholeOptimizer(groups)
    try:
        for known, before in hooks:
            for key, hook in before.items():
                if (getattr(hook, "__module__", None) or "").startswith("torch.distributed."):
                    del known[key]
        for module, name, p in places:
            module._parameters[name] = full[id(p)]
        yield seen
    finally:
        for module, name, p in places:
            module._parameters[name] = p
        for known, before in hooks:
            known.clear()
            known.update(before)
