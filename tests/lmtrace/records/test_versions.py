"""Schema versions: every version that was ever written opens; a newer one is refused; steps run one after another."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from lmtrace.errors import RunError
from lmtrace.records import layout, schema
from lmtrace.records.schema import Record, RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run

SAMPLES = sorted((Path(__file__).parent / "data").glob("schema-*"))


def sample_records(step: int) -> list[Record]:
    """What every stored sample holds at steps 0 and 10."""
    return [
        *(
            Record(step=step, signal="probe", metric="accuracy", site=site, label="role", split="sentence",
                   value=value + step / 100, stderr=0.05, n=80, null=0.2)
            for site, value in (("embed", 0.25), ("final", 0.5))
        ),
        Record(step=step, signal="probe", metric="gain", missing="needs two sites"),
        Record(step=step, signal="curvature", metric="density", array=np.array([[0.0, 1.0], [2.0, step]])),
    ]  # fmt: skip


def test_the_present_version_has_a_sample():
    assert f"schema-{schema.SCHEMA_VERSION}" in [folder.name for folder in SAMPLES]


@pytest.mark.parametrize("folder", SAMPLES, ids=lambda folder: folder.name)
def test_a_run_of_every_version_reads_and_resumes(tmp_path, folder):
    for name in ("read", "resume"):
        shutil.copytree(folder, tmp_path / name)
    with RunWriter.resume(tmp_path / "resume", 10) as writer:
        writer.write(20, sample_records(20))
    for name, steps in (("read", (0, 10)), ("resume", (0, 10, 20))):
        run = open_run(tmp_path / name)
        assert list(run.records()) == [record for step in steps for record in sample_records(step)]
        np.testing.assert_array_equal(run.array(10, "curvature", "density"), [[0, 1], [2, 10]])
        np.testing.assert_array_equal(run.scalars("loss")[1], np.arange(11) / 4)
        assert [(e.step, e.kind, e.text, e.data) for e in run.events()] == [(10, "alert", "the loss rose", {"by": 0.5})]
        np.testing.assert_array_equal(run.tokens_seen[:2], [0, 640])
        assert run.read_memory(10)["similarity"]["previous"].tolist() == [10.0, 20.0]
        assert run.header.schema_version == schema.SCHEMA_VERSION
        assert run.header.name == "sample"
        assert run.field("probe", "accuracy").high == 1.0
        assert run.status == "finished"
        run.close()


def test_a_newer_version_is_refused(tmp_path):
    RunWriter.create(tmp_path, RunHeader()).finish()
    db = sqlite3.connect(tmp_path / "run.sqlite")
    db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    db.close()
    for action in (lambda: open_run(tmp_path), lambda: RunWriter.resume(tmp_path, 0)):
        with pytest.raises(RunError, match=rf"schema version {schema.SCHEMA_VERSION + 1}; .* Upgrade lmtrace$"):
            action()


def test_migrations_run_in_turn_on_a_copy_when_reading_and_in_place_when_resuming(tmp_path, monkeypatch):
    with RunWriter.create(tmp_path, RunHeader(name="old")) as writer:
        writer.write(0, [Record(step=0, signal="a", metric="b", value=1.0)])
    before = (tmp_path / "run.sqlite").read_bytes()
    old = schema.SCHEMA_VERSION
    monkeypatch.setattr(schema, "SCHEMA_VERSION", old + 2)
    with pytest.raises(RunError, match=f"there is no way from {old} to {old + 1}"):
        open_run(tmp_path)
    steps = {
        old: lambda db: db.execute("UPDATE series SET metric = metric || '.one'"),
        old + 1: lambda db: db.execute("UPDATE series SET metric = metric || '.two'"),
    }
    monkeypatch.setattr(layout, "MIGRATIONS", steps)
    run = open_run(tmp_path)
    assert run.keys()[0].metric == "b.one.two"
    assert run.header.schema_version == old + 2
    run.close()
    assert (tmp_path / "run.sqlite").read_bytes() == before
    RunWriter.resume(tmp_path, 0).finish()
    monkeypatch.setattr(layout, "MIGRATIONS", {})
    assert open_run(tmp_path).keys()[0].metric == "b.one.two"


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    RunWriter.create(tmp_path, RunHeader()).finish()
    old = schema.SCHEMA_VERSION
    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA_VERSION", old + 1)
        patch.setattr(layout, "MIGRATIONS", {old: lambda db: db.execute("DELETE FROM nonesuch")})
        for action in (lambda: open_run(tmp_path), lambda: RunWriter.resume(tmp_path, 0)):
            with pytest.raises(RunError, match="no such table: nonesuch"):
                action()
    assert open_run(tmp_path).header.schema_version == old
