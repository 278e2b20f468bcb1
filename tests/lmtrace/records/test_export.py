from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest

from lmtrace.errors import ConfigError, RunError
from lmtrace.records import export as export_module
from lmtrace.records.export import COLUMNS, export
from lmtrace.records.schema import Record
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run


@pytest.fixture
def run(tmp_path, header):
    rng = np.random.default_rng(0)
    with RunWriter.create(tmp_path / "run", header) as writer:
        for step in (0, 7):
            records = [
                Record(step=step, signal="probe", metric="accuracy", site=f"block.{i}", label='a,"b"\n=ü',
                       value=rng.normal(), stderr=1e-300, n=i, null=0.1 + 0.2)
                for i in range(5)
            ]  # fmt: skip
            records.append(Record(step=step, signal="probe", metric="accuracy", label="x", missing="too few, sadly"))
            records.append(Record(step=step, signal="curvature", metric="density", array=rng.normal(size=(2, 2))))
            writer.write(step, records, tokens_seen=step if step else None, wall_time=step / 3 if step else None)
    return open_run(tmp_path / "run")


def as_record(row: dict) -> Record:
    array = None if row["array"] is None else np.array(json.loads(row["array"]))
    names = ("step", "signal", "metric", "site", "label", "split", "value", "stderr", "n", "null", "missing")
    return Record(array=array, **{name: row[name] for name in names})


def check(run, rows: list[dict]) -> None:
    records = list(run.records())
    assert [as_record(row) for row in rows] == records
    for row, record in zip(rows, records):
        assert (row["tokens_seen"], row["wall_time"]) == ((7, 7 / 3) if record.step else (None, None))
        if record.array is not None:
            np.testing.assert_array_equal(json.loads(row["array"]), record.array)


@pytest.mark.parametrize("rows_at_once", [50_000, 3])
def test_parquet_reads_back_exactly(run, tmp_path, monkeypatch, rows_at_once):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export_module, "ROWS_AT_ONCE", rows_at_once)
    table = parquet.read_table(export(run, tmp_path / "x.parquet"))
    assert table.column_names == list(COLUMNS)
    check(run, table.to_pylist())


def test_csv_reads_back_exactly(run, tmp_path):
    kinds = dict.fromkeys(("step", "tokens_seen", "n"), int) | dict.fromkeys(
        ("wall_time", "value", "stderr", "null"), float
    )
    with open(export(run, tmp_path / "x.txt", to="csv"), newline="", encoding="utf-8") as file:
        rows = [{k: kinds.get(k, str)(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    check(run, rows)


def test_a_run_without_records_gives_an_empty_table(tmp_path, header):
    RunWriter.create(tmp_path / "run", header).finish()
    run = open_run(tmp_path / "run")
    assert export(run, tmp_path / "x.csv").read_text() == ",".join(COLUMNS) + "\n"
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(export(run, tmp_path / "x.parquet")).num_rows == 0


def test_what_cannot_be_exported_is_one_line_and_leaves_no_file(run, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"format 'xlsx' is not known. Use parquet or csv"):
        export(run, tmp_path / "x.xlsx")
    with pytest.raises(RunError, match=r"cannot export to .*x.csv: No such file or directory"):
        export(run, tmp_path / "none" / "x.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow, which is not installed. pip install lmtrace\[parquet\]"):
        export(run, tmp_path / "x.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
