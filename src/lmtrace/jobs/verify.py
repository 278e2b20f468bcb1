"""Prove on the user's own model that measuring changes nothing: `lmtrace verify`."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmtrace.observe.forward import accepted, device_of, inputs_of, objective_of
from lmtrace.observe.interface import Signal
from lmtrace.observe.isolation import generator_fingerprint
from lmtrace.text.panel import Panel
from lmtrace.tracer import Tracer


@dataclass(frozen=True)
class Verdict:
    """What the comparison showed.

    Attributes
    ----------
    identical
        Weights, optimizer state, losses and generators are bit for bit the same with and without measuring.
    deterministic
        Two runs without measuring are the same; where they are not, `identical` says nothing about lmtrace.
    differences
        What differed, by name; empty where nothing did.
    """

    identical: bool
    deterministic: bool
    differences: tuple[str, ...]

    def __str__(self) -> str:
        if not self.deterministic:
            return "This training is not deterministic by itself: two runs without measuring already differ."
        if self.identical:
            return "Nothing was disturbed: weights, optimizer, losses and generators are bit for bit the same."
        return f"Measuring changed: {', '.join(self.differences)}"


def verify(
    model: nn.Module,
    panel: Panel,
    *,
    signals: str | Sequence[str | Signal] = "full",
    steps: int = 4,
    train_step: Callable[[nn.Module, torch.optim.Optimizer, int], Any] | None = None,
    **settings: Any,
) -> Verdict:
    """Train copies of the model for a few steps with and without measuring, and compare bit for bit.

    Parameters
    ----------
    model
        Copied; the original is not touched.
    train_step
        (model, optimizer, step) -> loss, doing one optimizer step; the default trains on the panel's own sentences.
    settings
        Everything else that `Tracer` takes.
    """
    first = _train(model, panel, steps, train_step, None)
    again = _train(model, panel, steps, train_step, None)
    with tempfile.TemporaryDirectory() as folder:
        traced = _train(
            model, panel, steps, train_step, {"run": Path(folder) / "run", "signals": signals, "every": 1, **settings}
        )
    different = _compare(first, traced)
    return Verdict(not different, not _compare(first, again), tuple(different))


def _train(
    model: nn.Module, panel: Panel, steps: int, train_step: Any, settings: dict[str, Any] | None
) -> dict[str, Any]:
    torch.manual_seed(0)
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step_of = train_step or _default_step(model, panel)
    losses: list[Any] = []
    if settings is None:
        losses = [step_of(model, optimizer, i) for i in range(steps)]
    else:
        with Tracer(model, panel, optimizer=optimizer, **settings) as tracer:
            for i in range(steps):
                losses.append(step_of(model, optimizer, i))
                tracer.step(loss=losses[-1])
    found: dict[str, Any] = {f"weight {name}": value for name, value in model.state_dict().items()}
    for i, entry in optimizer.state_dict()["state"].items():
        found |= {f"optimizer {i}.{name}": value for name, value in entry.items()}
    found |= {f"loss {i}": loss.detach() if isinstance(loss, Tensor) else loss for i, loss in enumerate(losses)}
    found["random generators"] = generator_fingerprint()
    found["training flags"] = tuple(module.training for module in model.modules())
    return found


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
    different = sorted(set(a) ^ set(b))
    for name in a.keys() & b.keys():
        x, y = a[name], b[name]
        same = torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x == y
        if not same:
            different.append(name)
    return sorted(different)
