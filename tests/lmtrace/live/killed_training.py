"""A training that is killed again and again; run as a script by `test_killed.py`.

    python killed_training.py FOLDER KILLS SEED loop|trainer

Imports torch once; every attempt is a fork of this process, so that an attempt costs no more than its work. Prints what was seen
as JSON.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import runpy
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments

import lmtrace
from lmtrace.analysis.stopping import Converged
from lmtrace.jobs.data import Collator, training_rows
from lmtrace.jobs.train import last_checkpoint
from lmtrace.live.tracer import Tracer
from lmtrace.observe.interface import Needs, Signal
from lmtrace.records.schema import Field
from lmtrace.run import open_run
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import tiny

toys = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "conftest.py")))
STEPS, EVERY, SAVE = 200, 2, 5
SIGNALS = ["output", "similarity", "weights"]


class Fails(Signal):
    """Raises at every measurement, so it is switched off after two; leaves a note before that."""

    name, cost, source = "fails", "none", "test"
    fields = (Field(metric="value", title="value"),)

    def needs(self, panel):
        return Needs()

    def measure(self, view):
        if view.step == 0:
            view.note("example", "a note", {"step": view.step})
        raise RuntimeError("never")
        yield


def attempt(folder: Path, panel: Panel, tokenizer: WordTokenizer, say, steps: int = STEPS) -> None:
    """Train from the last saved state, or from the start, to the end."""
    torch.manual_seed(0)
    model = tiny("gpt2", tokenizer, size="1x32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.96)
    step, saved = 0, folder / "state.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["random"])
        step = state["step"]
    model.train()
    stop = Converged("output.loss", window=12, tolerance=2e-3, patience=3, on_gap="stop")
    tracer = Tracer(
        model, panel, signals=[*SIGNALS, Fails()], every=EVERY, run=folder / "run", optimizer=optimizer, stop=stop,
        resume=True, start_step=step,
    )  # fmt: skip
    with tracer:
        while tracer.current_step < steps and not tracer.should_stop:
            batch = torch.Generator().manual_seed(tracer.current_step)
            ids = torch.randint(5, 15, (16, 9), generator=batch)
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            tracer.step(loss=loss, tokens=ids.numel() + tracer.current_step)
            if tracer.current_step % EVERY == 0:
                say(tracer.current_step)
            if tracer.current_step % SAVE == 0:
                tracer.checkpoint()
                state = {
                    "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": tracer.current_step,
                    "scheduler": scheduler.state_dict(), "random": torch.get_rng_state(),
                }  # fmt: skip
                torch.save(state, folder / "state.tmp")
                os.replace(folder / "state.tmp", saved)


class Speaks(TrainerCallback):
    """Says which measurements are done; comes after the tracer's callback."""

    def __init__(self, say) -> None:
        self.say = say

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % EVERY == 0:
            self.say(state.global_step)


def attempt_trainer(folder: Path, panel: Panel, tokenizer: WordTokenizer, say, steps: int = STEPS) -> None:
    """Do the same on the Hugging Face Trainer, with its own checkpoints."""
    checkpoints = folder / "checkpoints"
    arguments = TrainingArguments(
        output_dir=str(checkpoints), max_steps=steps, per_device_train_batch_size=16, learning_rate=3e-3, seed=3,
        lr_scheduler_type="constant", save_strategy="steps", save_steps=SAVE, logging_strategy="no", report_to=[],
        disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    callback = lmtrace.TraceCallback(
        panel, run=folder / "run", signals=[*SIGNALS, Fails()], every=EVERY, resume=True,
        stop=Converged("output.loss", window=12, tolerance=2e-2, patience=3, on_gap="stop"),
    )  # fmt: skip
    trainer = Trainer(
        model=tiny("gpt2", tokenizer, size="1x32"), args=arguments, data_collator=Collator(tokenizer, "causal"),
        train_dataset=training_rows(panel.sentences, tokenizer, "causal", 32), callbacks=[callback, Speaks(say)],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))


