from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lmtrace.records.schema import Field, Record, RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run
from lmtrace.show.pack import Packer, read, unpack
from lmtrace.show.payload import build
from lmtrace.show.report import write_report
from lmtrace.show.thin import thin


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 9), st.integers(1, 5)),
        elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan),
    )
)
def test_floats_come_back(values: np.ndarray) -> None:
    packer = Packer()
    entry = packer.floats(values)
    head, blob = unpack(packer.close({"a": entry}))
    np.testing.assert_array_equal(read(head["a"], blob, values.shape).astype(np.float32), values.astype(np.float32))


def test_values_that_are_not_finite_become_gaps() -> None:
    packer = Packer()
    entry = packer.floats(np.array([[1.0, np.inf, np.nan, 1e300]]))
    _, blob = unpack(packer.close({}))
    np.testing.assert_array_equal(read(entry, blob, (1, 4)), [[1.0, np.nan, np.nan, np.nan]])


@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=50, unique=True).map(sorted))
def test_steps_come_back(steps: list[int]) -> None:
    packer = Packer()
    entry = packer.steps(np.array(steps))
    _, blob = unpack(packer.close({}))
    np.testing.assert_array_equal(read(entry, blob, (1, len(steps)))[0], steps)


@given(st.integers(0, 3_000), st.integers(4, 400), st.integers(1, 4))
def test_thinning_keeps_order_ends_and_limit(rows: int, limit: int, columns: int) -> None:
    values = np.random.default_rng(rows).normal(size=(rows, columns))
    kept = thin(values, limit)
    assert (np.diff(kept) > 0).all()
    if rows:
        assert kept[0] == 0
        assert kept[-1] == rows - 1
    assert len(kept) <= max(limit, 4) + 6


@pytest.mark.parametrize("place", [1, 777, 5_000, 9_998])
def test_thinning_never_loses_a_spike(place: int) -> None:
    values = np.random.default_rng(0).normal(size=(10_000, 1))
    values[place] = 60.0
    assert place in thin(values, 200)


def test_every_number_of_a_run_is_in_its_payload(example: Path) -> None:
    run = open_run(example)
    head, blob = unpack(build([run], [[]]))
    (packed,) = head["runs"]
    entries = {(s["signal"], s["metric"], s["label"], s["split"]): s for s in packed["series"]}
    for key in tuple(run.keys()):
        series = run.series(key.signal, key.metric, key.label, key.split)
        entry = entries[key.signal, key.metric, key.label, key.split]
        shape = series.values.shape
        assert entry["rows"] == entry["total"] == len(series.steps)
        np.testing.assert_array_equal(read(entry["steps"], blob, (1, shape[0]))[0], series.steps)
        for name in ("values", "stderr", "null", "n"):
            found, wanted = read(entry.get(name), blob, shape), getattr(series, name)
            np.testing.assert_array_equal(found.astype(np.float32), wanted.astype(np.float32), err_msg=f"{key} {name}")
    assert entries["train", "loss", None, None]["total"] == 4_000
    missing = entries["probe", "f1", "role=Source", "lexical"]
    codes = read(missing["missing"], blob, (missing["rows"], len(missing["sites"])))
    assert missing["reasons"] == ["class Source has 7 test words, 10 are needed"]
    assert codes[:, 0].tolist() == [1.0] * missing["rows"]
    assert not codes[:, 1:].any()
    assert {(a["signal"], a["metric"]) for a in packed["arrays"]} == {
        ("curvature", "density"), ("attention", "previous_token"), ("attention", "entropy"),
    }  # fmt: skip


@pytest.mark.slow
def test_ten_thousand_measurements_of_24_sites_stay_small(tmp_path: Path) -> None:
    sites, rng = [f"block.{i}" for i in range(24)], np.random.default_rng(0)
    field = Field(metric="accuracy", title="Accuracy")
    header = RunHeader(fields={"probe": [field]}, model={"sites": sites})
    labels = [f"layer{i}" for i in range(3)]
    with RunWriter.create(tmp_path / "big", header) as writer:
        for step in range(0, 10_000):
            noise = rng.normal(size=(3, 24, 2))
            writer.write(step * 10, [
                Record(step=step * 10, signal="probe", metric="accuracy", site=site, label=label, value=float(noise[i, j, 0]),
                       stderr=float(abs(noise[i, j, 1])), null=0.2, n=100)
                for i, label in enumerate(labels) for j, site in enumerate(sites)
            ])  # fmt: skip
    path = write_report(open_run(tmp_path / "big"), tmp_path / "report.html", [[]])
    assert path.stat().st_size < 3_000_000
    head, blob = unpack(build([open_run(tmp_path / "big")], [[]]))
    entry = head["runs"][0]["series"][0]
    steps = read(entry["steps"], blob, (1, entry["rows"]))[0]
    assert entry["total"] == 10_000
    assert entry["rows"] > 300
    assert steps[0] == 0
    assert steps[-1] == 99_990
