"""A made-up run with every kind of quantity, written through the real store: what the pages are tested on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.integrate import trapezoid

from lmtrace.records.schema import Field, Record, RunHeader
from lmtrace.records.store import RunWriter

ROLES = {"Agent": 0.31, "Patient": 0.27, "Goal": 0.12, "Source": 0.08}
LAYERS = {"category": (0.34, 120, 0.99, 0.30), "upos": (0.29, 220, 0.97, 0.34), "role": (0.22, 900, 0.93, 0.24)}
FIELDS = {
    "output": [
        Field(metric="loss", title="Loss", unit="nats", low=0, better="down", null="entropy floor of the oracle",
              meaning="Mean loss of the panel's predictions, by what is predicted."),
        Field(metric="accuracy", title="Accuracy", low=0, high=1, better="up", null="accuracy of the most frequent token"),
        Field(metric="category_mass", title="Mass on the right category", low=0, high=1, better="up",
              meaning="Probability on any word of the right category: the syntax before the word."),
    ],
    "ladder": [Field(metric="reference_loss", title="Loss of the reference", unit="nats", low=0,
                     meaning="What a simpler predictor reaches on the same panel."),
               Field(metric="excess", title="Excess over the reference", unit="nats", better="down")],
    "probe": [
        Field(metric="accuracy", title="Probe accuracy", low=0, high=1, better="up", null="accuracy of the majority class",
              meaning="Share of held-out words whose label a linear probe reads from the residual stream."),
        Field(metric="control", title="Control accuracy", low=0, high=1, null="accuracy of the majority class",
              meaning="The same probe on random labels per word type."),
        Field(metric="selectivity", title="Selectivity", low=-1, high=1, better="up", null="zero: no better than the control task"),
        Field(metric="f1", title="F1", low=0, high=1, better="up"),
    ],
    "dimension": [
        Field(metric="two_nn", title="Intrinsic dimension (TwoNN)", unit="dimensions", low=0,
              meaning="Number of directions in which neighbouring tokens differ."),
        Field(metric="participation_ratio", title="Participation ratio", unit="dimensions", low=0),
    ],
    "curvature": [
        Field(metric="sharpness", title="Largest eigenvalue", unit="1", meaning="Sharpness of the loss around the weights."),
        Field(metric="trace", title="Trace of the Hessian", unit="1"),
        Field(metric="component_trace", title="Trace by component", unit="1"),
        Field(metric="density", title="Spectral density", axis="eigenvalue, density"),
    ],
    "pairs": [Field(metric="accuracy", title="Minimal pairs", low=0, high=1, better="up", null="chance: one half")],
    "errors": [
        Field(metric="well_formed", title="Well-formed sentences", low=0, high=1, better="up"),
        Field(metric="rate", title="Errors per sentence", low=0, better="down"),
    ],
    "attention": [
        Field(metric="previous_token", title="Attention to the previous token", low=0, high=1, axis="layer, head"),
        Field(metric="entropy", title="Attention entropy", unit="nats", low=0, axis="layer, head"),
    ],
    "lens": [Field(metric="loss", title="Loss of the logit lens", unit="nats", low=0, better="down")],
    "cost": [Field(metric="seconds", title="Time per measurement", unit="seconds", low=0, better="down")],
}  # fmt: skip


def sites(num_blocks: int) -> list[str]:
    return ["embed", *(f"block.{i}" for i in range(num_blocks)), "final"]


def header(num_blocks: int, seed: int, name: str = "") -> RunHeader:
    return RunHeader(
        name=name,
        model={"class": "GPT2LMHeadModel", "num_parameters": 3_214_080, "num_blocks": num_blocks, "d_model": 256,
               "num_heads": 4, "sites": sites(num_blocks), "fingerprint": "9d1f0c2b7e11"},
        panel={"hash": "5b2c9a10e7f4", "num_sentences": 512, "num_words": 4_871, "num_tokens": 5_383,
               "layers": {"category": 9, "upos": 7, "role": 6}, "coverage": 1.0},
        data={"floor_nats": 2.104, "corpus": "absynth small, 50,000 sentences, seed 0", "fingerprint": "77ab12cd"},
        fields=FIELDS, signals={name: [{"every": 100}] for name in FIELDS},
        versions={"lmtrace": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        hardware={"cpu": "2 cores", "memory_gb": 24}, seeds={"run": seed}, settings={"every": 100, "batch_size": 64, "lr": 1e-3},
        command="lmtrace demo --signals full", commit="1e60b87",
    )  # fmt: skip


def rise(step: int, start: float, middle: float, end: float) -> float:
    return start + (end - start) / (1 + (middle / step) ** 2.2) if step else start


def records(step: int, num_blocks: int, rng: np.random.Generator, last: int, speed: float = 1.0) -> Iterator[Record]:
    names, t = sites(num_blocks), step * speed
    depth = np.linspace(0, 1, len(names))

    def noisy(value: float, error: float, low: float = 0.0, high: float = 1.0) -> float:
        return float(np.clip(value + rng.normal() * error, low, high))

    for layer, (majority, middle, top, start) in LAYERS.items():
        for site, d in zip(names, depth):
            bump = np.exp(-((d - 0.55) ** 2) / 0.18)
            value = rise(t, start, middle * (1.6 - bump), start + (top - start) * (0.35 + 0.65 * bump))
            if layer == "category":
                value = rise(t, start, middle * (1.3 - 0.4 * d), top - 0.12 * (1 - bump))
            common = {"step": step, "signal": "probe", "site": site, "n": 1204, "split": "lexical"}
            control = rise(t, majority, 300, majority + 0.13 * bump)
            accuracy = noisy(value, 0.008)
            yield Record(metric="accuracy", label=layer, value=accuracy, stderr=0.011, null=majority, **common)
            yield Record(
                metric="control", label=layer, value=noisy(control, 0.008), stderr=0.012, null=majority, **common
            )
            yield Record(metric="selectivity", label=layer, value=accuracy - control, stderr=0.016, null=0.0, **common)
            if layer == "role":
                for i, role in enumerate(ROLES):
                    if role == "Source" and site == "embed":
                        yield Record(step=step, signal="probe", metric="f1", site=site, label=f"role={role}", split="lexical",
                                     missing="class Source has 7 test words, 10 are needed")  # fmt: skip
                    else:
                        yield Record(
                            metric="f1",
                            label=f"role={role}",
                            value=noisy(value - 0.07 * i, 0.012),
                            stderr=0.02,
                            **common,
                        )
    for site, d in zip(names, depth):
        peak = 14 + 9 * np.exp(-((np.log10(t + 20) - 2.9) ** 2) / 0.25) * np.sin(np.pi * (0.15 + 0.7 * d))
        yield Record(
            step=step,
            signal="dimension",
            metric="two_nn",
            site=site,
            value=float(peak + rng.normal() * 0.2),
            stderr=0.35,
            n=2000,
        )
        yield Record(step=step, signal="dimension", metric="participation_ratio", site=site,
                     value=float(rise(t, 40 - 20 * d, 500, 12 + 8 * d) + rng.normal() * 0.2), stderr=0.4, n=2000)  # fmt: skip
        yield Record(step=step, signal="lens", metric="loss", site=site,
                     value=float(rise(t, 6.9, 300, 2.2 + 2.4 * (1 - d)) + rng.normal() * 0.02), stderr=0.03, n=5383)  # fmt: skip
    loss = panel_loss(t)
    yield Record(
        step=step, signal="output", metric="loss", value=loss + rng.normal() * 0.01, stderr=0.02, n=5383, null=2.104
    )
    for label, shift in {"category=noun": 0.5, "category=verb": 0.2, "category=determiner": -1.2, "category=preposition": -0.8,
                         "frequency=top 10": -1.0, "frequency=rare": 1.6}.items():  # fmt: skip
        yield Record(step=step, signal="output", metric="loss", label=label, value=max(0.1, loss + shift), stderr=0.04, n=700,
                     null=max(0.05, 2.104 + shift))  # fmt: skip
        yield Record(step=step, signal="output", metric="accuracy", label=label, value=noisy(rise(t, 0.01, 400, 0.55 - shift / 5), 0.006),
                     stderr=0.01, n=700, null=0.06)  # fmt: skip
        yield Record(step=step, signal="output", metric="category_mass", label=label,
                     value=noisy(rise(t, 0.12, 150, 0.96), 0.006), stderr=0.008, n=700)  # fmt: skip
    for rung, value in {"uniform": 6.91, "unigram": 5.02, "bigram": 3.41, "trigram": 2.83, "oracle": 2.104}.items():
        yield Record(
            step=step, signal="ladder", metric="reference_loss", label=f"reference={rung}", value=value, n=5383
        )
        yield Record(
            step=step,
            signal="ladder",
            metric="excess",
            label=f"reference={rung}",
            value=loss - value,
            stderr=0.02,
            n=5383,
            null=0.0,
        )
    sharp = rise(t, 6.9, 60, 31) * (1 + 3 * np.exp(-((np.log10(t + 1) - 2.2) ** 2) / 0.08))
    yield Record(step=step, signal="curvature", metric="sharpness", value=float(sharp), stderr=0.2, n=16)
    yield Record(step=step, signal="curvature", metric="trace", value=float(40 * sharp + 900), stderr=60.0, n=16)
    for i, group in enumerate(
        ("embedding", "attention.q", "attention.k", "attention.v", "attention.o", "mlp", "norm", "head")
    ):
        yield Record(step=step, signal="curvature", metric="component_trace", label=f"component={group}",
                     value=float((40 * sharp + 900) * (0.3, 0.05, 0.05, 0.09, 0.09, 0.28, 0.02, 0.12)[i]), stderr=20.0, n=16)  # fmt: skip
    grid = np.linspace(-0.3 * sharp, 1.1 * sharp, 160)
    density = np.exp(-np.abs(grid) / (0.03 * sharp + 0.3)) + 0.02 * np.exp(
        -((grid - sharp) ** 2) / (0.02 * sharp) ** 2 / 2
    )
    yield Record(
        step=step, signal="curvature", metric="density", array=np.stack([grid, density / trapezoid(density, grid)])
    )
    for kind, (middle, top) in {"agreement": (300, 0.98), "argument order": (500, 0.95), "role violation": (1500, 0.9),
                                "selection": (2500, 0.82)}.items():  # fmt: skip
        value = noisy(rise(t, 0.5, middle, top), 0.01)
        yield Record(
            step=step,
            signal="pairs",
            metric="accuracy",
            label=f"kind={kind}",
            value=value,
            stderr=0.022,
            n=500,
            null=0.5,
        )
    yield Record(
        step=step, signal="errors", metric="well_formed", value=noisy(rise(t, 0.0, 500, 0.94), 0.01), stderr=0.02, n=256
    )
    for kind, (middle, top) in {"unknown word": (100, 0.0), "category": (250, 0.02), "agreement": (500, 0.03), "selection": (1800, 0.12),
                                "missing argument": (700, 0.02), "unfinished": (200, 0.01)}.items():  # fmt: skip
        yield Record(step=step, signal="errors", metric="rate", label=f"type={kind}", value=noisy(rise(t, 0.7, middle, top), 0.01),
                     stderr=0.02, n=256)  # fmt: skip
    heads = np.random.default_rng(3).random((num_blocks, 4))
    for metric, end in (("previous_token", 0.9 * (heads > 0.8)), ("entropy", 1.2 * heads + 0.3)):
        start = 0.2 if metric == "previous_token" else 1.9
        mix = rise(t, 0, 600, 1)
        yield Record(step=step, signal="attention", metric=metric, array=(1 - mix) * start + mix * (end + 0.05 * heads))
    for signal, seconds in {
        "probe": 0.22,
        "output": 0.05,
        "dimension": 0.4,
        "curvature": 1.3,
        "capture": 0.31,
        "pairs": 0.2,
    }.items():
        yield Record(
            step=step,
            signal="cost",
            metric="seconds",
            label=f"signal={signal}",
            value=seconds * (1 + 0.1 * rng.random()),
        )


def panel_loss(t: float) -> float:
    return 2.16 + 1.6 * np.exp(-t / 260) + 1.35 * np.exp(-t / 60) + 1.9 * np.exp(-t / 1400)


EXAMPLES = [
    {
        "text": "the baker gives the stone to to oven",
        "type": "category",
        "start": 29,
        "end": 31,
        "expected": "determiner or noun",
    },
    {
        "text": "a doctor eats the idea slowly",
        "type": "selection",
        "start": 14,
        "end": 22,
        "expected": "edible patient of eats",
    },
    {"text": "the dogs sees a bird", "type": "agreement", "start": 9, "end": 13, "expected": "plural verb"},
    {
        "text": "the teacher puts the book",
        "type": "missing argument",
        "start": 25,
        "end": 25,
        "expected": "goal of puts",
    },
]


def measured_steps(num_steps: int, every: int) -> list[int]:
    return list(range(0, num_steps + 1, every))


def write_example(
    folder: Path, num_steps: int = 4000, every: int = 100, num_blocks: int = 4, seed: int = 0, speed: float = 1.0,
    finish: bool = True, name: str = "",
) -> RunWriter:  # fmt: skip
    """Write a run; with `finish=False` the writer is left open, for the tests of the live page."""
    rng = np.random.default_rng(seed)
    writer = RunWriter.create(folder, header(num_blocks, seed, name))
    for step in measured_steps(num_steps, every):
        measure(writer, step, every, num_blocks, rng, num_steps, speed)
    if finish:
        writer.finish()
    return writer


def measure(
    writer: RunWriter, step: int, every: int, num_blocks: int, rng: np.random.Generator, last: int, speed: float = 1.0
) -> None:
    """Write the training scalars since the measurement before, and one measurement."""
    steps = np.arange(max(1, step - every + 1), step + 1)
    if step:
        writer.write_scalars("loss", steps, [panel_loss(s * speed) + 0.02 + 0.09 * rng.normal() for s in steps])
        writer.write_scalars("learning_rate", steps, [1e-3 * min(s / 200, 1) * (1 - s / (last + 1)) for s in steps])
    writer.write(step, records(step, num_blocks, rng, last, speed), tokens_seen=step * 64 * 11, wall_time=step * 0.05)
    if step == last:
        writer.event(step, "errors", "worst generated sentences", {"examples": EXAMPLES})
