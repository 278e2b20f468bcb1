"""Minimal pairs as data: what they hold and how they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

from absynth.errors import AbsynthError
from absynth.sentences.sentence import Sentence


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two sentences that differ in one thing.

    Attributes
    ----------
    kind
        Which intervention.
    good, bad
        The sentence and what became of it, both with full annotations. ("bad" is still a sentence of the language after
        a synonym substitution, and after a role swap where selection is not absolute.)
    control
        A sentence of the language with as many words as `bad`: the same sentence with a synonym at the same place where
        that exists, else another sentence, of the same frame where possible.
    role
        Role of the argument that was changed; None elsewhere.
    position
        First word (from 0) of `bad` where the change shows; the number of words for the end.
    severity
        log2 p(good) - log2 p(bad) in bits; infinite where `bad` is outside the language.
    log2_good, log2_bad, log2_control
        Exact log-probabilities.
    expected
        The kind of diagnosis that the change calls for, at `position`; None where the string can be explained in
        another way or
        at another place as well (a time word instead of a subject begins a sentence with a fronted time).
    attractor
        For agreement: whether a noun of the wrong number stands between subject and verb.
    source
        Index of the sentence in the corpus.
    """

    kind: str
    good: Sentence
    bad: Sentence
    control: Sentence
    role: str | None
    position: int
    severity: float
    log2_good: float
    log2_bad: float
    log2_control: float
    expected: str | None
    attractor: bool
    source: int


@dataclass(frozen=True, slots=True)
class PairSet:
    """Minimal pairs with honest counts.

    Attributes
    ----------
    pairs
        What was made.
    kind
        Which intervention.
    attempted
        Number of sentences that were tried.
    reasons
        Why -> number of sentences that allow no such pair.
    """

    kind: str
    pairs: tuple[MinimalPair, ...]
    attempted: int
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def made(self) -> int:
        """Return the number of pairs; attempted = made + impossible."""
        return len(self.pairs)

    @property
    def impossible(self) -> int:
        """Return the number of sentences that allow no such pair; `reasons` says why."""
        return sum(self.reasons.values())

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[MinimalPair]:
        return iter(self.pairs)

    @overload
    def __getitem__(self, key: int) -> MinimalPair: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[MinimalPair, ...]: ...
    def __getitem__(self, key: int | slice) -> MinimalPair | tuple[MinimalPair, ...]:
        return self.pairs[key]

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield plain dictionaries with the BLiMP keys `sentence_good`, `sentence_bad`, `UID` and everything else."""
        for pair in self.pairs:
            uid = (
                f"{pair.kind}_{'attractor' if pair.attractor else 'plain'}"
                if pair.kind == "agreement_violation"
                else pair.kind
            )
            finite = bool(np.isfinite(pair.severity))
            yield {
                "sentence_good": str(pair.good),
                "sentence_bad": str(pair.bad),
                "sentence_control": str(pair.control),
                "UID": uid,
                "kind": pair.kind,
                "role": pair.role,
                "position": pair.position,
                "attractor": pair.attractor,
                # JSON has no infinity: a string outside the language has no severity, and says so.
                "severity": pair.severity if finite else None,
                "outside_language": not finite,
                "log2_good": pair.log2_good,
                "log2_bad": pair.log2_bad if np.isfinite(pair.log2_bad) else None,
                "log2_control": pair.log2_control,
                "expected": pair.expected,
                "source": pair.source,
                "good": asdict(pair.good),
                "bad": asdict(pair.bad),
                "control": asdict(pair.control),
            }

    def save(self, path: str | Path) -> None:
        """Write one JSON object per pair (JSONL)."""
        try:
            with Path(path).open("w", encoding="utf-8") as out:
                for record in self.records():
                    out.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise AbsynthError("path", str(path), f"a path that can be written ({error.strerror})") from error
