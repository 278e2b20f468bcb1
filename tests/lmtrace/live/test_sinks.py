"""Sinks: every one gets the main numbers of a real run, read back from what it wrote; none harms training."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError
from lmtrace.live.sinks import Sinks, main_numbers
from lmtrace.live.tracer import Tracer
from lmtrace.observe.isolation import generator_fingerprint
from lmtrace.records.schema import Field, Record
from lmtrace.run import open_run
from lmtrace_helpers import tiny

ACCURACY = "probe/accuracy/block.0/role"


class Kept:
    """The simplest sink."""

    def __init__(self):
        self.seen = []

    def log(self, metrics, step):
        self.seen.append((step, metrics))


def trace(tokenizer, panel, folder, sinks, *, steps=(0, 4), resume=False):
    """Pretend to train from step a to step b; return what the run folder says of one curve."""
    model = tiny("gpt2", tokenizer)
    with Tracer(
        model, panel, run=folder, every=2, signals="probe,output", sinks=sinks, resume=resume, start_step=steps[0],
        overwrite=not resume,
    ) as tracer:  # fmt: skip
        for _ in range(*steps):
            tracer.step(loss=1.0)
    return curve(folder)


def curve(folder):
    series = open_run(folder).series(signal="probe", metric="accuracy", label="role", split="sentence")
    return dict(zip(series.steps.tolist(), series.at("block.0").values[:, 0].tolist(), strict=True))


def test_main_numbers_are_named_and_chosen():
    fields = {"probe": [Field(metric="accuracy", title="a", better="up"), Field(metric="majority", title="m")]}
    rest = {"step": 3, "signal": "probe"}
    records = [
        Record(**rest, metric="accuracy", site="block.0", label="role", value=0.5),
        Record(**rest, metric="accuracy", site="block.0", label="role", split="lexical", value=0.4),
        Record(**rest, metric="accuracy", site="block.0", label="role=Agent", value=0.6),
        Record(**rest, metric="accuracy", site="final", label="role", missing="why not"),
        Record(**rest, metric="accuracy", label="upos", array=np.zeros(3)),
        Record(**rest, metric="majority", value=0.3),
        Record(step=3, signal="cost", metric="seconds", label="all", value=1.0),
    ]
    assert main_numbers(records, fields) == {ACCURACY: 0.5, f"{ACCURACY}/lexical": 0.4}


def test_an_object_gets_every_measurement_once_over_a_resume(tokenizer, panel, tmp_path):
    sink = Kept()
    trace(tokenizer, panel, tmp_path / "run", [sink], steps=(0, 4))
    found = trace(tokenizer, panel, tmp_path / "run", [sink], steps=(2, 6), resume=True)
    assert [step for step, _ in sink.seen] == [0, 2, 4, 6]
    assert {step: metrics[f"{ACCURACY}/sentence"] for step, metrics in sink.seen} == found
    trace(tokenizer, panel, tmp_path / "run", [sink], steps=(0, 2))  # a new run in the folder starts again
    assert [step for step, _ in sink.seen] == [0, 2, 4, 6, 0, 2]


def test_loggers_with_log_metrics_are_sinks(tmp_path):
    class Logger:
        def log_metrics(self, metrics, step):
            self.got = metrics, step

    logger = Logger()
    sinks = Sinks([logger], tmp_path)
    sinks.open(resume=False)
    sinks.log(2, [Record(step=2, signal="s", metric="x", value=0.5)], {"s": [Field(metric="x", title="x")]})
    assert logger.got == ({"s/x": 0.5}, 2)


def test_a_sink_that_raises_or_draws_harms_nothing(tokenizer, panel, tmp_path, caplog):
    class Rude(Kept):
        def log(self, metrics, step):
            torch.rand(1), np.random.rand()  # noqa: NPY002
            metrics.clear()
            super().log(metrics, step)
            raise RuntimeError("no network")

    rude, kind, before = Rude(), Kept(), generator_fingerprint()
    with caplog.at_level(logging.WARNING, "lmtrace.live.sinks"):
        found = trace(tokenizer, panel, tmp_path / "run", [rude, kind])
    assert generator_fingerprint() == before
    assert len(rude.seen) == 1
    assert {step: metrics[f"{ACCURACY}/sentence"] for step, metrics in kind.seen} == found
    assert [r.getMessage() for r in caplog.records] == [
        "sink Rude raised RuntimeError: no network; it is off from now on, the run folder has everything"
    ]
    assert open_run(tmp_path / "run").header.status == "finished"


def test_wrong_sinks_are_named_before_training(gpt2, panel, tmp_path, monkeypatch):
    def tracer(sinks):
        return Tracer(gpt2, panel, run=tmp_path / "run", signals="probe", sinks=sinks)

    with pytest.raises(
        ConfigError, match="no sink is called 'neptune'. Choose from wandb, tensorboard, trackio, mlflow"
    ):
        tracer(["neptune"])
    with pytest.raises(ConfigError, match=r"sinks must be a list, got 'wandb'. Write sinks=\['wandb'\]"):
        tracer("wandb")
    with pytest.raises(ConfigError, match="the sink int has neither log nor log_metrics"):
        tracer([3])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'wandb' needs a package that is missing. pip install \"lmtrace\[wandb\]\""):
        tracer(["wandb"])
    assert not (tmp_path / "run").exists()


def test_damaged_state_of_the_sinks_does_not_stop_a_resume(tokenizer, panel, tmp_path):
    trace(tokenizer, panel, tmp_path / "run", [Kept()])
    (tmp_path / "run" / "sinks.json").write_text("{")
    sink = Kept()
    trace(tokenizer, panel, tmp_path / "run", [sink], steps=(4, 6), resume=True)
    assert [step for step, _ in sink.seen] == [6]


def test_tensorboard_events_hold_the_curves(tokenizer, panel, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trace(tokenizer, panel, tmp_path / "run", ["tensorboard"], steps=(0, 4))
    found = trace(tokenizer, panel, tmp_path / "run", ["tensorboard"], steps=(2, 6), resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    read = [(e.step, e.value) for e in events.Scalars(f"{ACCURACY}/sentence")]
    assert [step for step, _ in read] == [0, 2, 4, 6]
    assert dict(read) == pytest.approx(found, rel=1e-6)


def wandb_rows(file: Path) -> list[dict]:
    """Read the history rows of an offline W&B file: protobuf records in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, at, rows, part = file.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def when_written(file: Path) -> list[dict]:
    """Return `wandb_rows`; W&B's own process may still be writing the file when its `finish` returns."""
    from google.protobuf.message import DecodeError

    for _ in range(50):
        size = file.stat().st_size
        time.sleep(0.4)
        with contextlib.suppress(DecodeError, struct.error):
            rows = wandb_rows(file)
            if rows and file.stat().st_size == size:
                return rows
    return wandb_rows(file)


