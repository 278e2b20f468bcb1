"""Where else the main numbers go: W&B, TensorBoard, Trackio, MLflow, or any object with `log(metrics, step)`.

The run folder keeps everything; a sink gets the main numbers, for those who look at their dashboards anyway. A sink that
raises is told of once and left alone from then on; training and the run do not notice it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmtrace.errors import ConfigError
from lmtrace.records.files import write_file
from lmtrace.records.schema import Field, Record

logger = logging.getLogger(__name__)

STATE = "sinks.json"
"""In the run folder: under which name the sinks know this run, and the last step that they were given."""

Log = Callable[[dict[str, float], int], None]
Close = Callable[[], None]


def main_numbers(records: Sequence[Record], fields: Mapping[str, Sequence[Field]]) -> dict[str, float]:
    """Return "signal/metric/site/label" -> value of the main numbers.

    Main are a signal's first metric and those that training is expected to move, of all sites and label layers, but not
    of single label values: "probe/accuracy/block.1/role", not "probe/f1/block.1/role=Agent". Several splits stand last.
    """
    main = {
        (signal, field.metric)
        for signal, declared in fields.items()
        for i, field in enumerate(declared)
        if i == 0 or field.better
    }
    found: dict[str, float] = {}
    for r in records:
        if r.value is None or (r.signal, r.metric) not in main or "=" in (r.label or ""):
            continue
        found["/".join(part for part in (r.signal, r.metric, r.site, r.label, r.split) if part)] = r.value
    return found


class Sinks:
    """The sinks of one run, each isolated from the others and from training.

    Parameters
    ----------
    chosen
        Names ("wandb", "tensorboard", "trackio", "mlflow") or objects with `log(metrics, step)` or
        `log_metrics(metrics, step)`: a W&B run, a Lightning logger, the mlflow module, your own.
    folder
        Of the run.

    Raises
    ------
    ConfigError
        For a name that does not exist, a package that is not installed, an object without `log`.

    Notes
    -----
    What was sent cannot be taken back: after a resume, steps that the sinks already have are not sent again.
    """

    def __init__(self, chosen: Sequence[Any], folder: Path) -> None:
        if isinstance(chosen, str):
            raise ConfigError(f"sinks must be a list, got {chosen!r}", f"Write sinks=[{chosen!r}]")
        self.folder = folder
        self._chosen = [(_name(sink), sink) for sink in chosen]
        self._open: dict[str, tuple[Log, Close]] = {}
        self._id, self._last = "", -1

    def open(self, resume: bool) -> None:
        """Open every sink; one that raises is off."""
        if not self._chosen:
            return
        self._id = secrets.token_hex(4)
        if resume and (self.folder / STATE).is_file():
            self._isolated(STATE, self._load)
        self._isolated(STATE, self._save)
        for number, (name, sink) in enumerate(self._chosen):
            opener = OPENERS[sink] if isinstance(sink, str) else _given(sink)
            key = f"{name} ({number})" if name in self._open else name
            self._isolated(key, lambda key=key, opener=opener: self._open.update({key: opener(self.folder, self._id)}))

    def log(self, step: int, records: Sequence[Record], fields: Mapping[str, Sequence[Field]]) -> None:
        """Give one measurement's main numbers to every sink that is on."""
        if not self._open or step <= self._last:
            return
        numbers = main_numbers(records, fields)
        for name, (send, _) in list(self._open.items()):
            self._isolated(name, lambda send=send: send(dict(numbers), step))
        self._last = step
        self._isolated(STATE, self._save)

    def close(self) -> None:
        """Close what was opened here; what the user opened stays open."""
        for name, (_, close) in list(self._open.items()):
            self._isolated(name, close)
        self._open.clear()

    def _load(self) -> None:
        state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        self._id, self._last = str(state["id"]), int(state["step"])

    def _save(self) -> None:
        write_file(self.folder / STATE, json.dumps({"id": self._id, "step": self._last}).encode())

    def _isolated(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  foreign code that may raise anything; training goes on without it
            self._open.pop(name, None)
            logger.warning(
                "sink %s raised %s: %s; it is off from now on, the run folder has everything",
                name, type(error).__name__, " ".join(str(error).split())[:200],
            )  # fmt: skip


def _name(sink: Any) -> str:
    if not isinstance(sink, str):
        if not any(callable(getattr(sink, method, None)) for method in ("log", "log_metrics")):
            raise ConfigError(
                f"the sink {type(sink).__name__} has neither log nor log_metrics",
                "Give it log(metrics: dict, step: int)",
            )
        return type(sink).__name__
    if sink not in OPENERS:
        raise ConfigError(f"no sink is called {sink!r}", f"Choose from {', '.join(OPENERS)}, or pass an object")
    if importlib.util.find_spec(sink) is None:
        raise ConfigError(f"the sink {sink!r} needs a package that is missing", f'pip install "lmtrace[{sink}]"')
    return sink


def _given(sink: Any) -> Callable[[Path, str], tuple[Log, Close]]:
    method = sink.log if callable(getattr(sink, "log", None)) else sink.log_metrics
    return lambda folder, run_id: (lambda metrics, step: method(metrics, step=step), lambda: None)


def _wandb(folder: Path, run_id: str) -> tuple[Log, Close]:
    """Log into the run that is active, or into one of our own; W&B's offline mode and settings are the user's."""
    import wandb

    own = wandb.run is None
    run = wandb.run or wandb.init(
        project="lmtrace", name=folder.absolute().name, id=run_id, resume="allow", dir=str(folder)
    )
    run.define_metric("lmtrace/step")
    last = [-1]

    def log(metrics: dict[str, float], step: int) -> None:
        for name in metrics:
            if name not in known:
                run.define_metric(name, step_metric="lmtrace/step")
                known.add(name)
        # In a run of the user's a row is begun only where the last one already holds our numbers: steps that the user
        # logs with step= must not be behind ours.
        run.log({**metrics, "lmtrace/step": step}, commit=own or run.step == last[0])
        last[0] = run.step

    known: set[str] = set()
    return log, run.finish if own else lambda: None


def _tensorboard(folder: Path, run_id: str) -> tuple[Log, Close]:
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log, writer.close


def _trackio(folder: Path, run_id: str) -> tuple[Log, Close]:
    import trackio
    from trackio import context_vars

    run = context_vars.current_run.get()
    if run is not None:
        return lambda metrics, step: run.log(metrics, step=step), lambda: None
    name = f"{folder.absolute().name}-{run_id}"
    own = trackio.init(
        project="lmtrace", name=name, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False
    )
    return lambda metrics, step: own.log(metrics, step=step), own.finish


def _mlflow(folder: Path, run_id: str) -> tuple[Log, Close]:
    """Log into the run that is active, or into one of our own, found again by its tag; names lose what MLflow forbids."""
    import mlflow

    client, active = mlflow.MlflowClient(), mlflow.active_run()
    if active is not None:
        number, close = active.info.run_id, lambda: None
    else:
        experiment = client.get_experiment_by_name("lmtrace")
        place = experiment.experiment_id if experiment else client.create_experiment("lmtrace")
        found = client.search_runs([place], f"tags.lmtrace = '{run_id}'", max_results=1)
        run = found[0] if found else client.create_run(place, run_name=folder.absolute().name, tags={"lmtrace": run_id})
        number = run.info.run_id
        client.update_run(number, "RUNNING")
        close = lambda: client.set_terminated(number)  # noqa: E731

    def log(metrics: dict[str, float], step: int) -> None:
        allowed = {"".join(c if c.isalnum() or c in "_-. /" else "_" for c in k): v for k, v in metrics.items()}
        mlflow.log_metrics(allowed, step=step, run_id=number)

    return log, close


OPENERS: dict[str, Callable[[Path, str], tuple[Log, Close]]] = {
    "wandb": _wandb,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
"""Name -> how to open it: (run folder, id) -> (log, close)."""
