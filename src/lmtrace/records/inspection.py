"""One sentence looked at closely, at one or more checkpoints: a JSON document in the run's folder that needs no torch to be read.

`lmtrace inspect` writes it, report and dashboard show it. Numbers are rounded to four digits; what is not finite is None.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from lmtrace.errors import RunError
from lmtrace.records.files import failing, write_file

FOLDER = "inspections"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a model makes of one sentence.

    T columns are the tokens that are predicted, in reading order; W words are the sentence's.

    Attributes
    ----------
    sentence, words
        The text, and what it is made of.
    model, objective
        Class of the model; "causal", "masked" or "seq2seq".
    columns
        [T] of {"text", "word" (index or None), "end" (the last token of its word)}.
    inputs
        Stream ("encoder", "decoder") -> the tokens that are read, special ones included: the ends of attention arcs.
    uniform
        Surprisal of a model that knows nothing (nats): log of the vocabulary's size.
    layers
        Label layer -> names of its classes.
    gold
        Label layer -> [W] right value or None: from the oracle's most probable derivation.
    oracle
        None (then `oracle_reason` says why), or {"surprisal" [W + 1] nats (None: impossible here), "entropy" [W + 1],
        "allowed" [W + 1] number of words that may follow, "top" [W + 1] of [word, probability], "accepted", "derivations",
        "error": None or {"kind", "position" (word), "message", "role"}}. The last entry is the end of the sentence.
    moments
        One per checkpoint, by rising step: {"step", "checkpoint", "surprisal" [T], "rank" [T] (1: most probable),
        "entropy" [T], "top" [T] of [token, probability], "illegal" [T] or None,
        "lens": {"sites", "surprisal" [sites][T], "top" [sites][T]} or {"missing"},
        "probes": layer -> {"sites", "reading" [sites][W] class, "confidence" [sites][W], "accuracy" [sites], "control" [sites],
        "majority", "n"} or {"missing"}, "attention": {"sites", "streams", "maps" [sites][heads][queries][keys]} or {"missing"}}.
    got
        {"rule", "columns" [T] step or None, "labels": layer -> {"site", "words" [W] step or None}}: from which checkpoint on it
        was right and stayed so; `lmtrace.analysis.inspection`.
    notes
        What a reader should know (unknown words).
    """

    sentence: str
    words: list[str]
    model: str
    objective: str
    columns: list[dict[str, Any]]
    inputs: dict[str, list[str]]
    uniform: float
    layers: dict[str, list[str]] = field(default_factory=dict)
    gold: dict[str, list[str | None]] = field(default_factory=dict)
    oracle: dict[str, Any] | None = None
    oracle_reason: str = ""
    moments: list[dict[str, Any]] = field(default_factory=list)
    got: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    created: str = ""
    version: int = VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return rounded(asdict(self))

    @property
    def file_name(self) -> str:
        """Return the name of its file: the same sentence replaces its last inspection."""
        return f"{hashlib.blake2b(self.sentence.encode(), digest_size=8).hexdigest()}.json"

    def save(self, run: str | Path) -> Path:
        """Write it into a run's folder and return the path."""
        path = Path(run) / FOLDER / self.file_name
        with failing("write the inspection", path):
            write_file(path, json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False).encode())
        return path


def read_inspections(run: str | Path, since: str = "") -> list[Inspection]:
    """Return the inspections kept in a run's folder, the last written first.

    Parameters
    ----------
    run
        The folder.
    since
        ISO time in UTC; what was made before belongs to a run that this one replaced, and is left out.

    Raises
    ------
    RunError
        Where a file is not an inspection that this version can read.
    """
    found = []
    for path in Path(run).glob(f"{FOLDER}/*.json"):
        with failing("read the inspection", path):
            found.append((path.stat().st_mtime_ns, path.name, path.read_text(encoding="utf-8"), path))
    parsed = [_parse(text, path) for _, _, text, path in sorted(found, reverse=True, key=lambda item: item[:2])]
    return [inspection for inspection in parsed if inspection.created >= since]


def inspections_stamp(run: str | Path) -> str:
    """Return what changes when an inspection is written: number and time of the newest."""
    times = [path.stat().st_mtime_ns for path in Path(run).glob(f"{FOLDER}/*.json")]
    return f"{len(times)}-{max(times)}" if times else ""


def _parse(text: str, path: Path) -> Inspection:
    fix = "Delete it, and run lmtrace inspect again"
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("version") != VERSION:
            raise RunError(f"{path} is not an inspection of version {VERSION}", fix)
        return Inspection(**{f.name: content[f.name] for f in fields(Inspection)})
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not an inspection ({type(error).__name__}: {error})", fix) from error


def rounded(value: Any) -> Any:
    """Return plain JSON data with numbers of four digits; probabilities below 0.0005 in arrays become 0."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
