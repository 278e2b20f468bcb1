"""Train a small model from scratch on the Hugging Face Trainer and trace it: `lmtrace train`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from lmtrace.errors import ConfigError
from lmtrace.integrations.absynth import minimal_pairs
from lmtrace.integrations.transformers import TraceCallback
from lmtrace.jobs.data import (
    Collator,
    DataConfig,
    build_panel,
    load_tokenizer,
    split,
    training_rows,
    write_card,
)
from lmtrace.jobs.models import build_model, check_size
from lmtrace.jobs.saving import disk_failures, remove_partial, save_whole
from lmtrace.observe.interface import Signal
from lmtrace.records.opening import check_free
from lmtrace.run import Run, open_run
from lmtrace.signals import resolve
from lmtrace.signals.pairs import Pairs
from lmtrace.text.panel import Panel

Task = Literal["auto", "causal", "masked", "seq2seq"]
Scheduler = Literal[
    "constant", "constant_with_warmup", "cosine", "cosine_with_restarts", "inverse_sqrt", "linear", "polynomial"
]
TASK_OF_STYLE = {"bert": "masked", "t5": "seq2seq"}


class TrainConfig(BaseModel):
    """Everything that `lmtrace train` can be told; a TOML file holds the same names."""

    model_config = ConfigDict(extra="forbid")

    data: DataConfig = Field(default_factory=lambda: DataConfig())
    run: str = "runs/train"
    model: str = "gpt2"
    size: str = "small"
    task: Task = "auto"
    steps: int = Field(default=1000, ge=0)
    batch_size: int = Field(default=64, ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-3, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    scheduler: Scheduler = "cosine"
    weight_decay: float = Field(default=0.01, ge=0)
    signals: str = "standard"
    every: Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=0)]] = 100
    budget: float | None = Field(default=None, gt=0, lt=1)
    save_every: Annotated[int, Field(ge=0)] | list[int] = 0
    seed: int = 0
    threads: int | None = Field(default=None, ge=1)
    overwrite: bool = False
    resume: bool = False


def config_of(values: dict[str, Any]) -> TrainConfig:
    """Return a checked configuration.

    Raises
    ------
    ConfigError
        One line that names the field, its value and what is allowed.
    """
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if path[0] == "every":
            path = path[:1]  # what follows are pydantic's names of its two forms
        known = DataConfig if path[0] == "data" and len(path) > 1 else TrainConfig
        fix = f"Choose from: {', '.join(known.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{'.'.join(path)} = {first.get('input')!r}: {first['msg']}", fix) from error


def train(
    config: TrainConfig,
    *,
    on_progress: Callable[[int, int, str], None] | None = None,
    signals: Sequence[Signal] | None = None,
) -> Run:
    """Train, trace, and save the final checkpoint; return the finished run.

    Parameters
    ----------
    config
        See `TrainConfig`.
    on_progress
        Called with (step, steps, message).
    signals
        Objects, instead of the preset or names in `config.signals`.

    Notes
    -----
    Nothing is downloaded: the model starts from a configuration and the corpus is generated or read from a file.
    """
    tell = on_progress or (lambda step, steps, message: None)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    task = task_of(config)
    folder = Path(config.run)
    if not (config.overwrite or config.resume):
        check_free(folder)
    ready = prepare(config, task, tell, signals)
    panel, model, tokenizer, rows = ready.panel, ready.model, ready.tokenizer, ready.rows
    callback = TraceCallback(
        panel,
        run=folder,
        signals=ready.signals,
        every=config.every,
        budget=config.budget,
        seed=config.seed,
        overwrite=config.overwrite,
        resume=config.resume,
        data={"corpus": config.data.corpus, "sentences": len(rows), "tokens_known": True},
    )

    def label(path: Path, step: int) -> None:
        tokenizer.save_pretrained(path)
        write_card(path, config.data, task=task, step=step, run=folder.name, seed=config.seed)

    with disk_failures("train in", folder):
        trainer = Trainer(
            model=model,
            args=_arguments(config, folder),
            train_dataset=rows,
            data_collator=Collator(tokenizer, task),
            callbacks=[
                callback,
                _Progress(tell),
                _Label(label),
                _SaveAt(config.save_every if isinstance(config.save_every, list) else ()),
            ],
        )
    _quiet(trainer)
    checkpoints = folder / "checkpoints"

    def keep(path: Path, step: int) -> None:
        def write(partial: Path) -> None:
            model.save_pretrained(partial)
            label(partial, step)

        save_whole(path, write)

    if config.overwrite and not config.resume:
        for old in (*checkpoints.glob("checkpoint-*"), *checkpoints.glob("final")):
            shutil.rmtree(old)  # of the run that is replaced
    if config.save_every and not (config.resume and checkpoints.is_dir()):
        keep(checkpoints / "checkpoint-0", 0)  # the untrained model is the first null of every curve
    try:
        with disk_failures("train in", folder):
            if config.steps:
                trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints) if config.resume else None)
            else:
                _measure_only(callback, trainer)
    except BaseException as error:
        callback.close(error)
        remove_partial(checkpoints)
        raise
    keep(checkpoints / "final", config.steps)
    return open_run(folder)


def task_of(config: TrainConfig) -> Any:
    """Return what the model is trained on; `ConfigError` where its family cannot be."""
    usual = TASK_OF_STYLE.get(config.model, "causal")
    if config.task not in ("auto", usual):
        raise ConfigError(f"a {config.model} model cannot be trained on the task {config.task!r}", 'Use task="auto"')
    return usual


@dataclass(frozen=True)
class Prepared:
    """What a configuration amounts to, before the first step."""

    panel: Panel
    tokenizer: Any
    rows: Any
    model: PreTrainedModel
    signals: list[Signal]


def prepare(
    config: TrainConfig, task: Any, tell: Callable[[int, int, str], None], signals: Sequence[Signal] | None = None
) -> Prepared:
    """Return corpus, panel, tokenizer, a fresh model and the signals."""
    resolve(config.signals)
    check_size(config.model, config.size)  # before the work that would be in vain
    tell(0, config.steps, "preparing the corpus")
    training, held_out = split(config.data)
    tokenizer = load_tokenizer(config.data, training, task)
    tell(0, config.steps, "preparing the panel")
    panel = build_panel(held_out, tokenizer, config.data, task, training, end=True)
    rows = training_rows(training, tokenizer, task, config.data.max_length)
    specials = {"pad": tokenizer.pad_token_id, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    model = build_model(
        config.model,
        config.size,
        len(tokenizer),
        specials=specials,
        max_length=config.data.max_length,
        seed=config.seed,
    )
    return Prepared(panel, tokenizer, rows, model, signals_for(signals or config.signals, held_out))


def signals_for(wanted: str | Sequence[Signal], sentences: Any) -> list[Signal]:
    """Return the signals asked for; on a synthetic language, `pairs` gets interventions on the panel's sentences."""
    chosen = resolve(wanted)
    if not hasattr(sentences, "grammar"):
        return chosen
    return [
        Pairs(pairs=minimal_pairs(sentences)) if isinstance(signal, Pairs) and not signal.pairs else signal
        for signal in chosen
    ]


