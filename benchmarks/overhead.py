"""What measuring costs: each signal in gradients, the captured pass in bare forwards, the default set in training time."""

from __future__ import annotations

import os
import time

import torch

from benchmarks._timing import median, ratio
from lmtrace.jobs.data import Collator, DataConfig, build_panel, load_tokenizer, split, training_rows
from lmtrace.jobs.models import build_model
from lmtrace.observe.forward import default_forward, inputs_of
from lmtrace.observe.instrument import Instrument
from lmtrace.signals import PRESETS, available, resolve

BATCH = 64


def _setting(size: str):
    config = DataConfig(corpus="absynth:small", sentences=20_000)
    training, held_out = split(config)
    tokenizer = load_tokenizer(config, training, "causal")
    panel = build_panel(held_out, tokenizer, config)
    rows = training_rows(training, tokenizer, "causal", 128)
    specials = {"pad": 0, "bos": 2, "eos": 3}
    model = build_model("gpt2", size, len(tokenizer), specials=specials)
    collator = Collator(tokenizer, "causal")
    batches = [collator([rows[i] for i in range(k * BATCH, (k + 1) * BATCH)]) for k in range(50)]
    return panel, model, batches


def _trainer(model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    state = {"i": 0}

    def gradient():
        batch = batches[state["i"] % len(batches)]
        state["i"] += 1
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        return loss

    def step():
        loss = gradient()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return optimizer, gradient, step


def rows():
    """Return the overhead table: 4 layers x 256, 512-sentence panel."""
    panel, model, batches = _setting("medium")
    model.train()
    optimizer, gradient, step = _trainer(model, batches)
    for _ in range(5):
        step()
    optimizer.zero_grad()
    padded = [inputs_of(b, torch.device("cpu")) for b in panel.batches(64)]

    def forward():
        model.eval()
        with torch.no_grad():
            for inputs in padded:
                default_forward(model, inputs)
        model.train()

    one_gradient = median(gradient, repeats=5)
    bare = median(forward, repeats=3)
    optimizer.zero_grad()
    full = Instrument(model, panel, resolve("full"), optimizer)
    full.train_batches[:] = [batches[0]]
    full.measure(0)  # splits are drawn and references counted once
    parts = full.measure(1)
    cheap = Instrument(model, panel, [s for s in resolve("standard") if s.name != "curvature"], optimizer)
    curvature = Instrument(model, panel, resolve("curvature"), optimizer)
    for instrument in (cheap, curvature):
        instrument.measure(0)
    found = [
        {"name": "training step, batch 64", "value": 1e3 * median(step, repeats=5), "unit": "ms"},
        {"name": "bare forward of the panel", "value": bare / one_gradient, "unit": "gradients"},
        {
            "name": "captured pass + default set without curvature",
            "value": ratio(lambda: cheap.measure(1), forward, repeats=3, warmup=0),
            "unit": "bare forwards",
            "bound": "<= 1.5",
        },
    ]
    for record in parts:
        if record.signal == "cost" and record.label not in ("pass", "all"):
            where = "standard" if record.label in PRESETS["standard"] else "full"
            found.append(
                {
                    "name": f"signal {record.label}, without the shared pass",
                    "value": record.value / one_gradient,
                    "unit": "gradients",
                    "note": f"in the preset {where}, every {available()[record.label].stride}. measurement",
                }
            )
    return found + _shares(cheap, curvature, step)


def _shares(cheap, curvature, step):
    """Pair one measurement with 20 training steps: processor time on one thread, and wall time on all cores."""
    found = []
    for clock, threads in ((time.process_time, 1), (time.perf_counter, os.cpu_count() or 1)):
        torch.set_num_threads(threads)
        cheap.measure(1)

        def share(instrument, clock=clock):
            steps = lambda: [step() for _ in range(20)]  # noqa: E731
            return 20 * ratio(lambda: instrument.measure(1), steps, repeats=3, warmup=0, clock=clock)

        rest, hessian = share(cheap), share(curvature)
        kind = "processor time" if threads == 1 else f"wall time, {threads} threads"
        for title, steps in (
            ("default set without curvature, every 100 steps", rest / 100),
            ("default set with curvature, every 500 steps", (rest + hessian) / 500),
            ("default set as it ships: every 100 steps, curvature every 500", rest / 100 + hessian / 500),
        ):
            row = {"name": title, "value": 100 * steps, "unit": "% of training time", "note": kind}
            found.append(row if title.startswith("default set as") else {**row, "bound": "<= 5"})
    torch.set_num_threads(1)
    return found
