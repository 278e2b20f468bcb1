"""The same signals over many checkpoints: `lmtrace sweep`.

Workers load and measure; this process alone writes, in the order of the checkpoints, so the run is the same whatever the
executor. What was measured is not measured again: a run that exists is gone on with.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmtrace.analysis.findings.finding import say_duration
from lmtrace.errors import ConfigError, DataError, RunError, TraceError
from lmtrace.jobs.analyze import checkpoint_and_panel, load_checkpoint
from lmtrace.jobs.checkpoints import Checkpoint, find_checkpoints, weight_hash, with_steps
from lmtrace.jobs.executors import Died, Executor, check_executor, run_tasks
from lmtrace.live.header import run_header
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Signal
from lmtrace.records.layout import DATABASE
from lmtrace.records.schema import Record, RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import Run, open_run
from lmtrace.signals import resolve
from lmtrace.text.panel import Panel

logger = logging.getLogger(__name__)

KINDS = ("checkpoint", "duplicate", "skipped")
"""Kinds of the events that say what became of every checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What every worker is given once."""

    panel: Panel
    signals: list[Signal]
    seed: int
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What a worker returns: the hash of the weights, and the records, unless the hash was known; or a failure."""

    weights: str = ""
    seconds: float = 0.0
    header: RunHeader | None = None
    records: Sequence[Record] = ()
    notes: Sequence[tuple[str, str, dict[str, Any]]] = ()
    failure: str = ""


def measure_checkpoint(shared: Shared, task: tuple[Checkpoint, frozenset[str]]) -> Measured:
    """Load one checkpoint and measure it once, unless its weights are known; a failure is a result."""
    checkpoint, known = task
    start = time.perf_counter()
    try:
        model = load_checkpoint(
            checkpoint.path, revision=checkpoint.revision, trust_remote_code=shared.trust_remote_code
        )
        weights = weight_hash(model)
        if weights in known:
            return Measured(weights)
        instrument = Instrument(model, shared.panel, shared.signals, seed=shared.seed)
        records = instrument.measure(checkpoint.step or 0)
        header = run_header("", instrument, data={}, settings={})
    except Exception as error:  # noqa: BLE001  a broken checkpoint may raise anything, and is never the end of a sweep
        text = " ".join(str(error).split())[:300]
        return Measured(failure=text if isinstance(error, TraceError) else f"{type(error).__name__}: {text}")
    return Measured(weights, time.perf_counter() - start, header, records, instrument.notes)


