"""When a model got a sentence: from which checkpoint on every token and every label was right, and stayed right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lmtrace.records.inspection import Inspection

WITH_ORACLE = "within a factor of two of the exact probability, from there on"
WITHOUT_ORACLE = "at least half of the way from the first to the last checkpoint, from there on"


def settled(steps: Sequence[int], right: Sequence[bool]) -> int | None:
    """Return the step from which on everything is right to the end; None where the last is not.

    Examples
    --------
    >>> settled([0, 10, 20, 30], [True, False, True, True])
    20
    """
    found = None
    for step, good in zip(reversed(steps), reversed(right), strict=True):
        if not good:
            break
        found = step
    return found


def when_got(inspection: Inspection) -> dict[str, Any]:
    """Return `Inspection.got`.

    A token is got where the model's surprisal exceeds the oracle's by no more than log 2. Without an oracle, where it has made
    half of its way down; a token whose surprisal never falls by log 2 is not got. A label is got where the probe with the
    best held-out accuracy at the last checkpoint reads the right class.
    """
    moments, oracle = inspection.moments, inspection.oracle
    steps = [int(m["step"]) for m in moments]
    exact = None if oracle is None else oracle["surprisal"]
    by_words = exact is not None and _one_token_per_word(inspection)
    columns: list[int | None] = []
    for t, column in enumerate(inspection.columns):
        values = [m["surprisal"][t] for m in moments]
        word = len(inspection.words) if column["word"] is None else int(column["word"])
        if by_words and exact is not None:
            goal = exact[word]
            right = [goal is not None and v is not None and v - goal <= math.log(2.0) for v in values]
        else:
            right = _half_way(values)
        columns.append(settled(steps, right))
    labels = {layer: _label(inspection, layer, steps) for layer in inspection.gold}
    rule = WITH_ORACLE if by_words else WITHOUT_ORACLE
    return {"rule": rule, "columns": columns, "labels": {k: v for k, v in labels.items() if v is not None}}


def _one_token_per_word(inspection: Inspection) -> bool:
    words = [c["word"] for c in inspection.columns if c["word"] is not None]
    return words == list(range(len(inspection.words)))


def _half_way(values: Sequence[float | None]) -> list[bool]:
    known = [math.inf if v is None else v for v in values]
    first, last = known[0], known[-1]
    if not (math.isfinite(first) and math.isfinite(last)) or first - last < math.log(2.0):
        return [False] * len(known)
    return [v <= (first + last) / 2 for v in known]


def _label(inspection: Inspection, layer: str, steps: list[int]) -> dict[str, Any] | None:
    probes = [m["probes"].get(layer, {}) for m in inspection.moments]
    if not probes or any("reading" not in p for p in probes):
        return None
    last = probes[-1]
    at = max(range(len(last["sites"])), key=lambda i: last["accuracy"][i])
    words = []
    for w, gold in enumerate(inspection.gold[layer]):
        right = [
            gold is not None
            and p["reading"][at][w] is not None
            and inspection.layers[layer][p["reading"][at][w]] == gold
            for p in probes
        ]
        words.append(settled(steps, right))
    return {"site": last["sites"][at], "words": words}
