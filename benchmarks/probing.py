"""Probes: the closed form on 20,000 x 256 rows, and the whole signal against the forward pass that it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks._timing import median, ratio
from lmtrace.instrument import Instrument
from lmtrace.numerics.design import STEPS, Design, Targets
from lmtrace.numerics.moments import ClassMeans
from lmtrace.numerics.probing import fit
from lmtrace.numerics.ridge import ridge
from lmtrace.numerics.splits import sentence_split
from lmtrace.observe.forward import default_forward, inputs_of
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.signals import resolve
from lmtrace.signals.probe import Probe
from lmtrace.text.panel import Panel
from lmtrace.text.probe_task import TaskGroup, probe_task
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer

LAYERS = {"category": 20, "role": 16, "frame": 14, "deprel": 20, "number": 2}


def rows() -> list[dict[str, Any]]:
    """Return the figures."""
    return [*_closed_form(), *_signal(), *_linguistic()]


def _linguistic() -> list[dict[str, Any]]:
    """Everything that reads language but generates and scores nothing of its own, on the panel of the overhead table."""
    from benchmarks.overhead import _setting

    panel, model, _ = _setting("medium")
    model.eval()
    padded = [inputs_of(batch, torch.device("cpu")) for batch in panel.batches(64)]

    def forward() -> None:
        with torch.no_grad():
            for inputs in padded:
                default_forward(model, inputs)

    result = []
    every_time = ["probe", "belief", "output", "ladder", "truth"]
    for name, chosen in (
        ("probe", ["probe"]),
        ("belief", ["belief"]),
        ("output", ["output"]),
        ("ladder", ["ladder"]),
        ("truth", ["truth"]),
        ("tree_probe, due every fifth time", ["tree_probe"]),
        ("probe, belief, output, ladder, truth", every_time),
    ):
        instrument = Instrument(model, panel, resolve(chosen), None, on_error="raise")
        value = ratio(lambda chosen=instrument: chosen.measure(0), forward, repeats=3) - 1
        bound = "<= 1" if chosen is every_time else ""
        note = f"beyond one forward; {panel.num_words:,} words, 4 layers x 256"
        result.append({"name": name, "value": value, "unit": "forwards", "bound": bound, "note": note})
    value = median(lambda: _floor(panel, width=256, num_sites=6, vocabulary=len(panel.tokenizer)), 3) / median(
        forward, 3
    )
    note = "matrix products, eigendecompositions and one softmax of the same sizes, nothing else"
    return [*result, {"name": "floor of these five", "value": value, "unit": "forwards", "note": note}]


def _floor(panel: Panel, width: int, num_sites: int, vocabulary: int) -> None:
    """Do the arithmetic that the probe asks for, on numbers that mean nothing."""
    signal = Probe()
    tasks = [
        probe_task(panel, panel.labels(label), label, split, 0, "", "")
        for label in signal.layers(panel)
        for split in signal.splits(label)
    ]
    rows = torch.randn(panel.num_words, width, generator=torch.Generator().manual_seed(0))
    groups = [TaskGroup([task for task in tasks if task.split == split]) for split in ("sentence", "lexical")]
    for group in groups * num_sites:
        x = rows[: int((~group.test).sum())]
        weight = torch.zeros(width, sum(len(task.names) for task in group.tasks))
        torch.linalg.cholesky((x.T @ x + torch.eye(width)).double())
        for _ in range(STEPS["ridge"]):
            (x @ weight).T @ x
    torch.zeros(len(panel.predictions), vocabulary).softmax(1)


def _closed_form(n: int = 20_000, d: int = 256, classes: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.standard_normal((n, d))).float()
    codes = (x.numpy() @ rng.standard_normal((d, classes))).argmax(1)
    test = sentence_split(np.arange(n) // 10, 0)
    targets = Targets([(codes, classes)], test)

    def bare() -> None:
        ridge(Design(x, test).basis, ClassMeans.of(x[~test], torch.as_tensor(codes[~test]), classes))

    shared = Design(x, test)

    def again() -> None:
        fit(shared, targets, "ridge")

    def whole() -> None:
        fit(Design(x, test), Targets([(codes, classes)], test), "ridge")

    def logistic() -> None:
        fit(shared, targets, "logistic")

    def sklearn() -> None:
        LogisticRegression(max_iter=50).fit(x[torch.as_tensor(~test)].numpy(), codes[~test])

    again()
    size = f"{n:,} x {d}, {classes} classes"
    return [
        {"name": "closed form, 17 penalties", "value": 1e3 * median(bare, 3), "unit": "ms", "note": size},
        {"name": "probe, fitted and judged", "value": 1e3 * median(whole, 3), "unit": "ms", "note": size},
        {"name": "one more layer on the same Gram", "value": 1e3 * median(again, 3), "unit": "ms", "note": size},
        {"name": "logistic (L-BFGS)", "value": 1e3 * median(logistic, 1, 0), "unit": "ms", "note": size},
        {"name": "scikit-learn", "value": 1e3 * median(sklearn, 1, 0), "unit": "ms", "note": size},
    ]


def _signal() -> list[dict[str, Any]]:
    result = []
    for words in (7, 15):
        panel, model = _panel(words), _model()
        for name, signal, bound in (
            ("probe signal, default", Probe(), ""),
            ("probe signal, 5 layers", Probe(labels=tuple(LAYERS), split="sentence"), ""),
        ):
            forward, measure = _parts(signal, model, panel)
            value = ratio(measure, forward, repeats=3)
            note = f"6 sites, {panel.num_words:,} words in 512 sentences, 4 layers x 256"
            result.append({"name": name, "value": value, "unit": "forwards", "bound": bound, "note": note})
    return result


def _parts(signal: Probe, model: torch.nn.Module, panel: Panel) -> tuple[Any, Any]:
    instrument = Instrument(model, panel, [signal], None, on_error="raise")

    def forward() -> Any:
        with torch.no_grad():
            return instrument._capture([0], 0, [])

    captured = forward()

    def measure() -> None:
        measurement = Measurement(0, model, instrument.panel, instrument.known_sites, captured, 0, None)
        view = MeasurementView(measurement, signal, 0, signal.needs(instrument.panel), {})
        for _ in signal.measure(view):
            pass

    return forward, measure


def _panel(mean_words: int, num_types: int = 2000) -> Panel:
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, num_types + 1)
    kinds = {layer: rng.integers(count, size=num_types) for layer, count in LAYERS.items()}
    sentences = []
    for _ in range(512):
        types = rng.choice(num_types, rng.integers(mean_words - 3, mean_words + 4), p=p / p.sum())
        labels = {
            layer: tuple(None if layer in ("role", "number") and t % 2 else f"{layer}{of[t]}" for t in types)
            for layer, of in kinds.items()
        }
        sentences.append(AnnotatedSentence(tokens=tuple(f"w{t}" for t in types), labels=labels))
    tokenizer = WordTokenizer.from_words([f"w{t}" for t in range(num_types)])
    return Panel.from_annotated(sentences, tokenizer, size=512, seed=0)


def _model() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=2010, n_positions=64, n_embd=256, n_layer=4, n_head=4, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config).eval()
