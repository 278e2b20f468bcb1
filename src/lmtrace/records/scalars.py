"""Dense training scalars: buffered while they come, stored in chunks, joined again when they are read."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmtrace.errors import RunError
from lmtrace.records.database import checked_rows
from lmtrace.records.rows import floats


class ScalarBuffer:
    """Scalars that were told and are not yet written; steps of each name must rise, also over what was written before."""

    def __init__(self, last: dict[str, int]) -> None:
        self.last = last
        self._waiting: dict[str, tuple[list[int], list[float]]] = {}

    def add(
        self,
        metric: str,
        steps: int | Sequence[int] | np.ndarray,
        values: float | Sequence[float] | np.ndarray,
    ) -> bool:
        """Take in numbers, all or, with a `RunError`, none; return whether there were any."""
        new_steps = [operator.index(s) for s in np.atleast_1d(steps).tolist()]
        new_values = [float(v) for v in np.atleast_1d(values).tolist()]
        if len(new_steps) != len(new_values):
            raise RunError(
                f"scalar {metric}: {len(new_steps)} steps but {len(new_values)} values", "Give one value per step"
            )
        last = self.last.get(metric, -1)
        for step in new_steps:
            if step <= last:
                raise RunError(f"scalar {metric}: step {step} comes after step {last}", "Give rising steps, each once")
            last = step
        if new_steps:
            waiting = self._waiting.setdefault(metric, ([], []))
            waiting[0].extend(new_steps)
            waiting[1].extend(new_values)
            self.last[metric] = last
        return bool(new_steps)

    def insert(self, db: sqlite3.Connection, batch: int) -> None:
        """Write what waits, inside a transaction; `clear` once it is committed."""
        db.executemany(
            "INSERT INTO scalar VALUES (NULL, ?, ?, ?, ?, ?, ?)",
            [
                (batch, metric, s[0], s[-1], np.array(s, "<i8").tobytes(), np.array(v, "<f8").tobytes())
                for metric, (s, v) in self._waiting.items()
            ],
        )

    def clear(self) -> None:
        """Forget what was written."""
        self._waiting.clear()


def join_scalars(rows: list[Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return metric -> (steps, values) from chunks (metric, steps, values) in rising order."""
    chunks: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for metric, steps, values in rows:
        steps_of, values_of = chunks.setdefault(metric, ([], []))
        new_steps, new_values = _chunk(metric, steps, values)
        steps_of.append(new_steps)
        values_of.append(new_values)
    joined = {metric: (np.concatenate(s), np.concatenate(v)) for metric, (s, v) in chunks.items()}
    for metric, (steps, _) in joined.items():
        if (np.diff(steps) <= 0).any():
            raise RunError(
                f"the run's database is damaged: steps of scalar {metric} do not rise", "Restore it from a copy"
            )
    return joined


def _chunk(metric: str, steps: bytes, values: bytes) -> tuple[np.ndarray, np.ndarray]:
    if len(steps) != len(values) or not steps:
        raise RunError(
            f"the run's database is damaged: scalar {metric} has {len(steps)} bytes of steps, {len(values)} of values",
            "Restore it from a copy",
        )
    return floats(steps).view("<i8"), floats(values)


def cut_scalars(db: sqlite3.Connection, folder: Path, step: int) -> None:
    """Delete, inside a transaction, the scalars of steps after `step`."""
    db.execute("DELETE FROM scalar WHERE first > ?", (step,))
    straddling = checked_rows(db, folder, 'SELECT id, metric, steps, "values" FROM scalar WHERE last > ?', step)
    for number, metric, blob, values in straddling:
        steps, _ = _chunk(metric, blob, values)
        stop = int(np.searchsorted(steps, step, side="right"))
        if stop == 0:
            db.execute("DELETE FROM scalar WHERE id = ?", (number,))
            continue
        db.execute(
            'UPDATE scalar SET last = ?, steps = ?, "values" = ? WHERE id = ?',
            (int(steps[stop - 1]), blob[: 8 * stop], values[: 8 * stop], number),
        )
