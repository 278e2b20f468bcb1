"""Many checkpoints: the same numbers whatever runs them, nothing twice, and nothing broken passes unseen."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import absynth
import absynth.sample
import lmtrace
from lmtrace.cli.main import app
from lmtrace.errors import ConfigError, DataError, ModelError
from lmtrace.jobs import sweep as job
from lmtrace.jobs.analyze import analyze, load_checkpoint
from lmtrace.jobs.checkpoints import Checkpoint, find_checkpoints, step_in, step_of, weight_hash
from lmtrace.jobs.executors import Died, run_tasks
from lmtrace.jobs.generate import generate
from lmtrace.run import open_run
from lmtrace_helpers import tiny

SIGNALS = "output,dimension,probe,similarity,weights"


def save(folder: Path, tokenizer, seed: int) -> Path:
    tiny("gpt2", tokenizer, size="1x32", seed=seed).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """Twelve checkpoints of one training, in the layout of the Trainer."""
    parent = tmp_path_factory.mktemp("checkpoints")
    for i in range(12):
        save(parent / f"checkpoint-{10 * i}", tokenizer, seed=i)
    return parent


def content(run):
    """Every record but the costs, with its arrays, in order."""
    return [
        (replace(r, array=None), None if r.array is None else r.array.tolist())
        for r in run.records()
        if r.signal != "cost"
    ]


def said(run, kind):
    return [(e.step, e.text) for e in run.events(kind)]


def test_steps_come_from_names_cards_and_the_trainer(tmp_path):
    names = {
        "checkpoint-500": 500, "step1000": 1000, "global_step_20": 20, "stage1-step2000-tokens5B": 2000, "0300": 300,
        "iter_0040": 40, "main": None, "final": None, "gpt2": None, "pythia-70m": None, "step-5k": None, "footstep3": None,
    }  # fmt: skip
    assert {name: step_in(name) for name in names} == names
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    assert step_of(folder) == 7
    (folder / "trainer_state.json").write_text('{"global_step": 8}')
    assert step_of(folder) == 8
    (folder / "lmtrace.json").write_text('{"step": 9}')
    assert step_of(folder) == 9
    (folder / "lmtrace.json").write_text("broken")
    assert step_of(folder) == 8


def test_what_sources_name(folder, tmp_path):
    found, problems = find_checkpoints([folder, folder / "checkpoint-10", "org/name@step5", "gpt2", tmp_path, "./none"])
    assert [c.step for c in found[:12]] == list(range(0, 120, 10))
    assert found[12:] == [Checkpoint("org/name", "step5", 5), Checkpoint("gpt2", None, None)]
    assert problems == [(str(tmp_path), "no checkpoint in this folder"), ("./none", "no such folder")]


def test_a_sweep_is_many_analyses(folder, panel, tmp_path):
    chosen = [folder / f"checkpoint-{step}" for step in (20, 0)]
    run = lmtrace.sweep(chosen, panel, run=tmp_path / "sweep", signals=SIGNALS)
    assert run.steps.tolist() == [0, 20]
    assert run.status == "finished"
    for step in (0, 20):
        alone = analyze(
            load_checkpoint(str(folder / f"checkpoint-{step}")),
            panel,
            run=tmp_path / str(step),
            signals=SIGNALS,
            step=step,
        )
        mine = [r for r in run.records() if r.step == step and r.signal != "cost"]
        assert mine == [r for r in alone.records() if r.signal != "cost"]
    event = run.events("checkpoint")[0]
    model = load_checkpoint(str(folder / "checkpoint-20"))
    assert event.data["path"] == str(folder / "checkpoint-20")
    assert event.data["weights"] == weight_hash(model)
    assert run.header.model["class"] == "GPT2LMHeadModel"


def test_broken_missing_identical_and_conflicting_ones_are_said(folder, panel, tokenizer, tmp_path):
    here = tmp_path / "c"
    for step in (0, 10, 20):
        shutil.copytree(folder / f"checkpoint-{step}", here / f"checkpoint-{step}")
    shutil.copytree(here / "checkpoint-10", here / "checkpoint-30")
    torn = here / "checkpoint-40"
    shutil.copytree(here / "checkpoint-20", torn)
    data = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(data[: len(data) // 2])
    (here / "checkpoint-50").mkdir()
    (here / "final").mkdir()
    save(here / "final", tokenizer, seed=9)  # nothing tells its step
    other = save(tmp_path / "other" / "checkpoint-20", tokenizer, seed=8)
    lacking = here / "checkpoint-60"
    _drop_a_weight(here / "checkpoint-20", lacking)
    run = lmtrace.sweep(
        [here, other, tmp_path / "nowhere", "org/none@step3"], panel, run=tmp_path / "run", signals="output"
    )
    assert run.steps.tolist() == [0, 10, 20]
    assert said(run, "duplicate") == [
        (30, f"{here / 'checkpoint-30'} has the same weights as {here / 'checkpoint-10'}")
    ]
    skipped = dict(
        (text.split(": ")[0].removeprefix(f"{tmp_path}/"), text.partition(": ")[2]) for _, text in said(run, "skipped")
    )
    assert skipped.keys() == {
        "nowhere", "org/none@step3", "c/final", "c/checkpoint-40", "c/checkpoint-50", "c/checkpoint-60", "other/checkpoint-20",
    }  # fmt: skip
    assert skipped["nowhere"] == "no such folder"
    assert "cannot load a model" in skipped["c/checkpoint-40"]
    assert "cannot load a model" in skipped["c/checkpoint-50"]
    assert "lacks weights" in skipped["c/checkpoint-60"]
    assert "nothing tells at which step" in skipped["c/final"]
    assert "step 20 is that of" in skipped["other/checkpoint-20"]
    with pytest.raises(DataError, match="none of 2 checkpoints could be measured.*no such folder"):
        lmtrace.sweep([tmp_path / "a", tmp_path / "b"], panel, run=tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def _drop_a_weight(source: Path, target: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    state = load_file(target / "model.safetensors")
    del state["transformer.h.0.mlp.c_fc.weight"]
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights"):
        load_checkpoint(str(target))


def test_finished_work_is_not_done_again(folder, panel, tmp_path, monkeypatch):
    chosen = [folder / f"checkpoint-{step}" for step in (0, 10)]
    first = content(lmtrace.sweep(chosen, panel, run=tmp_path / "run", signals="output"))
    loaded = []
    real = job.load_checkpoint
    monkeypatch.setattr(job, "load_checkpoint", lambda path, **k: loaded.append(path) or real(path, **k))
    more = [*chosen, folder / "checkpoint-20"]
    run = lmtrace.sweep(more, panel, run=tmp_path / "run", signals="output")
    assert loaded == [str(folder / "checkpoint-20")]
    assert run.steps.tolist() == [0, 10, 20]
    assert content(run)[: len(first)] == first
    lmtrace.sweep(more, panel, run=tmp_path / "run", signals="output")
    assert len(loaded) == 1
    assert len(open_run(tmp_path / "run").events("checkpoint")) == 3
    with pytest.raises(ConfigError, match="other signals"):
        lmtrace.sweep([folder / "checkpoint-30"], panel, run=tmp_path / "run", signals="dimension")
    analyze(load_checkpoint(str(chosen[0])), panel, run=tmp_path / "plain", signals="output")
    with pytest.raises(ConfigError, match="not a sweep"):
        lmtrace.sweep(chosen, panel, run=tmp_path / "plain")
    again = lmtrace.sweep(chosen[:1], panel, run=tmp_path / "run", signals="output", overwrite=True)
    assert again.steps.tolist() == [0]


def test_an_interrupted_sweep_goes_on(folder, panel, tmp_path):
    def stop(done, total, message):
        if done == 2:
            raise KeyboardInterrupt

    chosen = [folder / f"checkpoint-{step}" for step in (0, 10, 20)]
    with pytest.raises(KeyboardInterrupt):
        lmtrace.sweep(chosen, panel, run=tmp_path / "run", signals="output", on_progress=stop)
    assert open_run(tmp_path / "run").status == "crashed"
    assert open_run(tmp_path / "run").steps.tolist() == [0, 10]
    run = lmtrace.sweep(chosen, panel, run=tmp_path / "run", signals="output")
    assert run.status == "finished"
    whole = lmtrace.sweep(chosen, panel, run=tmp_path / "whole", signals="output")
    assert content(run) == content(whole)


def test_revisions_of_a_repository_on_the_hub(tokenizer, panel, tmp_path, monkeypatch):
    """The Hub's own cache, filled by hand: two revisions of one repository, found by branch and by commit, offline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = tmp_path / "hub" / "models--org--tiny"
    commits = {"step10": "a" * 40, "step20": "b" * 40}
    for i, (revision, commit) in enumerate(commits.items()):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        save(repository / "snapshots" / commit, tokenizer, seed=i)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path / "hub"), raising=False)
    sources = ["org/tiny@step10", "org/tiny@step20", f"org/tiny@{commits['step10']}", "org/tiny@step30"]
    run = lmtrace.sweep(sources, panel, run=tmp_path / "run", signals="output", steps=[10, 20, 30, 40])
    assert run.steps.tolist() == [10, 20]
    assert [e.data["revision"] for e in run.events("checkpoint")] == ["step10", "step20"]
    assert said(run, "duplicate") == [(30, f"org/tiny@{commits['step10']} has the same weights as org/tiny@step10")]
    assert len(said(run, "skipped")) == 1
    assert "org/tiny@step30" in said(run, "skipped")[0][1]


