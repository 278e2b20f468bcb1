"""accelerate: a plain loop on what `Accelerator.prepare` returns; no class of ours is needed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

import lmtrace
from lmtrace.jobs.data import Collator, training_rows
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.isolation import generator_fingerprint
from lmtrace.signals import resolve
from lmtrace_helpers import tiny

SCRIPT = Path(__file__).with_name("accelerated.py")


@pytest.fixture(autouse=True)
def fresh_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def prepared(style, tokenizer, sentences, **settings):
    AcceleratorState._reset_state(reset_partial_state=True)
    set_seed(3)
    accelerator = Accelerator(cpu=True, **settings)
    model = tiny(style, tokenizer, "2x32")
    rows = training_rows(sentences, tokenizer, "causal", 32)
    loader = DataLoader(rows, 8, shuffle=True, collate_fn=Collator(tokenizer, "causal"))  # pyright: ignore
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return accelerator, *accelerator.prepare(model, optimizer, loader)


def train(style, tokenizer, sentences, panel, run, steps=4, **settings):
    """The documented loop; returns everything that must not be disturbed."""
    accelerator, model, optimizer, loader = prepared(style, tokenizer, sentences, **settings)
    model.train()
    losses, done = [], 0
    tracer = None
    if run is not None:
        tracer = lmtrace.Tracer(model, panel, run=run, every=2, signals="full", optimizer=optimizer)
        tracer.__enter__()
    for batch in loader:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if tracer is not None:
            tracer.step(loss=loss, complete=accelerator.sync_gradients)
        losses.append(float(loss.detach()))
        done += accelerator.sync_gradients
        if done == steps:
            break
    if tracer is not None:
        tracer.__exit__(None, None, None)
    state = [torch.as_tensor(v).clone() for entry in optimizer.state_dict()["state"].values() for v in entry.values()]
    return {
        "weights": [v.clone() for v in model.state_dict().values()],
        "optimizer": state,
        "flags": [m.training for m in model.modules()],
        "losses": losses,
        "generators": [generator_fingerprint()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "forward": [model.forward.__qualname__],
    }


MODES = {
    "dropout": ("gpt2", {}),
    "accumulation": ("llama", {"gradient_accumulation_steps": 3}),
    "bf16": ("gpt2", {"mixed_precision": "bf16"}),
}


@pytest.mark.parametrize("mode", MODES)
def test_training_is_bit_identical(mode, tokenizer, sentences, panel, tmp_path):
    style, settings = MODES[mode]
    plain = train(style, tokenizer, sentences, panel, None, **settings)
    traced = train(style, tokenizer, sentences, panel, tmp_path / "run", **settings)
    for key, values in plain.items():
        for x, y in zip(values, traced[key], strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, key
    run = lmtrace.open_run(tmp_path / "run")
    assert run.steps.tolist() == [0, 2, 4]
    parts = settings.get("gradient_accumulation_steps", 1)
    expected = np.array(traced["losses"]).reshape(4, parts).mean(1)
    np.testing.assert_allclose(run.scalars("loss")[1], expected, rtol=1e-6)
    assert run.scalars("learning_rate")[1].tolist() == [1e-2] * 4


def test_a_prepared_model_is_measured_in_full_precision(tokenizer, sentences, panel):
    """accelerate wraps the forward in autocast for good; what is measured must not depend on who trains."""
    _, model, optimizer, _ = prepared("gpt2", tokenizer, sentences, mixed_precision="bf16")
    signals = "output,probe,lens,gradient,weights,attention"
    found = Instrument(model, panel, resolve(signals), optimizer, on_error="raise").measure(0)
    plain = Instrument(tiny("gpt2", tokenizer, "2x32"), panel, resolve(signals), on_error="raise").measure(0)
    a, b = ([r for r in records if r.signal != "cost" and r.metric != "update_ratio"] for records in (found, plain))
    assert a == b


@pytest.mark.slow
def test_two_processes_write_one_run(tmp_path):
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    port = random.Random(os.getpid()).randint(20000, 40000)
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path)],
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=1200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)[-3000:]
    run = lmtrace.open_run(tmp_path / "run")
    assert run.header.status == "stopped early"
    assert run.steps.tolist() == [0, 2, 4]
    losses = [np.loadtxt(tmp_path / f"losses-{rank}.txt") for rank in range(2)]
    assert len(losses[0]) == len(losses[1]) == 8, "both ranks stop at the same step"
    expected = np.mean(losses, axis=0).reshape(4, 2).mean(1)
    np.testing.assert_allclose(run.scalars("loss")[1], expected, rtol=1e-6)
    tokens = sum(np.loadtxt(tmp_path / f"tokens-{rank}.txt").sum() for rank in range(2))
    assert run.scalars("tokens")[1].sum() == tokens
