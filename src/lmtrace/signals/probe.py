"""Which annotation can be read off each site by a linear probe, on words that the probe has not learned from.

A probe is fitted anew at every measurement and every site, on the training part of the panel's labelled words, and judged on
the test part (`lmtrace.probing.linear`). Two splits: by sentence, and "lexical", where no word type of the test part
occurs in the training part; on layers that the word decides (category, part of speech) the first only says that the
probe has learned the dictionary. The default probe is softmax regression of few steps, of which the first is ridge
regression: four, three on unseen words, twelve at the embedding, within a point or two of converged regression or above it.
The penalty is small, but large on unseen words at the embedding: there all words of a type are alike, and a small one lets
the probe learn types by heart instead of what they share.

Next to the accuracy stand its nulls: the majority class (`Record.null`), a control task (a random class per word type),
the embedding site, and the untrained model. A word type is what the model reads as one: equal token ids, so that "The" and
"the" of an uncased tokenizer are one type. Sentences of equal tokens are on one side of every split. Masked models are read
without masks. Where words share all their tokens (fused forms, tokens that reach over several words), `token_ceiling` is
the best accuracy that their vectors allow.

When it misleads: what can be read is not what the model uses; an untrained model's context mixing already lets a
probe read neighbours, so compare with step 0; a control accuracy close to the accuracy says that the probe learned
words by heart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch

from lmtrace.errors import ConfigError, DataError
from lmtrace.numerics.estimate import Estimate
from lmtrace.observe.interface import Needs, Signal, Sites, View
from lmtrace.observe.sites import embed_of
from lmtrace.probing.closed_form import Linear
from lmtrace.probing.codelength import codelength
from lmtrace.probing.kept import KeptKey, load_probes, remember, remembered
from lmtrace.probing.label_sets import coarsen, layer_of
from lmtrace.probing.linear import KINDS, SPLITS, Fit, Kind, SplitName, fit, majority
from lmtrace.probing.rows import WAYS, Arranged, Design, Targets
from lmtrace.probing.scores import Tally
from lmtrace.probing.spans import POOLS
from lmtrace.probing.tasks import ProbeTask, TaskGroup, probe_task, task_groups
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import Panel

DEFAULT_LAYERS = ("category", "upos", "role", "frame", "deprel", "Number", "number", "Tense", "tense")
"""Layers that a probe without `labels` reads: the first `NUM_DEFAULT` that the panel has; upos only without category."""

NUM_DEFAULT = 4
"""More would cost more than the panel's forward pass on short sentences."""

LEXICAL_LAYERS = ("category", "upos", "xpos", "deprel")
"""Layers that the word type decides wholly or in large part: judged under the lexical split, and all but ABSynth's category,
which is a list of words, by sentence too."""


def _share(metric: str, title: str, meaning: str, null: str = "", better: Literal["up", ""] = "up") -> Field:
    return Field(metric=metric, title=title, low=0.0, high=1.0, better=better, null=null, meaning=meaning)


def _gain(metric: str, title: str, meaning: str) -> Field:
    return Field(metric=metric, title=title, low=-1.0, high=1.0, better="up", null="no gain: zero", meaning=meaning)


