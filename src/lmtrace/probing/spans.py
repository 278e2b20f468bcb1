"""Spans of several words that carry one label: chunks of a layer in a chunk coding, else what a labelled word heads in the tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmtrace.text.chunks import is_chunked
from lmtrace.text.panel import LabelLayer, Panel

POOLS = ("mean", "first", "last")


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Labelled spans, in the order of their head words.

    Attributes
    ----------
    head : [spans]
        int64 row of the word that stands for the span: the one that carries the label; of a chunk the first word whose
        syntactic head lies outside of it (its first word where there is no tree).
    codes : [spans]
        int64 index into `names`.
    names
        The labels; of chunks without their B- and I-.
    member : [members]
        int64 rows of the words, span by span, in reading order.
    offsets : [spans + 1]
        Where each span starts in `member`.
    """

    head: np.ndarray
    codes: np.ndarray
    names: tuple[str, ...]
    member: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.head)

    def take(self, rows: np.ndarray) -> Spans:
        """Return some spans, by index, in this order."""
        parts = [self.member[self.offsets[i] : self.offsets[i + 1]] for i in rows.tolist()]
        member = np.concatenate([np.zeros(0, np.int64), *parts])
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return Spans(self.head[rows], self.codes[rows], self.names, member, offsets)

    def pool(self, x: Tensor, how: str) -> Tensor:
        """Return [spans, d] of x: [words, d]: the mean of a span's words, or its first or last word."""
        if how == "first":
            return x[torch.as_tensor(self.member[self.offsets[:-1]], device=x.device)]
        if how == "last":
            return x[torch.as_tensor(self.member[self.offsets[1:] - 1], device=x.device)]
        member = torch.as_tensor(self.member, device=x.device)
        lengths = torch.as_tensor(np.diff(self.offsets), device=x.device)
        return torch.segment_reduce(x[member].double(), "mean", lengths=lengths).to(x.dtype)


def find_spans(panel: Panel, layer: LabelLayer) -> Spans | str:
    """Return the labelled spans of a panel, or why it has none.

    A layer in a chunk coding holds chunks; the panel has it in BIO, whatever coding it came in. Every other layer labels words, and the span of a word is the word with all that depends on it, directly or not,
    gaps left out. A span that loses a word at `max_length` is left out.
    """
    if is_chunked(layer.names):
        return _chunks(panel, layer)
    if panel.heads is None:
        return "the panel has no syntactic heads to take spans from, and the layer no B- and I-"
    pairs = []
    word = ancestor = np.arange(panel.num_words)
    while len(word):
        pairs.append((ancestor, word))
        above = panel.heads[ancestor]
        word, ancestor = word[above >= 0], above[above >= 0]
    head, member = (np.concatenate([pair[i] for pair in pairs]) for i in range(2))
    order = np.lexsort((member, head))
    offsets = np.searchsorted(head[order], np.arange(panel.num_words + 1))
    every = Spans(np.arange(panel.num_words), layer.codes, layer.names, member[order], offsets)
    return every.take(np.flatnonzero((layer.codes >= 0) & _whole(panel, every)))


def _chunks(panel: Panel, layer: LabelLayer) -> Spans | str:
    names = tuple(sorted({name[2:] for name in layer.names if name != "O"}))
    kind = np.array([names.index(name[2:]) if name != "O" else -1 for name in layer.names])
    begins = np.array([name.startswith("B-") for name in layer.names])
    inside = layer.codes >= 0
    of = np.where(inside, kind[layer.codes], -1)
    new = np.ones(panel.num_words, bool)
    same = (panel.word_sentence[1:] == panel.word_sentence[:-1]) & (of[1:] == of[:-1])
    new[1:] = ~same | begins[layer.codes[1:]]
    first = np.flatnonzero(new & (of >= 0))
    if not len(first):
        return "no word is in a chunk"
    chunk = np.cumsum(new) - 1  # words outside of chunks count as well: every maximal run has a number
    member = np.flatnonzero(of >= 0)
    offsets = np.append(np.searchsorted(chunk[member], chunk[first]), len(member))
    head = first
    if panel.heads is not None:
        above = panel.heads[member]
        leaves = (above < 0) | (chunk[above] != chunk[member])
        leaving = member[leaves]
        head = leaving[np.searchsorted(chunk[leaving], chunk[first])]
    every = Spans(head, of[first], names, member, offsets)
    # A word that was cut has no label, so the chunk before it would look whole.
    after = member[offsets[1:] - 1] + 1
    cut = panel.encoder.word_first[np.minimum(after, panel.num_words - 1)] < 0
    cut &= (after < panel.num_words) & (
        panel.word_sentence[np.minimum(after, panel.num_words - 1)] == panel.word_sentence[first]
    )
    return every.take(np.flatnonzero(~cut & _whole(panel, every)))


def _whole(panel: Panel, spans: Spans) -> np.ndarray:
    """Return [spans] bool: every word reaches a token."""
    lost = np.concatenate([[0], np.cumsum(panel.encoder.word_first[spans.member] < 0)])
    return lost[spans.offsets[1:]] == lost[spans.offsets[:-1]]
