"""What each attention head looks at: one number per head and block, on the panel and on repeated random sequences.

On the panel's tokens: entropy, distance, weight on the previous, the first, the same token and on the query itself. On its words:
weight on the other end of a dependency edge and the share of edges whose other end is the word with most weight (head-wise UUAS;
Clark et al. 2019), weight on other words of the same role. On repeated random tokens: the induction score (Olsson et al. 2022).
Equations: `lmtrace.signals.attention.maps`. A word looks from its last token at all tokens of the other word; causal models look back, so the
later word of an edge is the one that looks; others look from the dependent to its head.

Arrays are heads x blocks, or one column for each block where some blocks have no maps or other numbers of heads. Rows of maps
that give weight to a sink that is no token are divided by the rest, and the run says so. The scalars per block are means over heads, or, where one head is enough to do the job, the best
head's; the null is the same statistic of a head that looks at everything alike, for `dependency_right` the neighbouring word.
When it misleads: weight is not use (values and later blocks decide); the best of many heads is a selected one; a model trained on
texts that repeat at a fixed distance can reach a high induction score by that distance alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.observe.forward import context_length
from lmtrace.observe.interface import Batch, Needs, Signal, View
from lmtrace.records.schema import Field, Record
from lmtrace.signals.attention.maps import (
    STATISTICS,
    edge_statistics,
    head_statistics,
    induction,
    uniform_maps,
    visible_keys,
    word_maps,
)
from lmtrace.text.panel import Panel
from lmtrace.text.panel_parts import Side
from lmtrace.text.sequences import causal_affixes

ALL = (*STATISTICS, "dependency", "dependency_right", "same_role")
BEST = ("previous", "same_token", "dependency", "dependency_right", "same_role", "induction")
UNIFORM = "a head that looks at every visible position alike"

# name -> title, unit, upper limit, meaning, null
_WORDS = {
    "entropy": ("Attention entropy", "nats", None, "Entropy of a query's weights.", UNIFORM),
    "distance": ("Attention distance", "tokens", None, "Mean distance from the query to the key.", UNIFORM),
    "previous": ("Weight on the previous token", "1", 1.0, "Weight on the token before the query.", UNIFORM),
    "first": ("Weight on the first token", "1", 1.0, "Weight on the first token of the sequence.", UNIFORM),
    "self": ("Weight on the query itself", "1", 1.0, "Weight on the query's own position.", UNIFORM),
    "same_token": ("Weight on the same token", "1", 1.0, "Weight on other places of the query's token.", UNIFORM),
    "dependency": ("Weight on the dependency edge", "1", 1.0, "Weight on the word at the other end.", UNIFORM),
    "dependency_right": (
        "Dependency edges found",
        "1",
        1.0,
        "Share of edges whose other end is the word with most weight.",
        "the neighbouring word is always the other end",
    ),
    "same_role": ("Weight on words of the same role", "1", 1.0, "Weight on other words of the query's role.", UNIFORM),
    "induction": (
        "Induction score",
        "1",
        1.0,
        "Weight on the token after the last occurrence, repeated tokens.",
        UNIFORM,
    ),
}


def _fields() -> Iterator[Field]:
    for metric, (title, unit, high, meaning, null) in _WORDS.items():
        whose = "of the block's best head" if metric in BEST else "mean over the block's heads"
        yield Field(
            metric=metric, title=title, unit=unit, low=0.0, high=high, null=null, meaning=f"{meaning} Here: {whose}."
        )
        yield Field(
            metric=f"{metric}_heads", title=f"{title}, per head", unit=unit, low=0.0, high=high, null=null,
            meaning=meaning, axis="head, block",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Attention(Signal):
    """Statistics of every attention head.

    Parameters
    ----------
    role
        Label layer that "the same role" is read from.
    num_sequences, period
        Repeated random sequences for the induction score, and the number of tokens that each repeats.
    """

    role: str = "role"
    num_sequences: int = 16
    period: int = 16

    name = "attention"
    shrinks = MappingProxyType({"num_sequences": 4})
    cost = "the shared pass with eager attention, and a forward of num_sequences x 2 period tokens"
    source = "Clark et al. 2019 (what does BERT look at); Olsson et al. 2022 (induction heads)"
    fields = tuple(_fields())

    def __post_init__(self) -> None:
        if self.num_sequences < 2 or self.period < 2:
            raise ConfigError(
                f"attention: num_sequences and period must be at least 2, got {self.num_sequences} and {self.period}"
            )

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the maps, of the model for its own sequences, and of the roles where there are any."""
        labels = (self.role,) if self.role in panel.layers else ()
        return Needs(attention=True, model=True, labels=labels)

    def reduce(self, batch: Batch) -> dict[str, Tensor]:
        """Return sums over queries per sequence: of the heads, of the null, and how many queries and heads there were."""
        found: dict[str, Tensor] = {}
        for stream, maps in _streams(batch.attentions).items():
            tokens = _Tokens(batch.panel, stream, batch.sequences, next(iter(maps.values())).shape[-1], self.role)
            sums, counts = zip(*[tokens.statistics(m) for m in [*maps.values(), uniform_maps(tokens.visible)]])
            found[f"sequence_{stream}sums"] = _side_by_side(sums[:-1])
            found[f"sequence_{stream}null"] = sums[-1][:, 0]
            found[f"sequence_{stream}counts"] = counts[0]
            shape = torch.tensor([(number_of(name), m.shape[1]) for name, m in maps.items()], device=counts[0].device)
            found[f"sequence_{stream}blocks"] = shape.expand(len(counts[0]), -1, -1)
        return found

    def measure(self, view: View) -> Iterator[Record]:
        """Yield every statistic, as an array over heads and blocks and as one number per block."""
        reduced = view.reduced()
        for key in [k for k in reduced if k.endswith("sums")]:
            stream = key.removeprefix("sequence_").removesuffix("sums")
            sums, null, counts, blocks = (
                reduced[f"sequence_{stream}{k}"].double().cpu().numpy() for k in ("sums", "null", "counts", "blocks")
            )
            shape = dict(blocks[0].astype(int).tolist())
            for i, metric in enumerate(ALL):
                if counts[:, i].sum() == 0:
                    reason = self._reason(view.panel, metric)
                    for name in (metric, f"{metric}_heads"):
                        yield self.record(view, name, split=stream.rstrip(".") or None, missing=reason)
                    continue
                expected = float(null[:, i].sum() / counts[:, i].sum())
                yield from self._heads(view, metric, stream, shape, sums[..., i], counts[:, i], expected)
        for site, why in view.no_maps.items():
            if f"sequence_{site.split('block.')[0]}sums" not in reduced:  # a stream without any map
                for metric in ALL:
                    yield self.record(view, metric, site=site, missing=why)
        yield from self._induction(view)

    def _heads(
        self,
        view: View,
        metric: str,
        stream: str,
        shape: dict[int, int],
        sums: np.ndarray,
        counts: np.ndarray,
        null: float,
    ) -> Iterator[Record]:
        """Yield one statistic from its sums [sequences, blocks, heads] and counts [sequences].

        Parameters
        ----------
        shape
            Number of a block -> its number of heads, for the blocks that have maps.
        """
        total = counts.sum()
        mean = sums.sum(axis=0) / total
        n = int(total)
        split = stream.rstrip(".") or None
        if not all(np.isfinite(mean[row, :heads]).all() for row, heads in enumerate(shape.values())):
            for name in (metric, f"{metric}_heads"):
                yield self.record(view, name, split=split, missing="maps that are not finite")
            return
        lost = {site: why for site, why in view.no_maps.items() if site.startswith(f"{stream}block.")}
        if lost or len(set(shape.values())) > 1:  # no rectangle of heads and blocks: a column for each block
            for row, (block, heads) in enumerate(shape.items()):
                column = mean[row, :heads, None].copy()
                site = f"{stream}block.{block}"
                yield self.record(view, f"{metric}_heads", array=column, site=site, split=split, n=n, null=null)
        else:
            yield self.record(view, f"{metric}_heads", array=mean.T.copy(), split=split, n=n, null=null)
        for row, (block, heads) in enumerate(shape.items()):
            chosen = [int(mean[row, :heads].argmax())] if metric in BEST else list(range(heads))
            value = float(mean[row, chosen].mean())
            # A ratio of sums over sequences: its linearisation.
            residual = sums[:, row][:, chosen].mean(axis=1) - value * counts
            used = int((counts > 0).sum())
            stderr = math.sqrt(used / (used - 1) * float((residual**2).sum())) / total if used > 1 else None
            yield self.record(view, metric, value, site=f"{stream}block.{block}", stderr=stderr, n=n, null=null)
        for site, why in lost.items():
            yield self.record(view, metric, site=site, missing=why)

    def _reason(self, panel: Panel, metric: str) -> str:
        if metric.startswith("dependency"):
            return (
                "the panel has no dependency heads" if panel.heads is None else "no edge between words of this stream"
            )
        if metric == "same_role":
            if self.role not in panel.layers:
                return f"the panel has no layer {self.role!r}"
            return "no sentence has two words of one role"
        return "no query of the panel sees more than one key that counts"

    def _induction(self, view: View) -> Iterator[Record]:
        reason = ""
        if view.panel.objective != "causal":
            reason = "only models that read from left to right have induction heads"
        begin, _ = causal_affixes(view.panel.tokenizer)
        known = np.unique(np.concatenate(view.panel.encoder.ids))
        known = np.setdiff1d(known, list(getattr(view.panel.tokenizer, "all_special_ids", ())))
        limit = context_length(view.model)
        period = self.period if limit is None else min(self.period, (limit - len(begin)) // 2)
        if not reason and (period < 2 or len(known) < period):
            reason = f"a period of {period} does not fit into {len(known)} known tokens and a context of {limit}"
        if reason:
            for name in ("induction", "induction_heads"):
                yield self.record(view, name, missing=reason)
            return
        generator = view.generator("induction")
        once = torch.stack(
            [torch.randperm(len(known), generator=generator)[:period] for _ in range(self.num_sequences)]
        )
        once = torch.from_numpy(known)[once]
        ids = torch.cat([torch.tensor(begin, dtype=torch.int64).expand(len(once), -1), once, once], dim=1)
        ids = ids.to(next(view.model.parameters()).device)
        maps = view.attentions({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        shape = {number_of(name): m.shape[1] for name, m in maps.items()}
        found = [induction(m, period, len(begin))[..., None] for m in maps.values()]
        scores = _side_by_side(found)[..., 0].double().cpu().numpy()
        last = len(begin) + period + np.arange(period)
        expected = float((1 / (last + 1)).mean())
        yield from self._heads(view, "induction", "", shape, scores, np.ones(len(scores)), expected)


def number_of(block: str) -> int:
    """Return i of "block.i"."""
    return int(block.rpartition(".")[2])


def _streams(maps: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return "" or "encoder." or "decoder." -> the maps of its blocks by site, in order."""
    found: dict[str, dict[str, Tensor]] = {}
    for site in sorted(maps, key=number_of):
        found.setdefault(site.split("block.")[0], {})[site] = maps[site]
    return found


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Return [sequences, blocks, heads, statistics] of blocks that may differ in their number of heads; the rest is NaN."""
    most = max(part.shape[1] for part in parts)
    padded = [torch.nn.functional.pad(p, (0, 0, 0, most - p.shape[1]), value=math.nan) for p in parts]
    return torch.stack(padded, dim=1)


class _Tokens:
    """Token ids, words and edges of some sequences of one stream, padded on the right."""

    def __init__(self, panel: Panel, stream: str, sequences: Tensor, length: int, role: str) -> None:
        side = panel.decoder if stream == "decoder." else panel.encoder
        if side is None:
            raise ConfigError("attention: the panel has no decoder side")
        self.device = sequences.device
        rows = sequences.cpu().numpy()
        self.causal = panel.objective == "causal" or stream == "decoder."
        ids = _padded([side.ids[s] for s in rows], 0, length)
        lengths = np.array([len(side.ids[s]) for s in rows])
        self.ids = self._tensor(ids)
        self.visible = visible_keys(self._tensor(np.arange(length) < lengths[:, None]), self.causal)
        self._words(panel, side, rows, role)

    def _words(self, panel: Panel, side: Side, rows: np.ndarray, role: str) -> None:
        begin = np.searchsorted(panel.word_sentence, rows)
        end = np.searchsorted(panel.word_sentence, rows, side="right")
        words = [np.arange(b, e) for b, e in zip(begin, end)]
        here = [side.word_first[w] >= 0 for w in words]
        first = [np.where(h, side.word_first[w] - side.offsets[s], -1) for w, h, s in zip(words, here, rows)]
        last = [np.where(h, side.word_last[w] - side.offsets[s], -1) for w, h, s in zip(words, here, rows)]
        self.first, self.last = self._tensor(_padded(first, -1)), self._tensor(_padded(last, -1))
        exists = self.first >= 0
        self.pairs = visible_keys(exists, self.causal) & ~torch.eye(
            exists.shape[1], dtype=torch.bool, device=self.device
        )
        edges = [self._edges(panel, w, h) for w, h in zip(words, here)]
        self.query = self._tensor(_padded([e[0] for e in edges], -1))
        self.key = self._tensor(_padded([e[1] for e in edges], -1))
        codes = panel.labels(role).codes if role in panel.layers else np.full(panel.num_words, -1)
        roles = self._tensor(_padded([codes[w] for w in words], -1))
        self.same = self.pairs & (roles[:, :, None] == roles[:, None, :]) & (roles >= 0)[:, :, None]

    def _edges(self, panel: Panel, words: np.ndarray, here: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the looking and the looked-at word of every edge whose both words have tokens."""
        if panel.heads is None or not len(words):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        dependent = np.arange(len(words))
        head = panel.heads[words] - words[0]
        kept = (panel.heads[words] >= 0) & here & here[np.clip(head, 0, len(words) - 1)]
        dependent, head = dependent[kept], head[kept]
        if self.causal:
            return np.maximum(dependent, head), np.minimum(dependent, head)
        return dependent, head

    def statistics(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums [sequences, heads, ALL] and counts [sequences, ALL]."""
        sums, counts = head_statistics(maps, self.ids, self.visible)
        if not self.first.shape[1]:
            nothing = sums.new_zeros(*sums.shape[:2], 3)
            return torch.cat([sums, nothing], dim=2), torch.cat([counts, counts.new_zeros(len(counts), 3)], dim=1)
        weights = word_maps(maps, self.first, self.last)
        on_edge, right, edges = edge_statistics(weights, self.query, self.key, self.pairs)
        if maps.shape[1] == 1 and torch.equal(maps, uniform_maps(self.visible)):
            right = ((self.query - self.key).abs() == 1).sum(dim=1, keepdim=True).to(right)
        role = (weights * self.same[:, None]).sum(dim=(2, 3))
        with_role = self.same.any(dim=2).sum(dim=1)
        sums = torch.cat([sums, torch.stack([on_edge, right, role], dim=2)], dim=2)
        return sums, torch.cat([counts, torch.stack([edges, edges, with_role], dim=1)], dim=1)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.device)


def _padded(rows: list[np.ndarray], fill: int, length: int = 0) -> np.ndarray:
    out = np.full((len(rows), max([length, *map(len, rows)])), fill, np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
