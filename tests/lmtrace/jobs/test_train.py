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
from lmtrace.jobs.models import STYLES
from lmtrace.jobs.train import config_of, train
from lmtrace_helpers import tiny


def settings(tmp_path, **more):
    data = {"corpus": "absynth:tiny", "sentences": 3000, "panel_size": 128, **more.pop("data", {})}
    base = {"run": str(tmp_path / "run"), "size": "tiny", "steps": 30, "every": 10, "batch_size": 32}
    return config_of({**base, "data": data, **more})


LATER_LACKS = ("nothing to compare with yet", "no optimizer was given")
"""Why a number of the live run may be missing from one measurement of a checkpoint's weights."""


def same_numbers(live, later, step):
    """Every number of the live run at a step equals that of the later measurement, and none is lost; return how many."""
    compared = 0
    found = {(r.signal, r.metric, r.site, r.label, r.split): r for r in later.records() if r.step == step}
    for r in live.records(step):
        if r.step != step or r.signal == "cost" or r.metric == "gain_over_start":
            continue  # time, and what is relative to the first measurement of a run
        other = found.pop((r.signal, r.metric, r.site, r.label, r.split))
        if other.missing and other.missing.startswith(LATER_LACKS):
            continue
        assert (r.missing, r.n) == (other.missing, other.n), r
        for name in ("value", "stderr", "null", "array"):
            mine, theirs = getattr(r, name), getattr(other, name)
            assert (mine is None) == (theirs is None), r
            if mine is not None:
                assert theirs == pytest.approx(mine, abs=1e-5, rel=1e-5), (r, name)
                compared += 1
    # The control task is due at the first measurement of a run, which the later one is.
    first_only = {("probe", "control_accuracy"), ("probe", "selectivity")}
    assert {key[:2] for key in found if key[0] != "cost"} <= first_only
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


def test_every_checkpoint_can_be_measured_by_itself(tmp_path):
    live = train(settings(tmp_path, signals="output", steps=20, save_every=10))
    for step in (0, 10, 20):
        path = tmp_path / "run" / "checkpoints" / f"checkpoint-{step}"
        later = analyze_checkpoint(str(path), run=tmp_path / f"later-{step}", signals="output")
        assert later.steps.tolist() == [step]
        assert same_numbers(live, later, step) > 20


OFTEN = ("llama", "bert", "t5")
EVERY_FAMILY = [style if style in OFTEN else pytest.param(style, marks=pytest.mark.slow) for style in STYLES]


@pytest.mark.parametrize("style", EVERY_FAMILY)
def test_every_family_trains_is_measured_and_gives_the_same_numbers_afterwards(style, tmp_path):
    run = train(settings(tmp_path, model=style, size="2x32", signals="standard", steps=4, every=2))
    assert run.header.status == "finished"
    assert run.steps.tolist() == [0, 2, 4]
    numbers = {(r.signal, r.metric) for r in run.records(4) if r.missing is None}
    expected = {("output", "loss"), ("probe", "accuracy"), ("dimension", "two_nn"), ("curvature", "trace")}
    assert expected <= numbers
    for record in run.records():
        assert (record.value is not None) + (record.array is not None) + bool(record.missing) == 1
    final = tmp_path / "run" / "checkpoints" / "final"
    assert same_numbers(run, analyze_checkpoint(str(final), run=tmp_path / "later", signals="standard"), 4) > 300


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


def test_a_checkpoint_without_a_tokenizer_says_so(data_dir, tmp_path, tokenizer):
    tiny("gpt2", tokenizer).save_pretrained(tmp_path / "bare")
    with pytest.raises(DataError, match=r"no tokenizer in .*bare.*tokenizer.save_pretrained"):
        analyze_checkpoint(
            str(tmp_path / "bare"), run=tmp_path / "run", panel=str(data_dir / "en_ewt-ud-dev.conllu"), signals="output"
        )
