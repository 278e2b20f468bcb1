"""Minimal pairs: does the model find the right sentence more probable than the wrong one?

For every pair the log-probabilities (nats) of both sentences; the pair counts 1 where log p(good) > log p(bad), 1/2 for a tie. They
are those of the words for pairs from files (BLiMP and others are scored so), and include the end of sentence for other pairs where
the model is trained on ends; `end=` decides otherwise. Masked models give the pseudo-log-likelihood: the sum over words' tokens of log p(token |
the rest), each token masked in turn (Salazar et al. 2020).

It misleads where the two sentences differ in length or in the frequency of their words: the margin then holds the cost of a word,
not of the rule. The matched null is step 0, and 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.pairs import minimal_pair_accuracy, wilson_interval
from lmtrace.observe.forward import context_length
from lmtrace.observe.interface import Needs, Signal, View
from lmtrace.records.schema import Field, Record
from lmtrace.text.pairs import MinimalPair, Text, as_pairs, words_only
from lmtrace.text.panel import Panel
from lmtrace.text.sequences import bidirectional_affixes, causal_affixes, mask_id
from lmtrace.text.tokenizer import WordTokenizer

MIN_PAIRS = 10
MAX_NUMBERS = 2**24
"""Logits held at once: rows x length x vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Pairs(Signal):
    """Share of minimal pairs that the model gets right, and by how much.

    Parameters
    ----------
    pairs
        A JSONL file, a folder of them, or `MinimalPair` objects.
    per_kind
        At most this many pairs of each kind, drawn at random and the same at every step.
    end
        Whether the end of sentence is part of a sentence's probability (causal models). None: not for pairs from files, and for
        others where the panel's ends are averaged (`Panel.from_annotated(end=)`).
    """

    pairs: str | tuple[MinimalPair | str, ...] = ()
    per_kind: int = 200
    end: bool | None = None

    name = "pairs"
    cost = "2 forwards of each pair (masked models: one per token)"
    source = "Warstadt et al. 2020 (BLiMP); Salazar et al. 2020 (pseudo-log-likelihood)"
    fields = (
        Field(
            metric="accuracy",
            title="Minimal pairs right",
            low=0.0,
            high=1.0,
            better="up",
            null="chance: one half",
            meaning="Share of pairs whose acceptable sentence has the higher log-probability; ties count one half.",
        ),
        Field(
            metric="accuracy_low",
            title="Minimal pairs right, lower end",
            low=0.0,
            high=1.0,
            null="chance: one half",
            meaning="Lower end of the 95 % Wilson interval of the accuracy.",
        ),
        Field(
            metric="accuracy_high",
            title="Minimal pairs right, upper end",
            low=0.0,
            high=1.0,
            null="chance: one half",
            meaning="Upper end of the 95 % Wilson interval of the accuracy.",
        ),
        Field(
            metric="margin",
            title="Minimal pair margin",
            unit="nats",
            better="up",
            null="no preference: zero",
            meaning="Mean of log p(good) - log p(bad).",
        ),
        Field(
            metric="left_out",
            title="Pairs left out",
            low=0.0,
            high=1.0,
            meaning="Share of pairs that are longer than the model's context, or whose probability is not finite.",
        ),
        Field(
            metric="severity",
            title="Minimal pair severity",
            unit="nats",
            meaning="Mean of the exact log p(good) - log p(bad) over pairs where it is finite: the law's own margin.",
        ),
        Field(
            metric="severity_correlation",
            title="Margin against severity",
            low=-1.0,
            high=1.0,
            better="up",
            null="no relation: zero",
            meaning="Spearman correlation of the model's margin and the exact one, over pairs where that is finite.",
        ),
    )

    def __post_init__(self) -> None:
        if self.per_kind < 1:
            raise ConfigError(f"pairs: per_kind must be at least 1, got {self.per_kind}")

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the model itself."""
        return Needs(model=True)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield accuracy, margin and the share left out: overall and per kind."""
        reason = "" if self.pairs else "no minimal pairs were given: Pairs(pairs=...)"
        if view.panel.objective == "seq2seq":
            reason = "an encoder-decoder model gives no probability of a sentence by itself"
        if reason:
            for field in self.fields:
                yield self.record(view, field.metric, missing=reason)
            return
        pairs, ends = self._chosen(view.panel.end)
        good, bad = (
            log_likelihoods(view, [encode(text, view.panel.tokenizer) for text in texts], ends)
            for texts in ([p.good for p in pairs], [p.bad for p in pairs])
        )
        kinds = sorted({p.kind for p in pairs if p.kind})
        groups: list[tuple[str | None, np.ndarray]] = [(None, np.ones(len(pairs), bool))]
        groups += [(f"kind={kind}", np.array([p.kind == kind for p in pairs])) for kind in kinds]
        exact = np.array([math.nan if p.severity is None else p.severity for p in pairs])
        for label, mask in groups:
            yield from self._group(view, label, good[mask], bad[mask])
            yield from self._severity(view, label, (good - bad)[mask], exact[mask])

    def _group(self, view: View, label: str | None, good: np.ndarray, bad: np.ndarray) -> Iterator[Record]:
        share = minimal_pair_accuracy(good, bad)
        usable = np.isfinite(good) & np.isfinite(bad)
        margin = (good - bad)[usable]
        yield self.record(view, "left_out", float((~usable).mean()), label=label, n=len(good))
        if share.value is None:
            for metric in ("accuracy", "accuracy_low", "accuracy_high", "margin"):
                yield self.record(view, metric, label=label, missing=share.note)
            return
        interval = wilson_interval(share.value, share.n)
        for metric, end in zip(("accuracy_low", "accuracy_high"), interval, strict=True):
            yield self.record(view, metric, end, label=label, n=share.n, null=0.5)
        yield self.record(view, "accuracy", share.value, label=label, stderr=share.stderr, n=share.n, null=0.5)
        stderr = float(margin.std(ddof=1) / math.sqrt(len(margin))) if len(margin) > 1 else None
        yield self.record(view, "margin", float(margin.mean()), label=label, stderr=stderr, n=len(margin), null=0.0)

    def _severity(self, view: View, label: str | None, margin: np.ndarray, exact: np.ndarray) -> Iterator[Record]:
        """Yield how far the law itself prefers the good sentences; nothing where no pair has a finite severity."""
        margin, exact = margin[known := np.isfinite(exact)], exact[known]
        n = len(exact)
        if n == 0:
            return
        stderr = float(exact.std(ddof=1) / math.sqrt(n)) if n > 1 else None
        yield self.record(view, "severity", float(exact.mean()), label=label, stderr=stderr, n=n)
        margin, exact = margin[usable := np.isfinite(margin)], exact[usable]
        if len(exact) < MIN_PAIRS:
            reason = f"{len(exact)} pairs have two finite margins, fewer than {MIN_PAIRS}"
        elif np.ptp(margin) == 0 or np.ptp(exact) == 0:
            reason = "all margins are equal"
        else:
            value = float(np.corrcoef(rankdata(margin), rankdata(exact))[0, 1])
            # Of Fisher's z, for ranks (Fieller, Hartley and Pearson 1957), carried back to the correlation.
            stderr = (1 - value**2) * math.sqrt(1.06 / (len(exact) - 3))
            where = {"label": label, "stderr": stderr, "n": len(exact)}
            yield self.record(view, "severity_correlation", min(1.0, max(-1.0, value)), null=0.0, **where)
            return
        yield self.record(view, "severity_correlation", label=label, missing=reason)

    def _chosen(self, panel_end: bool) -> tuple[list[MinimalPair], list[bool]]:
        """Return the pairs, in the order of their source, and for each whether the end of sentence belongs to it."""
        pairs = as_pairs(self.pairs)
        if self.end is None:
            ends = [panel_end and not bare for bare in words_only(self.pairs)]
        else:
            ends = [self.end] * len(pairs)
        places: dict[str, list[int]] = {}
        for i, pair in enumerate(pairs):
            places.setdefault(pair.kind, []).append(i)
        generator = np.random.default_rng(0)
        drawn: list[int] = []
        for members in places.values():
            drawn.extend(generator.permutation(members)[: self.per_kind].tolist())
        drawn.sort()
        return [pairs[i] for i in drawn], [ends[i] for i in drawn]


