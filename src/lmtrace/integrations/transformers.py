"""The Hugging Face Trainer: `Trainer(..., callbacks=[TraceCallback(panel, run="runs/hf", every=100)])`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lmtrace.integrations.attachment import Attachment
from lmtrace.text.panel import Panel


def token_rows(dataset: Any) -> Any:
    """Return a data set's rows of token ids where they can be read cheaply and without running its code, else None.

    That is a list of rows, or a column `input_ids` of a `datasets.Dataset`, whose transforms are left out.
    """
    if isinstance(dataset, list | tuple):
        return dataset
    if "input_ids" in (getattr(dataset, "column_names", None) or ()) and hasattr(dataset, "with_format"):
        return dataset.with_format(None)["input_ids"]
    return None


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
    Where the training set is a list or a `datasets.Dataset` with `input_ids`, the share of the panel that is in it is told
    (`Tracer(training=)`).

    A callback sees neither batches nor losses, so the loss of a step is what the model returned to the Trainer. Where it
    returns none (label smoothing, `compute_loss_func`, `torch_compile`), the loss that the Trainer logs is kept instead.
    """

    def __init__(self, panel: Panel, **settings: Any) -> None:
        self._attached = Attachment(panel, settings)
        self._without_loss = -1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Create the run; measure step 0, or go on with a run where the Trainer resumes from a checkpoint."""
        if (rows := token_rows(getattr(kwargs.get("train_dataloader"), "dataset", None))) is not None:
            self._attached.settings.setdefault("training", rows)
        tracer = self._attached.begin(kwargs["model"], kwargs.get("optimizer"), state.global_step, state.max_steps)
        control.should_training_stop = tracer.should_stop

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Hand the step to the tracer; stop training where its rule says so."""
        tracer = self._attached.tracer
        if tracer is None:
            return
        loss = self._loss(args)
        self._without_loss = state.global_step if loss is None else -1
        tracer.step(loss=loss, tokens=self._attached.tokens or None)
        self._attached.clear()
        if tracer.should_stop:
            control.should_training_stop = True
        self._before_save(control)

    def _loss(self, args: TrainingArguments) -> Tensor | None:
        """Return the loss of the step over its micro-batches: a sum of shares, or else their mean."""
        losses = self._attached.losses
        if not losses:
            return None
        total = sum(losses[1:], losses[0])
        if not self._attached.shares:
            return total / len(losses)
        # Every rank's losses are shares of the sum over all ranks; the tracer takes the mean over the ranks.
        return total * args.world_size if args.average_tokens_across_devices else total

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the loss that the Trainer logs where the model itself returns none."""
        logs, tracer = kwargs.get("logs") or {}, self._attached.tracer
        if tracer is not None and "loss" in logs and self._without_loss == state.global_step:
            self._without_loss = -1
            tracer.tell(loss=float(logs["loss"]))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what a resume from the checkpoint of an epoch needs."""
        self._before_save(control)

    def _before_save(self, control: TrainerControl) -> None:
        """Write what the tracer knows before the Trainer saves, so that no kill in between can part the two."""
        if control.should_save:
            self._attached.checkpoint()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Do the same where another callback has asked for the checkpoint."""
        self._attached.checkpoint()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the last step and close the run."""
        self.close()

    def close(self, error: BaseException | None = None) -> None:
        """Close the run; call it with the error where training raised."""
        self._attached.close(error)