def sweep(
    checkpoints: Sequence[str | Path] | str | Path,
    panel: Panel | str | None = None,
    *,
    run: str | Path,
    signals: str | Sequence[str | Signal] = "standard",
    executor: Executor = "serial",
    workers: int | None = None,
    threads: int = 1,
    steps: Sequence[int] | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Run:
    """Measure many checkpoints of one training and return the run: one step per checkpoint.

    Parameters
    ----------
    checkpoints
        Folders of checkpoints, folders of runs, Hub names ("org/name@step1000"); see `checkpoints.find_checkpoints`.
    panel
        What the models read; a file of annotated sentences; or None for the panel of their training (`lmtrace train`).
    run
        Folder of the run. Where it holds a sweep already, only what is not in it is measured.
    signals
        As for `lmtrace.Tracer`.
    executor, workers, threads
        See `executors.run_tasks`. Results do not depend on executor and workers; they do, in the last bit, on threads.
    steps
        One step for every checkpoint, where they do not tell it themselves.
    seed
        Of everything that the signals draw; by default that of the training, else 0.
    overwrite
        Start anew where the folder holds a run.
    on_progress
        Called with (done, all, what was done last and how long the rest will take).

    Notes
    -----
    What became of every checkpoint is an event of the run: "checkpoint" (measured), "duplicate" (the weights of another
    one, by hash; not measured again) or "skipped" (missing or broken, with the reason); their data hold path, revision and
    hash. Each checkpoint stands alone, so what compares with the measurement before is missing.

    Raises
    ------
    DataError
        Where no checkpoint could be measured.
    ConfigError
        Where the folder holds another kind of run, or one with another panel or other signals.
    """
    check_executor(executor)
    sources = [checkpoints] if isinstance(checkpoints, (str, Path)) else list(checkpoints)
    found, problems = find_checkpoints(sources)
    if steps is not None and len(steps) != len(found):
        raise ConfigError(f"{len(steps)} steps for {len(found)} checkpoints", "Give one step per checkpoint")
    found = with_steps(found, steps)
    ledger = _Ledger(Path(run), overwrite)
    for source, reason in problems:
        ledger.skip(Checkpoint(source), reason)
    todo = [c for c in found if not ledger.settled(c)]
    for checkpoint in [c for c in todo if c.step is None]:
        ledger.skip(checkpoint, "nothing tells at which step it is: pass steps")
        todo.remove(checkpoint)
    tell = on_progress or (lambda done, total, message: None)
    if todo:
        shared = _shared(todo, panel, signals, seed, trust_remote_code, ledger)
        tasks = ((checkpoint, ledger.known) for checkpoint in todo)
        start, done = time.monotonic(), len(found) - len(todo)
        tell(done, len(found), f"{len(todo)} checkpoints to measure")
        with ledger:
            results = run_tasks(measure_checkpoint, shared, tasks, executor=executor, workers=workers, threads=threads)
            settings = {"sweep": True, "threads": threads}
            for i, result in _in_order(results):
                message = ledger.take(
                    todo[i], Measured(failure=str(result)) if isinstance(result, Died) else result, settings
                )
                left = (time.monotonic() - start) / (i + 1) * (len(todo) - i - 1)
                tell(done + i + 1, len(found), f"{message}; {say_duration(left)} left" if left else message)
    elif ledger.waiting and ledger.measured:
        with ledger:  # what is to be said is written
            pass
    if not ledger.measured:
        reason = next((text for _, kind, text, _ in ledger.waiting if kind == "skipped"), "no checkpoint was given")
        raise DataError(f"none of {len(found) + len(problems)} checkpoints could be measured: {reason}")
    return open_run(run)


def _shared(
    todo: Sequence[Checkpoint], panel: Panel | str | None, signals: Any, seed: int | None, trust: bool, ledger: _Ledger
) -> Shared:
    """Return panel and signals; without a panel, those of the first checkpoint that can be read."""
    chosen = _seed_of(todo) if seed is None else seed
    if isinstance(panel, Panel):
        return Shared(panel=panel, signals=resolve(signals), seed=chosen, trust_remote_code=trust)
    reason = ""
    for checkpoint in todo:
        try:
            _, built, ours = checkpoint_and_panel(
                checkpoint.path, panel=panel, signals=signals, revision=checkpoint.revision
            )
        except TraceError as error:
            reason = reason or str(error)
            continue
        return Shared(panel=built, signals=ours, seed=chosen, trust_remote_code=trust)
    raise DataError(f"no panel could be made for any of {len(todo)} checkpoints: {reason}")


def _seed_of(todo: Sequence[Checkpoint]) -> int:
    """Return the seed that the first readable card tells, else 0."""
    from lmtrace.jobs.data import read_card

    for checkpoint in todo:
        try:
            card = read_card(checkpoint.path)
        except TraceError:
            continue  # loading it will say what is wrong with it
        if card is not None:
            return int(card.get("seed") or 0)
    return 0


def _in_order(results: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Yield results by rising position, each as soon as all before it are there."""
    waiting: dict[int, Any] = {}
    position = 0
    for i, result in results:
        waiting[i] = result
        while position in waiting:
            yield position, waiting.pop(position)
            position += 1


@dataclass
class _Ledger:
    """The run that is written, and what became of every checkpoint so far."""

    folder: Path
    overwrite: bool
    waiting: list[tuple[int, str, str, dict[str, Any]]] = field(default_factory=list)
    measured: int = 0

    def __post_init__(self) -> None:
        self._writer: RunWriter | None = None
        self._owner: dict[str, str] = {}
        self._steps: dict[int, str] = {}
        self._done: dict[tuple[str, str | None], str] = {}
        self._said: set[tuple[str, str]] = set()
        self._header: RunHeader | None = None
        self._last = 0
        if self.overwrite or not (self.folder / DATABASE).is_file():
            return
        with open_run(self.folder) as before:
            self._header = before.header
            if not self._header.settings.get("sweep"):
                raise ConfigError(
                    f"{self.folder} holds a run that is not a sweep",
                    "Choose another folder, or pass overwrite=True (--overwrite)",
                )
            for event in before.events():
                self._last = max(self._last, event.step)
                self._said.add((event.kind, event.text))
                if event.kind in ("checkpoint", "duplicate"):
                    self._done[event.data["path"], event.data["revision"]] = event.data["stamp"]
                if event.kind == "checkpoint":
                    name = str(Checkpoint(event.data["path"], event.data["revision"]))
                    self._owner[event.data["weights"]] = self._steps[event.step] = name
            self.measured = len(before.steps)

    @property
    def known(self) -> frozenset[str]:
        """Return the hashes of the weights that are measured."""
        return frozenset(self._owner)

    def settled(self, checkpoint: Checkpoint) -> bool:
        """Return whether the run already says everything of a checkpoint, whose files have not changed since."""
        return self._done.get((checkpoint.path, checkpoint.revision)) == checkpoint.stamp

    def __enter__(self) -> _Ledger:
        if self._header is not None:
            self._writer = RunWriter.resume(self.folder, self._last)
            self._flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._writer is not None:
            self._writer.finish("crashed" if kind else "finished")

    def skip(self, checkpoint: Checkpoint, reason: str) -> str:
        """Say why a checkpoint is not measured."""
        return self._say(checkpoint, "skipped", f"{checkpoint}: {reason}", "")

    def take(self, checkpoint: Checkpoint, result: Measured, settings: dict[str, Any]) -> str:
        """Write a result, or say what was wrong with it."""
        step, name = checkpoint.step or 0, str(checkpoint)
        if result.failure:
            return self.skip(checkpoint, result.failure)
        if result.weights in self._owner:
            other = self._owner[result.weights]
            text = f"{name} was measured before" if other == name else f"{name} has the same weights as {other}"
            return self._say(checkpoint, "duplicate", text, result.weights)
        if step in self._steps:
            return self.skip(checkpoint, f"step {step} is that of {self._steps[step]}, which has other weights")
        self._open(result, settings)
        if self._writer is None:
            raise RunError(f"the run in {self.folder} is not open")
        text = f"{name} measured in {result.seconds:.1f} s"
        data = self._data(checkpoint, result.weights) | {"seconds": result.seconds}
        self._writer.write(step, result.records, events=[*result.notes, ("checkpoint", text, data)])
        self._owner[result.weights] = self._steps[step] = name
        self.measured += 1
        return text

    def _open(self, result: Measured, settings: dict[str, Any]) -> None:
        """Start the run with the first result; later ones have to be of the same panel and signals."""
        header = result.header
        if header is None:
            raise RunError("a worker returned records without a header")
        if self._header is None:
            command = " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])
            self._header = replace(header, name=self.folder.name, settings=settings, command=command)
            self._writer = RunWriter.create(self.folder, self._header, overwrite=self.overwrite)
            self._flush()
        for what, mine, theirs in (
            ("panel", self._header.panel.get("hash"), header.panel.get("hash")),
            ("signals", self._header.signals, header.signals),
        ):
            if mine != theirs:
                raise ConfigError(
                    f"the run in {self.folder} was made with other {what}",
                    "Choose another folder, or pass overwrite=True (--overwrite)",
                )

    def _data(self, checkpoint: Checkpoint, weights: str) -> dict[str, Any]:
        return {
            "path": checkpoint.path, "revision": checkpoint.revision, "step": checkpoint.step, "weights": weights,
            "stamp": checkpoint.stamp,
        }  # fmt: skip

    def _say(self, checkpoint: Checkpoint, kind: str, text: str, weights: str) -> str:
        if kind == "skipped":
            logger.warning("skipped: %s", text)
        self.waiting.append((checkpoint.step or 0, kind, text, self._data(checkpoint, weights)))
        self._flush()
        return text

    def _flush(self) -> None:
        """Write what was said, each once, as soon as there is a run to write it to."""
        if self._writer is None:
            return
        for step, kind, text, data in self.waiting:
            if (kind, text) not in self._said:
                self._said.add((kind, text))
                self._writer.event(step, kind, text, data)
        self.waiting.clear()