def test_positions_are_steps_where_no_name_tells_one(tokenizer, panel, tmp_path):
    for i, name in enumerate(("early", "late")):
        save(tmp_path / name, tokenizer, seed=i)
    run = lmtrace.sweep([tmp_path / "early", tmp_path / "late"], panel, run=tmp_path / "run", signals="output")
    assert run.steps.tolist() == [0, 1]
    with pytest.raises(ConfigError, match="1 steps for 2 checkpoints"):
        lmtrace.sweep([tmp_path / "early", tmp_path / "late"], panel, run=tmp_path / "x", steps=[3])
    with pytest.raises(ConfigError, match="executor 'dask'.*serial, process, ray"):
        lmtrace.sweep([tmp_path / "early"], panel, run=tmp_path / "x", executor="dask")


def test_the_command_line(tmp_path):
    """The checkpoints of a saved run, measured again with the panel of their training."""
    runner = CliRunner()
    train = [
        "train", "--corpus", "absynth:tiny", "--run", str(tmp_path / "run"), "--size", "tiny", "--steps", "4", "--every", "2",
        "--batch-size", "16", "--signals", "output", "--save-every", "2", "--set", "data.sentences=400", "--panel-size", "32",
    ]  # fmt: skip
    assert runner.invoke(app, [*train, "--json"]).exit_code == 0
    command = ["sweep", str(tmp_path / "run"), "--run", str(tmp_path / "sweep"), "--signals", "output"]
    done = runner.invoke(app, [*command, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    rows = json.loads(done.stdout)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("checkpoint", 0), ("checkpoint", 2), ("checkpoint", 4), ("duplicate", 4)
    ]  # fmt: skip
    live, later = open_run(tmp_path / "run"), open_run(tmp_path / "sweep")
    a = live.series(signal="output", metric="loss", label=None)
    b = later.series(signal="output", metric="loss", label=None)
    assert b.steps.tolist() == a.steps.tolist() == [0, 2, 4]
    np.testing.assert_allclose(b.values, a.values, rtol=1e-6)
    assert "has the same weights as" in runner.invoke(app, command).output.replace("\n", " ")
    assert runner.invoke(app, ["sweep", str(tmp_path / "none"), "--run", str(tmp_path / "x")]).exit_code == 1


# -- executors --------------------------------------------------------------------------------------------------------


def square(shared, task):
    return shared + task**2


def dies(shared, task):
    """Kill the own process at task 3, the first time or every time."""
    marker, always = shared
    if task == 3 and (always or not Path(marker).exists()):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task, torch.get_num_threads()


def test_progress_tells_how_long_the_rest_will_take(folder, panel, tmp_path):
    said = []
    chosen = [folder / f"checkpoint-{step}" for step in (0, 10, 20)]
    lmtrace.sweep(
        [*chosen, tmp_path / "none"], panel, run=tmp_path / "r", signals="output",
        on_progress=lambda done, total, message: said.append((done, total, message)),
    )  # fmt: skip
    assert [(done, total) for done, total, _ in said] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert said[0][2] == "3 checkpoints to measure"
    assert re.fullmatch(r".*checkpoint-0 measured in \d+\.\d s; \d+ s left", said[1][2])
    assert said[3][2].endswith(" s"), "nothing is left"


def test_a_card_that_is_damaged_spoils_its_own_checkpoint_only(folder, panel, tmp_path):
    for step in (0, 10):
        shutil.copytree(folder / f"checkpoint-{step}", tmp_path / "c" / f"checkpoint-{step}")
    (tmp_path / "c" / "checkpoint-0" / "lmtrace.json").write_text("[1]")
    run = lmtrace.sweep(tmp_path / "c", panel, run=tmp_path / "r", signals="output")
    assert run.steps.tolist() == [0, 10]


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["process", "ray"])
def test_a_task_whose_worker_dies_is_given_out_again(executor, tmp_path):
    found = dict(run_tasks(dies, (str(tmp_path / "a"), False), range(8), executor=executor, workers=2, threads=2))
    assert found == {i: (i, 2) for i in range(8)}
    if executor == "ray":
        return
    found = dict(run_tasks(dies, (str(tmp_path / "b"), True), range(5), executor=executor, workers=2, threads=1))
    assert found.pop(3) == Died(3)
    assert found == {i: (i, 1) for i in (0, 1, 2, 4)}