def encode(text: Text, tokenizer: Any) -> list[int]:
    """Return the ids of a sentence without special tokens."""
    if isinstance(tokenizer, WordTokenizer):
        return tokenizer.encode(list(text) if isinstance(text, tuple) else text)
    joined = text if isinstance(text, str) else " ".join(text)
    return list(tokenizer(joined, add_special_tokens=False)["input_ids"])


def log_likelihoods(view: View, sentences: Sequence[Sequence[int]], ends: Sequence[bool]) -> np.ndarray:
    """Return [sentences] log-probabilities (nats); NaN where a sentence is longer than the model's context.

    Causal models: sum of log p(token | before) after [bos] as the panel has it, with [eos] where `ends` says so. Masked models:
    pseudo-log-likelihood over the sentence's own tokens.
    """
    masked = view.panel.objective == "masked"
    begin, end = (bidirectional_affixes if masked else causal_affixes)(view.panel.tokenizer)
    rows = [[*begin, *ids, *(end if masked or whole else [])] for ids, whole in zip(sentences, ends, strict=True)]
    limit = context_length(view.model)
    result = np.full(len(rows), np.nan)
    fits = [i for i, row in enumerate(rows) if (limit is None or len(row) <= limit) and sentences[i]]
    if masked:
        _masked(view, rows, sentences, fits, len(begin), result)
    else:
        _causal(view, rows, fits, result)
    return result


