"""How the cost of measuring grows with layers, width, panel and vocabulary: the default set without curvature, every 100 steps."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks._timing import ratio, seconds
from lmtrace.jobs.data import Collator, DataConfig, build_panel, load_tokenizer, split, training_rows
from lmtrace.jobs.models import build_model
from lmtrace.observe.instrument import Instrument
from lmtrace.signals import resolve

BATCH, STEPS, EVERY = 64, 8, 100
CASES = {
    "2 layers x 128": ("2x128", 512, 1),
    "4 layers x 256": ("4x256", 512, 1),
    "6 layers x 384": ("6x384", 512, 1),
    "layers doubled: 4 x 128": ("4x128", 512, 1),
    "width doubled: 2 x 256": ("2x256", 512, 1),
    "panel halved: 2 x 128, 256 sentences": ("2x128", 256, 1),
    "vocabulary x 8: 2 x 128": ("2x128", 512, 8),
}
"""Title -> (size, panel sentences, factor on the vocabulary)."""


def rows() -> list[dict[str, Any]]:
    """Return the share of training time, with the seconds of a measurement and of a step in the note."""
    config = DataConfig(corpus="absynth:small", sentences=20_000)
    training, held_out = split(config)
    tokenizer = load_tokenizer(config, training, "causal")
    tokens = training_rows(training, tokenizer, "causal", 128)
    collator = Collator(tokenizer, "causal")
    batches = [collator([tokens[i] for i in range(k * BATCH, (k + 1) * BATCH)]) for k in range(STEPS)]
    found = []
    for title, (size, sentences, factor) in CASES.items():
        panel = build_panel(held_out, tokenizer, DataConfig(corpus="absynth:small", panel_size=sentences))
        model = build_model("gpt2", size, len(tokenizer) * factor, specials={"pad": 0, "bos": 2, "eos": 3})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def train(model: Any = model, optimizer: Any = optimizer) -> None:
            model.train()
            for batch in batches:
                model(**batch, use_cache=False).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        signals = [signal for signal in resolve("standard") if signal.name != "curvature"]
        instrument = Instrument(model, panel, signals, optimizer)
        instrument.measure(0)
        share = ratio(lambda chosen=instrument: chosen.measure(1), train, repeats=2, warmup=0) * STEPS / EVERY
        step = seconds(train) / STEPS
        note = f"processor time: a measurement {share * EVERY * step:.2f} s, a step {1e3 * step:.0f} ms"
        found.append({"name": title, "value": 100 * share, "unit": "% of training time", "note": note})
    return found
