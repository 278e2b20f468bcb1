"""A run's numbers in few bytes: arrays with their bytes in planes, one JSON part, gzip around both.

The form is ``gzip(u32 length of the JSON | JSON | blob)``. An array is described in the JSON by ``{"t": type, "o": offset, "n": count}``
and lies in the blob as its bytes in planes (all first bytes, all second bytes, ...), little-endian, which compresses better.
Types: ``f4`` float32 with NaN for "not there", ``d4`` int32 differences, ``u1`` bytes. Constant arrays are ``{"c": value}`` and rows that
never change are ``{"r": [...]}``.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
from typing import Any

import numpy as np


class Packer:
    """Collects arrays and gives each a short description for the JSON part."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def _add(self, kind: str, array: np.ndarray) -> dict[str, Any]:
        raw = np.ascontiguousarray(array).view(np.uint8).reshape(array.size, -1)
        data = np.ascontiguousarray(raw.T).tobytes()
        entry = {"t": kind, "o": self._size, "n": int(array.size)}
        self._parts.append(data)
        self._size += len(data)
        return entry

    def floats(self, values: np.ndarray) -> dict[str, Any] | None:
        """Pack [rows, columns] as float32; None where nothing is finite, short forms where it is constant."""
        values = np.atleast_2d(np.asarray(values, dtype=np.float64))
        finite = np.isfinite(values)
        if not finite.any():
            return None
        with np.errstate(over="ignore"):
            narrow = np.where(finite, values, np.nan).astype("<f4")
        narrow[np.isinf(narrow)] = np.nan
        if finite.all() and (narrow == narrow[:1]).all():
            row = [_short(v) for v in narrow[0]]
            return {"c": row[0]} if len(set(row)) == 1 else {"r": row}
        return self._add("f4", narrow.reshape(-1))

    def steps(self, steps: np.ndarray) -> dict[str, Any]:
        """Pack rising whole numbers as differences."""
        steps = np.asarray(steps, dtype=np.int64)
        return self._add("d4", np.diff(steps, prepend=0).astype("<i4"))

    def bytes(self, codes: np.ndarray) -> dict[str, Any]:
        """Pack small codes."""
        return self._add("u1", np.asarray(codes, dtype=np.uint8).reshape(-1))

    def close(self, head: dict[str, Any], level: int = 6) -> bytes:
        """Return the whole payload."""
        text = json.dumps(plain(head), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        body = struct.pack("<I", len(text)) + text + b"".join(self._parts)
        return gzip.compress(body, compresslevel=level, mtime=0)


def unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON part and the blob of a payload."""
    body = gzip.decompress(data)
    (length,) = struct.unpack_from("<I", body)
    return json.loads(body[4 : 4 + length]), body[4 + length :]


def read(entry: dict[str, Any] | None, blob: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Return the array that an entry of the JSON part describes, as [rows, columns]."""
    if entry is None:
        return np.full(shape, np.nan)
    if "c" in entry:
        return np.full(shape, entry["c"])
    if "r" in entry:
        return np.broadcast_to(np.asarray(entry["r"], dtype=np.float64), shape).copy()
    width = {"f4": 4, "d4": 4, "u1": 1}[entry["t"]]
    planes = np.frombuffer(blob, np.uint8, entry["n"] * width, entry["o"]).reshape(width, -1)
    flat = np.ascontiguousarray(planes.T).reshape(-1).view({"f4": "<f4", "d4": "<i4", "u1": "u1"}[entry["t"]])
    return (np.cumsum(flat, dtype=np.int64) if entry["t"] == "d4" else flat.astype(np.float64)).reshape(shape)


def plain(value: Any) -> Any:
    """Return plain JSON data: NumPy scalars become numbers, what is not finite becomes None, the unknown becomes text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _short(value: np.floating) -> float:
    """Return the shortest decimal that reads back as the same float32."""
    return float(np.format_float_scientific(value))