@dataclass(frozen=True, kw_only=True)
class Probe(Signal):
    """Linear probes for one or more label layers.

    One instance fits all its layers from one set of statistics per site, which is much cheaper than an instance per layer.

    Parameters
    ----------
    labels
        A layer, several, or None for the first four of `DEFAULT_LAYERS` that the panel has. "role/basic" reads a layer
        under a coarser label set.
    kind
        "ridge" (as above), "discriminant" (one estimator at every site and under every split, its penalty chosen on the training
        part and recorded: `lmtrace.probing.discriminant`; up to ten times slower), "lda", "logistic" (the same regression to its end, token by token) or "mlp"; the last two cost
        10 to 1,000 times more.
    split
        "sentence", "lexical", or None: lexical for category, both for the other `LEXICAL_LAYERS`, by sentence for the rest.
    sites
        "all" or names. Without "embed" there is no gain over it.
    pair
        "" reads the word; "head" reads an edge: the word and its syntactic head, side by side. "predicate" asks which
        predicate governs an argument (labels "predicate", whose values are places in the sentence): of every word with
        a role and every predicate of its sentence, side by side with their product, whether they belong together. Its
        classes are "yes" and "no"; sentences with one predicate ask nothing.
    span
        "" reads the labelled word alone. "mean", "first" and "last" read the whole span that carries the label: a chunk of a
        layer in a chunk coding (BIO, IOB1, BIOES, BILOU), else the word with all that depends on it; as the mean of its words, or by its first or
        last word. In an edge the span takes the word's place. The labels of its records end in ":span-mean" (or -first,
        -last), so that a probe of words may run beside it.
    control
        The control task (sentence split only) is fitted at the first measurement, at every so many further ones and at the
        last, because it costs as much as the probe and moves slowly; 1 is always, 0 is never.
    bits
        Whether to measure the description length too; costs about ten logistic fits per site and layer.
    keep_at
        Steps whose probes are kept and applied, unchanged, at every later step (metric `transfer`); `lmtrace.kept_probes`
        gives them back.
    apply
        File of `functional.save_probes` whose probes are applied, unchanged, at every measurement (metric `transfer`): of
        another run on the same panel, with the same seed. The checkpoints of a sweep are measured one by one, so there
        this is the way, and it reaches steps before the probe's own.
    seed
        Of splits, control labels and bootstrap; the same at every step.
    """

    labels: str | tuple[str, ...] | None = None
    kind: Kind = "ridge"
    split: SplitName | None = None
    sites: Sites = "all"
    pair: Literal["", "head", "predicate"] = ""
    span: Literal["", "mean", "first", "last"] = ""
    control: int = 5
    bits: bool = False
    keep_at: tuple[int, ...] = ()
    apply: str = ""
    seed: int = 0

    name = "probe"
    cost = "no pass of its own; half a forward of a panel of short sentences with the default four layers"
    source = "Alain and Bengio 2017; Hewitt and Liang 2019 (control task); Voita and Titov 2020 (description length)"
    fields = (
        _share("accuracy", "Probe accuracy", "Share of held-out words whose label the probe reads.",
               "accuracy of the training part's majority class"),
        _share("macro_f1", "Probe macro-F1", "Mean F1 over the classes with at least 10 test words.",
               "macro-F1 of the majority class"),
        _share("f1", "Probe F1 of a class", "F1 of one class; n is its support in the test part.",
               "F1 of always naming the training part's majority class"),
        _share("confidence", "Probe confidence", "Mean probability that the probe gives to the right label.",
               "mean share of the right label in the training part"),
        _share("control_accuracy", "Control-task accuracy", "The same probe on a random class per word type.",
               "accuracy of the majority class on the control labels", ""),
        _gain("selectivity", "Selectivity", "Accuracy minus control-task accuracy."),
        _gain("gain_over_embed", "Gain over the embedding", "Accuracy minus that at the embedding site, paired by word."),
        _gain("gain_over_start", "Gain over step 0", "Accuracy minus that of the first measurement, paired by word."),
        _share("contextual", "Contextual gain", "1 where the gain over the embedding is above 0 with its 95 % interval; "
               "0 is the verdict 'no contextual gain'.", "", ""),
        Field(metric="codelength", title="Description length", low=0.0, better="down",
              null="the uniform code: 1", meaning="Online code of the labels relative to the uniform code."),
        _share("ceiling", "Ceiling", "The best possible accuracy, from the corpus's oracle.", "", ""),
        Field(metric="penalty", title="Penalty of the discriminant", low=0.0,
              meaning='Of kind="discriminant": chosen on the training part, in units of the mean variance.'),
        _share("iterated", "Likelihood refutes the discriminant", 'Of kind="discriminant": 1 where softmax regression went on '
               "from it, 0 where it stood.", "", ""),
        _share("token_ceiling", "Ceiling of the tokens", "The best accuracy of any reader on these test words: words that share "
               "all their tokens have one vector, and get one class.", "", ""),
        _share("transfer", "Accuracy of a kept probe", "Accuracy here of the probe that was fitted at the step named in "
               "the split ('sentence@100').", "accuracy of the training part's majority class"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"probe: kind is {self.kind!r}", f"Choose one of {', '.join(KINDS)}")
        if self.split is not None and self.split not in SPLITS:
            raise ConfigError(f"probe: split is {self.split!r}", f"Choose one of {', '.join(SPLITS)}, or None")
        if self.control < 0:
            raise ConfigError(f"probe: control is {self.control}", "Pass 1 for always, 0 for never, 5 for every fifth")
        if self.pair not in ("", "head", "predicate"):
            raise ConfigError(f"probe: pair is {self.pair!r}", "Choose '', 'head' or 'predicate'")
        if self.pair == "predicate" and self.labels not in (None, "predicate"):
            raise ConfigError(f"probe: pair 'predicate' asks of the layer 'predicate', labels is {self.labels!r}")
        if self.span not in ("", *POOLS):
            raise ConfigError(f"probe: span is {self.span!r}", f"Choose '', {', '.join(map(repr, POOLS))}")
        if not isinstance(self.keep_at, tuple | list) or not all(type(s) is int and s >= 0 for s in self.keep_at):
            raise ConfigError(
                f"probe: keep_at is {self.keep_at!r}", "Pass a tuple of steps, each a whole number from 0 on"
            )
        if self.apply:
            try:
                _ = self._saved
            except DataError as error:
                raise ConfigError(f"probe: {error.message}", error.fix) from error
        if self.keep_at and self.kind == "mlp":
            raise ConfigError("probe: keep_at works with linear probes, kind is 'mlp'", "Choose another kind")
        for label in self._asked():
            layer_of(label)

    def _asked(self) -> tuple[str, ...]:
        if self.pair == "predicate":
            return ("predicate",)
        return (self.labels,) if isinstance(self.labels, str) else tuple(self.labels or ())

    @cached_property
    def _saved(self) -> dict[KeptKey, Linear]:
        found = load_probes(self.apply) if self.apply else {}
        return {KeptKey.of(name): probe for name, probe in found.items()}

    def layers(self, panel: Panel) -> tuple[str, ...]:
        """Return the labels that it reads on this panel, in the order of the records."""
        if self.pair == "predicate":
            return ("predicate",) if "predicate" in panel.layers else ()
        if self.labels is not None:
            return self._asked()
        found = [name for name in DEFAULT_LAYERS if name in panel.layers]
        return tuple(name for name in found if not (name == "upos" and "category" in found))[:NUM_DEFAULT]

    def splits(self, label: str) -> tuple[SplitName, ...]:
        """Return the splits under which a label is judged."""
        if self.split is not None:
            return (self.split,)
        layer = layer_of(label)
        if layer == "category":
            return ("lexical",)
        return ("sentence", "lexical") if layer in LEXICAL_LAYERS else ("sentence",)

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the sites and of the layers."""
        wanted = tuple(dict.fromkeys(layer_of(label) for label in self.layers(panel)))
        return Needs(sites=self.sites, labels=wanted, truth=panel.truth is not None)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield the records of every label, split and site."""
        labels = self.layers(view.panel)
        if not labels:
            wanted = ("predicate",) if self.pair == "predicate" else DEFAULT_LAYERS
            reason = f"the panel has none of the layers {', '.join(wanted)}"
            yield self.record(view, "accuracy", missing=reason)
            return
        tasks: list[ProbeTask] = []
        for label in labels:
            layer = coarsen(view.labels(layer_of(label)), label)
            yield from self._ceiling(view, label)
            for split in self.splits(label):
                task = probe_task(view.panel, layer, label, split, self.seed, self.pair, self.span)
                if task.reason:
                    yield self.record(view, "accuracy", label=task.label, split=split, missing=task.reason)
                else:
                    tasks.append(task)
                    yield from self._token_ceiling(view, task)
        judged: dict[ProbeTask, dict[str, Tally]] = {}
        due = self._due(view)
        # Softmax regression passes over rows without a label; what else there is reads all of its rows.
        groups = [
            (group, _controlled(group, due))
            for group in task_groups(view.panel, tasks, labelled_only=self.kind not in WAYS)
        ]
        targets: dict[tuple[TaskGroup, torch.device], Targets] = {}
        sites = sorted(view.sites, key=lambda site: site != embed_of(site)) if tasks else []
        for site in sites:
            for group, controlled in groups:
                where: list[dict[str, Any]] = [{"site": site, "label": t.label, "split": t.split} for t in group.tasks]
                rows = self._rows(view, site, group)
                if isinstance(rows, str):
                    for place in where:
                        yield self.record(view, "accuracy", **place, missing=rows)
                    continue
                design, key = rows.design(group.split), (group, rows.rows.device)
                if key not in targets:
                    labellings = [(group.spread(t, t.codes), len(t.names)) for t in group.tasks]
                    labellings += [(group.spread(t, t.control), len(t.names)) for t in controlled]
                    units = group.tasks[0].units if self.kind == "discriminant" else None
                    targets[key] = Targets(labellings, group.arrangement, group.split, rows.rows.device, units)
                fits = fit(design, targets[key], self.way(site, group.split), self.seed)
                controls = dict(zip(controlled, fits[len(group.tasks) :], strict=True))
                for task, place, fitted in zip(group.tasks, where, fits[: len(group.tasks)], strict=True):
                    tally = task.tally(fitted)
                    judged.setdefault(task, {})[site] = tally
                    yield from self._chosen(view, fitted, place)
                    if task in controls:
                        yield from self._control(view, controls[task], tally, task, place)
                    if self.bits:
                        yield from self._bits(view, task, place)
                    if self.keep_at or self.apply:
                        labelled = group.spread(task, task.codes)[group.test] >= 0
                        yield from self._transfer(view, design, labelled, fitted, task, place)
        for task, found in judged.items():
            yield from self._judge(view, task, found)

    def _rows(self, view: View, site: str, group: TaskGroup) -> Arranged | str:
        """Return the rows of a group, or why there are none."""
        try:
            rows = group.arranged(view.cache, site, view.words)
        except DataError as error:  # a decoder that answers with logical forms reads none of the panel's words
            return error.message
        return rows if rows.finite else "activations that are not finite"

    def _chosen(self, view: View, fitted: Fit, where: dict[str, Any]) -> Iterator[Record]:
        """Yield what a discriminant chose on the training part."""
        if self.kind == "discriminant" and fitted.linear is not None:
            yield self.record(view, "penalty", fitted.linear.penalty, **where)
            yield self.record(view, "iterated", float(fitted.linear.iterated), **where)

    def _due(self, view: View) -> bool:
        """Return whether this measurement fits the control tasks; counts the measurements."""
        done = int(view.memory.get("measurements", 0))
        view.memory["measurements"] = torch.tensor(done + 1)
        return self.control > 0 and (done % self.control == 0 or view.last)

    def _judge(self, view: View, task: ProbeTask, tallies: dict[str, Tally]) -> Iterator[Record]:
        """Yield the records of one task at all sites."""
        bootstrap, counts = task.bootstrap, list(tallies.values())
        accuracies = bootstrap.shares(np.stack([tally.correct for tally in counts]))
        confidences = bootstrap.shares(np.stack([tally.confidence for tally in counts]))
        starts = {site: self._start(view, tally, f"start|{site}|{task.key}") for site, tally in tallies.items()}
        embeds = {site: tallies[embed_of(site)].correct for site in tallies if embed_of(site) in tallies}
        over_embed = self._gains(task, tallies, {site: at for site, at in embeds.items() if site != embed_of(site)})
        over_start = self._gains(task, tallies, {site: at for site, at in starts.items() if at is not None})
        n = int(counts[0].total.sum())
        for (site, tally), accuracy, confidence in zip(tallies.items(), accuracies, confidences, strict=True):
            where: dict[str, Any] = {"site": site, "label": task.label, "split": task.split}
            yield self.record(
                view, "accuracy", accuracy.value, stderr=accuracy.stderr, n=n, null=task.majority, **where
            )
            yield self.record(
                view, "confidence", confidence.value, stderr=confidence.stderr, n=n, null=task.prior, **where
            )
            yield from self._f1(view, tally, task, where)
            if site in over_embed:
                value, low = over_embed[site]
                yield self.record(view, "gain_over_embed", value.value, stderr=value.stderr, n=n, null=0.0, **where)
                unresolved = {"missing": value.note} if value.stderr is None else {"value": float(low > 0)}
                yield self.record(view, "contextual", n=n, **unresolved, **where)
            if site in over_start:
                value, _ = over_start[site]
                yield self.record(view, "gain_over_start", value.value, stderr=value.stderr, n=n, null=0.0, **where)

    def _gains(
        self, task: ProbeTask, tallies: dict[str, Tally], over: dict[str, np.ndarray]
    ) -> dict[str, tuple[Estimate, float]]:
        """Return the gains at sites over how many words something else got right per unit."""
        if not over:
            return {}
        differences = np.stack([tallies[site].correct - correct for site, correct in over.items()])
        return dict(zip(over, task.bootstrap.gains(differences), strict=True))

    def _bits(self, view: View, task: ProbeTask, where: dict[str, Any]) -> Iterator[Record]:
        length = codelength(task.inputs(view.words(where["site"])), task.codes, task.groups, self.seed)
        reason = {"missing": length.note} if length.ratio is None else {}
        yield self.record(view, "codelength", length.ratio, n=length.n, null=1.0, **where, **reason)

    def _f1(self, view: View, tally: Tally, task: ProbeTask, where: dict[str, Any]) -> Iterator[Record]:
        per_class, macro = task.bootstrap.f1_scores(tally, task.names)
        null = task.f1_null
        if macro.value is None:
            yield self.record(view, "macro_f1", **where, missing=macro.note)
        else:
            kept = [null[name] for name, f1 in per_class.items() if f1.value is not None]
            yield self.record(
                view, "macro_f1", macro.value, stderr=macro.stderr, n=macro.n, null=float(np.mean(kept)), **where
            )
        for name, f1 in per_class.items():
            here = {**where, "label": f"{task.label}={name}"}
            if f1.value is None:
                yield self.record(view, "f1", **here, n=f1.n, missing=f1.note)
            else:
                yield self.record(view, "f1", f1.value, stderr=f1.stderr, n=f1.n, null=null[name], **here)

    def _control(
        self, view: View, fitted: Fit, tally: Tally, task: ProbeTask, where: dict[str, Any]
    ) -> Iterator[Record]:
        labels = task.control
        right = np.bincount(task.test_group, weights=fitted.predicted == labels[task.test])
        value = task.bootstrap.share(right)
        n = int(tally.total.sum())
        null = majority(labels, task.test)
        yield self.record(view, "control_accuracy", value.value, stderr=value.stderr, n=n, null=null, **where)
        difference, _ = task.bootstrap.gain(tally.correct, right)
        yield self.record(view, "selectivity", difference.value, stderr=difference.stderr, n=n, null=0.0, **where)

    def way(self, site: str, split: str) -> str:
        """Return how probes are fitted at a site: the default kind by what is asked of what."""
        if self.kind != "ridge":
            return self.kind
        if site == embed_of(site):
            return "types" if split == "lexical" else "embedding"
        return "unseen" if split == "lexical" else "ridge"

    def _start(self, view: View, tally: Tally, key: str) -> np.ndarray | None:
        """Return the counts of the first measurement, or None where this is it."""
        if view.step == 0 or key not in view.memory:
            if view.step == 0:
                view.memory[key] = torch.as_tensor(tally.correct)
            return None
        return view.memory[key].double().cpu().numpy()

    def _transfer(
        self, view: View, design: Design, labelled: np.ndarray, fitted: Fit, task: ProbeTask, where: dict[str, Any]
    ) -> Iterator[Record]:
        """Yield the accuracies of probes of other steps on the labelled test rows, and keep today's where that was asked."""

        def key(step: int) -> KeptKey:
            return KeptKey(where["site"], task.label, task.split, step)

        kept: dict[int, Linear | None] = {}
        for step in sorted({s for s in self.keep_at if s < view.step}):
            kept[step] = remembered(view.memory, key(step).in_memory(task.pair))
        saved = {at.step: probe for at, probe in self._saved.items() if at == key(at.step)}
        if self.apply and not saved:
            reason = f"{self.apply} holds no probe of this site, label and split"
            yield self.record(view, "transfer", missing=reason, **where)
        for step, probe in {**saved, **kept}.items():
            here = {**where, "split": f"{task.split}@{step}"}
            width = design.held_out.shape[1]
            if probe is None:
                reason = f"no probe of step {step} was kept: that step was not measured here before this one"
                yield self.record(view, "transfer", missing=reason, **here)
            elif len(probe.weight) != width:
                reason = f"the probe of step {step} reads {len(probe.weight)} numbers, this site has {width}"
                yield self.record(view, "transfer", missing=reason, **here)
            else:
                device = design.held_out.device
                [scores] = design.scores([Linear(probe.weight.to(device), probe.bias.to(device), 0.0)])
                chosen = scores.argmax(1).cpu().numpy()[labelled]
                predicted = np.array(probe.names or task.names)[chosen]
                truth = np.array(task.names)[task.codes[task.test]]
                right = np.bincount(task.test_group, weights=predicted == truth)
                value = task.bootstrap.share(right)
                yield self.record(
                    view, "transfer", value.value, stderr=value.stderr, n=value.n, null=task.majority, **here
                )
        if view.step in self.keep_at and fitted.linear is not None:
            remember(view.memory, key(view.step), task.pair, fitted.linear, task.names)

    def _token_ceiling(self, view: View, task: ProbeTask) -> Iterator[Record]:
        """Yield the best accuracy that the vectors of the test words allow, where some of them are one vector."""
        if task.token_ceiling is not None:
            n = int(task.test.sum())
            yield self.record(view, "token_ceiling", task.token_ceiling, n=n, label=task.label, split=task.split)

    def _ceiling(self, view: View, label: str) -> Iterator[Record]:
        if view.panel.truth is None or "/" in label or self.pair == "predicate" or self.span:
            return
        known = _CEILINGS.setdefault(view.truth, {})
        if label not in known:
            known[label] = view.truth.ceiling(label)
        found = known[label]
        if found is None:
            return
        # A causal model has read the words up to this one; the other objectives read the whole sentence.
        reach = "prefix" if view.panel.objective == "causal" else "sentence"
        value = getattr(found, reach, found)
        stderr = getattr(found, f"{reach}_stderr", None)
        if stderr is not None and not math.isfinite(stderr):  # of one sentence
            stderr = None
        yield self.record(view, "ceiling", float(value), stderr=stderr, label=label, n=view.panel.num_words)


def _controlled(group: TaskGroup, due: bool) -> list[ProbeTask]:
    """Return the tasks whose control tasks are fitted too."""
    # Under the lexical split the classes of unseen types cannot be known: the control is at chance by construction.
    return [task for task in group.tasks if due and task.split == "sentence"]


_CEILINGS: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
"""The oracle is asked once: a ceiling is the same at every step."""
