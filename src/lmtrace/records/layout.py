"""The form of a run folder on disk: tables, header, versions, and ways to open it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from lmtrace.errors import RunError
from lmtrace.records import schema
from lmtrace.records.files import sync_folder
from lmtrace.records.schema import Field, RunHeader

DATABASE = "run.sqlite"
APPLICATION_ID = 0x4C4D5452  # "LMTR", so that another program's database is never taken for a run
BUSY_SECONDS = 10.0

# `batch` numbers transactions and never goes back, so a reader asks for "everything after batch b".
# The points of one measurement have the ids first ... last. Label and split are NULL where a record has none.
TABLES = """
CREATE TABLE header (id INTEGER PRIMARY KEY CHECK (id = 1), json TEXT NOT NULL);
CREATE TABLE attempt (batch INTEGER PRIMARY KEY, step INTEGER, started REAL NOT NULL, superseded INTEGER NOT NULL,
                      json TEXT NOT NULL);
CREATE TABLE measurement (batch INTEGER PRIMARY KEY, step INTEGER NOT NULL UNIQUE, tokens_seen INTEGER, wall_time REAL,
                          first INTEGER NOT NULL, last INTEGER NOT NULL, remembers INTEGER NOT NULL DEFAULT 0);
CREATE TABLE series (id INTEGER PRIMARY KEY, signal TEXT NOT NULL, metric TEXT NOT NULL, label TEXT, split TEXT,
                     sites TEXT NOT NULL);
CREATE UNIQUE INDEX series_key ON series (signal, metric, ifnull(label, ''), ifnull(split, ''), sites);
CREATE TABLE point (id INTEGER PRIMARY KEY, series INTEGER NOT NULL, step INTEGER NOT NULL, value BLOB, stderr BLOB,
                    n BLOB, "null" BLOB, missing TEXT);
CREATE UNIQUE INDEX point_key ON point (series, step);
CREATE TABLE array (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, signal TEXT NOT NULL, metric TEXT NOT NULL,
                    label TEXT, split TEXT, site TEXT, stderr REAL, n INTEGER, "null" REAL, file TEXT NOT NULL);
CREATE INDEX array_step ON array (step);
CREATE TABLE memory (step INTEGER PRIMARY KEY, file TEXT NOT NULL, kept INTEGER NOT NULL DEFAULT 0);
CREATE TABLE scalar (id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, metric TEXT NOT NULL, first INTEGER NOT NULL,
                     last INTEGER NOT NULL, steps BLOB NOT NULL, "values" BLOB NOT NULL);
