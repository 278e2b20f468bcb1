"""What a probe is asked: a label layer under one split, of words, edges or spans of a panel."""

from __future__ import annotations

from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.design import row_key
from lmtrace.numerics.probing import Fit, SplitName, majority, obstacle
from lmtrace.numerics.scores import Bootstrap, Tally, bootstrap_weights
from lmtrace.numerics.splits import control_labels, lexical_split, sentence_split
from lmtrace.text.edges import candidates
from lmtrace.text.panel import LabelLayer, Panel
from lmtrace.text.spans import Spans, find_spans

_TASKS: WeakKeyDictionary[Panel, dict[tuple[str | int, ...], ProbeTask]] = WeakKeyDictionary()


def probe_task(
    panel: Panel, layer: LabelLayer, label: str, split: SplitName, seed: int, pair: str, span: str
) -> ProbeTask:
    """Return the task; made once per panel, because it is the same at every step."""
    known = _TASKS.setdefault(panel, {})
    key = (label, split, seed, pair, span)
    if key not in known:
        known[key] = ProbeTask(panel, layer, label, split, seed, pair, span)
    return known[key]


class ProbeTask:
    """One label layer under one split: which words, which part, which classes. The same at every site and step.

    What is drawn by the bootstrap are the units of the split: sentences, or word types, whose words succeed or fail together.
    """

    def __init__(
        self, panel: Panel, layer: LabelLayer, label: str, split: SplitName, seed: int, pair: str, span: str = ""
    ) -> None:
        self.label, self.split, self.seed, self.pair, self.span = label, split, seed, pair, span
        if span:
            self.label = f"{label}:span-{span}"
        self.key = f"{self.label}|{split}|{pair}"
        self.reason = ""
        self.partners: np.ndarray | None = None
        self.spans: Spans | None = None
        if span:
            found = find_spans(panel, panel.labels("role") if pair == "predicate" and "role" in panel.layers else layer)
            if isinstance(found, str):
                self.reason = found
                return
            self.spans = found
        if pair == "predicate":
            self.rows, self.partners, right = candidates(panel, layer, self.spans)
            present, self.codes = np.unique(right, return_inverse=True)
            self.names = tuple(("no", "yes")[int(i)] for i in present)
        else:
            rows, codes = (
                (np.arange(panel.num_words), layer.codes) if self.spans is None else (self.spans.head, self.spans.codes)
            )
            labelled = codes >= 0
            if pair:
                if panel.heads is None:
                    self.reason = "the panel has no syntactic heads"
                    return
                heads = panel.heads[rows]
                labelled &= (heads >= 0) & (panel.encoder.word_first[heads] >= 0)
            self.rows = rows[labelled]
            self.partners = panel.heads[self.rows] if pair and panel.heads is not None else None
            names = layer.names if self.spans is None else self.spans.names
            present, self.codes = np.unique(codes[labelled], return_inverse=True)
            self.names = tuple(names[i] for i in present)
        if self.spans is not None:
            self.spans = self.spans.take(np.searchsorted(self.spans.head, self.rows))
        self.groups, self.types = panel.word_sentence[self.rows], panel.word_types[self.rows]
        if pair == "predicate":
            self.types = self.types * len(panel.type_names) + panel.word_types[self.partners]
        self.units = self.groups if split == "sentence" else panel.word_types[self.rows]
        if len(self.rows) == 0:
            several = "no sentence has two predicates and an argument that is labelled"
            self.reason = several if pair == "predicate" else "no word has a label"
            return
        # Drawn over the whole panel, so that all layers are judged on the same sentences or types.
        whole = (
            sentence_split(panel.word_sentence, seed) if split == "sentence" else lexical_split(panel.word_types, seed)
        )
        self.test = whole[self.rows]
        self.row_key = row_key(self.rows, self.test)
        self.reason = obstacle(self.codes, self.test, self.groups, self.names, split)

    def inputs(self, x: Tensor) -> Tensor:
        """Return [labelled words, d] (twice as wide for edges) of x: [words, d]."""
        index = torch.as_tensor(self.rows, device=x.device)
        if self.partners is None and self.spans is None:
            return x[index] if len(self.rows) < len(x) else x
        word = x[index] if self.spans is None else self.spans.pool(x, self.span)
        if self.partners is None:
            return word
        partner = x[torch.as_tensor(self.partners, device=x.device)]
        if self.pair == "head":
            return torch.cat([word, partner], 1)
        # Whether two words belong together is a question of both at once, which no sum of two readings answers.
        mean = x[index.unique()].mean(0)
        return torch.cat([word, partner, (word - mean) * (partner - mean)], 1)

    def tally(self, fitted: Fit) -> Tally:
        """Return the counts of a fitted probe on the test words."""
        gold = self.codes[self.test]
        return Tally.of(gold, fitted.predicted, fitted.probability, self.test_group, len(self.names))

    @cached_property
    def test_group(self) -> np.ndarray:
        """Return [test words]: index of the unit among those of the test part."""
        return np.unique(self.units[self.test], return_inverse=True)[1]

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """Return what gives the errors."""
        total = np.bincount(self.test_group).astype(np.float64)
        return Bootstrap(total, bootstrap_weights(len(total), self.seed))

    @cached_property
    def control(self) -> np.ndarray:
        """Return the labels of the control task."""
        return control_labels(self.codes, self.types, len(self.names), self.seed)

    @cached_property
    def majority(self) -> float:
        """Return the accuracy of the majority class."""
        return majority(self.codes, self.test)

    @cached_property
    def prior(self) -> float:
        """Return the mean training share of the right class over the test words."""
        share_of = np.bincount(self.codes[~self.test], minlength=len(self.names)) / (~self.test).sum()
        return float(share_of[self.codes[self.test]].mean())

    @cached_property
    def f1_null(self) -> dict[str, float]:
        """Return the F1 of always naming the majority class: 2 p / (1 + p) for that class, 0 for the others."""
        most = int(np.bincount(self.codes[~self.test]).argmax())
        p = self.majority
        return {name: 2 * p / (1 + p) if i == most else 0.0 for i, name in enumerate(self.names)}


class TaskGroup:
    """Tasks of one split whose probes share a design: its rows are the words that any of them labels.

    Parameters
    ----------
    tasks
        Of one panel, one split and the same inputs; with a pair or a span, of the same rows.

    Attributes
    ----------
    rows : [n]
        int64, rising where they are words.
    test : [n]
        bool, the part of each.
    row_key
        Tells groups of a panel apart.
    split
        Of all of them.
    """

    def __init__(self, tasks: list[ProbeTask]) -> None:
        self.tasks, first = tasks, tasks[0]
        self.split = first.split
        self.rows, self.test, self.row_key = first.rows, first.test, first.row_key
        if any(task.row_key != first.row_key for task in tasks):
            self.rows, at = np.unique(np.concatenate([task.rows for task in tasks]), return_index=True)
            self.test = np.concatenate([task.test for task in tasks])[at]
            self.row_key = row_key(self.rows, self.test)

    def spread(self, task: ProbeTask, codes: np.ndarray) -> np.ndarray:
        """Return [n] int64: codes of the task's rows, -1 at the others."""
        if task.row_key == self.row_key:
            return codes
        whole = np.full(len(self.rows), -1)
        whole[np.searchsorted(self.rows, task.rows)] = codes
        return whole

    def inputs(self, x: Tensor) -> Tensor:
        """Return [n, d] of x: [words, d]."""
        first = self.tasks[0]
        return first.inputs(x) if first.row_key == self.row_key else x[torch.as_tensor(self.rows, device=x.device)]
