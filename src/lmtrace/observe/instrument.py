"""One measurement: the union of needs, one captured pass, the records of every signal that is due."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from lmtrace.errors import ModelError, TraceError
from lmtrace.observe.capture import MAX_LOGITS, Captured, batch_size_for, capture, head_of, maps_of
from lmtrace.observe.causality import future_seen, padding_seen
from lmtrace.observe.ends import end_losses
from lmtrace.observe.forward import (
    Forward,
    LogitsError,
    TrainLoss,
    default_forward,
    device_of,
    masked_forward,
    objective_of,
    table_length,
    vocabulary_of,
)
from lmtrace.observe.head import Head
from lmtrace.observe.interface import Needs, Signal
from lmtrace.observe.isolation import undisturbed
from lmtrace.observe.maps import Maps
from lmtrace.observe.optimizers import one_optimizer
from lmtrace.observe.sites import (
    Found,
    Site,
    check_names,
    structural_sites,
    sub_site,
    trace_sites,
    trial_inputs,
    unwrap,
)
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.observe.weights import measured_weights
from lmtrace.records.schema import Field, Record
from lmtrace.records.wording import OFF
from lmtrace.text.panel import Panel

T = TypeVar("T")

logger = logging.getLogger(__name__)

MOST_FAILURES = 2
"""In a row, after which a signal is switched off."""

COST = (
    Field(
        metric="seconds",
        title="Cost of a measurement",
        unit="seconds",
        low=0.0,
        meaning="Wall time of one part of the measurement; label 'pass' is the shared forward pass, 'all' the whole.",
    ),
)
"""Fields of the records that the instrument writes about itself, under the signal name "cost"."""


@dataclass
class Instrument:
    """A model, a panel and signals, ready to measure. Holds no schedule and writes nothing.

    Parameters
    ----------
    model
        The user's own module; never wrapped, only hooked while a pass runs.
    panel
        What it reads; prepared for the model's objective here.
    signals
        Instances, see `lmtrace.signals.resolve`.
    forward
        (model, inputs) -> logits, where the model is not called as Hugging Face models are.
    sites
        Overrides for `observe.sites.find_sites`.
    loss
        (model, batch) -> loss of a training batch, where the model returns none.
    on_error
        "disable": a signal that raises gives missing records with the reason, and is switched off after its second
        failure in a row; "raise": the error goes to the caller.
    max_logits
        Bound on the memory of the shared pass: numbers in the logits of one of its micro-batches.
    spent
        Position of a signal -> seconds that its last measurement took, its part of the pass included.
    """

    model: nn.Module
    panel: Panel
    signals: list[Signal]
    optimizer: Any = None
    forward: Forward | None = None
    sites: Mapping[str, str] | None = None
    seed: int = 0
    on_error: str = "disable"
    max_logits: int = MAX_LOGITS
    memories: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    spent: dict[int, float] = field(default_factory=dict)
    train_batches: list[dict[str, Any]] = field(default_factory=list)
    notes: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    loss: TrainLoss | None = None
    end_known: bool | None = field(default=None, init=False)
    """What a measurement has shown of the ends of sentences; None before, and where the panel was told."""
    lost_sites: dict[str, str] = field(default_factory=dict, init=False)
    """Site -> why it cannot be read; "" -> why there is none at all."""
    blocks: dict[str, Site] = field(default_factory=dict, init=False)
    """All blocks that run, those whose output cannot be read included."""
    same_length: bool = field(default=False, init=False)
    """Whether the model sees padding, so that batches hold sequences of one length."""
    _looked_ahead: bool = field(default=False, init=False, repr=False)
    _said_sinks: bool = field(default=False, init=False, repr=False)
    _early_notes: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self.model = unwrap(self.model)
        self.optimizer = one_optimizer(self.optimizer)
        objective = objective_of(self.model)
        if objective == "causal":  # that is what a class says that says nothing: the panel holds
            objective = self.panel.objective if self.panel.objective == "masked" else objective
        config = getattr(self.model, "config", None)
        if self.panel.objective != objective or objective == "seq2seq":
            start = getattr(config, "decoder_start_token_id", None)
            self.panel = self.panel.with_objective(objective, decoder_start_id=start)
        self._check_sizes()
        self.known_sites: dict[str, Site] = self._find_sites()
        self.needs: list[Needs] = [signal.needs(self.panel) for signal in self.signals]
        for needs in self.needs:
            for layer in needs.labels:
                self.panel.labels(layer)
            for name in needs.sites if needs.sites != "all" else ():
                if name not in self.known_sites and name not in self.lost_sites and self.known_sites:
                    self.known_sites[name] = sub_site(self.known_sites, name)

    def _find_sites(self) -> dict[str, Site]:
        """Return the sites that a trial pass shows; where none can be run, those of the model's structure."""
        check_names(self.model, self.sites)
        inputs = trial_inputs(self.model, self.panel)
        if self.forward is None and inputs is not None:
            with contextlib.suppress(Exception), undisturbed(self.model, self.optimizer):
                self.forward = masked_forward(self.model, inputs[0])
        run = self.forward or default_forward
        found, reason = Found(), ""
        if inputs is not None:
            try:
                with undisturbed(self.model, self.optimizer):
                    found = trace_sites(self.model, lambda batch: run(self.model, batch), inputs, self.sites)
            except Exception as error:  # noqa: BLE001  whatever the model raises: what needs no pass can be measured
                reason = f"a trial pass failed: {_one_line(error)}"
        if inputs is None or reason:
            try:
                found = Found(structural_sites(self.model, self.sites))
            except ModelError as error:
                found.reason = reason or str(error)
        self.blocks = found.blocks or {name: site for name, site in found.sites.items() if "block." in name}
        self.lost_sites = {**found.lost, **({"": found.reason} if found.reason else {})}
        for name, why in found.lost.items():
            logger.warning("site %s cannot be read: %s", name, why)
        return found.sites

    def _check_sizes(self) -> None:
        """Say before the first pass what would be an index error in it (and on a GPU the end of the process)."""
        size = vocabulary_of(self.model)
        streams = [side for side in (self.panel.encoder, self.panel.decoder) if side is not None]
        largest = max((int(ids.max()) for side in streams for ids in side.ids if len(ids)), default=0)
        if size is not None and largest >= size:
            raise ModelError(
                f"the panel holds token id {largest} but the model's vocabulary has {size}",
                "Build the panel with the model's own tokenizer",
            )
        limit = table_length(self.model)
        longest = max((len(ids) for side in streams for ids in side.ids), default=0)
        if limit is not None and longest > limit:
            raise ModelError(
                f"the panel holds a sequence of {longest} tokens but the model's context has {limit}",
                f"Build the panel with max_length={limit}",
            )

    @property
    def fields(self) -> dict[str, list[Field]]:
        """Return signal name -> its fields, the instrument's own costs included."""
        return {**{s.name: list(s.fields) for s in self.signals}, "cost": list(COST)}

    @property
    def wants_train_batch(self) -> bool:
        """Return whether a signal needs the last training batch."""
        return any(needs.train_batch for needs in self.needs)

    def due(self, chosen: Sequence[int]) -> Needs:
        """Return the union of what the chosen signals need."""
        union = Needs()
        for i in chosen:
            union = union | self.needs[i]
        return union

    def measure(
        self, step: int, chosen: Sequence[int] | None = None, optimizer: Any = None, *, last: bool = False
    ) -> list[Record]:
        """Return the records of one measurement, costs included; the model is left as it was found.

        Parameters
        ----------
        chosen
            Positions of the signals that are due; all by default.
        optimizer
            What the signals see as the optimizer; by default the one that trains.
        last
            Whether training ends here.
        """
        positions = range(len(self.signals)) if chosen is None else chosen
        active = [i for i in positions if self.failures.get(i, 0) < MOST_FAILURES]
        for i in set(positions) - set(active):
            self.spent.pop(i, None)
        begin = time.perf_counter()
        records: list[Record] = []
        with undisturbed(self.model, self.optimizer), _one_thread_pool():
            notes = self._look_ahead(step)
            self._look_at_ends(active, step)
            captured = self._capture(active, step, records)
            readable = {name: site for name, site in self.known_sites.items() if name not in captured.lost}
            measurement = Measurement(
                step, self.model, self.panel, readable, captured, self.seed, self.forward,
                optimizer or self.optimizer, self.train_batches, loss=self.loss, last=last,
                notes=[*notes, *self._early_notes],
                same_length=self.same_length, maps=vars(self).get("_maps"),
            )  # fmt: skip
            self._say_sinks(measurement)
            seconds: dict[str, float] = {"pass": float(captured.seconds.get("pass", 0.0))}
            for i, (found, spent) in self._run(active, measurement).items():
                records.extend(found)
                name = self.signals[i].name
                self.spent[i] = spent + float(captured.seconds.get(i, 0.0))
                seconds[name] = seconds.get(name, 0.0) + self.spent[i]
        self.notes = measurement.notes
        seconds["all"] = time.perf_counter() - begin
        for label, value in seconds.items():
            records.append(Record(step=step, signal="cost", metric="seconds", label=label, value=value, n=1))
        return records

    def _look_at_ends(self, active: Sequence[int], step: int) -> None:
        """Find out once, from a trained model, whether ends of sentences are averaged; what the user told is left as it is."""
        self._early_notes = []
        told = self.end_known is not None or self.panel.settings.end is not None
        due = self.due(active)
        if told or not (due.logits or due.model) or not self.panel.ends.any():
            return
        size = min(8, self._batch_size)
        found = _asked(lambda: end_losses(self.model, self.panel, self.forward, size))
        if found is None or found.trained is None:
            return
        self.know_end(found.trained)
        text = (
            f"At step {step} an end of sentence has a loss of {found.end:.2f} nats, everything else {found.words:.2f}: the model "
            + (
                "is trained on ends, and they are averaged."
                if found.trained
                else "is not trained on ends: averages are those of the words alone."
            )
            + " Tell it with Panel.from_annotated(end=)."
        )
        data = {"end": found.trained, "end_loss": found.end, "word_loss": found.words, "uniform": found.uniform}
        self._early_notes.append(("panel", text, data))

    def know_end(self, end: bool) -> None:
        """Take up what a measurement has shown of the ends of sentences, now or before a resume."""
        self.end_known = end
        if self.panel.end != end:
            self.panel = self.panel.with_end(end)

    def _look_ahead(self, step: int) -> list[tuple[str, str, dict[str, Any]]]:
        """Return what is to be said once, at the first measurement: what the model sees that it should not, what is lost."""
        if self._looked_ahead:
            return []
        self._looked_ahead = True
        notes: list[tuple[str, str, dict[str, Any]]] = []
        change = _asked(lambda: future_seen(self.model, self.panel, self.forward))
        if change is not None:
            text = (
                f"The model sees the future: another last token changes what it predicts before it by {change:.2g}. "
                "Its losses and accuracies are not those of a language model; look at its attention mask."
            )
            notes.append(("leak", text, {"change": change}))
        padding = _asked(lambda: padding_seen(self.model, self.panel, self.forward))
        self.same_length = padding is not None
        if padding is not None:
            text = (
                f"The model sees padding: beside a longer sentence, what it gives for a shorter one changes by {padding:.2g}. "
                "The panel is read in batches of one length, without padding."
            )
            notes.append(("padding", text, {"change": padding}))
        for name, why in self.lost_sites.items():
            notes.append(("warning", f"site {name} cannot be read: {why}" if name else why, {"site": name}))
        for _, text, _ in notes:
            logger.warning("step %d: %s", step, text)
        return notes

    def _say_sinks(self, measurement: Measurement) -> None:
        """Say once which blocks give attention to something that is no token."""
        sinks = measurement.maps.sinks if measurement.maps is not None else []
        if sinks and not self._said_sinks:
            self._said_sinks = True
            text = (
                f"The attention of {', '.join(sinks)} gives a part of its weight to a sink that is no token. "
                "Its rows are divided by the rest, so that they are weights among tokens, as the null's are."
            )
            measurement.notes.append(("sinks", text, {"blocks": sinks}))

    @property
    def _batch_size(self) -> int:
        """Sequences of a micro-batch whose logits stay within `max_logits`."""
        vocabulary = vocabulary_of(self.model) or len(self.panel.tokenizer)
        return batch_size_for(vocabulary, self.panel.longest, self.max_logits)

    @cached_property
    def _head(self) -> Head | None:
        """The model's output layer, looked for at the first pass."""
        return None if self.forward is not None else head_of(self.model, self.panel)

    @cached_property
    def _maps(self) -> Maps:
        """Where the attention maps are made, looked for at the first pass that wants them."""
        if self.forward is not None:
            raise ModelError("a model that is called through forward= gives no attention maps")
        return maps_of(self.model, self.panel, self.blocks)

    def _capture(self, active: list[int], step: int, records: list[Record]) -> Captured:
        """Run the shared pass; where attention maps cannot be had, run it without those that need them."""
        while True:
            union = self.due(active)
            if not (union.sites or union.logits or union.attention):
                return Captured()
            names = tuple(self.known_sites) if union.sites == "all" else union.sites
            chosen = {name: site for name, site in self.known_sites.items() if name in names}
            try:
                captured = capture(
                    self.model,
                    self.panel,
                    chosen,
                    [(i, self.signals[i], self.needs[i]) for i in active],
                    forward=self.forward,
                    head=self._head if self._head is not None and self._head.alone else None,
                    batch_size=self._batch_size,
                    same_length=self.same_length,
                    maps=self._maps if union.attention else None,
                )
                self._check_lost(captured)
            except Exception as error:
                culprits, reason = self._culprits(active, error)
                if self.on_error == "raise" or not culprits:
                    raise
                for i in culprits:
                    records.extend(self._missing(i, step, reason))
                    active.remove(i)
            else:
                return captured

    def _culprits(self, active: Sequence[int], error: Exception) -> tuple[list[int], str]:
        """Return the signals without which the pass may succeed, and why they are missing."""
        reason = _one_line(error)
        attention = [i for i in active if self.needs[i].attention]
        if isinstance(error, LogitsError):
            return [i for i in active if self.needs[i].logits], reason
        if attention:
            return attention, f"no attention maps: {reason}"
        return [i for i in active if self.needs[i].sites or self.needs[i].logits], reason

    def _check_lost(self, captured: Captured) -> None:
        """Raise for a site that was lost in a pass, where errors are to be raised."""
        if self.on_error == "raise" and captured.lost:
            raise ModelError("; ".join(captured.lost.values()))

    def _run(self, active: Sequence[int], measurement: Measurement) -> dict[int, tuple[list[Record], float]]:
        """Return the records and the seconds of every signal.

        On the CPU, those that only read what the pass left run side by side, with a share of the cores each: their
        products are too small to keep all cores busy one after the other.
        """
        cores = torch.get_num_threads() if device_of(self.model).type == "cpu" else 1
        beside = [
            i for i in active if not (self.needs[i].model or self.needs[i].optimizer or self.needs[i].train_batch)
        ]
        workers = min(cores, len(beside))
        done: dict[int, tuple[list[Record], float]] = {}
        if workers > 1:
            longest_first = sorted(beside, key=lambda i: -self.spent.get(i, 0.0))
            try:
                with ThreadPoolExecutor(workers, "lmtrace", _limit_cores, (cores // workers,)) as pool:
                    parts = pool.map(lambda i: self._timed(i, measurement), longest_first)
                    done = dict(zip(longest_first, parts, strict=True))
            finally:
                torch.set_num_threads(cores)
        for i in active:
            if i not in done:
                done[i] = self._timed(i, measurement)
        return {i: done[i] for i in active}

    def _timed(self, i: int, measurement: Measurement) -> tuple[list[Record], float]:
        start = time.perf_counter()
        with torch.no_grad():  # threads do not inherit it
            found = list(self._signal(i, measurement))
        return found, time.perf_counter() - start

    def _signal(self, i: int, measurement: Measurement) -> Iterator[Record]:
        """Yield one signal's checked records; a failure becomes missing records. This is the isolation boundary."""
        signal, fields = self.signals[i], {f.metric: f for f in self.signals[i].fields}
        view = MeasurementView(measurement, signal, i, self.needs[i], self.memories.setdefault(i, {}))
        try:
            if i in measurement.captured.failures:
                raise measurement.captured.failures[i]
            if self.needs[i].sites and not view.sites:
                raise ModelError(self._no_sites(measurement))
            found = list(signal.measure(view))
            for record in found:
                record.check(fields)
            found += self._lost_records(i, measurement, found)
        except Exception as error:
            if self.on_error == "raise":
                raise
            self.failures[i] = self.failures.get(i, 0) + 1
            reason = _one_line(error)
            logger.warning("signal %s failed at step %d: %s", signal.name, measurement.step, reason)
            if self.failures[i] == MOST_FAILURES:  # said once, so that the gap from here on is no riddle
                reason = f"{OFF} {measurement.step}: {reason}"
                measurement.notes.append(("warning", f"signal {signal.name} is {reason}", {"signal": signal.name}))
            found = self._missing(i, measurement.step, reason)
        else:
            self.failures[i] = 0
        # Read back after a resume, a memory is contiguous and of a type that NumPy knows; in another layout or precision
        # the next numbers would differ in their last bits.
        for name, kept in view.memory.items():
            view.memory[name] = (kept.float() if kept.dtype == torch.bfloat16 else kept).contiguous()
        yield from found

    def _no_sites(self, measurement: Measurement) -> str:
        lost = {**self.lost_sites, **measurement.captured.lost}
        name, why = next(iter(lost.items()), ("", "the model has no site of this name"))
        return f"no site can be read: {name}: {why}" if name else why

    def _lost_records(self, i: int, measurement: Measurement, found: list[Record]) -> list[Record]:
        """Return missing records at the sites that cannot be read, of what the signal gives at the others."""
        lost = {name: why for name, why in {**self.lost_sites, **measurement.captured.lost}.items() if name}
        wanted = [name for name in lost if self.needs[i].sites == "all" or name in self.needs[i].sites]
        kinds = dict.fromkeys((r.metric, r.split, r.label) for r in found if r.site is not None)
        return [
            Record(
                step=measurement.step, signal=self.signals[i].name, metric=metric, site=name, split=split, label=label,
                missing=lost[name],
            )
            for name in wanted
            for metric, split, label in kinds
        ]  # fmt: skip

    def _missing(self, i: int, step: int, reason: str) -> list[Record]:
        signal = self.signals[i]
        twins = [k for k, other in enumerate(self.signals) if other.name == signal.name]
        split = f"instance {twins.index(i)}" if len(twins) > 1 else None
        return [
            Record(step=step, signal=signal.name, metric=f.metric, split=split, missing=reason) for f in signal.fields
        ]

    @property
    def weights(self) -> str:
        """Return in words which weights are measured: those that train, or averages of them."""
        return measured_weights(self.model, self.optimizer)

    def describe(self) -> dict[str, Any]:
        """Return what the run's header says of the model."""
        parameters = list(self.model.parameters())
        config = getattr(self.model, "config", None)
        plain = config.to_diff_dict() if config is not None and hasattr(config, "to_diff_dict") else {}
        return {
            "class": type(self.model).__name__,
            "objective": self.panel.objective,
            "num_parameters": sum(p.numel() for p in parameters),
            "num_trained": sum(p.numel() for p in parameters if p.requires_grad),
            "dtype": str(parameters[0].dtype).removeprefix("torch.") if parameters else "",
            "device": str(device_of(self.model)),
            "weights": self.weights,
            "sites": list(self.known_sites),
            "config": {k: v for k, v in plain.items() if isinstance(v, (str, int, float, bool, type(None)))},
        }


def _one_thread_pool() -> Any:
    """Keep NumPy's BLAS to one thread meanwhile: its pool and torch's, spinning on the same cores, cost up to 3 times."""
    return ThreadpoolController().select(internal_api="openblas").limit(limits=1)


def _asked(question: Callable[[], T | None]) -> T | None:
    """Return the answer of a check of the model; None where the model gives no logits to ask."""
    try:
        return question()
    except (ModelError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        logger.info("not checked: %s", _one_line(error))
        return None


def _limit_cores(cores: int) -> None:
    """Let this thread's operations use so many cores.

    torch's own call is needed: a limit set through OpenMP is undone by torch at the thread's first parallel operation. It
    also sets what threads begin with that are made later, which `_run` puts back.
    """
    torch.set_num_threads(max(1, cores))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in text.lower():
        return f"out of memory: {text}"[:300]
    return text[:300] if isinstance(error, TraceError) else f"{type(error).__name__}: {text}"[:300]
