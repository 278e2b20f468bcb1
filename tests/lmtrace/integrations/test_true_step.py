"""Numbers belong to the state they were taken from, and the recorded loss is the one that is trained."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

import lmtrace
from lmtrace.jobs.data import Collator, training_rows
from lmtrace_helpers import tiny


class Log(TrainerCallback):
    """What the Trainer itself says, and the loss of the panel's own batch after every step."""

    def __init__(self):
        self.losses, self.rates = [], []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append((state.global_step, logs["loss"]))
            self.rates.append(logs["learning_rate"])


class Norms(TrainerCallback):
    """The size of one weight after every step."""

    def __init__(self):
        self.values = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.values[state.global_step] = float(next(model.parameters()).detach().double().norm())


class ForeignForward(TrainerCallback):
    """Another callback that reads a batch with gradients after the step, as monitors do."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model(input_ids=torch.full((2, 5), 4), labels=torch.full((2, 5), 5))


class WithPenalty(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, False, num_items_in_batch)
        return loss + 0.7


class TwoPasses(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        first = model(**inputs, num_items_in_batch=num_items_in_batch).loss
        second = model(**inputs, num_items_in_batch=num_items_in_batch).loss
        return (first + second) / 2


def trainer_of(kind, tokenizer, sentences, folder, callbacks, **settings):
    model = tiny("llama", tokenizer, seed=4)
    base = {
        "max_steps": 7, "per_device_train_batch_size": 4, "learning_rate": 3e-3, "logging_steps": 1, "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "seed": 5, "save_strategy": "no", "dataloader_pin_memory": False, "warmup_steps": 3,
    }  # fmt: skip
    return kind(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **{**base, **settings}),
        train_dataset=training_rows(sentences, tokenizer, "causal", 32),
        eval_dataset=training_rows(sentences[:16], tokenizer, "causal", 32),
        data_collator=Collator(tokenizer, "causal"),
        callbacks=callbacks,
    )


CASES = {
    "plain": (Trainer, {}, []),
    "every third step": (Trainer, {"logging_steps": 3, "max_steps": 9}, []),
    "accumulated": (Trainer, {"gradient_accumulation_steps": 3}, []),
    "a term is added": (WithPenalty, {}, []),
    "a term is added, logged every second step": (WithPenalty, {"logging_steps": 2, "max_steps": 8}, []),
    "a term is added, logged and saved at once": (
        WithPenalty,
        {"logging_steps": 2, "max_steps": 6, "save_strategy": "steps", "save_steps": 2},
        [],
    ),
    "two passes": (TwoPasses, {}, []),
    "forward of another callback": (Trainer, {}, [ForeignForward()]),
    "label smoothing": (Trainer, {"label_smoothing_factor": 0.2, "logging_steps": 2, "max_steps": 6}, []),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", [True, False], ids=["ours first", "ours last"])
def test_the_loss_that_is_recorded_is_the_one_that_is_trained(case, first, tokenizer, sentences, panel, tmp_path):
    kind, settings, others = CASES[case]
    log = Log()
    ours = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=50, signals="weights")
    callbacks = [ours, *others, log] if first else [*others, log, ours]
    trainer_of(kind, tokenizer, sentences, tmp_path, callbacks, **settings).train()
    run = lmtrace.open_run(tmp_path / "run")
    steps, values = run.scalars("loss")
    recorded = dict(zip(steps.tolist(), values.tolist(), strict=True))
    before = 0
    for step, logged in log.losses:
        between = [recorded[s] for s in range(before + 1, step + 1) if s in recorded]
        assert np.mean(between) == pytest.approx(logged, rel=1e-6), step
        before = step
    told = [event.text for event in run.events("loss")]
    assert len(told) == (kind in (WithPenalty, TwoPasses))
    rates = dict(zip(*[part.tolist() for part in run.scalars("learning_rate")], strict=True))
    assert [rates[step] for step, _ in log.losses] == pytest.approx(log.rates, rel=1e-6)
    assert rates[1] == 0.0


def test_tokens_are_counted_once_without_padding(tokenizer, sentences, panel, tmp_path):
    seen = []

    class Counting(TwoPasses):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            seen.append(int(inputs["attention_mask"].sum()))
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    ours = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=50, signals="weights")
    trainer_of(Counting, tokenizer, sentences, tmp_path, [ours], gradient_accumulation_steps=2, max_steps=4).train()
    run = lmtrace.open_run(tmp_path / "run")
    assert run.scalars("tokens")[1].tolist() == [a + b for a, b in zip(seen[::2], seen[1::2], strict=True)]
    assert run.tokens_seen[-1] == sum(seen)


BEST = {
    "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss", "greater_is_better": True,
}  # fmt: skip


@pytest.mark.parametrize("first", [True, False], ids=["ours first", "ours last"])
def test_the_last_step_is_not_measured_on_the_best_models_weights(first, tokenizer, sentences, panel, tmp_path):
    norms = Norms()
    ours = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=50, signals="output")
    trainer = trainer_of(
        Trainer, tokenizer, sentences, tmp_path / "out", [ours, norms] if first else [norms, ours], **BEST, max_steps=6
    )
    trainer.train()
    assert float(next(trainer.model.parameters()).detach().double().norm()) == pytest.approx(norms.values[2], rel=1e-6)
    run = lmtrace.open_run(tmp_path / "run")
    assert run.steps.tolist() == [0, 6]
    plain = lmtrace.TraceCallback(panel, run=tmp_path / "plain", every=50, signals="output")
    trainer_of(Trainer, tokenizer, sentences, tmp_path / "out2", [plain], max_steps=6).train()
    last, expected = (
        lmtrace.open_run(tmp_path / name).series("output", "loss").values[-1].item() for name in ("run", "plain")
    )
    assert last == expected


def test_a_last_step_whose_weights_are_gone_is_left_out_and_told(tokenizer, sentences, panel, tmp_path):
    """Early stopping is decided after the step, and the best weights are loaded before training is said to have ended."""
    ours = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=50, signals="output")
    stopping = EarlyStoppingCallback(early_stopping_patience=1)
    trainer = trainer_of(Trainer, tokenizer, sentences, tmp_path / "out", [ours, stopping], **BEST, max_steps=30)
    trainer.train()
    stopped = trainer.state.global_step
    assert stopped < 30
    run = lmtrace.open_run(tmp_path / "run")
    assert run.steps.tolist() == [0]
    [event] = run.events("not measured")
    assert event.step == stopped
    assert "weights were replaced" in event.text


def test_training_that_begins_again_replaces_its_own_run(tokenizer, sentences, panel, tmp_path):
    """`auto_find_batch_size` calls `on_train_begin` once per batch size that it tries."""
    failures = [torch.cuda.OutOfMemoryError("CUDA out of memory."), None]

    class Fails(Trainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 2 and failures and (error := failures.pop(0)):
                raise error
            return super().training_step(*args, **kwargs)

    ours = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=2, signals="weights")
    trainer_of(Fails, tokenizer, sentences, tmp_path, [ours], auto_find_batch_size=True, max_steps=5).train()
    run = lmtrace.open_run(tmp_path / "run")
    assert run.status == "finished"
    assert run.steps.tolist() == [0, 2, 4, 5]
    assert run.scalars("loss")[0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "accumulated", "penalty", "best"])
def test_two_processes_record_the_loss_that_is_logged_and_end_together(case, tmp_path):
    root = Path(__file__).parents[3]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    script = Path(__file__).with_name("two_trainers.py")
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), case], env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=400)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, said, strict=True):
        assert process.returncode == 0, text[-3000:]
    run = lmtrace.open_run(tmp_path / "run")
    recorded = dict(zip(*[part.tolist() for part in run.scalars("loss")], strict=True))
    before = 0
    for step, logged in json.loads((tmp_path / "log.json").read_text()):
        between = [recorded[s] for s in range(before + 1, step + 1) if s in recorded]
        assert np.mean(between) == pytest.approx(logged, rel=2e-6)
        before = step
    assert before == run.steps[-1]
    assert len(run.events("loss")) == (case == "penalty")
    assert run.status == "finished"
