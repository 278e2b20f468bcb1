"""Probes that are fitted on the panel and read the words of one other sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.observe.capture import batch_size_for, capture
from lmtrace.observe.sites import Site
from lmtrace.observe.view import pool
from lmtrace.probing.linear import fit, majority, obstacle
from lmtrace.probing.rows import Design, Targets
from lmtrace.probing.splits import control_labels, held_out
from lmtrace.signals.probe import Probe
from lmtrace.text.panel import LabelLayer, Panel


def read_words(
    model: nn.Module,
    panel: Panel,
    sites: Mapping[str, Site],
    hidden: Mapping[str, Tensor],
    words: Sequence[str],
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Return what ridge probes, fitted on the panel at every site, read off the words of a sentence.

    Held-out accuracy (split by sentence) and that of a control task, with the same probe and a random class per word type, say
    how far a reading can be trusted. The sentence itself is left out of the panel.

    Parameters
    ----------
    model
        Unwrapped, in evaluation mode.
    hidden
        Site -> [words, d_model] of the sentence; NaN rows for words that were cut off.
    words
        The sentence.

    Returns
    -------
    Label layer -> the entry of `Inspection.moments[...]["probes"]`, whose classes are `panel.labels(layer).names`.
    """
    layers = Probe().layers(panel)
    if not layers:
        return {}
    known = {name: site for name, site in sites.items() if name in hidden}
    captured = capture(model, panel, known, [], batch_size=batch_size_for(len(panel.tokenizer), panel.longest))
    same = np.array([tuple(s.tokens) == tuple(words) for s in panel.sentences])
    usable = ~same[panel.word_sentence]
    groups: dict[bytes, list[LabelLayer]] = {}
    for name in layers:
        layer = panel.labels(name)
        groups.setdefault((usable & (layer.codes >= 0)).tobytes(), []).append(layer)
    found: dict[str, dict[str, Any]] = {}
    for mask, members in groups.items():
        rows = np.flatnonzero(np.frombuffer(mask, bool))
        test = held_out(panel, "sentence", seed)[rows]
        ready = []
        for layer in members:
            present, codes = np.unique(layer.codes[rows], return_inverse=True)
            names = [layer.names[i] for i in present]
            reason = obstacle(codes, test, panel.word_sentence[rows], names, "sentence")
            if reason:
                found[layer.name] = {"missing": reason}
                continue
            control = control_labels(codes, panel.word_types[rows], len(present), seed)
            ready.append((layer.name, present, codes, control))
            found[layer.name] = {
                "sites": list(known), "reading": [], "confidence": [], "accuracy": [], "control": [],
                "majority": majority(codes, test), "n": int(test.sum()),
            }  # fmt: skip
        if not ready:
            continue
        tasks = [(labels, len(present)) for _, present, codes, control in ready for labels in (codes, control)]
        targets = Targets.of(tasks, test)
        for site in known:
            x = _panel_words(panel, captured.activations[site], known[site])
            fits = fit(Design.of(x, test, rows), targets, Probe().way(site, "sentence"), seed)
            for (name, present, codes, control), probe, check in zip(ready, fits[::2], fits[1::2], strict=True):
                entry = found[name]
                reading, confidence = _read(probe.linear, hidden[site], present)
                entry["reading"].append(reading)
                entry["confidence"].append(confidence)
                entry["accuracy"].append(float((probe.predicted == codes[test]).mean()))
                entry["control"].append(float((check.predicted == control[test]).mean()))
    return {name: found[name] for name in layers}


def _panel_words(panel: Panel, hidden: Tensor, site: Site) -> Tensor:
    side = panel.encoder if site.stream == "encoder" or panel.decoder is None else panel.decoder
    return pool(hidden.cpu(), side.word_first, side.word_last, panel.policy)


def _read(linear: Any, hidden: Tensor, present: np.ndarray) -> tuple[list[int | None], list[float | None]]:
    """Return the most probable class of every word, and its probability."""
    probability = torch.softmax(linear.scores(hidden.cpu().double()), 1)
    there = torch.isfinite(probability).all(1).tolist()
    value, choice = probability.max(1)
    classes = [int(present[i]) if ok else None for i, ok in zip(choice.tolist(), there, strict=True)]
    return classes, [v if ok else None for v, ok in zip(value.tolist(), there, strict=True)]
