"""SQLite keeps anything in any column: whatever a cell of a run holds, every reader says so in one line or reads on."""

from __future__ import annotations

import shutil
import sqlite3

import numpy as np
import pytest

from lmtrace.analysis.findings import findings
from lmtrace.errors import TraceError
from lmtrace.records.export import export
from lmtrace.records.layout import TABLES
from lmtrace.records.schema import Field, Record, RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run
from lmtrace.show.library import Library
from lmtrace.show.report import write_report

DAMAGE = (None, "words", b"\x00\x01\x02", 2**62, float("nan"), float("inf"), -1)


def columns():
    db = sqlite3.connect(":memory:")
    db.executescript(TABLES)
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return [(table, row[1]) for table in tables for row in db.execute(f"PRAGMA table_info({table})")]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    fields = {"s": [Field(metric="m", title="M"), Field(metric="a", title="A", axis="x")]}
    with RunWriter.create(folder, RunHeader(model={"sites": ["block.0", "block.1"]}, fields=fields)) as writer:
        for step in range(3):
            records = [
                Record(step=step, signal="s", metric="m", site="block.0", value=1.0 + step, stderr=0.1, n=3, null=0.5),
                Record(step=step, signal="s", metric="m", site="block.1", missing="why not"),
                Record(step=step, signal="s", metric="a", array=np.ones(2), n=2, stderr=0.1, null=0.0),
            ]
            writer.write_scalars("loss", step, 1.0)
            writer.flush()
            memory, events = {"s": {"x": np.ones(3)}}, [("note", "text", {"a": 1})]
            writer.write(step, records, tokens_seen=step, wall_time=step / 2, memory=memory, events=events)
    return folder


def loose(table: str) -> str:
    """Return what makes a table without types and constraints of the same rows, as a damaged file may hold."""
    names = [column for t, column in columns() if t == table]
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"CREATE TABLE loose ({quoted}); INSERT INTO loose SELECT * FROM {table}; DROP TABLE {table}; ALTER TABLE loose RENAME TO {table};"


def read_everything(folder):
    with open_run(folder) as run:
        _ = run.status, run.header, run.attempts, run.tokens_seen, run.wall_time, run.cursor, run.steps
        list(run.records())
        run.events()
        run.since(0)
        run.read_memory()
        for key in run.keys():
            run.series(key.signal, key.metric, key.label, key.split)
        for metric in run.scalar_metrics:
            run.scalars(metric)
        for key in run.array_keys():
            list(run.arrays(key.signal, key.metric))


def tell_everything(folder):
    with open_run(folder) as run:
        findings(run)
        export(run, folder / "records.csv")
        write_report([run], folder / "report.html")
        repr(run), run._repr_html_()


def resume(folder):
    with RunWriter.resume(folder, 1) as writer:
        writer.read_memory()
        writer.write_scalars("loss", 5, 1.0)
        writer.write(5, [Record(step=5, signal="s", metric="m", value=1.0)])


@pytest.mark.parametrize(("table", "column"), columns(), ids=lambda name: name)
def test_whatever_a_cell_holds(table, column, whole_run, tmp_path):
    refused = []
    for number, damage in enumerate(DAMAGE):
        folder = tmp_path / str(number)
        shutil.copytree(whole_run, folder)
        db = sqlite3.connect(folder / "run.sqlite")
        db.executescript(loose(table))
        db.execute(f'UPDATE {table} SET "{column}" = ? WHERE rowid = (SELECT max(rowid) FROM {table})', (damage,))
        db.commit()
        db.close()
        for reader in (read_everything, tell_everything, resume):
            try:
                reader(folder)
            except TraceError as error:
                refused.append(str(error))
        Library(tmp_path).summaries()
    assert all("\n" not in text and len(text) < 500 for text in refused)
    if column not in ("id", "remembers", "kept"):
        assert refused
