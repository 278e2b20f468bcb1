"""A run's database as it is read: one consistent state per question, and no cell is believed before it is checked."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmtrace.errors import RunError
from lmtrace.records.files import failing
from lmtrace.records.layout import open_for_reading

_NONE = type(None)
_WHOLE, _NUMBER, _TEXT, _BYTES = (int,), (int, float), (str,), (bytes,)
_WORDS = {_WHOLE: "a whole number", _NUMBER: "a finite number", _TEXT: "text", _BYTES: "packed numbers"}
_KINDS: list[tuple[str, tuple[type, ...]]] = [
    ("id series step batch first last superseded remembers", _WHOLE),
    ("resumed_step array_n tokens_seen", (*_WHOLE, _NONE)),
    ("time started", _NUMBER),
    ("wall_time array_stderr array_null", (*_NUMBER, _NONE)),
    ("json signal metric sites kind text data file", _TEXT),
    ("label split site missing kept_file", (*_TEXT, _NONE)),
    ("steps values", _BYTES),
    ("value stderr n null", (*_BYTES, _NONE)),
]
_COLUMNS = {name: kind for names, kind in _KINDS for name in names.split()}
"""Column, as a query calls it -> what its cells may be. SQLite itself takes anything anywhere."""

_LAST_TIME = 253402300799  # the end of the year 9999, after which no clock can tell the time


def checked_rows(db: sqlite3.Connection, folder: Path, query: str, *values: object) -> list[Any]:
    """Return the rows of a query whose columns have names of `_COLUMNS`.

    Raises
    ------
    RunError
        Where a cell is not of the kind that its column holds.
    """
    cursor = db.execute(query, values)
    names = [column[0] for column in cursor.description]
    kinds = [_COLUMNS[name] for name in names]
    rows = cursor.fetchall()
    for row in rows:
        for cell, kind, name in zip(row, kinds, names):
            if type(cell) not in kind or (type(cell) is float and not math.isfinite(cell)):
                raise _damaged(folder, name, kind, cell)
            if name in ("time", "started") and not 0 <= cell <= _LAST_TIME:
                raise _damaged(folder, name, kind, cell)
    return rows


def _damaged(folder: Path, name: str, kind: tuple[type, ...], cell: object) -> RunError:
    expected = _WORDS[tuple(k for k in kind if k is not _NONE)]
    return RunError(
        f"the run's database in {folder} is damaged: {name} should be {expected}, is {repr(cell)[:40]}",
        "Restore it from a copy",
    )


class Database:
    """The database of a run, read only, safe to share between threads."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder = folder
        self._db = open_for_reading(path)
        self._mutex = threading.RLock()

    def close(self) -> None:
        """Close it; it cannot be asked afterwards."""
        with self._mutex:
            self._db.close()

    def __del__(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Answer every question inside the block from one state of the database."""
        with self._mutex, failing("read the run in", self.folder):
            outermost = not self._db.in_transaction
            if outermost:
                self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if outermost and self._db.in_transaction:
                    self._db.execute("COMMIT")

    def rows(self, query: str, *values: object) -> list[Any]:
        """Return the checked rows of a query; see `checked_rows`."""
        with self.snapshot() as db:
            return checked_rows(db, self.folder, query, *values)