def same_corpus(a, b):
    assert a.provenance == b.provenance
    for name in ("ids", "offsets", "templates"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_the_same_engine_generates_corpora():
    grammar = absynth.Grammar.preset("tiny")
    for n in (0, 1, 5_000):
        drawn = generate(grammar, n, seed=3, executor="serial", chunk=1)
        same_corpus(drawn, absynth.generate(grammar, n, seed=3))
    with pytest.raises(absynth.AbsynthError, match="a multiple of"):
        absynth.sample.part(grammar, 3, 10)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["process", "ray"])
def test_workers_generate_the_corpus_of_one_process(executor):
    grammar = absynth.Grammar.preset("small")
    drawn = generate(grammar, 20_000, seed=5, executor=executor, workers=2, chunk=3_000)
    same_corpus(drawn, absynth.generate(grammar, 20_000, seed=5))


def test_serial_tasks_are_taken_one_by_one():
    taken = []
    tasks = (taken.append(i) or i for i in range(3))
    results = run_tasks(square, 100, tasks, executor="serial", workers=None, threads=1)
    assert taken == []
    assert next(results) == (0, 100)
    assert taken == [0]
    assert list(results) == [(1, 101), (2, 104)]


@pytest.fixture(scope="module")
def serial(folder, panel, tmp_path_factory):
    run = lmtrace.sweep(folder, panel, run=tmp_path_factory.mktemp("serial"), signals=SIGNALS)
    assert len(run.steps) == 12
    return content(run)


