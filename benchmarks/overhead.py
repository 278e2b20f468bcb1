"""What measuring costs: each signal in gradients, the captured pass in bare forwards, the default set in training time."""

from __future__ import annotations

import torch

from benchmarks._timing import median, ratio
from lmtrace.instrument import Instrument
from lmtrace.jobs.data import Collator, DataConfig, build_panel, load_tokenizer, split, training_rows
from lmtrace.jobs.models import build_model
from lmtrace.observe.forward import default_forward, inputs_of
from lmtrace.signals import available, resolve

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
    for _ in range(20):
        step()
    found = []
    one_gradient = median(gradient, repeats=9)
    one_step = median(step, repeats=9)
    optimizer.zero_grad()
    found.append({"name": "training step, batch 64 (4 x 256)", "value": 1e3 * one_step, "unit": "ms"})
    model.eval()
    padded = [inputs_of(b, torch.device("cpu")) for b in panel.batches(64)]

    def forward():
        with torch.no_grad():
            for inputs in padded:
                default_forward(model, inputs)

    model.train()
    everything = [s.name for s in resolve("standard") if s.name != "curvature"]
    instrument = Instrument(model, panel, resolve(everything), optimizer)
    found.append({"name": "bare forward of the panel", "value": median(forward) / one_gradient, "unit": "gradients"})
    found.append(
        {
            "name": "captured pass + default set without curvature",
            "value": ratio(lambda: instrument.measure(0), forward, repeats=3),
            "unit": "bare forwards",
            "bound": "<= 1.5",
        }
    )
    for name in sorted(available()):
        single = Instrument(model, panel, resolve([name]), optimizer)
        single.train_batches[:] = [batches[0]]
        single.measure(0)
        [spent] = [r.value for r in single.measure(1) if (r.signal, r.label) == ("cost", name)]
        found.append(
            {
                "name": f"signal {name}, without the shared pass",
                "value": spent / one_gradient,
                "unit": "gradients",
                "note": "one measurement after another",
            }
        )
    found += _shares(panel, model, optimizer, step, everything)
    return found


def _shares(panel, model, optimizer, step, everything):
    """Pair one measurement with the training steps between two: seconds of the one over seconds of the others, in turn."""
    result = []
    for title, signals, every in (
        ("default set without curvature, every 100 steps", everything, 100),
        ("default set with curvature, every 500 steps", "standard", 500),
    ):
        instrument = Instrument(model, panel, resolve(signals), optimizer)
        instrument.measure(0)
        share = ratio(
            lambda chosen=instrument: chosen.measure(1), lambda: [step() for _ in range(20)], repeats=3, warmup=0
        )
        result.append(
            {
                "name": title,
                "value": 100 * share * 20 / every,
                "unit": "% of training time",
                "bound": "<= 5",
                "note": "one measurement against 20 steps, paired, scaled to the interval",
            }
        )
    return result
