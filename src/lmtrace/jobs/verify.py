"""Prove on the user's own model that measuring changes nothing: `lmtrace verify`."""

from __future__ import annotations

import copy
import importlib.util
import math
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.errors import ConfigError, SignalError
from lmtrace.live.tracer import Tracer
from lmtrace.observe.forward import accepted, device_of, inputs_of, objective_of
from lmtrace.observe.interface import Signal
from lmtrace.observe.isolation import generator_fingerprint
from lmtrace.signals import resolve
from lmtrace.text.panel import Panel

TrainStep = Callable[[nn.Module, torch.optim.Optimizer, int], Any]
"""(model, optimizer, step) -> loss, doing one optimizer step."""


@dataclass(frozen=True)
class Verdict:
    """What the comparison showed.

    Attributes
    ----------
    identical
        Weights, optimizer state, losses, generators and settings are bit for bit the same with and without measuring.
    deterministic
        Two runs without measuring are the same; where they are not, `identical` says nothing about lmtrace.
    differences
        What differed, by name; empty where nothing did.
    culprits
        The signals that, measured alone, make a difference.
    """

    identical: bool
    deterministic: bool
    differences: tuple[str, ...]
    culprits: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.deterministic:
            return "This training is not deterministic by itself: two runs without measuring already differ."
        if self.identical:
            return "Nothing was disturbed: weights, optimizer, losses and generators are bit for bit the same."
        rest = f" and {len(self.differences) - 5} more" if len(self.differences) > 5 else ""
        by = f" By: {', '.join(self.culprits)}." if self.culprits else ""
        return f"Measuring changed {', '.join(self.differences[:5])}{rest}.{by}"


def verify(
    model: nn.Module,
    panel: Panel,
    *,
    signals: str | Sequence[str | Signal] = "full",
    steps: int = 4,
    train_step: TrainStep | None = None,
    **settings: Any,
) -> Verdict:
    """Train copies of the model for a few steps with and without measuring, and compare bit for bit.

    Parameters
    ----------
    model
        Copied; the original is not touched, nor are the global generators.
    train_step
        (model, optimizer, step) -> loss, doing one optimizer step; the default trains on the panel's own sentences.
    settings
        Everything else that `Tracer` takes.
    """
    chosen = resolve(signals)

    def train(measured: list[Signal] | None) -> dict[str, Any]:
        if measured is None:
            return _train(model, panel, steps, train_step, None)
        with tempfile.TemporaryDirectory() as folder:
            settled = {"run": Path(folder) / "run", "signals": measured, "every": 1, **settings}
            return _train(model, panel, steps, train_step, settled)

    first, again, traced = train(None), train(None), train(chosen)
    different, deterministic = _compare(first, traced), not _compare(first, again)
    culprits: list[str] = []
    if different and deterministic:
        culprits = [signal.name for signal in chosen if _compare(first, train([signal]))]
    return Verdict(not different, deterministic, tuple(different), tuple(dict.fromkeys(culprits)))


def load_train_step(spec: str) -> TrainStep:
    """Return the function that `FILE.py:FUNCTION` names; the file is run, as `python FILE.py` would not: as a module.

    Raises
    ------
    ConfigError
        Where there is no such file or function.
    """
    name, _, function = spec.rpartition(":")
    path = Path(name)
    if not name or not path.is_file():
        raise ConfigError(f"--train-step {spec!r}: no such file", "Give FILE.py:FUNCTION")
    found = importlib.util.spec_from_file_location(f"lmtrace_verified_{path.stem}", path)
    if found is None or found.loader is None:
        raise ConfigError(f"--train-step {spec!r}: {path} is not a Python file", "Give FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    step = getattr(module, function, None)
    if not callable(step):
        raise ConfigError(
            f"--train-step {spec!r}: {path} has no function {function!r}", "It takes (model, optimizer, step)"
        )
    return step


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """Start every generator from the same state; put the user's own back afterwards, and the global settings."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    threads, dtype, grad = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)  # noqa: NPY002
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)


def _train(
    model: nn.Module, panel: Panel, steps: int, train_step: TrainStep | None, settings: dict[str, Any] | None
) -> dict[str, Any]:
    """Return everything that training leaves, by name."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step_of = train_step or _default_step(model, panel)
    losses: list[Any] = []
    found: dict[str, Any] = {}
    with _seeded(device_of(model)):
        if settings is None:
            losses = [step_of(model, optimizer, i) for i in range(steps)]
        else:
            try:
                with Tracer(model, panel, optimizer=optimizer, **settings) as tracer:
                    for i in range(steps):
                        losses.append(step_of(model, optimizer, i))
                        tracer.step(loss=losses[-1])
            except SignalError as error:
                found[error.message] = True
        found |= {
            "random generators": generator_fingerprint(), "threads": torch.get_num_threads(),
            "default dtype": torch.get_default_dtype(), "gradient mode": torch.is_grad_enabled(),
        }  # fmt: skip
    found |= {f"weight {name}": value for name, value in model.state_dict().items()}
    state = optimizer.state_dict()
    for i, entry in state["state"].items():
        found |= {f"optimizer {i}.{name}": value for name, value in entry.items()}
    found |= {f"loss {i}": loss.detach() if isinstance(loss, Tensor) else loss for i, loss in enumerate(losses)}
    config = getattr(model, "config", None)
    return found | {
        "optimizer settings": state["param_groups"],
        "training flags": [module.training for module in model.modules()],
        "trained parameters": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad is None for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "attention implementation": getattr(config, "_attn_implementation", None),
        "cache flag": getattr(config, "use_cache", None),
    }


def _default_step(model: nn.Module, panel: Panel) -> Callable[[nn.Module, torch.optim.Optimizer, int], Tensor]:
    objective, device = objective_of(model), device_of(model)
    batches = list(panel.with_objective(objective).batches(8))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, i: int) -> Tensor:
        batch = batches[i % len(batches)]
        inputs = inputs_of(batch, device)
        output = (
            model(**accepted(model, inputs)) if "input_ids" in accepted(model, inputs) else model(inputs["input_ids"])
        )
        logits = getattr(output, "logits", output)
        chosen = logits[torch.as_tensor(batch.predict_row), torch.as_tensor(batch.predict_column)]
        loss = nn.functional.cross_entropy(chosen, torch.as_tensor(batch.targets, device=device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _compare(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    return sorted({*(set(a) ^ set(b)), *(name for name in a.keys() & b.keys() if not _same(a[name], b[name]))})


def _same(x: Any, y: Any) -> bool:
    """NaN is the same as itself: a training that diverged is not one that was disturbed."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return (
            x.shape == y.shape
            and x.dtype == y.dtype
            and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y))
            and (torch.equal(x.isnan(), y.isnan()))
        )
    if isinstance(x, float) and isinstance(y, float):
        return x == y or (math.isnan(x) and math.isnan(y))
    return x == y
