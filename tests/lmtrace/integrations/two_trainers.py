"""One of two processes of a Hugging Face Trainer; run by `test_true_step.py`: two_trainers.py FOLDER CASE."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
from transformers import Trainer, TrainerCallback, TrainingArguments

import lmtrace
from lmtrace.jobs.data import Collator, training_rows
from lmtrace_helpers import tiny


class Log(TrainerCallback):
    def __init__(self):
        self.losses = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append((state.global_step, logs["loss"]))


class WithPenalty(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return super().compute_loss(model, inputs, False, num_items_in_batch) + 0.4


BEST = {
    "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss", "greater_is_better": True, "max_steps": 4,
}  # fmt: skip
CASES = {
    "plain": (Trainer, {}),
    "accumulated": (Trainer, {"gradient_accumulation_steps": 2, "max_steps": 4}),
    "penalty": (WithPenalty, {}),
    "best": (Trainer, BEST),
}


def main(folder: Path, case: str) -> None:
    toys = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    rng = np.random.default_rng(0)
    sentences = [toys["toy_sentence"](rng) for _ in range(120)]
    tokenizer = lmtrace.WordTokenizer.from_corpus(sentences)
    panel = lmtrace.Panel.from_annotated(sentences, tokenizer, size=40, seed=0)
    kind, settings = CASES[case]
    log = Log()
    base = {
        "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 2, "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "ddp_backend": "gloo", "seed": 5, "save_strategy": "no",
        "dataloader_pin_memory": False,
    }  # fmt: skip
    rows = training_rows(sentences, tokenizer, "causal", 32)
    trainer = kind(
        model=tiny("llama", tokenizer, seed=4),
        args=TrainingArguments(output_dir=str(folder / "out"), **{**base, **settings}),
        train_dataset=rows,
        eval_dataset=training_rows(sentences[:16], tokenizer, "causal", 32),
        data_collator=Collator(tokenizer, "causal"),
        callbacks=[lmtrace.TraceCallback(panel, run=folder / "run", every=50, signals="output"), log],
    )
    trainer.train()
    if trainer.is_world_process_zero():
        (folder / "log.json").write_text(json.dumps(log.losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