def fork(work) -> tuple[int, int]:
    """Run `work(say)` in a child; return its process and the end of the pipe that it speaks into.

    A child that hangs says where and dies.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        return child, ours
    code = 1
    try:
        os.close(ours)
        faulthandler.dump_traceback_later(200, exit=True)
        work(lambda step: os.write(theirs, f"{step}\n".encode()))
        code = 0
    finally:
        os._exit(code)


def heard(pipe: int) -> list[int]:
    """Return the whole lines that a dead child left."""
    with os.fdopen(pipe, "rb") as file:
        return [int(line) for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]


def content(folder: Path) -> dict:
    """Return everything of a run that does not depend on the clock."""
    with open_run(folder / "run") as run:
        records = [r for r in run.records() if r.signal != "cost"]
        return {
            "status": run.status,
            "steps": run.steps.tolist(),
            "tokens": run.tokens_seen.tolist(),
            "records": [repr(r) for r in records],
            "scalars": {m: [x.tolist() for x in run.scalars(m)] for m in run.scalar_metrics},
            "events": [(e.step, e.kind, e.text, e.data) for e in run.events()],
        }


def main(folder: Path, kills: int, seed: int, how: str) -> None:
    torch.set_num_threads(1)
    # tqdm's own lock is shared by all processes of a fork: a child that is killed while it holds it stops all that come after.
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0
    work = {"loop": attempt, "trainer": attempt_trainer}[how]
    rng = np.random.default_rng(0)
    sentences = [toys.toy_sentence(rng) for _ in range(60)]
    tokenizer = WordTokenizer.from_corpus(sentences)
    panel = Panel.from_annotated(sentences[:40], tokenizer, size=40, seed=0)
    (folder / "warm").mkdir(parents=True)
    work(folder / "warm", panel, tokenizer, lambda step: None, steps=2)  # what it imports is imported here, once

    def started(name: str) -> tuple[int, int]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        return fork(lambda say: work(folder / name, panel, tokenizer, say))

    begin = time.monotonic()
    child, pipe = started("whole")
    _, status = os.waitpid(child, 0)
    assert status == 0, "the uninterrupted run failed"
    expected, seconds = content(folder / "whole"), time.monotonic() - begin
    assert expected["status"] == "stopped early", expected["steps"][-1]
    chance = random.Random(seed)
    killed, runs, resumed, at_start = 0, 0, 0, 0
    unfinished = True
    while killed < kills or unfinished:
        unfinished = True
        name = f"run-{runs}"
        child, pipe = started(name)
        patience = chance.uniform(0.0, seconds / (5 if how == "loop" else 2)) if killed < kills else 300
        done, status, until = 0, 0, time.monotonic() + patience
        while not done and time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.002)
        if not done:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        elif status != 0:
            raise SystemExit(f"attempt {killed} of {name} failed with {status}")
        said = heard(pipe)
        if not (folder / name / "run" / "run.sqlite").exists():
            at_start += 1
            continue
        now = content(folder / name)
        missing = sorted(set(said) - set(now["steps"]))
        assert not missing, f"acknowledged and lost: {missing}"
        assert len(now["steps"]) == len(set(now["steps"]))
        whole = set(expected["records"])
        other = [record for record in now["records"] if record not in whole]
        assert not other, f"not in the uninterrupted run: {other[:3]} and {len(other) - 3} more"
        resumed += (folder / name / "state.pt").exists() or last_checkpoint(folder / name / "checkpoints") is not None
        if done:
            assert now == expected, [key for key in expected if now[key] != expected[key]]
            runs += 1
            unfinished = False
    seen = {
        "killed": killed, "runs": runs, "resumed": resumed, "at_start": at_start, "measurements": len(expected["steps"]),
        "stopped": expected["steps"][-1], "seconds": round(seconds, 2), "events": expected["events"],
    }  # fmt: skip
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
