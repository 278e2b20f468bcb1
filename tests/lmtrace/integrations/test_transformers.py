"""The Hugging Face Trainer: the loss that is recorded, bit-identity, accumulation, stopping, resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import lmtrace
from lmtrace.jobs.data import Collator, training_rows
from lmtrace.observe.isolation import generator_fingerprint
from lmtrace.signals.curvature import Curvature
from lmtrace_helpers import tiny


class Losses(TrainerCallback):
    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.values.append(logs["loss"])


def run_trainer(style, tokenizer, sentences, folder, callbacks, *, steps=6, accumulate=1, loss=None, **more):
    objective = {"bert": "masked", "t5": "seq2seq"}.get(style, "causal")
    model = tiny(style, tokenizer)
    losses = Losses()
    trainer = Trainer(
        compute_loss_func=loss,
        model=model,
        args=TrainingArguments(
            output_dir=str(folder), max_steps=steps, per_device_train_batch_size=8,
            gradient_accumulation_steps=accumulate, learning_rate=1e-2, logging_steps=1, report_to=[],
            disable_tqdm=True, use_cpu=True, seed=3, save_strategy=more.pop("save_strategy", "no"),
            dataloader_pin_memory=False, **more,
        ),
        train_dataset=training_rows(sentences, tokenizer, objective, 32),
        data_collator=Collator(tokenizer, objective),
        callbacks=[losses, *callbacks],
    )  # fmt: skip
    return trainer, losses


def finish(trainer, **settings):
    trainer.train(**settings)
    weights = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    state = [v for entry in trainer.optimizer.state_dict()["state"].values() for v in entry.values()]
    return weights, state


CHECKPOINTING = next(f for f in TrainingArguments.__dataclass_fields__ if f.endswith("_checkpointing"))
MODES = {
    "gpt2": ("gpt2", {}),
    "gpt2 accumulated": ("gpt2", {"accumulate": 3}),
    "bert": ("bert", {}),
    "t5": ("t5", {}),
    "bf16": ("llama", {"bf16": True}),
    "checkpointing": ("gpt2", {CHECKPOINTING: True}),
    "compiled": ("llama", {"torch_compile": True, "torch_compile_backend": "aot_eager"}),
}


@pytest.mark.parametrize("mode", MODES)
def test_training_is_bit_identical(mode, tokenizer, sentences, panel, tmp_path):
    style, settings = MODES[mode]
    # The Trainer seeds the generators when it is made, so each one trains before the next is made.
    plain, losses = run_trainer(style, tokenizer, sentences, tmp_path / "a", [], steps=4, **settings)
    weights, state = finish(plain)
    generators = generator_fingerprint()
    torch._dynamo.reset()
    callback = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=2, signals="full")
    traced, losses2 = run_trainer(style, tokenizer, sentences, tmp_path / "b", [callback], steps=4, **settings)
    weights2, state2 = finish(traced)
    assert all(torch.equal(weights[k], weights2[k]) for k in weights)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(state, state2, strict=True))
    assert losses.values == losses2.values
    assert generator_fingerprint() == generators
    recorded = lmtrace.open_run(tmp_path / "run").scalars("loss")[1]
    assert np.allclose(recorded, losses.values, atol=2e-4)
    hooks, hooks2 = (
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in t.model.modules()] for t in (plain, traced)
    )
    assert hooks == hooks2


def own_loss(outputs, labels, num_items_in_batch=None):
    """A loss that the model does not return."""
    logits = outputs.logits[:, :-1].flatten(0, 1)
    total = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum", label_smoothing=0.2)
    return total / num_items_in_batch


LOSSES = {
    "gpt2": {"style": "gpt2"},
    "gpt2 accumulated": {"style": "gpt2", "accumulate": 3},  # the model returns its share of the step's loss
    "bert accumulated": {"style": "bert", "accumulate": 3},
    "t5 accumulated": {"style": "t5", "accumulate": 3},  # the Trainer divides
    "label smoothing": {"style": "gpt2", "label_smoothing_factor": 0.1},  # the model returns none
    "own loss": {"style": "llama", "loss": own_loss, "accumulate": 2},
}


@pytest.mark.parametrize("case", LOSSES)
def test_the_recorded_loss_is_the_trainers_own(case, tokenizer, sentences, panel, tmp_path):
    callback = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=100, signals="pairs")
    settings = LOSSES[case]
    trainer, losses = run_trainer(
        tokenizer=tokenizer, sentences=sentences, folder=tmp_path, callbacks=[callback], **settings
    )
    trainer.train()
    run = lmtrace.open_run(tmp_path / "run")
    steps, values = run.scalars("loss")
    assert list(steps) == [1, 2, 3, 4, 5, 6]
    assert np.allclose(values, losses.values, atol=2e-4)
    assert run.steps.tolist() == [0, 6]
    assert len(run.scalars("learning_rate")[0]) == 6


def test_a_stop_rule_stops_the_trainer(tokenizer, sentences, panel, tmp_path):
    class Rule:
        def update(self, step, records):
            return "enough" if step >= 2 else None

    callback = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=1, signals="pairs", stop=Rule())
    trainer, _ = run_trainer("gpt2", tokenizer, sentences, tmp_path, [callback])
    trainer.train()
    assert trainer.state.global_step == 2
    assert lmtrace.open_run(tmp_path / "run").header.status == "stopped early"


def test_resume_from_a_checkpoint_goes_on_with_the_run(tokenizer, sentences, panel, tmp_path):
    def callback(name):
        return lmtrace.TraceCallback(panel, run=tmp_path / name, every=1, signals="output,dimension,curvature")

    whole, _ = run_trainer("gpt2", tokenizer, sentences, tmp_path / "w", [callback("whole")], steps=6)
    whole.train()
    settings = {"save_strategy": "steps", "save_steps": 3}
    first, _ = run_trainer("gpt2", tokenizer, sentences, tmp_path / "p", [callback("parts")], steps=6, **settings)

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 4

    first.add_callback(Interrupt())
    first.train()
    second, _ = run_trainer("gpt2", tokenizer, sentences, tmp_path / "p", [callback("parts")], steps=6, **settings)
    second.train(resume_from_checkpoint=str(tmp_path / "p" / "checkpoint-3"))
    a, b = lmtrace.open_run(tmp_path / "whole"), lmtrace.open_run(tmp_path / "parts")
    assert a.steps.tolist() == b.steps.tolist() == list(range(7))
    assert np.allclose(a.scalars("loss")[1], b.scalars("loss")[1], atol=1e-6)
    for key in a.keys():
        if key.signal != "cost":
            x, y = (
                run.series(signal=key.signal, metric=key.metric, label=key.label, split=key.split) for run in (a, b)
            )
            np.testing.assert_allclose(x.values, y.values, rtol=1e-6, atol=1e-9, err_msg=str(key))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_loss_of_the_training_batch_is_a_mean(accumulate, tokenizer, sentences, panel, tmp_path):
    """Not the share of a step's loss that the Trainer makes the model return."""
    signal = Curvature(sequences=4, num_probes=2, quantities=("spectrum", "trace", "landscape"))
    callback = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=1, signals=[signal])
    trainer, losses = run_trainer(
        "llama", tokenizer, sentences, tmp_path, [callback], steps=3, accumulate=accumulate
    )  # fmt: skip
    trainer.args.learning_rate = 0.0
    trainer.train()
    found = lmtrace.open_run(tmp_path / "run").series(signal="curvature", metric="train_loss").values[1:, 0]
    assert np.abs(found - losses.values).max() < 0.3  # 4 sequences of a batch at random weights, none of it trained


def test_tokens_are_counted_without_padding(tokenizer, sentences, panel, tmp_path):
    callback = lmtrace.TraceCallback(panel, run=tmp_path / "run", every=100, signals="pairs")
    trainer, _ = run_trainer("gpt2", tokenizer, sentences, tmp_path, [callback], num_train_epochs=1, steps=-1)
    trainer.train()
    rows = training_rows(sentences, tokenizer, "causal", 32)
    assert lmtrace.open_run(tmp_path / "run").scalars("tokens")[1].sum() == sum(map(len, rows.rows))
