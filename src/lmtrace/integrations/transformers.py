"""The Hugging Face Trainer: `Trainer(..., callbacks=[TraceCallback(panel, run="runs/hf", every=100)])`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lmtrace.integrations.attachment import Attachment
from lmtrace.integrations.losses import CheckedLosses
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

    A callback sees neither batches nor losses, so the loss of a step is what the model returned to the Trainer, as long as the
    Trainer logs the same. Where it does not (`compute_loss` adds a term), and where the model returns none (label
    smoothing, `compute_loss_func`, `torch_compile`), the loss that the Trainer logs is recorded.
    """

    def __init__(self, panel: Panel, **settings: Any) -> None:
        self._attached = Attachment(panel, settings)
        self._losses: CheckedLosses | None = None
        self._tokens_before = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Create the run; measure step 0, or go on with a run where the Trainer resumes from a checkpoint."""
        if (rows := token_rows(getattr(kwargs.get("train_dataloader"), "dataset", None))) is not None:
            self._attached.settings.setdefault("training", rows)
        tracer = self._attached.begin(kwargs["model"], kwargs.get("optimizer"), state.global_step, state.max_steps)
        self._losses = CheckedLosses(tracer)
        self._tokens_before = state.num_input_tokens_seen
        control.should_training_stop = tracer.should_stop

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the forwards from here on as the step's."""
        self._attached.begin_step()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the micro-batches of a step apart."""
        self._attached.begin_part()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count no forwards after the gradients are there: other callbacks may read batches of their own."""
        self._attached.end_forwards()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Hand the step to the tracer; stop training where its rule says so."""
        tracer = self._attached.tracer
        if tracer is None or self._losses is None:
            return
        if control.should_training_stop:  # its weights may be replaced before training is said to have ended
            tracer.last_step = state.global_step
        loss = self._losses.add(state.global_step, self._loss(args))
        tracer.step(loss=loss, tokens=self._tokens(state))
        self._attached.end_step()
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

    def _tokens(self, state: TrainerState) -> Tensor | int | None:
        """Return the tokens of the step: those that the model was seen to read, else those that the Trainer has counted."""
        counted, self._tokens_before = state.num_input_tokens_seen - self._tokens_before, state.num_input_tokens_seen
        return self._attached.tokens if self._attached.tokens is not None else counted or None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compare the losses since the last log with the one that the Trainer logs."""
        logs = kwargs.get("logs") or {}
        if self._losses is not None and self._attached.tracer is not None and "loss" in logs:
            self._losses.logged(state.global_step, float(logs["loss"]))
            if control.should_save:
                self._keep()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what a resume from the checkpoint of an epoch needs."""
        self._before_save(control)

    def _before_save(self, control: TrainerControl) -> None:
        """Write what the tracer knows before the Trainer saves, so that no kill in between can part the two."""
        if control.should_save and not control.should_log:  # a log comes before the save, and judges the losses first
            self._keep()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Do the same where another callback has asked for the checkpoint."""
        self._keep()

    def _keep(self) -> None:
        if self._losses is not None:
            self._losses.release()
        self._attached.checkpoint()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the last step and close the run."""
        self.close()

    def close(self, error: BaseException | None = None) -> None:
        """Close the run; call it with the error where training raised."""
        if self._losses is not None:
            self._losses.release()
            self._losses = None
        self._attached.close(error)
