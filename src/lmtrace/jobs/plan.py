"""What measuring will cost, before the run: `lmtrace plan` takes the first steps and one measurement of it, and multiplies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from lmtrace.errors import ConfigError
from lmtrace.jobs.data import Collator
from lmtrace.jobs.memory import PeakMemory
from lmtrace.jobs.train import TrainConfig, prepare, task_of
from lmtrace.live.schedule import Schedule
from lmtrace.observe.forward import device_of
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Signal
from lmtrace.records.schema import Record
from lmtrace.signals import resolve
from lmtrace.text.panel import Panel

WARM_STEPS, TIMED_STEPS = 3, 9


@dataclass(frozen=True, kw_only=True)
class SignalCost:
    """What one signal adds.

    Attributes
    ----------
    signal
        Its name.
    stride
        It takes part in every n-th measurement.
    seconds
        Of one measurement, without the shared pass; signals side by side count each for itself.
    num_measurements
        In how many measurements of the run.
    """

    signal: str
    stride: int
    seconds: float
    num_measurements: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The predicted cost of a run.

    Attributes
    ----------
    steps, num_measurements
        Optimizer steps, and how often is measured: step 0 and the last one included.
    step_seconds
        Of one optimizer step; median.
    pass_seconds
        Of the shared pass over the panel.
    measurement_seconds, full_seconds
        Of a measurement by the signals that always take part, and by all.
    training_seconds, measuring_seconds, share
        Of the whole run; the share is measuring over training.
    memory
        Most bytes in use while all signals measure: of the process, or of the GPU; model and optimizer included.
    training_memory
        The same while a step is made; 0 where that was not measured.
    signals
        Each for itself.
    """

    steps: int
    num_measurements: int
    step_seconds: float
    pass_seconds: float
    measurement_seconds: float
    full_seconds: float
    training_seconds: float
    measuring_seconds: float
    share: float
    memory: int
    signals: list[SignalCost]
    training_memory: int = 0

    def every_for(self, share: float) -> int:
        """Return the distance of measurements, in steps, at which measuring takes this share of the training time."""
        typical = self.measuring_seconds / self.num_measurements
        return max(1, round(typical / (share * self.step_seconds)))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def plan(
    model: nn.Module,
    panel: Panel,
    *,
    steps: int,
    step_seconds: float,
    signals: str | Sequence[str | Signal] = "standard",
    every: int | Sequence[int] | Schedule = 100,
    optimizer: torch.optim.Optimizer | None = None,
    train_batch: dict[str, Any] | None = None,
    budget: float | None = None,
    **settings: Any,
) -> Plan:
    """Predict the cost of tracing a run by measuring the model as it is now, three times; nothing is written or changed.

    Parameters
    ----------
    model, panel, signals, every, optimizer
        As for `lmtrace.Tracer`.
    steps
        Optimizer steps of the run.
    step_seconds
        How long one of them takes.
    train_batch
        Arguments of the model's forward for signals that read a training batch.
    budget
        As for `lmtrace.Tracer`: what measuring takes at most; `num_measurements` stays what was asked for.
    settings
        `forward=`, `sites=`, `seed=`, as for `lmtrace.Tracer`.
    """
    chosen = resolve(signals)
    instrument = Instrument(model, panel, chosen, optimizer, on_error="disable", **settings)
    if train_batch is not None:
        instrument.train_batches[:] = [train_batch]
    first = _spent(instrument.measure(0))  # the first measurement draws splits and counts references, once
    with PeakMemory(device_of(model)) as memory:
        records = instrument.measure(1)
    spent = _spent(records)
    always = [i for i, signal in enumerate(chosen) if signal.stride == 1]
    part = spent["all"]
    if len(always) < len(chosen):
        begin = time.perf_counter()
        instrument.measure(1, always)
        part = time.perf_counter() - begin
    schedule = Schedule.of(every)
    measured = [step for step in range(steps + 1) if schedule.due(step)]
    due = [
        [schedule.signal_due(s.name, s.stride, count) or step == steps for s in chosen]
        for count, step in enumerate([*measured, *([steps] if measured[-1] != steps else [])])
    ]
    slow = max((sum(column) for s, column in zip(chosen, zip(*due)) if s.stride > 1), default=0)
    num_full = slow if len(always) < len(chosen) else len(due)
    total = max(first["all"], spent["all"]) + (num_full - 1) * spent["all"] + (len(due) - num_full) * part
    training = steps * step_seconds
    if budget is not None:
        # Step 0 and the last one are measured in any case.
        total = min(total, max(training * budget / (1 - budget), first["all"] + spent["all"]))
    return Plan(
        steps=steps,
        num_measurements=len(due),
        step_seconds=step_seconds,
        pass_seconds=spent.get("pass", 0.0),
        measurement_seconds=part,
        full_seconds=spent["all"],
        training_seconds=training,
        measuring_seconds=total,
        share=total / training if training else float("inf"),
        memory=memory.peak,
        signals=[
            SignalCost(
                signal=s.name,
                stride=schedule.stride(s.name, s.stride),
                seconds=spent.get(s.name, 0.0),
                num_measurements=sum(column),
            )
            for s, column in zip(chosen, zip(*due), strict=True)
        ],
    )


def _spent(records: Sequence[Record]) -> dict[str | None, float]:
    """Return the seconds of each part of a measurement."""
    return {r.label: float(r.value or 0.0) for r in records if r.signal == "cost" and r.metric == "seconds"}


def plan_training(config: TrainConfig, *, on_progress: Callable[[int, int, str], None] | None = None) -> Plan:
    """Predict what `lmtrace train` with this configuration will spend on measuring; the model is thrown away.

    Raises
    ------
    ConfigError
        Where the run has no steps.
    """
    if config.steps < 1:
        raise ConfigError("plan: a run of 0 steps has nothing to compare with", "Pass --steps")
    tell = on_progress or (lambda step, steps, message: None)
    transformers_logging.set_verbosity_error()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    task = task_of(config)
    ready = prepare(config, task, tell)
    model, collate = ready.model, Collator(ready.tokenizer, task)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # pyright: ignore[reportArgumentType]
    device = device_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    order = torch.randperm(len(ready.rows), generator=torch.Generator().manual_seed(config.seed)).tolist()
    batch: dict[str, Any] = {}

    def step(k: int) -> float:
        nonlocal batch
        begin = time.perf_counter()
        model.train()
        for part in range(config.accumulate):
            at = (k * config.accumulate + part) * config.batch_size
            rows = [ready.rows[order[i % len(order)]] for i in range(at, at + config.batch_size)]
            batch = {name: value.to(device) for name, value in collate(rows).items()}
            (model(**batch).loss / config.accumulate).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    tell(0, 0, "timing steps")
    with PeakMemory(device) as peak:
        seconds = [step(k) for k in range(WARM_STEPS + TIMED_STEPS)][WARM_STEPS:]
    tell(0, 0, "timing measurements")
    found = plan(
        model, ready.panel, steps=config.steps, step_seconds=statistics.median(seconds), signals=ready.signals,
        every=config.every, optimizer=optimizer, train_batch=batch, budget=config.budget, seed=config.seed,
    )  # fmt: skip
    return replace(found, training_memory=peak.peak)
