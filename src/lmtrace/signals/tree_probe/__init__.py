"""Whether the syntax tree of a sentence can be read off a site: the structural probe.

A linear map B of rank r is fitted on the training sentences so that ||B (h_i - h_j)||^2 is the number of steps between words
i and j in the tree. On the test sentences, as Hewitt and Manning count them: UUAS, the share of the gold trees' edges, those of all
sentences together and without punctuation, in the minimum spanning tree of the predicted distances; and the Spearman correlation
of distances, mean over the sentences of each length from 5 to 50 and then over lengths. `uuas_by_sentence` is the mean over
sentences of the share, punctuation included, in which a sentence of three words counts as much as one of forty. The null is the
linear chain, where the distance is |i - j|.

Punctuation is what the layer upos calls PUNCT, else (xpos) what the Penn Treebank has tags for, else a word of punctuation marks only.

When it misleads: in short sentences most edges join neighbours, so compare with the chain, not with zero; position alone lets a
probe reach the chain; the untrained model (step 0) is the second null.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError, DataError
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.moments import all_finite
from lmtrace.observe.interface import Needs, Signal, Sites, View
from lmtrace.observe.sites import embed_of
from lmtrace.probing.splits import sentence_split
from lmtrace.records.schema import Field, Record
from lmtrace.signals.tree_probe.scores import Judged, TreeScores, punctuation
from lmtrace.signals.tree_probe.structural import Sentences, linear_chain, structural_probes, tree_distances
from lmtrace.text.panel import Panel

MIN_SENTENCES = 10
MIN_WORDS = 3


def _score(metric: str, title: str, low: float, meaning: str) -> Field:
    null = "the linear chain: distance in words"
    return Field(metric=metric, title=title, low=low, high=1.0, better="up", null=null, meaning=meaning)


def _gain(metric: str, title: str, of: str) -> Field:
    meaning = f"{of} minus that at the embedding site, paired by sentence."
    return Field(metric=metric, title=title, low=-2.0, high=2.0, better="up", null="no gain: zero", meaning=meaning)


@dataclass(frozen=True, kw_only=True)
class TreeProbe(Signal):
    """Structural probe per site.

    Parameters
    ----------
    sites
        "all" or names. Without "embed" there is no gain over it.
    rank
        Rows of the map.
    max_words
        Longer sentences are left out: the cost grows with the square of the length.
    num_steps
        Of Adam after the closed form, on all training sentences at once.
    seed
        Of the split; the same at every step.
    """

    sites: Sites = "all"
    rank: int = 32
    max_words: int = 50
    num_steps: int = 30
    seed: int = 0

    name = "tree_probe"
    stride = 5
    cost = "no pass of its own; about a twentieth of a second per site and 5,000 words"
    source = "Hewitt and Manning 2019"
    fields = (
        _score(
            "uuas",
            "Tree edges found (UUAS)",
            0.0,
            "Share of all gold edges, without punctuation, in the spanning trees.",
        ),
        _score(
            "uuas_by_sentence", "Tree edges found, mean over sentences", 0.0, "Mean of the share, punctuation included."
        ),
        _score("spearman", "Tree distance correlation", -1.0, "Mean over sentence lengths from 5 to 50."),
        _gain("uuas_gain_over_embed", "UUAS gain over the embedding", "UUAS"),
        _gain("spearman_gain_over_embed", "Correlation gain over the embedding", "The correlation"),
    )

    def __post_init__(self) -> None:
        for name, least in (("rank", 1), ("max_words", MIN_WORDS), ("num_steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"tree_probe: {name} is {getattr(self, name)}", f"It must be at least {least}")

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the sites' activations."""
        return Needs(sites=self.sites)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield the scores at every site, the embedding first."""
        trees = _trees(view.panel, self.max_words, self.seed)
        if trees.reason:
            yield self.record(view, "uuas", missing=trees.reason)
            return
        words: dict[str, Tensor] = {}
        for site in sorted(view.sites, key=lambda name: name != embed_of(name)):
            try:
                x = view.words(site)
            except DataError as error:  # a decoder that answers with logical forms reads none of the panel's words
                yield self.record(view, "uuas", site=site, missing=error.message)
                continue
            if not all_finite(x):
                yield self.record(view, "uuas", site=site, missing="activations that are not finite")
                continue
            words[site] = x
        scores = self._fit_and_score(words, trees)
        for site, found in scores.items():
            yield from self._scores(view, site, found, trees.chain)
            start = scores.get(embed_of(site))
            if start is not None and site != embed_of(site):
                yield from self._gains(view, site, found, start)

    def _fit_and_score(self, words: dict[str, Tensor], trees: _Trees) -> dict[str, TreeScores]:
        """Return site -> the scores of a probe of its words [panel's words, d] on the test sentences."""
        found: dict[str, TreeScores] = {}
        for device in dict.fromkeys(x.device for x in words.values()):
            here = {site: x for site, x in words.items() if x.device == device}
            probes = structural_probes(list(here.values()), trees.training(device), self.rank, self.num_steps)
            scores = TreeScores.empty(trees.judged, len(here), trees.twins[trees.test])
            for group in trees.judged:
                index = torch.as_tensor(group.rows, device=device)
                predicted = [probe.distances(x[index].float()) for x, probe in zip(here.values(), probes, strict=True)]
                scores.fill(group, np.stack(predicted))
            found |= {site: scores.of(i) for i, site in enumerate(here)}
        return {site: found[site] for site in words}

    def _scores(self, view: View, site: str, found: TreeScores, chain: TreeScores) -> Iterator[Record]:
        nulls = {"uuas": chain.uuas(), "uuas_by_sentence": chain.uuas_by_sentence(), "spearman": chain.spearman()}
        yield self._estimate(view, "uuas", found.uuas(), site, nulls["uuas"].value)
        yield self._estimate(view, "uuas_by_sentence", found.uuas_by_sentence(), site, nulls["uuas_by_sentence"].value)
        yield self._estimate(view, "spearman", found.spearman(), site, nulls["spearman"].value)

    def _gains(self, view: View, site: str, found: TreeScores, start: TreeScores) -> Iterator[Record]:
        gain = found.minus(start)
        yield self._estimate(view, "uuas_gain_over_embed", gain.uuas(), site, 0.0)
        yield self._estimate(view, "spearman_gain_over_embed", gain.spearman(), site, 0.0)

    def _estimate(self, view: View, metric: str, found: Estimate, site: str, null: float | None) -> Record:
        if found.value is None:
            return self.record(view, metric, site=site, split="sentence", missing=found.note)
        rest = {"stderr": found.stderr, "n": found.n, "null": null, "split": "sentence"}
        return self.record(view, metric, found.value, site=site, **rest)


class _Trees:
    """The panel's sentences that are trees and not cut, with their distances and their part."""

    def __init__(self, panel: Panel, max_words: int, seed: int) -> None:
        self.rows: list[np.ndarray] = []
        self.gold: list[np.ndarray] = []
        self.counted: list[np.ndarray] = []
        self._training: dict[torch.device, list[Sentences]] = {}
        self.reason = ""
        twins: list[int] = []
        if panel.heads is None:
            self.reason = "the panel has no syntactic heads"
            return
        reached = panel.encoder.word_first >= 0
        starts = np.searchsorted(panel.word_sentence, np.arange(panel.num_sentences + 1))
        for sentence, first, last in zip(panel.sentences, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            if not MIN_WORDS <= last - first <= max_words or not reached[first:last].all():
                continue
            heads = panel.heads[first:last]
            distance = tree_distances(np.where(heads >= 0, heads - first, -1))
            if distance is not None:
                twins.append(int(panel.sentence_twins[panel.word_sentence[first]]))
                self.rows.append(np.arange(first, last))
                self.gold.append(distance)
                self.counted.append(~punctuation(sentence))
        num = len(self.rows)
        self.twins = np.array(twins, np.int64)
        self.test = np.zeros(num, bool)
        if num > 1:
            self.test = sentence_split(np.arange(num), seed, twins=self.twins)
        if int(self.test.sum()) < MIN_SENTENCES:
            self.reason = (
                f"{num} sentences of {MIN_WORDS} to {max_words} words are whole trees; "
                f"at least {MIN_SENTENCES} are needed in the test part"
            )

    def part(self, test: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return (rows, distances) of the sentences of one part."""
        chosen = np.flatnonzero(self.test == test).tolist()
        return [self.rows[i] for i in chosen], [self.gold[i] for i in chosen]

    def training(self, device: torch.device) -> list[Sentences]:
        """Return the training part in groups of similar length; made once per device."""
        if device not in self._training:
            self._training[device] = Sentences.by_length(*self.part(False), device)
        return self._training[device]

    @cached_property
    def judged(self) -> list[Judged]:
        """The test part, one group per length of sentence."""
        chosen = np.flatnonzero(self.test)
        sizes = np.array([len(self.rows[i]) for i in chosen])
        groups = []
        for size in np.unique(sizes):
            places = np.flatnonzero(sizes == size)
            rows, gold, counted = (
                np.stack([kept[i] for i in chosen[places]]) for kept in (self.rows, self.gold, self.counted)
            )
            groups.append(Judged.of(places, rows, gold, counted))
        return groups

    @cached_property
    def chain(self) -> TreeScores:
        """The scores of the linear chain on the test part."""
        scores = TreeScores.empty(self.judged, 1, self.twins[self.test])
        for group in self.judged:
            scores.fill(group, np.broadcast_to(linear_chain(group.gold.shape[1]), (1, *group.gold.shape)))
        return scores.of(0)


_TREES: WeakKeyDictionary[Panel, dict[tuple[int, int], _Trees]] = WeakKeyDictionary()


def _trees(panel: Panel, max_words: int, seed: int) -> _Trees:
    """Return the trees; made once per panel, because they are the same at every step."""
    known = _TREES.setdefault(panel, {})
    if (max_words, seed) not in known:
        known[max_words, seed] = _Trees(panel, max_words, seed)
    return known[max_words, seed]
