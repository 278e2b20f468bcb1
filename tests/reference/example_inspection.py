"""Inspections with every kind of content, without a model: numbers are drawn, the forms are those of `lmtrace inspect`."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from lmtrace.analysis.inspection import when_got
from lmtrace.records.inspection import Inspection

STEPS = (0, 100, 400, 1000)


def example_inspection(words: str = "the old dog sees a cat", wrong: int | None = None, seed: int = 0) -> Inspection:
    """Four checkpoints of a model of two blocks with three heads; `wrong` is the word at which the sentence goes astray."""
    rng = np.random.default_rng(seed)
    forms = words.split()
    num, tokens = len(forms), [*forms, "</s>"]
    exact: list[float | None] = [float(v) for v in rng.uniform(0.3, 3, num + 1)]
    if wrong is not None:
        exact[wrong:] = [None] * (num + 1 - wrong)
    error = {"kind": "agreement violation", "position": wrong, "message": f"word {wrong} does not agree", "role": None}
    names = ["Agent", "Action", "Patient"]
    moments = [_moment(rng, i, step, tokens, exact, num) for i, step in enumerate(STEPS)]
    inspection = Inspection(
        sentence=words, words=forms, model="GPT2LMHeadModel", objective="causal",
        columns=[{"text": t, "word": i if i < num else None, "end": i < num} for i, t in enumerate(tokens)],
        inputs={"encoder": ["<s>", *tokens]}, uniform=math.log(150),
        layers={"role": names}, gold={"role": [names[i % 3] if i % 2 else None for i in range(num)]},
        oracle={
            "surprisal": exact, "entropy": [1.0] * (num + 1), "allowed": [12] * (num + 1), "top": [[["dog", 0.4], ["cat", 0.2]]] * (num + 1),
            "accepted": wrong is None, "derivations": int(wrong is None), "error": None if wrong is None else error,
        },
        moments=moments, notes=["The tokenizer does not know 'old' and reads <unk> instead."],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    return replace(inspection, got=when_got(inspection))


def _moment(
    rng: np.random.Generator, i: int, step: int, tokens: list[str], exact: list[float | None], num: int
) -> dict:
    def law(size: int) -> list[list[float]]:
        weights = np.tril(rng.gamma(0.4, size=(size, size)) + 1e-3)
        return (weights / weights.sum(1, keepdims=True)).round(3).tolist()

    surprisal = [(5.0 if e is None else e) + 4.5 * 0.2**i for e in exact]
    sites = ["block.0", "block.1"]
    return {
        "step": step, "checkpoint": f"checkpoint-{step}", "surprisal": surprisal, "rank": [1 + 2 * (3 - i)] * (num + 1),
        "entropy": [2.0] * (num + 1), "top": [[["dog", 0.5], ["cat", 0.1]]] * (num + 1), "illegal": [0.5 * 0.3**i] * (num + 1),
        "lens": {"sites": sites, "surprisal": [[s + 1 for s in surprisal], surprisal], "top": [[[t, 0.3] for t in tokens], [["dog", 0.5]] * (num + 1)]},
        "probes": {
            "role": {
                "sites": ["embed", "block.0"], "reading": rng.integers(0, 3, (2, num)).tolist(), "confidence": rng.uniform(0.4, 1, (2, num)).tolist(),
                "accuracy": [0.6, 0.8], "control": [0.5, 0.55], "majority": 0.4, "n": 320,
            },
            "tense": {"missing": "only one class (Past): nothing to tell apart"},
        },
        "attention": {"sites": sites, "streams": ["encoder"] * 2, "maps": [[law(num + 2) for _ in range(3)] for _ in sites]},
    }  # fmt: skip