@pytest.fixture
def wandb_offline(monkeypatch, tmp_path):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return pytest.importorskip("wandb")


def test_wandb_offline_holds_the_curves(tokenizer, panel, tmp_path, wandb_offline):
    trace(tokenizer, panel, tmp_path / "run", ["wandb"], steps=(0, 4))
    assert wandb_offline.run is None
    found = trace(tokenizer, panel, tmp_path / "run", ["wandb"], steps=(2, 6), resume=True)
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.stem for file in files}) == 1, "a resume goes on with the same W&B run"
    rows = [row for file in {f.resolve() for f in files} for row in when_written(file)]
    read = {row["lmtrace/step"]: row[f"{ACCURACY}/sentence"] for row in rows if "lmtrace/step" in row}
    assert len(rows) == 4
    assert read == found


def test_the_users_own_wandb_run_keeps_its_steps(tokenizer, panel, tmp_path, wandb_offline):
    model = tiny("gpt2", tokenizer)
    with wandb_offline.init(project="mine", dir=str(tmp_path)) as mine:
        folder = Path(mine.dir).parent
        with Tracer(model, panel, run=tmp_path / "run", every=2, signals="probe", sinks=["wandb"]) as tracer:
            for step in range(1, 7):
                mine.log({"mine": step}, step=step)
                tracer.step(loss=1.0)
        assert wandb_offline.run is mine, "it is the user's to close"
        mine.log({"mine": 7}, step=7)
    rows = when_written(next(folder.glob("*.wandb")))
    assert [row["mine"] for row in rows if "mine" in row] == list(range(1, 8))
    assert [row["lmtrace/step"] for row in rows if "lmtrace/step" in row] == [0, 2, 4, 6]
    assert sorted(p.name for p in (tmp_path / "run").glob("wandb*")) == []


def test_mlflow_holds_the_curves(tokenizer, panel, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store of a server needs more than mlflow-skinny
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    trace(tokenizer, panel, tmp_path / "run", ["mlflow"], steps=(0, 4))
    found = trace(tokenizer, panel, tmp_path / "run", ["mlflow"], steps=(2, 6), resume=True)
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("lmtrace").experiment_id])
    history = client.get_metric_history(run.info.run_id, f"{ACCURACY}/sentence")
    assert {m.step: m.value for m in history} == found
    assert len(history) == 4
    assert run.info.status == "FINISHED"


def test_trackio_holds_the_curves(tmp_path):
    """In a process of its own: it reads its folder when it is imported. All of it is local."""
    pytest.importorskip("trackio")
    script = (
        "import runpy, sys\n"
        "from pathlib import Path\n"
        "toys = runpy.run_path(sys.argv[1])\n"
        "import numpy as np\n"
        "from test_sinks import trace\n"
        "from lmtrace.text.panel import Panel\n"
        "from lmtrace.text.tokenizer import WordTokenizer\n"
        "rng = np.random.default_rng(0)\n"
        "sentences = [toys['toy_sentence'](rng) for _ in range(100)]\n"
        "tokenizer = WordTokenizer.from_corpus(sentences)\n"
        "panel = Panel.from_annotated(sentences, tokenizer, size=100, seed=0)\n"
        "folder = Path(sys.argv[2])\n"
        "trace(tokenizer, panel, folder, ['trackio'], steps=(0, 4))\n"
        "trace(tokenizer, panel, folder, ['trackio'], steps=(2, 6), resume=True)\n"
    )
    here = Path(__file__).parent
    paths = [here.parents[2] / "src", here.parents[1], here]
    env = {
        **os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", script, here.parent / "conftest.py", tmp_path / "run"], env=env, check=True)
    with sqlite3.connect(tmp_path / "trackio" / "lmtrace.db") as db:
        rows = db.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    db.close()
    assert len({name for name, _, _ in rows}) == 1
    assert [step for _, step, _ in rows] == [0, 2, 4, 6]
    assert {step: json.loads(text)[f"{ACCURACY}/sentence"] for _, step, text in rows} == curve(tmp_path / "run")
