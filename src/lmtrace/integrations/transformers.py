"""The Hugging Face Trainer: `Trainer(..., callbacks=[TraceCallback(panel, run="runs/hf", every=100)])`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lmtrace.observe.sites import unwrap
from lmtrace.text.panel import Panel
from lmtrace.tracer import Tracer


class TraceCallback(TrainerCallback):
    """Measures the model that a `transformers.Trainer` trains.

    Parameters
    ----------
    panel
        What the model is asked to read.
    settings
        Everything else that `lmtrace.Tracer` takes: `run=`, `every=`, `signals=`, `stop=`, ...

    Notes
    -----
    A callback sees neither batches nor losses, so the loss comes from a hook on the model's own forward in training mode; with
    gradient accumulation the Trainer has already divided it, and it is summed here.
    """

    def __init__(self, panel: Panel, **settings: Any) -> None:
        self.panel, self.settings = panel, settings
        self.tracer: Tracer | None = None
        self._loss: Tensor | None = None
        self._tokens = 0
        self._hooks: list[Any] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Create the run; measure step 0, or go on with a run where the Trainer resumes from a checkpoint."""
        model: nn.Module = unwrap(kwargs["model"])
        settings = dict(self.settings)
        resumed = settings.pop("resume", False) or state.global_step > 0
        self.tracer = Tracer(
            model,
            self.panel,
            optimizer=_plain_optimizer(kwargs.get("optimizer")),
            resume=resumed,
            start_step=state.global_step,
            **settings,
        )
        self.tracer.last_step = state.max_steps
        self.tracer.__enter__()
        control.should_training_stop = self.tracer.should_stop
        self._hooks.append(model.register_forward_hook(self._after_forward, with_kwargs=True))

    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        loss = getattr(output, "loss", None)
        if isinstance(loss, Tensor):
            self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        mask = kwargs.get("attention_mask")
        ids = kwargs.get("input_ids")
        counted = mask if isinstance(mask, Tensor) else ids
        if isinstance(counted, Tensor):
            self._tokens += int(mask.sum()) if isinstance(mask, Tensor) and not mask.is_cuda else counted.numel()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Hand the step to the tracer; stop training where its rule says so."""
        if self.tracer is None:
            return
        self.tracer.step(loss=self._loss, tokens=self._tokens)
        self._loss, self._tokens = None, 0
        if self.tracer.should_stop:
            control.should_training_stop = True
        self._before_save(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what a resume from the checkpoint of an epoch needs."""
        self._before_save(control)

    def _before_save(self, control: TrainerControl) -> None:
        """Write what the tracer knows before the Trainer saves, so that no kill in between can part the two."""
        if self.tracer is not None and control.should_save:
            self.tracer.checkpoint()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Do the same where another callback has asked for the checkpoint."""
        if self.tracer is not None:
            self.tracer.checkpoint()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the last step and close the run."""
        self.close()

    def close(self, error: BaseException | None = None) -> None:
        """Remove the hooks and close the run; call it with the error where training raised."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        tracer, self.tracer = self.tracer, None
        if tracer is not None:
            tracer.__exit__(type(error) if error else None, error, None)


def _plain_optimizer(optimizer: Any) -> torch.optim.Optimizer | None:
    """Return the torch optimizer inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)
