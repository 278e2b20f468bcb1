"""A run written before the rooms were moved opens, reports, resumes and lends its probes, with the numbers of that time.

`data/before-rooms` was written at commit 88a9dc2: a plain model of width 16 on a toy language, measured every four steps until
step 8; `at_12` are the numbers of the same training that was not stopped, whose weights at step 12 are kept too.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import lmtrace
import lmtrace.functional as F
from lmtrace.live.tracer import Tracer
from lmtrace.show.report import write_report
from lmtrace.signals.probe import Probe
from lmtrace.signals.similarity import Similarity
from lmtrace_helpers import PlainModel

FOLDER = Path(__file__).parent / "data" / "before-rooms"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.fixture
def old_run(tmp_path):
    shutil.copytree(FOLDER / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def old_panel():
    rows = json.loads((FOLDER / "sentences.json").read_text())
    sentences = [
        SimpleNamespace(tokens=tokens, labels=labels, heads=heads, deprels=deprels)
        for tokens, labels, heads, deprels in rows
    ]
    tokenizer = lmtrace.WordTokenizer.load(FOLDER / "tokenizer")
    return lmtrace.Panel.from_annotated(sentences, tokenizer, size=60, seed=0)


def weights_at(step):
    saved = load_file(FOLDER / "weights.safetensors")
    found = {key.removeprefix(f"{step}/"): value for key, value in saved.items() if key.startswith(f"{step}/")}
    return {**found, "lm_head.weight": found["transformer.wte.weight"]}


def named(records):
    return {(r.step, r.signal, r.metric, r.site, r.label, r.split): r.value for r in records}


def test_it_opens_with_every_number(old_run, tmp_path):
    run = lmtrace.open_run(old_run)
    found = named(run.records())
    for *key, value in EXPECTED["run"]["records"]:
        assert found[tuple(key)] == value, key
    for metric, (steps, values) in EXPECTED["run"]["scalars"].items():
        assert run.scalars(metric)[0].tolist() == steps
        assert run.scalars(metric)[1].tolist() == values
    assert {finding.site for finding in run.findings()} & {"block.0", "block.1", "final"}
    write_report(run, tmp_path / "report.html")
    assert "weights" in (tmp_path / "report.html").read_text()


def test_it_resumes_with_what_its_signals_remember(old_run, old_panel):
    torch.manual_seed(3)
    model = PlainModel(len(old_panel.tokenizer), width=16)
    model.load_state_dict(weights_at(8))
    signals = [
        "output", Probe(labels="role", split="sentence", keep_at=(4,)), Similarity(num_points=20), "dimension", "weights",
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with Tracer(
        model, old_panel, signals=signals, every=4, run=old_run, optimizer=optimizer, resume=True, start_step=8
    ) as tracer:
        for _ in range(3):
            tracer.step(loss=1.0)
        model.load_state_dict(weights_at(12))
        tracer.step(loss=1.0)
    run = lmtrace.open_run(old_run)
    assert run.steps.tolist() == [0, 4, 8, 12]
    found, checked = named(run.records()), 0
    for *key, value in EXPECTED["at_12"]:
        if key[1] == "probe":  # equal sentences are on one side of its split since then
            assert key[2] == "transfer" or found[tuple(key)] is not None
            continue
        if key[4] and key[4].startswith("frequency="):  # bands say since then that they are ranks
            key[4] = key[4].replace("=", "=rank ")
        # float32 activations on another processor differ in their last bits; a measure of 60 sentences does not amplify them
        assert found[tuple(key)] == (None if value is None else pytest.approx(value, rel=2e-4, abs=2e-5)), key
        checked += 1
    assert checked > 50


def test_its_probes_are_those_that_were_saved(old_run, tmp_path):
    kept = lmtrace.kept_probes(old_run)
    saved = F.load_probes(FOLDER / "probes.safetensors")
    assert set(kept) == set(saved) != set()
    F.save_probes(tmp_path / "again.safetensors", kept)
    for name, probe in F.load_probes(tmp_path / "again.safetensors").items():
        assert torch.equal(probe.weight, saved[name].weight)
        assert torch.equal(probe.bias, saved[name].bias)
        assert probe.names == saved[name].names


def test_its_saved_probes_apply_to_another_run(old_panel, tmp_path):
    model = PlainModel(len(old_panel.tokenizer), width=16)
    model.load_state_dict(weights_at(12))
    probe = Probe(labels="role", split="sentence", apply=str(FOLDER / "probes.safetensors"))
    run = lmtrace.analyze(model, old_panel, signals=[probe], run=tmp_path / "run", step=12)
    found = named(r for r in run.records() if r.metric == "transfer")
    expected = {tuple(key): value for *key, value in EXPECTED["at_12"] if key[2] == "transfer"}
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
