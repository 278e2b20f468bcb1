"""The runs below a folder, as the dashboard shows them: found, named, opened once, never outside the folder."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmtrace.analysis.findings import findings
from lmtrace.errors import RunError, TraceError
from lmtrace.records.inspection import inspections_stamp
from lmtrace.records.layout import DATABASE
from lmtrace.records.reader import RunReader, open_database

MAX_DEPTH = 4
MAX_RUNS = 2_000
RESCAN_SECONDS = 2.0
FINDINGS_SECONDS = 60.0


@dataclass(slots=True)
class _Open:
    run: RunReader
    identity: tuple[int, int]
    cursor: int = -1
    summary: dict[str, Any] | None = None
    findings: list[Any] | None = None
    found_at: tuple[int, float] = (-1, 0.0)
    finding: threading.Lock = field(default_factory=threading.Lock)


class Library:
    """The runs below a folder. A run's name is its path below the folder; nothing else can be opened.

    Parameters
    ----------
    folder
        Where the runs lie, or a run itself.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise RunError(f"{folder} is not a folder", "Name the folder that holds the runs")
        self._lock = threading.RLock()
        self._paths: dict[str, Path] = {}
        self._scanned = -RESCAN_SECONDS
        self._open: dict[str, _Open] = {}

    def names(self) -> list[str]:
        """Return the names of the runs that are there now, the last written first."""
        with self._lock:
            if time.monotonic() - self._scanned > RESCAN_SECONDS:
                found = sorted(_find(self.folder), key=lambda item: -item[2])[:MAX_RUNS]
                self._paths = {name: path for name, path, _ in found}
                self._scanned = time.monotonic()
                for gone in self._open.keys() - self._paths.keys():
                    self._open.pop(gone).run.close()
            return list(self._paths)

    def get(self, name: str) -> RunReader:
        """Return an open run; its folder may have been replaced since the last call.

        Raises
        ------
        RunError
            Where no run has this name.
        """
        return self._entry(name).run

    def _entry(self, name: str) -> _Open:
        with self._lock:
            if name not in self._paths and name not in self.names():
                raise RunError(f"there is no run {name!r} in {self.folder.name}", "Choose one of the list")
            path = self._paths[name]
            status = (path / DATABASE).stat() if (path / DATABASE).exists() else None
            if status is None:
                self._scanned = -RESCAN_SECONDS
                raise RunError(f"the run {name!r} was removed", "Choose one of the list")
            identity, entry = (status.st_dev, status.st_ino), self._open.get(name)
            if entry is None or entry.identity != identity:
                entry = self._open[name] = _Open(RunReader(open_database(path)), identity)
            return entry

    def summaries(self) -> list[dict[str, Any]]:
        """Return one line per run: name, status, last step, last loss; a run that cannot be read says why."""
        return [self._summary(name) for name in self.names()]

    def _summary(self, name: str) -> dict[str, Any]:
        try:
            entry = self._entry(name)
            cursor = entry.run.cursor
            if entry.summary is None or cursor != entry.cursor:
                steps, header = entry.run.steps, entry.run.header
                entry.cursor = cursor
                entry.summary = {
                    "id": name, "name": name if name != "." else header.name or self.folder.name,
                    "created": header.created, "model": header.model.get("class", ""), "measurements": len(steps),
                    "step": int(steps[-1]) if len(steps) else None,
                }  # fmt: skip
            return entry.summary | {"status": entry.run.status, "inspections": inspections_stamp(entry.run.folder)}
        except TraceError as error:
            return {
                "id": name,
                "name": name,
                "status": "unreadable",
                "error": self.shown(str(error)),
                "measurements": 0,
                "step": None,
            }

    def findings(self, name: str) -> list[Any]:
        """Return the findings of a run; they take a while, so those of a growing run may be up to a minute old."""
        entry = self._entry(name)
        with entry.finding:
            cursor, now = entry.run.cursor, time.monotonic()
            fresh = entry.run.status == "running" and now - entry.found_at[1] < FINDINGS_SECONDS
            if entry.findings is None or (cursor != entry.found_at[0] and not fresh):
                entry.findings = findings(entry.run)
                entry.found_at = (cursor, time.monotonic())
            return entry.findings

    def shown(self, message: str) -> str:
        """Return a message that does not tell where on this machine the runs lie."""
        return message.replace(str(self.folder), self.folder.name)

    def close(self) -> None:
        """Close every run."""
        with self._lock:
            for entry in self._open.values():
                entry.run.close()
            self._open.clear()


def _find(root: Path) -> list[tuple[str, Path, float]]:
    """Return (name, folder, time of last change) of the runs below `root`; links that lead out of it are not followed."""
    found: list[tuple[str, Path, float]] = []
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        database = folder / DATABASE
        try:
            if database.is_file():
                if not database.resolve().is_relative_to(root):
                    continue
                newest = max(p.stat().st_mtime for p in (database, database.with_name(f"{DATABASE}-wal")) if p.exists())
                found.append((folder.relative_to(root).as_posix(), folder, newest))
            elif depth < MAX_DEPTH:
                with os.scandir(folder) as entries:
                    waiting += [
                        (Path(e.path), depth + 1)
                        for e in entries
                        if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")
                    ]
        except OSError:
            continue  # a folder that vanished or may not be read holds no run to show
    return found
