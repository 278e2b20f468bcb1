"""The main job on synthetic and on real language, in a shortened form; and a checkpoint measured again."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import lmtrace
from lmtrace.cli.main import app
from lmtrace.errors import ConfigError, DataError
from lmtrace.jobs.analyze import analyze_checkpoint
from lmtrace.jobs.train import config_of, train


def settings(tmp_path, **more):
    data = {"corpus": "absynth:tiny", "sentences": 3000, "panel_size": 128, **more.pop("data", {})}
    base = {"run": str(tmp_path / "run"), "size": "tiny", "steps": 30, "every": 10, "batch_size": 32}
    return config_of({**base, "data": data, **more})


def same_numbers(live, later, step):
    """Every number of the live run at a step equals that of the later measurement."""
    compared = 0
    expected = {(r.signal, r.metric, r.site, r.label, r.split): r for r in live.records() if r.step == step}
    for r in later.records():
        if r.signal == "cost" or r.array is not None or r.metric == "gain_over_start":
            continue  # time, arrays, and what is relative to an earlier measurement
        other = expected[(r.signal, r.metric, r.site, r.label, r.split)]
        if r.missing and "no optimizer" in r.missing:
            continue  # a checkpoint of weights has none
        assert (r.value is None) == (other.value is None), r
        if r.value is not None:
            assert r.value == pytest.approx(other.value, abs=1e-5, rel=1e-5), r
            compared += 1
    return compared


def test_analyze_gives_the_numbers_of_the_live_run(tmp_path):
    live = train(settings(tmp_path, signals="output,truth,probe,dimension,curvature", every=30))
    later = analyze_checkpoint(
        str(tmp_path / "run" / "checkpoints" / "final"),
        run=tmp_path / "later",
        signals="output,truth,probe,dimension,curvature",
    )
    assert later.steps.tolist() == [30]
    assert same_numbers(live, later, 30) > 100
    loss = live.series(signal="output", metric="loss", label=None)
    floor = live.header.data["floor_nats"]
    assert (loss.values[:, 0] > floor - 3 * loss.stderr[:, 0]).all()
    assert loss.values[-1, 0] < loss.values[0, 0] - 0.5


@pytest.mark.parametrize("style", ["llama", "gpt_neox", "bert", "t5"])
def test_every_family_trains_and_is_measured(style, tmp_path):
    run = train(settings(tmp_path, model=style, signals="standard", steps=6, every=3))
    assert run.header.status == "finished"
    assert run.steps.tolist() == [0, 3, 6]
    signals = {key.signal for key in run.keys()}
    assert {"output", "probe", "dimension", "curvature", "truth", "cost"} <= signals
    for record in run.records():
        assert (record.value is not None) + (record.array is not None) + bool(record.missing) == 1


@pytest.mark.slow
def test_real_language(data_dir, tmp_path):
    train_file, dev_file = data_dir / "en_ewt-ud-train.conllu.xz", data_dir / "en_ewt-ud-dev.conllu"
    run = train(
        settings(
            tmp_path,
            data={"corpus": str(train_file), "panel": str(dev_file), "vocabulary": 2000, "panel_size": 400},
            signals="output,probe",
            steps=40,
            every=20,
        )
    )
    found = {(key.label, key.split) for key in run.find(signal="probe", metric="accuracy")}
    assert {("upos", "sentence"), ("upos", "lexical"), ("deprel", "sentence")} <= found
    accuracy = run.series(signal="probe", metric="accuracy", label="upos", split="sentence")
    assert np.isfinite(accuracy.values).all()
    assert (accuracy.values[-1] > accuracy.null[-1]).all(), "part of speech is readable above the majority class"
    loss = run.series(signal="output", metric="loss", label=None).values[:, 0]
    assert loss[-1] < loss[0] - 0.5


@pytest.mark.slow
def test_the_real_published_corpus_trains_and_stays_above_its_floor(data_dir, tmp_path):
    run = train(
        settings(
            tmp_path,
            data={"corpus": str(data_dir / "next_token_corpus_3.json"), "panel_size": 300},
            signals="output,probe",
            steps=150,
            every=50,
            learning_rate=3e-3,
        )
    )
    loss = run.series(signal="output", metric="loss", label=None).values[:, 0]
    assert (loss > 5.282).all(), "below the irreducible loss a model would see its own labels"
    assert loss[-1] < loss[0] - 1.0


def test_wrong_settings_are_one_line(tmp_path):
    for wrong, match in (
        ({"steps": -1}, "steps"),
        ({"model": "gpt5"}, "no model style 'gpt5'.*gpt2"),
        ({"size": "7x33"}, "no model size"),
        ({"data": {"corpus": "absynth:huge"}}, "huge"),
        ({"task": "masked"}, "cannot be trained on the task"),
        ({"unknown": 1}, "unknown"),
    ):
        with pytest.raises(ConfigError, match=match):
            train(settings(tmp_path, **wrong))
    with pytest.raises(DataError, match="nothing.conllu"):
        train(settings(tmp_path, data={"corpus": str(tmp_path / "nothing.conllu")}))


def test_the_command_line(tmp_path):
    runner = CliRunner()
    run = tmp_path / "cli"
    config = tmp_path / "train.toml"
    config.write_text('size = "tiny"\nsteps = 4\nbatch_size = 16\n[data]\nsentences = 400\npanel_size = 32\n')
    arguments = ["train", "--config", str(config), "--corpus", "absynth:tiny", "--run", str(run), "--every", "2"]
    result = runner.invoke(app, [*arguments, "--set", "data.seed=1", "--signals", "output", "--json"])
    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.stdout), list)
    assert lmtrace.open_run(run).steps.tolist() == [0, 2, 4]
    again = runner.invoke(app, [*arguments, "--signals", "output"])
    assert again.exit_code == 1
    assert "already holds a run" in str(again.exception)
    for command in (["findings", str(run)], ["export", str(run)], ["signals"], ["report", str(run)], ["doctor"]):
        done = runner.invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "records.csv").exists()
    assert runner.invoke(app, ["train", "--nonsense"]).exit_code == 2
