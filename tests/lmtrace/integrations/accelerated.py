"""One of the processes of a training with accelerate; run as a script by `test_accelerate.py`: accelerated.py FOLDER."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

import lmtrace
from lmtrace.jobs.data import Collator, training_rows
from lmtrace_helpers import tiny


class Rule:
    def update(self, step, records):
        return "enough" if step >= 4 else None


def main(folder: Path) -> None:
    toys = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    rng = np.random.default_rng(0)
    sentences = [toys["toy_sentence"](rng) for _ in range(200)]
    tokenizer = lmtrace.WordTokenizer.from_corpus(sentences)
    panel = lmtrace.Panel.from_annotated(sentences, tokenizer, size=64, seed=0)
    set_seed(3)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model = tiny("llama", tokenizer, "2x32")
    rows = training_rows(sentences, tokenizer, "causal", 32)
    loader = DataLoader(rows, 4, shuffle=True, collate_fn=Collator(tokenizer, "causal"))  # pyright: ignore
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses, tokens = [], []
    settings = {"run": folder / "run", "every": 2, "signals": "output,probe,curvature", "stop": Rule()}
    with lmtrace.Tracer(model, panel, optimizer=optimizer, **settings) as tracer:
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(loss.detach()))
            tokens.append(int(batch["attention_mask"].sum()))
            tracer.step(loss=loss, tokens=tokens[-1], complete=accelerator.sync_gradients)
            if tracer.should_stop:
                break
    np.savetxt(folder / f"losses-{accelerator.process_index}.txt", losses)
    np.savetxt(folder / f"tokens-{accelerator.process_index}.txt", tokens)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads now and then abort an interpreter that is on its way out