def _causal(view: View, rows: list[list[int]], fits: list[int], result: np.ndarray) -> None:
    for chunk in _chunks(view, rows, fits):
        ids, mask = _padded(view, [rows[i] for i in chunk])
        log_probs = view.logits({"input_ids": ids, "attention_mask": mask})[:, :-1].float().log_softmax(-1)
        chosen = log_probs.gather(2, ids[:, 1:, None])[..., 0].double()
        result[chunk] = (chosen * mask[:, 1:]).sum(1).cpu().numpy()


def _masked(
    view: View,
    rows: list[list[int]],
    sentences: Sequence[Sequence[int]],
    fits: list[int],
    skip: int,
    result: np.ndarray,
) -> None:
    """Score every token of every sentence with that token masked: one row per token."""
    mask_token = mask_id(view.panel.tokenizer)
    expanded, owner, position = [], [], []
    for i in fits:
        for j in range(len(sentences[i])):
            row = list(rows[i])
            row[skip + j] = mask_token
            expanded.append(row)
            owner.append(i)
            position.append(skip + j)
    result[fits] = 0.0
    for chunk in _chunks(view, expanded, list(range(len(expanded)))):
        ids, mask = _padded(view, [expanded[k] for k in chunk])
        logits = view.logits({"input_ids": ids, "attention_mask": mask})
        at = torch.as_tensor([position[k] for k in chunk], device=ids.device)
        right = torch.as_tensor([rows[owner[k]][position[k]] for k in chunk], device=ids.device)
        log_probs = logits[torch.arange(len(chunk), device=ids.device), at].float().log_softmax(-1)
        values = log_probs.gather(1, right[:, None])[:, 0].double().cpu().numpy()
        np.add.at(result, [owner[k] for k in chunk], values)


def _chunks(view: View, rows: list[list[int]], chosen: list[int]) -> Iterator[list[int]]:
    """Yield positions of rows of similar length whose logits fit into memory."""
    vocabulary = len(view.panel.tokenizer)
    ordered = sorted(chosen, key=lambda i: (len(rows[i]), i))
    chunk: list[int] = []
    for i in ordered:
        if chunk and (len(chunk) + 1) * len(rows[i]) * vocabulary > MAX_NUMBERS:
            yield chunk
            chunk = []
        chunk.append(i)
        if len(chunk) == 256:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _padded(view: View, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    device = next(view.model.parameters()).device
    longest = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.int64, device=device)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row, device=device)
        mask[i, : len(row)] = 1
    return ids, mask
