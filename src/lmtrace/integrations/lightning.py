"""Lightning: `Trainer(..., callbacks=[LightningCallback(panel, run="runs/pl", every=100)])`."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lmtrace.errors import ConfigError
from lmtrace.integrations.attachment import Attachment
from lmtrace.text.panel import Panel


class LightningCallback(Callback):
    """Measures the language model that a `lightning.Trainer` trains.

    Parameters
    ----------
    panel
        What the model is asked to read.
    model
        Path of the language model in the LightningModule ("model"); by default its only child with parameters and a
        forward of its own, or else the LightningModule itself.
    settings
        Everything else that `lmtrace.Tracer` takes: `run=`, `every=`, `signals=`, `stop=`, ...

    Notes
    -----
    A step is one of `trainer.global_step`. Its loss is the mean of what `training_step` returned for its micro-batches.
    Training batches (for signals that compare them with the panel) are what the language model was called with.
    """

    def __init__(self, panel: Panel, *, model: str | None = None, **settings: Any) -> None:
        self.model = model
        self._attached = Attachment(panel, settings)
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the run; measure step 0, or go on with a run where Lightning resumes from a checkpoint."""
        model = language_model(pl_module, self.model)
        optimizers, self._step = trainer.optimizers, trainer.global_step
        total = trainer.estimated_stepping_batches
        last = int(total) if math.isfinite(total) else None
        tracer = self._attached.begin(model, optimizers, self._step, last)
        trainer.should_stop = trainer.should_stop or tracer.should_stop
        averages = [
            type(c).__name__ for c in getattr(trainer, "callbacks", ()) if "WeightAveraging" in type(c).__name__
        ]
        if averages:
            tracer.note("weights", f"Measured are the weights that train, not the averages of {', '.join(averages)}.")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the forwards from here on as the batch's."""
        self._attached.begin_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand the batch to the tracer; stop training where its rule says so."""
        tracer, attached = self._attached.tracer, self._attached
        if tracer is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            loss = loss * trainer.accumulate_grad_batches  # by which Lightning has divided it
        elif attached.losses:
            loss = attached.losses[-1]  # manual optimization need not return one
        complete = trainer.global_step > self._step
        if trainer.should_stop:  # its weights may be replaced before training is said to have ended
            tracer.last_step = tracer.current_step + 1
        tracer.step(loss=loss, tokens=attached.tokens, complete=complete)
        attached.end_step()
        self._step = trainer.global_step
        if complete and tracer.should_stop:
            trainer.should_stop = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write what the tracer knows before Lightning saves, so that a resume from the checkpoint is exact."""
        self._attached.checkpoint()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the last step and close the run."""
        self._attached.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the run as crashed."""
        self._attached.close(exception)


def language_model(module: LightningModule, path: str | None = None) -> nn.Module:
    """Return the language model of a LightningModule; see `LightningCallback`.

    Raises
    ------
    ConfigError
        Where the path names nothing, or several children could be it.
    """
    if path is not None:
        try:
            return module.get_submodule(path)
        except AttributeError as error:
            raise ConfigError(
                f"{type(module).__name__} has no module at {path!r}", "Name one of its modules"
            ) from error
    children = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    only = next(iter(children.values())) if len(children) == 1 else None
    if only is not None and type(only).forward is not nn.Module.forward:
        return only
    if type(module).forward is not LightningModule.forward:
        return module
    raise ConfigError(
        f"{type(module).__name__} has no forward and {len(children)} modules that could be the language model",
        f"Pass model= with one of: {', '.join(children) or 'none'}",
    )
