from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmtrace.errors import ConfigError, RunError
from lmtrace.records.schema import Record, RunHeader, SeriesKey
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run

SITES = ("embed", "block.0", "block.1", "final")


def probe(step: int, site: str | None, value: float | None = None, **rest) -> Record:
    rest = {"label": "role", "split": "sentence", **rest}
    return Record(step=step, signal="probe", metric="accuracy", site=site, value=value, **rest)


@pytest.fixture
def run(tmp_path, header):
    writer = RunWriter.create(tmp_path / "run", header)
    for step in (0, 100, 200):
        records = [
            probe(step, site, 0.1 * i + step / 1000, stderr=0.01, n=50 + i, null=0.25) for i, site in enumerate(SITES)
        ]
        if step == 100:
            records[1] = probe(step, "block.0", missing="too few words")
        if step == 200:
            records.pop(2)
        records += [
            probe(step, "final", 0.5, split="lexical"),
            Record(step=step, signal="output", metric="loss", value=5.0 - step / 100, n=1000),
            Record(step=step, signal="output", metric="loss", label="upos=NOUN", value=6.0 - step / 100),
            Record(step=step, signal="curvature", metric="density", array=np.arange(6.0).reshape(2, 3) + step),
        ]
        writer.write(step, records, tokens_seen=step * 64, wall_time=step / 10)
        writer.write_scalars("loss", range(step, step + 100), [1 / (i + 1) for i in range(step, step + 100)])
    writer.event(200, "alert", "the loss rose", {"from": 1.0, "to": math.nan})
    writer.finish()
    return open_run(tmp_path / "run")


def test_series_holds_what_was_written_site_by_site(run):
    series = run.series(signal="probe", metric="accuracy", split="sentence")
    assert series.key == SeriesKey("probe", "accuracy", "role", "sentence")
    assert series.sites == SITES
    assert series.field.title == "Probe accuracy"
    np.testing.assert_array_equal(series.steps, [0, 100, 200])
    nan = math.nan
    expected = [[0, 0.1, 0.2, 0.1 * 3], [0.1, nan, 0.1 * 2 + 0.1, 0.1 * 3 + 0.1], [0.2, 0.1 + 0.2, nan, 0.1 * 3 + 0.2]]
    np.testing.assert_array_equal(series.values, expected)
    np.testing.assert_array_equal(series.n, [[50, 51, 52, 53], [50, nan, 52, 53], [50, 51, nan, 53]])
    np.testing.assert_array_equal(series.null[0], [0.25] * 4)
    assert series.missing == {(100, "block.0"): "too few words"}
    one = run.series(signal="probe", split="sentence", site="final")
    assert one.sites == ("final",)
    np.testing.assert_array_equal(one.values, series.values[:, 3:])


def test_series_of_the_whole_model_wins_over_its_labels_when_no_label_is_named(run):
    series = run.series(signal="output", metric="loss")
    assert series.key.label is None
    assert series.sites == (None,)
    np.testing.assert_array_equal(series.values[:, 0], [5, 4, 3])


def test_a_question_without_one_answer_lists_the_choices(run):
    with pytest.raises(RunError, match=r"several series .* split='sentence'.*split='lexical'"):
        run.series(signal="probe")
    with pytest.raises(RunError, match=r"no series .*label='colour'.* Choose from: probe.accuracy"):
        run.series(signal="probe", label="colour")
    with pytest.raises(RunError, match=r"no site 'block.9'. Choose from: embed, block.0"):
        run.series(signal="probe", split="sentence", site="block.9")
    with pytest.raises(RunError, match=r"no array curvature.density at step 3 .* Choose from: step 0, step 100"):
        run.array(3, "curvature", "density")
    with pytest.raises(RunError, match=r"no scalar 'lost'. Choose from: loss"):
        run.scalars("lost")


def test_find_keys_arrays_scalars_events_times(run):
    assert len(run.keys()) == 4
    assert run.find(signal="output", label="upos=NOUN") == (SeriesKey("output", "loss", "upos=NOUN"),)
    assert run.array_keys() == (SeriesKey("curvature", "density"),)
    np.testing.assert_array_equal(run.array(100, "curvature", "density"), np.arange(6.0).reshape(2, 3) + 100)
    assert [r.step for r in run.arrays("curvature", "density")] == [0, 100, 200]
    steps, values = run.scalars("loss")
    np.testing.assert_array_equal(steps, np.arange(300))
    np.testing.assert_array_equal(values, 1 / (np.arange(300) + 1.0))
    (event,) = run.events("alert")
    assert (event.step, event.text) == (200, "the loss rose")
    assert event.data["from"] == 1.0
    assert math.isnan(event.data["to"])
    assert run.events("stop") == ()
    np.testing.assert_array_equal(run.tokens_seen, [0, 6400, 12800])
    np.testing.assert_array_equal(run.wall_time, [0, 10, 20])
    assert run.header.seeds == {"run": 0}
    assert run.status == "finished"
    assert "3 measurements, steps 0 to 200" in run._repr_html_()
    assert "3 measurements" in repr(run)


