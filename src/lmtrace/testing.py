"""Contract checks that every signal must pass, ours and yours: `check_signal(MySignal(), model, panel)`.

A signal joins by existing: our test suite runs this over everything that `lmtrace.signals.available()` finds, installed
packages included.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmtrace.errors import SignalError
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Signal
from lmtrace.observe.isolation import generator_fingerprint
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.records.schema import Record
from lmtrace.text.panel import Panel


def check_signal(
    signal: Signal, model: nn.Module, panel: Panel, optimizer: torch.optim.Optimizer | None = None
) -> list[Record]:
    """Measure twice and raise where the signal breaks the contract; return the records of the first time.

    Checked: every record is of a declared field, finite or missing with a reason, and inside the field's limits; nothing
    is read that was not declared; the global generators, weights, buffers, gradients, training flags, hooks and the
    optimizer are left alone; the same model gives the same records.

    Raises
    ------
    SignalError
        One line that names the signal and what it did.
    """
    _check_declaration(signal)
    first = _measure(signal, model, panel, optimizer)
    second = _measure(signal, model, panel, optimizer)
    if not first:
        raise SignalError(f"{signal.name} gave no record", "Yield a number, or missing=reason")
    for a, b in zip(first, second, strict=True):
        same = a == b and (a.array is None) == (b.array is None)
        if same and a.array is not None and b.array is not None:
            same = a.array.shape == b.array.shape and bool((a.array == b.array).all())
        if not same:
            raise SignalError(
                f"{signal.name}: two measurements of the same model differ in {a.metric} ({a.value} and {b.value})"
            )
    return first


def _check_declaration(signal: Signal) -> None:
    metrics = [field.metric for field in signal.fields]
    if not metrics or len(set(metrics)) != len(metrics):
        raise SignalError(f"{signal.name}: fields must be declared, each once, got {metrics}")
    for attribute in ("name", "cost", "source"):
        if not str(getattr(signal, attribute, "")).strip():
            raise SignalError(f"{type(signal).__name__} has no {attribute}")


def _measure(signal: Signal, model: nn.Module, panel: Panel, optimizer: torch.optim.Optimizer | None) -> list[Record]:
    """Measure once without the tracer's isolation, so that nothing is put back before it is compared."""
    instrument = Instrument(model, panel, [signal], optimizer, on_error="raise")
    if instrument.wants_train_batch:
        batch = next(iter(instrument.panel.batches(4)))
        ids = torch.as_tensor(batch.input_ids)
        labels = ids if batch.decoder_input_ids is None else torch.as_tensor(batch.decoder_input_ids)
        mask = torch.as_tensor(batch.attention_mask)
        instrument.train_batches[:] = [{"input_ids": ids, "attention_mask": mask, "labels": labels}]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            compare = _snapshot(model, optimizer)
            captured = instrument._capture([0], 0, [])
            if 0 in captured.failures:
                raise captured.failures[0]
            measurement = Measurement(
                0, instrument.model, instrument.panel, instrument.known_sites, captured, 0, None,
                optimizer, instrument.train_batches, maps=vars(instrument).get("_maps"),
            )  # fmt: skip
            view = MeasurementView(measurement, signal, 0, instrument.needs[0])
            records = list(signal.measure(view))
            compare(signal.name)
    finally:
        model.train(was_training)
    fields = {field.metric: field for field in signal.fields}
    for record in records:
        if record.step != 0 or record.signal != signal.name:
            raise SignalError(f"{signal.name}: a record is of step {record.step}, signal {record.signal!r}")
        record.check(fields)
    return records


def _snapshot(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Callable[[str], None]:
    """Remember everything that a signal must not touch; the returned function compares."""
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    gradients: dict[str, Tensor | None] = {}
    for name, p in model.named_parameters():
        if p.requires_grad and p.grad is None:
            p.grad = torch.ones_like(p)
        gradients[name] = None if p.grad is None else p.grad.clone()
    flags = {name: (module.training, _hooks(module)) for name, module in model.named_modules()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    generators = generator_fingerprint()
    settings = None if optimizer is None else copy.deepcopy(optimizer.state_dict())

    def compare(signal: str) -> None:
        if generator_fingerprint() != generators:
            raise SignalError(f"{signal} drew from a global generator", "Use view.generator(purpose)")
        for name, value in model.state_dict().items():
            if not torch.equal(value, weights[name]):
                raise SignalError(f"{signal} changed the weight {name}")
        for name, p in model.named_parameters():
            before = gradients[name]
            if (p.grad is None) != (before is None) or (before is not None and not torch.equal(p.grad, before)):  # type: ignore[arg-type]
                raise SignalError(f"{signal} changed the gradient of {name}", "Use torch.autograd.grad, not backward")
            if p.requires_grad != trained[name]:
                raise SignalError(f"{signal} changed requires_grad of {name}")
        for name, module in model.named_modules():
            if (module.training, _hooks(module)) != flags[name]:
                raise SignalError(f"{signal} left a hook on, or changed the training flag of, {name or 'the model'}")
        if optimizer is not None and not _equal(optimizer.state_dict(), settings):
            raise SignalError(f"{signal} changed the optimizer", "It is there to be read")
        model.zero_grad(set_to_none=True)

    return compare


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return a == b


def _hooks(module: nn.Module) -> tuple[int, ...]:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return tuple(len(getattr(module, name)) for name in names)
