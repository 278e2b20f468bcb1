"""The tracer: attaches to a training loop, measures when it is due, writes what it finds, and disturbs nothing."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.analysis.stopping import StopRule
from lmtrace.errors import ConfigError
from lmtrace.live.budget import Budget
from lmtrace.live.distributed import RECOVERABLE, is_main_process, on_main
from lmtrace.live.header import run_header
from lmtrace.live.resume import recall, remember
from lmtrace.live.schedule import Schedule
from lmtrace.live.sinks import Sinks
from lmtrace.live.training_scalars import Number, Scalars, TrainingScalars
from lmtrace.live.weights import same_weights, sample_weights
from lmtrace.observe.capture import MAX_LOGITS
from lmtrace.observe.forward import Forward, TrainLoss, named_arguments
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Signal
from lmtrace.observe.isolation import generators_kept
from lmtrace.observe.optimizers import learning_rates, torch_optimizers
from lmtrace.observe.shards import check_division, whole
from lmtrace.observe.weights import TRAINED, judged_weights
from lmtrace.records.layout import DATABASE
from lmtrace.records.opening import remove_run
from lmtrace.records.schema import Record, Status
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run
from lmtrace.signals import resolve
from lmtrace.text.overlap import in_training, share_by_chance
from lmtrace.text.panel import Panel

logger = logging.getLogger(__name__)

ATTEMPTS, DRAIN_EVERY = 3, 1000
"""Failures in a row after which measuring stops; steps after which what was told is written at the latest."""


class Tracer:
    """Measures a model while it trains.

    Parameters
    ----------
    model
        Any `torch.nn.Module`; used as it is, never wrapped.
    panel
        What the model is asked to read at every measurement.
    signals
        A preset ("light", "standard", "full"), names, or `Signal` objects.
    every
        Optimizer steps between measurements, a list of steps (where every signal is measured, also those that are otherwise due
        every fifth time), or a `Schedule`. Step 0 and the last step are always measured.
    run
        Folder of the run.
    optimizer
        Read for the learning rate and by signals that look at its state; a list where several train the model.
    budget
        Largest share of the time that measuring may take (0.03), or None for no limit. Intervals are stretched for it,
        then samples made smaller, as events of kind "budget" tell; step 0 and the last step are measured in any case.
    stop
        A stop rule; `should_stop` turns true when it fires.
    on_error
        "disable" (training never dies of a signal) or "raise".
    forward
        (model, inputs) -> logits, where the model is not called as Hugging Face models are.
    loss
        (model, batch) -> mean loss of a training batch, where the model returns none; `batch` holds what the model was
        last called with in training, by name. For signals that compare training with panel.
    sites
        Paths of blocks and final norm, where they are not found by themselves.
    seed
        Of everything that the signals draw.
    training
        The training data (annotated sentences, texts, or rows of token ids): the share of the panel's sentences that are
        in it is warned of and kept in the header. By default what the panel was built with.
    data
        What the run's header should say of the training data; "floor_nats" draws the floor of the loss.
    resume
        True to go on with the run in the folder; `start_step` then says from which step.
    overwrite
        Replace a run that is already there.
    sinks
        Where the main numbers go besides the run folder: names or objects, see `lmtrace.live.sinks.Sinks`.
    max_logits
        Bound on memory: numbers in the logits of one micro-batch of the shared pass (`lmtrace plan` tells what is needed).

    Attributes
    ----------
    should_stop
        True once the stop rule has fired.
    last_step
        None, or the step at which training ends: every signal is measured there, whatever its stride.

    Examples
    --------
    >>> with Tracer(model, panel, every=100, run="runs/first") as tracer:  # doctest: +SKIP
    ...     for batch in loader:
    ...         loss = train_step(batch)
    ...         tracer.step(loss=loss)

    Notes
    -----
    The constructor has many parameters because it is the one place where a user says what is wanted; each is one
    independent decision with a default.
    """

    def __init__(
        self,
        model: nn.Module,
        panel: Panel,
        *,
        run: str | Path,
        signals: str | Sequence[str | Signal] = "standard",
        every: int | Sequence[int] | Schedule = 100,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        budget: float | None = None,
        stop: StopRule | None = None,
        on_error: Literal["disable", "raise"] = "disable",
        forward: Forward | None = None,
        loss: TrainLoss | None = None,
        sites: Mapping[str, str] | None = None,
        seed: int = 0,
        data: Mapping[str, Any] | None = None,
        training: Any = None,
        resume: bool = False,
        start_step: int = 0,
        overwrite: bool = False,
        sinks: Sequence[Any] = (),
        max_logits: int = MAX_LOGITS,
    ) -> None:
        if on_error not in ("disable", "raise"):
            raise ConfigError(f'on_error must be "disable" or "raise", got {on_error!r}')
        check_division(model)
        self.instrument = Instrument(
            model,
            panel,
            resolve(signals),
            optimizer,
            forward,
            sites,
            seed=seed,
            on_error=on_error,
            max_logits=max_logits,
            loss=loss,
        )
        self.schedule = Schedule.of(every)
        self.folder = Path(run)
        self.optimizer, self.budget, self.stop = self.instrument.optimizer, Budget(budget), stop
        self.on_error = on_error
        self.sinks = Sinks(sinks, self.folder)
        self.data, self.resume, self.overwrite = dict(data or {}), resume, overwrite
        self._training = training
        self.current_step, self.tokens_seen = start_step, 0
        self.should_stop = False
        self.last_step: int | None = None
        self._writer: RunWriter | None = None
        self._count = 0
        self._measured: int | None = None
        self._drained, self._failures = start_step, 0
        self._trained_before = 0.0
        self._scalars = TrainingScalars()
        self._called = model  # what training calls: hooks inside a compiled module would be compiled with it
        self._hooks: list[Any] = []
        self._life: Literal["new", "open", "closed"] = "new"
        self._alerted = False
        self._replaced = True
        """Whether the folder held a run before: then a failed start leaves it."""
        self._rates: dict[str, Number] = {}
        """With which learning rates the optimizer has made its last step."""
        self._weights: Tensor | None = None
        """What `sample_weights` gave at the last measurement."""
        self._still_told = False

    # -- life -----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Tracer:
        """Create the run and measure the model as it is: step 0, the first null of every curve.

        Raises
        ------
        ConfigError
            Where it was entered before: a tracer writes one run, once.
        """
        if self._life != "new":
            raise ConfigError("a Tracer is used once", "Make another one, with resume=True to go on with its run")
        self._count, self._measured, self.should_stop = on_main(self._open)
        self._life = "open"
        self.budget.start()
        if self.instrument.wants_train_batch:
            self._hooks.append(self._called.register_forward_pre_hook(self._keep_batch, with_kwargs=True))
        for optimizer in torch_optimizers(self.optimizer):
            self._hooks.append(optimizer.register_step_pre_hook(self._note_rates))
        if self._measured is None:
            try:
                self._measure()
            except BaseException:
                writer = self._writer
                self._close("crashed")
                if writer is not None and not self._replaced:
                    remove_run(self.folder)
                raise
        return self

    def _repr_html_(self) -> str:
        with generators_kept():  # importing rich draws a random number
            from lmtrace.show.notebook import facts_html

        return facts_html("Tracer", {
            "run": self.folder, "step": f"{self.current_step:,}", "tokens seen": f"{self.tokens_seen:,}",
            "measurements": f"{self._count}" + ("" if self._measured is None else f", the last at step {self._measured:,}"),
            "signals": ", ".join(signal.name for signal in self.instrument.signals),
            "should stop": "yes" if self.should_stop else "no",
        })  # fmt: skip

    def _open(self) -> tuple[int, int | None, bool]:
        """Create or resume the run; return what the other ranks have to know of it."""
        if self.resume and (self.folder / DATABASE).is_file():
            self._writer = RunWriter.resume(self.folder, self.current_step, self._header(), take_over=True)
            self._continue_from(self._writer)
        else:
            self._replaced = (self.folder / DATABASE).exists()
            self._writer = RunWriter.create(self.folder, self._header(), self.overwrite, take_over=True)
        self._tell_overlap(self._writer)
        with generators_kept():
            self.sinks.open(resume=self.resume)
        return self._count, self._measured, self.should_stop

    def _note_overlap(self) -> None:
        """Keep for the header which share of the panel's sentences is in the training data, and which would be by chance."""
        panel = self.instrument.panel
        training = panel.training if self._training is None else self._training
        found = panel.in_training if self._training is None else in_training(panel, self._training)
        if found is None:
            return
        self.data.setdefault("panel_in_training", float(found.mean()))
        chance = share_by_chance(panel, training)
        if chance is not None:
            self.data.setdefault("panel_in_training_by_chance", chance)

    def _tell_overlap(self, writer: RunWriter) -> None:
        share = self.data.get("panel_in_training")
        if share:
            chance = self.data.get("panel_in_training_by_chance")
            expected = "" if chance is None else f" ({chance:.1%} by chance, for this language's law)"
            text = (
                f"{share:.1%} of the panel's sentences are in the training data too{expected}: what is measured on them may be "
                "memory. Take the panel from text that is not trained on."
            )
            logger.warning("%s", text)
            writer.event(self.current_step, "warning", text, {"share": share})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Measure the last step, where that was not just done, and close the run."""
        if self._life != "open":
            return
        if kind is None and self._measured != self.current_step and self._failures < ATTEMPTS:
            self._guarded(self._measure)
        if kind is None:
            self._close("stopped early" if self.should_stop else "finished")
        else:
            self._close("interrupted" if issubclass(kind, KeyboardInterrupt) else "crashed")

    def leave_out(self, reason: str) -> None:
        """Do not measure the step that was told last at the end of the run, and write why: its weights are gone."""
        if self._measured != self.current_step:
            self.note("not measured", reason)
        self._measured = self.current_step

    def _close(self, status: Status) -> None:
        self._life = "closed"
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        writer, self._writer = self._writer, None
        together = status in ("finished", "stopped early")  # otherwise the other ranks may be gone
        self._guarded(lambda: self._write_scalars(writer, self._drain_scalars(together=together)))
        if writer is not None:
            self._guarded(lambda: writer.finish(status))
            with generators_kept():
                self.sinks.close()

    # -- one step -------------------------------------------------------------------------------------------------------

    def step(
        self,
        loss: Number | None = None,
        *,
        tokens: Number | None = None,
        complete: bool = True,
        **scalars: Number | None,
    ) -> None:
        """Tell the tracer that the optimizer has made a step.

        Parameters
        ----------
        loss
            Training loss of the step (nats); copied where it lies and read only when it is written, so nothing synchronises.
        tokens
            Number of tokens of the step.
        complete
            False after a micro-batch whose gradients are only accumulated: no step is counted, and the loss of the step
            will be the mean over its micro-batches, its tokens their sum.
        scalars
            Anything else worth a curve (`grad_norm=...`); None is left out.

        Raises
        ------
        ConfigError
            Before the run was opened, and for a value that is not one number.
        """
        if self._life == "new":
            raise ConfigError("Tracer.step before the run was opened", "Write the loop inside `with tracer:`")
        if self._life == "closed":
            warnings.warn(f"the run {self.folder} is closed: steps after it are not recorded", stacklevel=2)
            return
        self._scalars.part(loss, tokens)
        if not complete:
            return
        self.current_step += 1
        self._scalars.step(self.current_step)
        if self.optimizer is not None:
            self._scalars.add(self.current_step, **(self._rates or learning_rates(self.optimizer)))
            self._rates = {}
        self._scalars.add(self.current_step, **scalars)
        if self.schedule.due(self.current_step) or self.current_step == self.last_step:
            if self.budget.share is None or self.current_step == self.last_step:
                self._guarded(self._measure)
            elif chosen := on_main(lambda: self.budget.choose(self._strides, self._due())):
                self._guarded(lambda: self._measure(chosen))
        if self.current_step - self._drained >= DRAIN_EVERY:
            told = self._drain_scalars()
            self._guarded(lambda: on_main(lambda: self._write_scalars(self._writer, told)))

    def tell(self, step: int | None = None, **scalars: Number | None) -> None:
        """Add numbers to a step that was told, by default the last one, which had none of that name."""
        self._scalars.add(self.current_step if step is None else step, **scalars)

    def note(self, kind: str, text: str, data: Mapping[str, Any] | None = None) -> None:
        """Write an event of the present step; on every rank, as `step`."""

        def write() -> None:
            if self._writer is not None:
                self._writer.event(self.current_step, kind, text, dict(data or {}))

        self._guarded(lambda: on_main(write))

    def _note_rates(self, *_: Any) -> None:
        """Keep the learning rates with which a step is made: a scheduler may move them before the step is told."""
        if not torch.compiler.is_compiling():
            rates = learning_rates(self.optimizer)
            self._rates = {name: r.detach().clone() if isinstance(r, Tensor) else r for name, r in rates.items()}

    @property
    def _strides(self) -> list[int]:
        return [self.schedule.stride(signal.name, signal.stride) for signal in self.instrument.signals]

    def _due(self) -> list[bool]:
        """Return which signals are due; where a budget leaves measurements out, by the number of due steps."""
        count = self._count if self.budget.share is None else self.budget.dues + bool(self._count)
        return [self.schedule.signal_due(signal.name, signal.stride, count) for signal in self.instrument.signals]

    def _measure(self, chosen: Sequence[int] | None = None) -> None:
        """Measure on rank 0; the other ranks lend their share of the parameters and learn the decision."""
        scalars = self._drain_scalars()
        if chosen is None:
            due, strides, last = self._due(), self._strides, self.current_step == self.last_step
            chosen = [i for i, now in enumerate(due) if now or last or self.budget.owes(strides[i])]
        trained = self._trained_before + self.budget.training_time()
        start, stops = time.perf_counter(), self.should_stop
        try:
            with (
                judged_weights(self.optimizer),
                whole(self.instrument.model, self.optimizer, keep=is_main_process()) as optimizer,
            ):
                stops = on_main(lambda: self._measure_here(chosen, scalars, trained, optimizer))
        finally:
            self.should_stop = stops  # the same on every rank, also where rank 0 decided and then could not write
        spent = self.instrument.spent
        self.budget.add(time.perf_counter() - start, {i: spent[i] for i in chosen if i in spent}, self._strides)
        self._measured, self._count = self.current_step, self._count + 1

    def _measure_here(self, chosen: Sequence[int], scalars: Scalars, trained: float, optimizer: Any) -> bool:
        """Measure and write; return whether training should stop."""
        step = self.current_step
        self._write_scalars(self._writer, scalars)  # first: whatever becomes of the measurement, they are kept
        adapted = self.budget.adapt(step, self.instrument.signals, self.instrument.spent, self._strides)
        records = self.instrument.measure(step, chosen, optimizer, last=step == self.last_step)
        asked, decision = not self.should_stop, self._decide(step, records, scalars)
        if self._writer is not None:
            events = [*self._weights_note(), *adapted, *self.instrument.notes, *self._standing_still()]
            events += getattr(self.stop, "notes", ()) if asked else ()
            if decision is not None and not hasattr(self.stop, "notes"):
                events.append(("stop", str(getattr(decision, "reason", decision)), {"stops": self.should_stop}))
            memory = remember(self.instrument, self.stop, self.budget, self.should_stop)
            self._writer.write(
                step, records, tokens_seen=self.tokens_seen, wall_time=trained, memory=memory, events=events
            )
            with generators_kept():
                self.sinks.log(step, records, self.instrument.fields)
        return self.should_stop

    def _standing_still(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return the event that no weight has changed since the last measurement; once per run."""
        before, self._weights = self._weights, sample_weights(self.instrument.model)
        if self._measured in (None, self.current_step) or self._still_told or not same_weights(before, self._weights):
            return []
        self._still_told = True
        text = f"no weight has changed from step {self._measured} to step {self.current_step}: is this the model that is trained?"
        return [("unchanged weights", text, {"since": self._measured})]

    def _weights_note(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return once, at the first measurement of a run, what is to be known of weights that are not those that train."""
        weights = self.instrument.weights
        if self._count or weights == TRAINED:
            return []
        return [("weights", f"The weights that are measured are {weights}.", {"weights": weights})]

    def _decide(self, step: int, records: Sequence[Record], scalars: Scalars) -> Any:
        """Ask the stop rule; it sees the training losses since the last measurement and then the records."""
        if self.stop is None or self.should_stop:
            return None
        if "loss" in scalars and hasattr(self.stop, "scalars"):
            self.stop.scalars("loss", *scalars["loss"])  # pyright: ignore[reportAttributeAccessIssue]
        decision = self.stop.update(step, records)
        self.should_stop = bool(decision) and bool(getattr(decision, "stop", True))
        return decision

    def checkpoint(self) -> None:
        """Tell that the training state after the current step is about to be saved, so that a resume from it is exact.

        Call it right before saving, and, as `step`, on every rank.
        """
        self._guarded(self._keep)

    def _keep(self) -> None:
        scalars = self._drain_scalars()

        def keep() -> None:
            self._write_scalars(self._writer, scalars)
            if self._writer is not None:
                self._writer.checkpoint(self.current_step)

        on_main(keep)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run the tracer's own work; where it fails and training should go on, say so, and in the end stop measuring."""
        try:
            action()
        except RECOVERABLE as error:
            if self.on_error == "raise" or self._count == 0:
                raise
            self._failures, self._measured = self._failures + 1, self.current_step
            if self._failures < ATTEMPTS:
                logger.warning("step %d is not measured, training goes on: %s", self.current_step, error)
                return
            logger.error("measuring has stopped, training goes on: %s", error)
            self.schedule = Schedule(every=0)
        else:
            self._failures *= self._failures >= ATTEMPTS  # stopped once is stopped

    # -- details --------------------------------------------------------------------------------------------------------

    def _drain_scalars(self, together: bool = True) -> Scalars:
        """Return what was told since the last time; rank 0 gets it, the others nothing."""
        self._drained = self.current_step
        scalars = self._scalars.drain(together)
        self.tokens_seen += int(sum(scalars["tokens"][1])) if "tokens" in scalars else 0
        return scalars

    def _write_scalars(self, writer: RunWriter | None, scalars: Scalars) -> None:
        if writer is None:
            return
        for name, (steps, values) in scalars.items():
            writer.write_scalars(name, steps, values)
            bad = [(s, v) for s, v in zip(steps, values, strict=True) if not math.isfinite(v)]
            if name == "loss" and bad and not self._alerted:
                self._alerted = True
                step, value = bad[0]
                writer.event(step, "alert", f"the training loss is {value} at step {step}", {"kind": "non-finite loss"})

    def _keep_batch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember the arguments of the last training forward, by reference."""
        if module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            arguments = named_arguments(self.instrument.model, args, kwargs)
            self.instrument.train_batches[:] = [arguments] if arguments else []

    def _continue_from(self, writer: RunWriter) -> None:
        """Take up the measurements that the run already has: their number, the last one, what was known then."""
        done = writer.steps
        self._count = len(done)
        self._measured = done[-1] if done else None
        saved = writer.read_memory(self.current_step) if done else {}
        self.should_stop = recall(saved, self.instrument, self.stop, self.budget)
        with open_run(self.folder) as run:
            counted = run.scalars("tokens")[1] if "tokens" in run.scalar_metrics else run.tokens_seen[-1:]
            self.tokens_seen = int(np.nansum(counted))
            self._trained_before = float(np.nansum(run.wall_time[-1:]))

    def _header(self) -> Any:
        self._note_overlap()
        return run_header(
            self.folder.name,
            self.instrument,
            data=self.data,
            settings={"every": str(self.schedule), "budget": self.budget.share, "on_error": self.on_error},
        )
