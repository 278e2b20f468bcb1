"""Chunk codings of a label layer (BIO, IOB1, BIOES, BILOU), all read as one: B- begins a chunk, I- continues it, O is outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from lmtrace.errors import DataError

OUTSIDE = "O"
SINGLE_OR_LAST = {"S": "BIOES", "E": "BIOES", "U": "BILOU", "L": "BILOU"}
"""Marks of the words that end a chunk, and the coding that they belong to."""

BEGINS, ENDS = frozenset("BSU"), frozenset("ESLU")


def is_chunked(values: Iterable[str | None]) -> bool:
    """Return whether a layer's values are of a chunk coding: "O", and marks such as "B-PER"."""
    marks = {_mark(value) for value in set(values) if value is not None}
    return "" not in marks and bool(marks & {"B", "I", OUTSIDE})


def as_bio(name: str, values: Sequence[str | None], offsets: np.ndarray) -> list[str | None]:
    """Return a chunk layer's values as BIO; those of every other layer as they are.

    B-, S- and U- begin a chunk, E-, S-, L- and U- end one. A mark that continues nothing begins a chunk, as every I- of IOB1 does
    that does not follow its own label.

    Parameters
    ----------
    name
        Of the layer, for the error.
    values
        One per word, sentence by sentence; None is outside, and stays None.
    offsets : [sentences + 1]
        Where each sentence begins.

    Raises
    ------
    DataError
        Where marks of BIOES and BILOU are mixed, because an end of the one is no end of the other.
    """
    if not is_chunked(values):
        return list(values)
    used = {_mark(value) for value in set(values) if value is not None}
    codings = sorted({coding for mark, coding in SINGLE_OR_LAST.items() if mark in used})
    if len(codings) > 1:
        found = ", ".join(f"{mark}-" for mark in sorted(used & SINGLE_OR_LAST.keys()))
        raise DataError(
            f"layer {name!r} mixes the chunk codings {' and '.join(codings)}: it has {found}", "Use one coding for all"
        )
    result = list(values)
    for start, end in pairwise(offsets.tolist()):
        open_label = None  # the label of the chunk that the next word may continue
        for word in range(start, end):
            value = values[word]
            if value is None or value == OUTSIDE:
                open_label = None
                continue
            mark, label = value[0], value[2:]
            continues = mark not in BEGINS and label == open_label
            result[word] = f"I-{label}" if continues else f"B-{label}"
            open_label = None if mark in ENDS else label
    return result


def _mark(value: str) -> str:
    """Return the letter of a chunk mark, "O" outside, "" for a value that is none."""
    if value == OUTSIDE:
        return OUTSIDE
    return value[0] if len(value) > 2 and value[1] == "-" and value[0] in "BIESLU" else ""
