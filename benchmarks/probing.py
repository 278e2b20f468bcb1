"""Probes: the closed form on 20,000 x 256 rows, and the whole signal against the forward pass that it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks._timing import median, ratio
from lmtrace.numerics.moments import ClassMeans
from lmtrace.observe.capture import BATCH_PRICE
from lmtrace.observe.forward import default_forward, inputs_of
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Signal
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.probing.closed_form import ridge
from lmtrace.probing.linear import fit
from lmtrace.probing.rows import WAYS, Design, Targets
from lmtrace.probing.splits import sentence_split
from lmtrace.probing.tasks import probe_task, task_groups
from lmtrace.signals import resolve
from lmtrace.signals.probe import Probe
from lmtrace.text.panel import Panel
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
    result = []
    every_time = ["probe", "belief", "output", "ladder", "truth"]
    note = f"beyond one forward; {panel.num_words:,} words, 4 layers x 256"
    for chosen in (*([name] for name in every_time), ["tree_probe"]):
        name = chosen[0] + (", due every fifth time" if chosen == ["tree_probe"] else "")
        value = _beyond(panel, model, chosen, repeats=3)
        result.append({"name": name, "value": value, "unit": "forwards", "note": note})
    together = ", ".join(every_time)
    value = _beyond(panel, model, every_time, repeats=9)
    result.append({"name": together, "value": value, "unit": "forwards", "bound": "<= 1", "note": note})
    result.append({**_average(panel, model, every_time, value), "note": note})
    for layers, width in ((6, 384), (8, 512), (12, 768)):
        larger = _gpt2(len(panel.tokenizer), layers, width)
        value = _beyond(panel, larger, every_time, repeats=3)
        row = {"name": together, "value": value, "unit": "forwards", "bound": "<= 1"}
        size = f"{layers} layers x {width}"
        result += [{**row, "note": size}, {**_average(panel, larger, every_time, value), "note": size}]
    value = ratio(lambda: _forward(panel, model, BATCH_PRICE["cpu"]), lambda: _forward(panel, model), repeats=9)
    note = "the model alone, in the batches of the captured pass, which pad less than batches of 64"
    result.append({"name": "forward in the batches of the pass", "value": value, "unit": "forwards", "note": note})
    floor = median(lambda: _floor(panel, width=256, num_sites=6, vocabulary=len(panel.tokenizer)), 3)
    value = floor / median(lambda: _forward(panel, model), 3)
    note = "matrix products, factorisations and one softmax of the same sizes, nothing else"
    return [*result, {"name": "floor of these five", "value": value, "unit": "forwards", "note": note}]


def _average(panel: Panel, model: torch.nn.Module, every_time: list[str], ordinary: float) -> dict[str, Any]:
    """Return the row of a mean measurement: `ordinary` four times, then one with tree_probe and the control tasks."""
    signals = [Probe(control=1), *(name for name in every_time if name != "probe"), "tree_probe"]
    value = (4 * ordinary + _beyond(panel, model, signals, repeats=3)) / 5
    return {
        "name": "the same on average, with tree_probe and control tasks every fifth time",
        "value": value,
        "unit": "forwards",
        "bound": "<= 1",
    }


def _beyond(panel: Panel, model: torch.nn.Module, signals: list[str | Signal], repeats: int) -> float:
    """Return what a measurement with these signals takes beyond the forward pass, in forward passes."""
    instrument = Instrument(model, panel, resolve(signals), None, on_error="raise")
    instrument.measure(0)
    return ratio(lambda: instrument.measure(1), lambda: _forward(panel, model), repeats=repeats) - 1


def _forward(panel: Panel, model: torch.nn.Module, price: int | None = None) -> None:
    with torch.no_grad():
        for batch in panel.batches(64, price=price):
            default_forward(model, inputs_of(batch, torch.device("cpu")))


def _floor(panel: Panel, width: int, num_sites: int, vocabulary: int) -> None:
    """Do the arithmetic that the probe asks for, on numbers that mean nothing."""
    signal = Probe()
    tasks = [
        probe_task(panel, panel.labels(label), label, split, 0, "", "")
        for label in signal.layers(panel)
        for split in signal.splits(label)
    ]
    rows = torch.randn(panel.num_words, width, generator=torch.Generator().manual_seed(0))
    for group in task_groups(panel, tasks, labelled_only=False) * num_sites:
        x = rows[: int((~group.test).sum())]
        weight = torch.zeros(width, sum(len(task.names) for task in group.tasks))
        torch.linalg.cholesky((x.T @ x + torch.eye(width)).double())
        for _ in range(WAYS["ridge"][1]):
            (x @ weight).T @ x
    torch.zeros(len(panel.predictions), vocabulary).softmax(1)


def _closed_form(n: int = 20_000, d: int = 256, classes: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.standard_normal((n, d))).float()
    codes = (x.numpy() @ rng.standard_normal((d, classes))).argmax(1)
    test = sentence_split(np.arange(n) // 10, 0)
    targets = Targets.of([(codes, classes)], test)

    def bare() -> None:
        ridge(Design.of(x, test).basis, ClassMeans.of(x[~test], torch.as_tensor(codes[~test]), classes))

    shared = Design.of(x, test)

    def again() -> None:
        fit(shared, targets, "ridge")

    def whole() -> None:
        fit(Design.of(x, test), Targets.of([(codes, classes)], test), "ridge")

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
        panel, model = _panel(words), _gpt2(2010, 4, 256)
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


def _gpt2(vocabulary: int, layers: int, width: int) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary, n_positions=64, n_embd=width, n_layer=layers, n_head=width // 64, bos_token_id=1, eos_token_id=2
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()
