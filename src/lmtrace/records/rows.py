"""Packed rows: one row holds a series at one step, as float64 vectors over its sites."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmtrace.errors import RunError
from lmtrace.records.files import parsed
from lmtrace.records.schema import Record


def pack(numbers: Sequence[float | int | None]) -> bytes | None:
    """Return float64 little-endian bytes, NaN for None; one number where all are equal; None where all are None."""
    first = numbers[0]
    if numbers.count(first) == len(numbers):
        return None if first is None else np.array(first, dtype="<f8").tobytes()
    return np.array([np.nan if number is None else number for number in numbers], dtype="<f8").tobytes()


def floats(blob: bytes) -> np.ndarray:
    """Return the float64 numbers of a blob."""
    if len(blob) % 8:
        raise _damaged(f"{len(blob)} bytes are no row of numbers")
    return np.frombuffer(blob, dtype="<f8")


def unpack(blob: bytes | None, size: int) -> np.ndarray:
    """Return [size] float64, the inverse of `pack`."""
    if blob is None:
        return np.full(size, np.nan)
    numbers = floats(blob)
    if numbers.size not in (1, size) or np.isinf(numbers).any():
        raise _damaged(f"expected {size} finite numbers, got {numbers[:4].tolist()}")
    return np.broadcast_to(numbers, size) if numbers.size == 1 else numbers


def sites_of(text: str) -> list[str | None]:
    """Return the sites of a series from their cell."""
    names = parsed(text)
    if not isinstance(names, list) or not names or not all(name is None or isinstance(name, str) for name in names):
        raise _damaged(f"{text[:40]!r} is no list of sites")
    return names


def reasons_of(text: str, size: int) -> dict[int, str]:
    """Return position among the sites -> why nothing was measured there, from its cell."""
    told = parsed(text)
    if not isinstance(told, dict) or not all(
        isinstance(where, list) and all(isinstance(i, int) and 0 <= i < size for i in where) for where in told.values()
    ):
        raise _damaged(f"{text[:40]!r} does not tell what is missing")
    return {i: why for why, where in told.items() for i in where}


def _damaged(what: str) -> RunError:
    return RunError(f"the run's database is damaged: {what}", "Restore it from a copy")


def sort_records(step: int, records: Iterable[Record], folder: Path) -> tuple[list[Any], list[Record]]:
    """Return the packed rows (key, sites, columns) of a measurement, and its records with arrays.

    Raises
    ------
    RunError
        Where a record is not of this step, holds no number or one that is not finite, or two have the same name.
    """
    groups: dict[tuple[str, str, str | None, str | None], list[Record]] = {}
    arrays: dict[tuple[str | None, ...], Record] = {}
    for r in records:
        key = (r.signal, r.metric, r.label, r.split)
        if r.step != step:
            raise RunError(f"{_name(r)}: cannot be written to step {step} of {folder}", "Write each step on its own")
        if (r.value is not None) + (r.array is not None) + bool(r.missing) != 1:
            raise RunError(f"{_name(r)}: exactly one of value, array and missing must be set")
        for number in (r.value, r.stderr, r.n, r.null):
            if number is not None and not math.isfinite(number):
                raise RunError(f"{_name(r)}: holds {number}", "Give missing=reason instead")
        if r.array is None:
            groups.setdefault(key, []).append(r)
        elif (*key, r.site) in arrays:
            raise _doubled(r)
        else:
            arrays[(*key, r.site)] = r
    packed = []
    for key, group in groups.items():
        sites = [r.site for r in group]
        if len(set(sites)) < len(sites):
            raise _doubled(next(r for i, r in enumerate(group) if r.site in sites[:i]))
        for r in group if arrays else ():
            if (*key, r.site) in arrays:
                raise _doubled(r)
        packed.append((key, sites, pack_records(group)))
    return packed, list(arrays.values())


def _name(r: Record) -> str:
    return f"{r.signal}.{r.metric} at step {r.step}, site {r.site}, label {r.label}, split {r.split}"


def _doubled(r: Record) -> RunError:
    return RunError(f"{_name(r)}: two records of one name", "Tell them apart by site, label or split")


def pack_records(group: list[Record]) -> tuple[bytes | None, bytes | None, bytes | None, bytes | None, str | None]:
    """Return value, stderr, n and null of the records of one row as blobs, and reason -> positions as JSON."""
    reasons: dict[str, list[int]] = {}
    for i, r in enumerate(group):
        if r.missing:
            reasons.setdefault(r.missing, []).append(i)
    return (
        pack([r.value for r in group]), pack([r.stderr for r in group]), pack([r.n for r in group]),
        pack([r.null for r in group]), json.dumps(reasons, ensure_ascii=False) if reasons else None,
    )  # fmt: skip


def unpack_records(
    step: int, signal: str, metric: str, label: str | None, split: str | None, sites: str, value: bytes | None,
    stderr: bytes | None, n: bytes | None, null: bytes | None, missing: str | None,
) -> list[Record]:  # fmt: skip
    """Return the records of one packed row."""
    names = sites_of(sites)
    reasons = reasons_of(missing, len(names)) if missing else {}
    columns = [_optional(blob, len(names)) for blob in (value, stderr, n, null)]
    return [
        Record(
            step=step, signal=signal, metric=metric, site=site, label=label, split=split, value=v, stderr=e,
            n=None if num is None else int(num), null=z, missing=reasons.get(i),
        )
        for i, (site, v, e, num, z) in enumerate(zip(names, *columns))
    ]  # fmt: skip


def _optional(blob: bytes | None, size: int) -> list[float | None]:
    return [None] * size if blob is None else [None if x != x else x for x in unpack(blob, size).tolist()]