def last_checkpoint(folder: Path) -> str | None:
    """Return the Trainer's last whole checkpoint in a folder; one that a kill cut off has no readable state."""
    whole: list[tuple[int, str]] = []
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            whole.append((int(json.loads(path.read_text(encoding="utf-8"))["global_step"]), str(path.parent)))
        except (ValueError, KeyError):
            continue
    return max(whole)[1] if whole else None


def _measure_only(callback: TraceCallback, trainer: Trainer) -> None:
    """Zero steps of training still give step 0."""
    arguments = (trainer.args, trainer.state, trainer.control)
    callback.on_train_begin(*arguments, model=trainer.model, optimizer=None)
    callback.on_train_end(*arguments)


def _arguments(config: TrainConfig, folder: Path) -> TrainingArguments:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=config.steps if config.steps else 1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=int(config.warmup * config.steps),
        weight_decay=config.weight_decay,
        max_grad_norm=1.0,
        logging_strategy="no",
        save_strategy="steps" if isinstance(config.save_every, int) and config.save_every else "no",
        save_steps=(config.save_every if isinstance(config.save_every, int) else 0) or 500,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
    )


def _quiet(trainer: Trainer) -> None:
    """Progress is shown by the command; the Trainer's own printer would write between its lines."""
    from transformers import PrinterCallback, ProgressCallback

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)


class _SaveAt(TrainerCallback):
    """Saves a checkpoint at the listed steps."""

    def __init__(self, steps: Iterable[int]) -> None:
        self.steps = frozenset(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint."""
        control.should_save |= state.global_step in self.steps


class _Label(TrainerCallback):
    """Puts tokenizer and card beside the Trainer's checkpoints, so that each can be read by itself."""

    def __init__(self, label: Callable[[Path, int], None]) -> None:
        self.label = label

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write both, once the checkpoint is there."""
        self.label(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step)


class _Progress(TrainerCallback):
    """Reports every step to the command line's progress bar."""

    def __init__(self, tell: Callable[[int, int, str], None]) -> None:
        self.tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell how far training is."""
        self.tell(state.global_step, state.max_steps, "training")


def settings_file(path: str | Path) -> dict[str, Any]:
    """Read a TOML (or JSON) configuration file.

    Raises
    ------
    ConfigError
        Where it is missing or malformed, with the line.
    """
    import tomllib

    try:
        text = Path(path).read_text(encoding="utf-8")
        found = json.loads(text) if str(path).endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"cannot read the configuration {path}: expected settings by name, got {str(found)[:40]!r}")
    return found
