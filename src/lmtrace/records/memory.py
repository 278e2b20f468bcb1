"""What the signals remember between measurements, kept for a resume."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lmtrace.errors import RunError
from lmtrace.records.database import checked_rows
from lmtrace.records.files import read_arrays

MEMORIES_KEPT = 3

Memory = Mapping[str, Mapping[str, np.ndarray]]


def insert_memory(db: sqlite3.Connection, folder: Path, step: int, file: str) -> list[str]:
    """Name, inside a transaction, the file of a memory; return the files that are no longer kept because of it."""
    db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?, 0)", (step, file))
    db.execute("UPDATE measurement SET remembers = 1 WHERE step = ?", (step,))
    forgotten = checked_rows(
        db, folder, "SELECT step, file FROM memory WHERE kept = 0 ORDER BY step DESC LIMIT -1 OFFSET ?", MEMORIES_KEPT
    )
    db.executemany("DELETE FROM memory WHERE step = ?", [(s,) for s, _ in forgotten])
    return [file for _, file in forgotten]


def keep_memory(db: sqlite3.Connection, step: int) -> None:
    """Keep, inside a transaction, the memory that a resume from `step` needs."""
    db.execute("UPDATE memory SET kept = 1 WHERE step = (SELECT max(step) FROM measurement WHERE step <= ?)", (step,))


def read_memory(db: sqlite3.Connection, folder: Path, step: int | None) -> dict[str, dict[str, np.ndarray]]:
    """Return the memory of the last measurement at or before `step`; see `RunWriter.read_memory`."""
    rows = checked_rows(
        db,
        folder,
        "SELECT measurement.step, remembers, file AS kept_file FROM measurement LEFT JOIN memory USING (step) "
        "WHERE measurement.step <= ? ORDER BY measurement.step DESC LIMIT 1",
        2**62 if step is None else step,
    )
    if not rows or not rows[0][1]:
        return {}
    ((measured, _, file),) = rows
    if file is None:
        raise RunError(
            f"the signals' memory of step {measured} in {folder} is no longer kept",
            "Resume from a later step, or call RunWriter.checkpoint when the training state is saved",
        )
    memory: dict[str, dict[str, np.ndarray]] = {}
    for (signal, name), array in read_arrays(folder / file).items():
        memory.setdefault(str(signal), {})[str(name)] = array
    return memory