CREATE INDEX scalar_batch ON scalar (batch);
CREATE TABLE event (id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, step INTEGER NOT NULL, time REAL NOT NULL,
                    kind TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX event_batch ON event (batch);
"""

LAST_BATCH = """SELECT max((SELECT max(batch) FROM attempt), (SELECT ifnull(max(batch), 0) FROM measurement),
                           (SELECT ifnull(max(batch), 0) FROM scalar), (SELECT ifnull(max(batch), 0) FROM event))
                    AS batch"""

# Version v -> a function that turns a database of version v into one of version v + 1, inside a transaction.
# Empty: version 1 is the first. Each new version adds one step here and its sample to the tests' data.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}


# ------------------------------------------------------------------------------------------------------- JSON forms
def _plain(value: object) -> object:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def to_json(value: Any, what: str) -> str:
    """Return JSON; NumPy numbers and paths become plain.

    Raises
    ------
    RunError
        Where something in it is not plain data.
    """
    try:
        return json.dumps(value, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise RunError(f"{what}: {error}", "Give numbers, strings, lists and dictionaries") from error


def header_to_json(header: RunHeader) -> str:
    """Return a header as JSON."""
    return to_json(asdict(header), "run header")


def header_from_json(text: str) -> RunHeader:
    """Return a header from its JSON; keys that this version does not know are left out."""
    try:
        return _header_of(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise RunError(f"the header of a run is damaged ({reason})", "Restore the run from a copy") from error


def _header_of(data: dict[str, Any]) -> RunHeader:
    known, field_names = {f.name for f in fields(RunHeader)}, {f.name for f in fields(Field)}
    data["fields"] = {
        signal: [Field(**{k: v for k, v in spec.items() if k in field_names}) for spec in specs]
        for signal, specs in data.get("fields", {}).items()
    }
    return RunHeader(**{k: v for k, v in data.items() if k in known})


# -------------------------------------------------------------------------------------------------------- databases
def create_database(path: Path, header: RunHeader, attempt: tuple[float, str]) -> None:
    """Write a new database at `path`, whole or not at all, replacing what is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        db = sqlite3.connect(temporary, isolation_level=None)
        try:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
            db.executescript(f"BEGIN; {TABLES} COMMIT;")
            db.execute("INSERT INTO header VALUES (1, ?)", (header_to_json(header),))
            db.execute("INSERT INTO attempt VALUES (1, NULL, ?, 0, ?)", attempt)
        finally:
            db.close()
        for suffix in (
            "-wal",
            "-shm",
            "-journal",
        ):  # of a run that is being replaced; they must never meet the new file
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        path.with_name(f"{temporary.name}-journal").unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None,
        check_same_thread=False,
    )  # fmt: skip


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open an existing database to append to it; an older schema version is migrated in place."""
    db = _connect(path, "mode=rw")
    try:
        version = check_version(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if version < schema.SCHEMA_VERSION:
            migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a database to read it while others may write; an older schema version is migrated in a copy in memory."""
    db = _connect(path, "mode=ro")
    try:
        try:
            version = check_version(db, path)
        except sqlite3.OperationalError:
            db.close()
            db = _open_unwritable(path)
            version = check_version(db, path)
        if version < schema.SCHEMA_VERSION:
            copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            db.backup(copy)
            db.close()
            db = copy
            migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _open_unwritable(path: Path) -> sqlite3.Connection:
    """Open a database in a folder where SQLite may not create its own files beside it."""
    log = path.with_name(path.name + "-wal")
    if not log.exists() or log.stat().st_size == 0:
        return _connect(path, "mode=ro&immutable=1")
    with tempfile.TemporaryDirectory(prefix="lmtrace-") as folder:  # the tail of a crashed run is still in its log
        shutil.copyfile(path, Path(folder, DATABASE))
        shutil.copyfile(log, Path(folder, f"{DATABASE}-wal"))
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        whole = sqlite3.connect(Path(folder, DATABASE))
        try:
            whole.backup(copy)
        finally:
            whole.close()
        return copy


def check_version(db: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of a database.

    Raises
    ------
    RunError
        Where it is not a run, or was written by a newer lmtrace.
    """
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise RunError(f"{path} is a database of another program", "Name the folder of a run")
    if version > schema.SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema version {version}; this lmtrace reads versions up to {schema.SCHEMA_VERSION}",
            "Upgrade lmtrace",
        )
    db.execute("SELECT 1 FROM header").fetchone()  # fails here, not later, where SQLite cannot read it
    return version


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring a database to the present schema version, step by step, in one transaction."""
    version = check_version(db, path)
    db.execute("BEGIN IMMEDIATE")
    try:
        for old in range(version, schema.SCHEMA_VERSION):
            if old not in MIGRATIONS:
                raise RunError(
                    f"{path} has schema version {version}; there is no way from {old} to {old + 1}",
                    "Open it with the lmtrace that wrote it",
                )
            MIGRATIONS[old](db)
        (text,) = db.execute("SELECT json FROM header").fetchone()
        text = json.dumps(json.loads(text) | {"schema_version": schema.SCHEMA_VERSION}, ensure_ascii=False)
        db.execute("UPDATE header SET json = ?", (text,))
        db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
