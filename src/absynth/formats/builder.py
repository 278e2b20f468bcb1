"""Imported sentences, gathered into columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from absynth.errors import AbsynthError
from absynth.formats.header import short
from absynth.sentences.columns import Columns

LONGEST_WORD = 1_000
WHOLE = ("complexity", "construction", "frame", "logical_form", "template", "tree")
"""Values that an imported sentence may have as a whole."""


class Builder:
    """Takes sentences one by one. Words and label values are numbered as they appear, layers are sorted by name."""

    def __init__(self) -> None:
        self.vocabulary: dict[str, int] = {}
        self.ids: list[int] = []
        self.ends: list[int] = [0]
        self.layers: dict[str, tuple[list[int], dict[str, int]]] = {}
        self.heads: list[int] = []
        self.whole: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self.ends) - 1

    def add(
        self,
        where: str,
        tokens: Sequence[str],
        labels: Mapping[str, Sequence[str | None]],
        heads: Sequence[int] = (),
        whole: Mapping[str, str] | None = None,
    ) -> None:
        """Take one sentence.

        Raises
        ------
        AbsynthError
            For anything that is not a word, a label per word, or a tree over the words.
        """
        n, start = len(tokens), len(self.ids)
        for i, token in enumerate(tokens):
            self.ids.append(_number(self.vocabulary, token, where, f"word {i + 1}"))
        for name, values in labels.items():
            if len(values) != n:
                raise AbsynthError(f"{where}: {short(name)}", f"{len(values)} labels", f"{n}, one per word")
            codes, names = self.layers.setdefault(name, ([], {}))
            codes.extend([-1] * (start - len(codes)))
            codes.extend([-1 if value is None else _number(names, value, where, name) for value in values])
        if bool(heads) != bool(self.heads) and n and start:
            raise AbsynthError(f"{where}: heads", short(heads), "heads for every sentence of the file, or for none")
        if heads:
            check_heads(where, heads, n)
            self.heads.extend(heads)
        for name, value in (whole or {}).items():
            if name not in WHOLE:
                raise AbsynthError(f"{where}: {short(name)}", short(value), f"one of {', '.join(WHOLE)}")
            if not isinstance(value, str):
                raise AbsynthError(f"{where}: {name}", short(value), "text")
            column = self.whole.setdefault(name, [])
            column.extend([""] * (len(self) - len(column)))
            column.append(value)
        self.ends.append(len(self.ids))

    def corpus(self, provenance: Mapping[str, Any]) -> Columns:
        """Return everything taken so far."""
        layers = {
            name: (np.array(codes + [-1] * (len(self.ids) - len(codes)), np.int32), tuple(names))
            for name, (codes, names) in sorted(self.layers.items())
        }
        whole = {name: values + [""] * (len(self) - len(values)) for name, values in sorted(self.whole.items())}
        return Columns(
            np.array(self.ids, np.int32),
            np.array(self.ends),
            tuple(self.vocabulary),
            layers=layers,
            heads=np.array(self.heads, np.int32) if self.heads else None,
            sentence_layers=whole,
            provenance=provenance,
        )


def _number(known: dict[str, int], value: Any, where: str, what: str) -> int:
    """Return the number of a text, a new one if it is new."""
    found = known.get(value) if isinstance(value, str) else None
    if found is None:
        if not isinstance(value, str) or not 0 < len(value) <= LONGEST_WORD:
            raise AbsynthError(f"{where}: {short(what)}", short(value), f"text of 1 to {LONGEST_WORD:,} characters")
        found = known[value] = len(known)
    return found


def check_heads(where: str, heads: Sequence[int], n: int) -> None:
    """Raise unless `heads` (1-based, 0 for the root) is one tree over n words."""
    if len(heads) != n:
        raise AbsynthError(f"{where}: heads", f"{len(heads)} heads", f"{n}, one per word")
    for i, head in enumerate(heads):
        if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head <= n or head == i + 1:
            raise AbsynthError(
                f"{where}: head of word {i + 1}", short(head), f"another word, 1 to {n}, or 0 for the root"
            )
    if list(heads).count(0) != 1:
        raise AbsynthError(f"{where}: heads", f"{list(heads).count(0)} roots", "one root")
    safe = [False] * (n + 1)
    safe[0] = True
    for i in range(1, n + 1):
        path, at = [], i
        while not safe[at]:
            path.append(at)
            at = heads[at - 1]
            if at in path:
                raise AbsynthError(f"{where}: heads", f"a cycle through word {at}", "a tree")
        for word in path:
            safe[word] = True