@pytest.mark.slow
def test_processes_give_the_serial_run_bit_for_bit_and_survive_a_killed_worker(folder, panel, serial, tmp_path):
    killed = []

    def kill(done, total, message):
        if done in (2, 5):
            victim = multiprocessing.active_children()[0].pid
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    run = lmtrace.sweep(
        folder, panel, run=tmp_path / "p", signals=SIGNALS, executor="process", workers=2, on_progress=kill
    )
    assert len(killed) == 2
    assert content(run) == serial
    assert len(run.events("checkpoint")) == 12
    assert not run.events("skipped")


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_ray_gives_the_serial_run_bit_for_bit_and_survives_a_killed_worker(kill, folder, panel, serial, tmp_path):
    killed = []

    def interfere(done, total, message):
        if kill and done in (3, 6):
            killed.extend(_kill_a_ray_worker())

    run = lmtrace.sweep(
        folder, panel, run=tmp_path / "r", signals=SIGNALS, executor="ray", workers=2, on_progress=interfere
    )
    assert len(killed) == kill
    assert content(run) == serial
    assert len(run.events("checkpoint")) == 12
    assert not run.events("skipped")


def _kill_a_ray_worker() -> list[int]:
    """Kill -9 one Ray worker, of this process's own cluster, that has a task."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::limited") and _descends(int(path.parent.name)):
                os.kill(int(path.parent.name), signal.SIGKILL)
                return [int(path.parent.name)]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return []


def _descends(process: int) -> bool:
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[1])
    return process == os.getpid()