names = st.text("abc.=ü'%/\x1f\n", min_size=1, max_size=4)
number = st.floats(allow_nan=False, allow_infinity=False)
record = st.builds(
    lambda signal, metric, site, label, split, stderr, n, null, what: Record(
        step=7, signal=signal, metric=metric, site=site, label=label, split=split, stderr=stderr, n=n, null=null, **what
    ),
    names, names, st.none() | names, st.none() | names, st.none() | names, st.none() | number,
    st.none() | st.integers(0, 2**53), st.none() | number,
    st.one_of(
        number.map(lambda x: {"value": x}),
        names.map(lambda x: {"missing": x}),
        st.lists(number, max_size=5).map(lambda x: {"array": np.array(x)}),
    ),
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(record, max_size=12, unique_by=lambda r: (r.signal, r.metric, r.label, r.split, r.site)))
def test_any_record_comes_back_as_it_was_written(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("any")
    with RunWriter.create(folder, RunHeader()) as writer:
        writer.write(7, records)
    back = list(open_run(folder).records())

    def key(r: Record) -> tuple[str, ...]:
        return tuple(map(repr, (r.signal, r.metric, r.label, r.split, r.site)))

    assert sorted(back, key=key) == sorted(records, key=key)
    arrays = {key(r): r.array for r in records if r.array is not None}
    assert {key(r) for r in back if r.array is not None} == set(arrays)
    for r in back:
        if r.array is not None:
            np.testing.assert_array_equal(r.array, arrays[key(r)], strict=True)


def test_a_live_reader_takes_only_what_is_new_and_learns_of_a_resume(tmp_path, header):
    writer = RunWriter.create(tmp_path, header)
    run = open_run(tmp_path)
    assert run.status == "running"
    writer.write(0, [probe(0, "final", 0.5)])
    first = run.since(0)
    assert [r.step for r in first.records] == [0]
    assert run.since(first.cursor).records == []
    writer.write_scalars("loss", [1, 2], [3.0, 2.0])
    writer.write(10, [probe(10, "final", 0.6)])
    writer.event(10, "alert", "x")
    second = run.since(first.cursor)
    assert [r.value for r in second.records] == [0.6]
    np.testing.assert_array_equal(second.scalars["loss"][1], [3.0, 2.0])
    assert [e.kind for e in second.events] == ["alert"]
    assert second.superseded_after is None
    writer.finish()
    with RunWriter.resume(tmp_path, 5) as resumed:
        resumed.write(10, [probe(10, "final", 0.7)])
        third = run.since(second.cursor)
        assert third.superseded_after == 5
        assert [(r.step, r.value) for r in third.records] == [(10, 0.7)]
    assert run.since(third.cursor).status == "finished"


def test_sites_follow_the_model_when_the_header_knows_them(tmp_path, header):
    with RunWriter.create(tmp_path, header) as writer:
        writer.write(0, [probe(0, "final", 0.5)])
        writer.write(1, [probe(1, "block.1", 0.5), probe(1, "embed", 0.1)])
    series = open_run(tmp_path).series(signal="probe")
    assert series.sites == ("embed", "block.1", "final")
    np.testing.assert_array_equal(series.values, [[math.nan, math.nan, 0.5], [0.1, 0.5, math.nan]])


def test_a_path_without_a_run_is_one_line_with_a_way_out(tmp_path, header):
    with pytest.raises(RunError, match=r"nowhere does not exist. Name the folder of a run$"):
        open_run(tmp_path / "nowhere")
    RunWriter.create(tmp_path / "here", header).finish()
    with pytest.raises(RunError, match=r"holds no run. Runs below it: .*here$"):
        open_run(tmp_path)
    (tmp_path / "run.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RunError, match=r"not a database. The file is damaged or is not a run"):
        open_run(tmp_path)


def test_frame_has_one_row_per_record_without_arrays(run, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "pandas", SimpleNamespace(DataFrame=dict)
    )  # pandas is not a dependency of the tests
    frame, records = run.frame(), list(run.records(arrays=False))
    assert "array" not in frame
    for name in ("step", "signal", "metric", "site", "label", "split", "value", "stderr", "n", "null", "missing"):
        assert frame[name] == [getattr(record, name) for record in records]
    assert frame["tokens_seen"] == [64 * record.step for record in records]


def test_frame_needs_pandas_and_says_so(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"Run.frame needs pandas.*pip install pandas"):
        run.frame()


def test_reading_a_run_does_not_import_torch():
    code = "import sys, lmtrace.records.store, lmtrace.run, lmtrace.records.export; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
