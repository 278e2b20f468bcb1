"""Annotated sentences: tokens, one label per token and layer, a dependency tree, and the text they came from."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from lmtrace.errors import DataError

Labels = tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedSentence:
    """One sentence with its annotations.

    Attributes
    ----------
    tokens
        The words.
    labels
        Layer ("upos", "role", "Number") -> one value per word; None where a word has none.
    heads
        Number of the head of every word, counted from 1; 0 for a root (CoNLL). None without a tree.
    deprels
        Dependency relation of every word, or None.
    text
        The surface text. Without one, the words joined by spaces.
    spans
        Start and end of every word in `text` (characters). Words of a fused form ("du" = "de" + "le") share one span.
    target
        What a sequence-to-sequence model should answer (a logical form), or None.
    sent_id
        Identifier of the sentence in its source; may be empty.
    info
        Labels of the sentence as a whole: construction, complexity, frame.

    Raises
    ------
    DataError
        Where a layer has not one value per word, or the heads are not a forest.
    """

    tokens: tuple[str, ...]
    labels: Mapping[str, Labels] = field(default_factory=dict)
    heads: tuple[int, ...] | None = None
    deprels: Labels | None = None
    text: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    target: str | None = None
    sent_id: str = ""
    info: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"sentence {self.sent_id!r}" if self.sent_id else f"sentence {' '.join(self.tokens[:6])!r}"
        named = {**self.labels, "heads": self.heads, "deprels": self.deprels}
        for name, values in named.items():
            if values is not None and len(values) != len(self.tokens):
                raise DataError(
                    f"{where}: layer {name!r} has {len(values)} values for {len(self.tokens)} words",
                    "Give one value per word, None where a word has none",
                )
        if self.heads is not None and (problem := tree_problem(self.heads)):
            raise DataError(f"{where}: {problem[1]}", "Heads count words from 1; a root has head 0")
        if not self.spans:
            text = self.text or " ".join(self.tokens)
            spans = locate(self.tokens, text)
            if spans is None:  # the text is not made of these words: the words are what was annotated
                text = " ".join(self.tokens)
                spans = locate(self.tokens, text)
            object.__setattr__(self, "text", text)
            object.__setattr__(self, "spans", spans)

    def __len__(self) -> int:
        return len(self.tokens)


def locate(tokens: Sequence[str], text: str) -> tuple[tuple[int, int], ...] | None:
    """Return the character span of every token in `text`, in order, or None where one is not found."""
    spans, end = [], 0
    for token in tokens:
        start = text.find(token, end)
        if start < 0 or text[end:start].strip():
            return None
        end = start + len(token)
        spans.append((start, end))
    return tuple(spans)


def tree_problem(heads: Sequence[int]) -> tuple[int, str] | None:
    """Return (word index, what is wrong) where heads (from 1, 0 = root) leave the sentence or form a cycle."""
    n = len(heads)
    for i, head in enumerate(heads):
        if not 0 <= head <= n:
            return i, f"word {i + 1} has head {head}, but the sentence has {n} words"
    rooted = [False] * n
    for i in range(n):
        path, at, on_path = [], i, set()
        while at >= 0 and not rooted[at]:
            if at in on_path:
                cycle = " -> ".join(str(k + 1) for k in [*path[path.index(at) :], at])
                return at, f"the dependency heads form a cycle ({cycle})"
            path.append(at)
            on_path.add(at)
            at = heads[at] - 1
        for k in path:
            rooted[k] = True
    return None


def _heads(values: Iterable[Any]) -> tuple[int, ...]:
    """Return heads as whole numbers; 1.5 or infinity is nobody's head."""
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError as error:
        raise DataError(f"heads must be whole numbers, got {str(values)[:60]}") from error


def as_annotated(obj: Any) -> AnnotatedSentence:
    """Return any object with `.tokens` and `.labels` as an `AnnotatedSentence`.

    `labels` maps a layer to one value per word, or to one value for the whole sentence (a string or a number). Read
    where present: `heads`, `deprels`, `text`, `target` or `logical_form`, `sent_id` or `id`, `info`, and the sentence's
    `construction`, `complexity` and `frame`.
    """
    if isinstance(obj, AnnotatedSentence):
        return obj
    if not hasattr(obj, "tokens") or not hasattr(obj, "labels"):
        raise DataError(
            f"a sentence of type {type(obj).__name__} has no .tokens and .labels",
            "Pass annotated sentences, a corpus of them, or a path (docs/formats.md lists the formats)",
        )
    tokens = tuple(str(token) for token in obj.tokens)
    info = {str(k): str(v) for k, v in dict(getattr(obj, "info", None) or {}).items()}
    for name in ("construction", "complexity", "frame"):
        value = getattr(obj, name, None)
        if isinstance(value, (str, int)) and value != "":
            info[name] = str(value)
    labels: dict[str, Labels] = {}
    for name, values in dict(obj.labels or {}).items():
        if isinstance(values, (str, int, float)):
            info[str(name)] = str(values)
        else:
            labels[str(name)] = _values(values)
    # An imported corpus of absynth has heads and relations of no words where it has no tree.
    heads, deprels = (_unless_empty(getattr(obj, name, None), tokens) for name in ("heads", "deprels"))
    target = getattr(obj, "target", None) or getattr(obj, "logical_form", None)
    return AnnotatedSentence(
        tokens=tokens,
        labels=labels,
        heads=None if heads is None else _heads(heads),
        deprels=None if deprels is None else _values(deprels),
        text=str(getattr(obj, "text", None) or ""),
        target=None if target is None else str(target),
        sent_id=str(getattr(obj, "sent_id", None) or getattr(obj, "id", None) or ""),
        info=info,
    )


def _unless_empty(values: Any, tokens: tuple[str, ...]) -> Any:
    return None if values is None or (tokens and hasattr(values, "__len__") and len(values) == 0) else values


def _values(values: Iterable[Any]) -> Labels:
    return tuple(None if v is None or v == "" else str(v) for v in values)


def take(items: Any, rows: Sequence[int]) -> Any:
    """Return these sentences of a corpus: as a corpus of its own kind where it has `select`, else as a list."""
    return items.select(rows) if hasattr(items, "select") else [items[i] for i in rows]


def iterate_words(corpus: Any) -> Iterator[Sequence[str]]:
    """Yield the words of every sentence; a columnar corpus (`ids`, `offsets`, `vocabulary`) is read without building them."""
    if all(hasattr(corpus, name) for name in ("ids", "offsets", "vocabulary")):
        flat = np.asarray(corpus.vocabulary, object)[np.asarray(corpus.ids)].tolist()
        offsets = np.asarray(corpus.offsets).tolist()
        for start, end in pairwise(offsets):
            yield flat[start:end]
    else:
        for sentence in corpus:
            yield sentence.tokens


def iterate_labels(corpus: Any, layer: str) -> Iterator[Labels]:
    """Yield one label layer of every sentence, all None where a sentence lacks it; columnar corpora (`column`) as above."""
    if all(hasattr(corpus, name) for name in ("column", "layer_names", "offsets")):
        offsets = np.asarray(corpus.offsets).tolist()
        flat: list[str | None] = [None] * offsets[-1]
        if layer in corpus.layer_names:
            codes, names = corpus.column(layer)
            flat = np.array([*names, None], object)[np.asarray(codes)].tolist()
        for start, end in pairwise(offsets):
            yield tuple(flat[start:end])
    else:
        for sentence in corpus:
            yield _values(sentence.labels[layer] if layer in sentence.labels else (None,) * len(sentence.tokens))
