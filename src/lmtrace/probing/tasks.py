"""What a probe is asked: a label layer under one split, of words, edges or spans of a panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from lmtrace.probing.edges import candidates
from lmtrace.probing.linear import Fit, SplitName, majority, obstacle
from lmtrace.probing.rows import Arranged, Arrangement, arranged
from lmtrace.probing.scores import Bootstrap, Tally, bootstrap_weights
from lmtrace.probing.spans import Spans, find_spans
from lmtrace.probing.splits import control_labels, held_out
from lmtrace.text.panel import LabelLayer, Panel
from lmtrace.text.word_types import best_accuracy

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
        self.of_inputs = bool(pair or span)
        """Whether what it reads is put together from several words."""
        self.reason = ""
        self.panel_places = panel.word_places
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
        # Equal sentences are one unit: they succeed or fail together.
        self.groups = panel.sentence_twins[panel.word_sentence[self.rows]]
        self.types = panel.word_types[self.rows]
        if pair == "predicate":
            self.types = self.types * len(panel.type_names) + panel.word_types[self.partners]
        self.units = self.groups if split == "sentence" else panel.word_types[self.rows]
        if len(self.rows) == 0:
            several = "no sentence has two predicates and an argument that is labelled"
            self.reason = several if pair == "predicate" else "no word has a label"
            return
        # Drawn over the whole panel, so that all layers are judged on the same sentences or types.
        self.test = held_out(panel, split, seed)[self.rows]
        read = [self.rows, self.test] if self.partners is None else [self.rows, self.test, self.partners]
        if self.spans is not None:
            read += [self.spans.member, self.spans.offsets]
        self.row_key = b"|".join(part.tobytes() for part in read)
        """What it reads of a site, and which part of that is held out."""
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
    def token_ceiling(self) -> float | None:
        """Return the best accuracy on the test words that their vectors allow; None where each has a vector of its own.

        Words that are read at one place are one vector, which no reader can give two classes.
        """
        if self.spans is not None:
            return None
        places = self.panel_places[self.rows]
        if self.partners is not None:
            places = places * (int(self.panel_places.max()) + 1) + self.panel_places[self.partners]
        places = places[self.test]
        if len(np.unique(places)) == len(places):
            return None
        return best_accuracy(places, self.codes[self.test])

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
    """Tasks of one split whose probes share a design.

    Parameters
    ----------
    tasks
        Of one panel and one split.
    arrangement
        Of words that hold all that the tasks label; or of the tasks' inputs, where these are no words.

    Attributes
    ----------
    split
        Of all of them.
    test : [n]
        bool, the part of each row.
    """

    def __init__(self, tasks: Sequence[ProbeTask], arrangement: Arrangement) -> None:
        self.tasks, self.arrangement, self.split = tasks, arrangement, tasks[0].split
        self.test = arrangement.tests[self.split]

    def spread(self, task: ProbeTask, codes: np.ndarray) -> np.ndarray:
        """Return [n] int64: codes of the task's rows, -1 at the others."""
        if len(task.rows) == len(self.test):
            return codes
        whole = np.full(len(self.test), -1)
        whole[np.searchsorted(self.arrangement.rows, task.rows)] = codes
        return whole

    def arranged(self, cache: dict[Any, Any], site: str, words: Callable[..., Tensor]) -> Arranged:
        """Return the rows of a site in the arrangement; words: (site, [n] rows or all) -> [n, d]."""

        def take(rows: np.ndarray) -> Tensor:
            if not self.tasks[0].of_inputs:
                return words(site, rows)
            x = self.tasks[0].inputs(words(site))
            return x.index_select(0, torch.as_tensor(rows, device=x.device))

        return arranged(cache, site, self.arrangement, take)


def task_groups(panel: Panel, tasks: Sequence[ProbeTask], *, labelled_only: bool) -> list[TaskGroup]:
    """Return the tasks of a panel and a seed in groups: of one split, or of the same rows where only labelled ones are read."""
    groups: dict[str | bytes, list[ProbeTask]] = {}
    for task in tasks:
        groups.setdefault(task.row_key if labelled_only or task.of_inputs else task.split, []).append(task)
    words = None if labelled_only or not tasks else np.unique(np.concatenate([task.rows for task in tasks]))
    return [TaskGroup(group, _arrangement(panel, group[0], words)) for group in groups.values()]


def _arrangement(panel: Panel, task: ProbeTask, words: np.ndarray | None) -> Arrangement:
    if not task.of_inputs:
        return word_arrangement(panel, task.rows if words is None else words, task.seed)
    key = ("text.probe_task.inputs", task.row_key, task.split, task.pair, task.span)
    return panel.once(key, lambda: Arrangement({task.split: task.test}))


def word_arrangement(panel: Panel, words: np.ndarray, seed: int) -> Arrangement:
    """Return words: [n] int64 of a panel under both splits of a seed; made once, so that signals share what they compute."""

    def make() -> Arrangement:
        by_sentence, by_type = held_out(panel, "sentence", seed), held_out(panel, "lexical", seed)
        return Arrangement({"sentence": by_sentence[words], "lexical": by_type[words]}, words)

    return panel.once(("text.probe_task.words", seed, words.tobytes()), make)
