"""The Hugging Face Trainer: one callback.

Run: python examples/02_trainer.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import absynth
import lmtrace


def main(folder: Path = Path("runs/examples/02"), steps: int = 200, sentences: int = 20_000) -> lmtrace.run.Run:
    """Train with the Trainer; what can be read about roles, before and after."""
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), n=sentences, seed=0)
    train, _, test = corpus.split(train=0.9, dev=0.05, test=0.05, seed=0)
    tokenizer = lmtrace.WordTokenizer.from_corpus(corpus)
    panel = lmtrace.Panel.from_annotated(test, tokenizer, size=256, seed=0)
    rows = [[tokenizer.bos_token_id, *tokenizer.encode(s.tokens), tokenizer.eos_token_id] for s in train]

    def collate(batch: list[list[int]]) -> dict[str, Any]:
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in batch], True, tokenizer.pad_token_id)
        real = ids != tokenizer.pad_token_id
        return {"input_ids": ids, "attention_mask": real.long(), "labels": ids.masked_fill(~real, -100)}

    set_seed(0)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = GPT2LMHeadModel(
        GPT2Config(**ends, vocab_size=len(tokenizer), n_layer=2, n_embd=64, n_head=2, n_positions=64)
    )
    model.loss_type = "ForCausalLM"
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"), max_steps=steps, per_device_train_batch_size=64, learning_rate=3e-3,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no", use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    callback = lmtrace.TraceCallback(panel, run=folder, every=max(1, steps // 4), signals="light")
    Trainer(model, arguments, train_dataset=rows, data_collator=collate, callbacks=[callback]).train()  # pyright: ignore[reportArgumentType]

    run = lmtrace.open_run(folder)
    role = run.series(signal="probe", metric="accuracy", label="role", site="final")
    print(
        f"role at the last site: {role.values[0, 0]:.2f} untrained, {role.values[-1, 0]:.2f} trained, null {role.null[-1, 0]:.2f}"
    )
    return run


if __name__ == "__main__":
    main()
