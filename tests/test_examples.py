"""Every example runs, shortened, and what it promises holds."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    (path,) = FOLDER.glob(f"{name}_*.py")
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_plain_loop(tmp_path, capsys):
    run = load("01").main(tmp_path / "run", steps=12, sentences=1_000)
    assert run.status == "finished"
    assert run.steps.tolist() == [0, 2, 4, 6, 8, 10, 12]
    above = [float(x) for x in re.findall(r"([\d.]+) above", capsys.readouterr().out)]
    assert above[0] > above[-1] > 0


def test_trainer(tmp_path):
    run = load("02").main(tmp_path / "run", steps=4, sentences=1_000)
    assert run.steps.tolist() == [0, 1, 2, 3, 4]
    assert {"probe", "output"} <= {key.signal for key in run.keys()}


def test_corpus_and_oracle(tmp_path, capsys):
    corpus = load("03").main(tmp_path, sentences=3_000)
    assert len(corpus) == 3_000
    assert (tmp_path / "corpus.parquet").exists()
    assert "No model can have a lower loss" in capsys.readouterr().out


def test_checkpoint(tmp_path):
    assert load("04").main(tmp_path, steps=3, sentences=1_000) < 1e-5


@pytest.mark.slow
def test_findings_and_report(tmp_path):
    sentences = load("05").main(tmp_path / "run", steps=40, sentences=2_000)
    assert sentences
    assert all(sentence.endswith(".") for sentence in sentences)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_own_signal(tmp_path):
    (record,) = load("06").main(tmp_path / "run")
    assert record.n > 100
    assert 0 < record.value < 1


def test_minimal_pairs(tmp_path):
    found = load("07").main(tmp_path, steps=6, sentences=1_000)
    assert {"all", "agreement_violation_plain", "role_swap", "word_order_violation"} <= set(found)


def test_functional(capsys):
    runpy.run_path(str(FOLDER / "08_functional.py"), run_name="__main__")
    said = capsys.readouterr().out
    dimension, error = map(float, re.findall(r"TwoNN ([\d.]+) ± ([\d.]+)", said)[0])
    assert abs(dimension - 5) < max(4 * error, 0.5)
    sentence, word, majority = map(
        float, re.findall(r"accuracy ([\d.]+) .* ([\d.]+) on new words, majority ([\d.]+)", said)[0]
    )
    assert sentence > 0.8
    assert word < max(majority, 0.25) + 0.15  # four classes
    largest, exact = map(float, re.findall(r"eigenvalue ([\d.]+), exactly ([\d.]+)", said)[0])
    assert largest == pytest.approx(exact, rel=1e-3)
    midpoint = float(re.findall(r"midpoint (\d+)", said)[0])
    assert abs(midpoint - 800) < 60


def test_sweep(tmp_path):
    run = load("09").main(tmp_path, steps=4, sentences=1_000, executor="serial")
    assert run.steps.tolist() == [0, 1, 2, 3, 4]
    assert np.isfinite(run.series(signal="probe", metric="accuracy", label="role", site="final").values).all()


@pytest.mark.slow
def test_stop_and_replay(tmp_path):
    stopped, again = load("10").main(tmp_path / "run", steps=600, sentences=4_000)
    assert 100 <= stopped < 600
    assert again.would_stop is not None
    assert again.would_stop <= stopped


def test_every_example_is_numbered_and_run_here():
    files = sorted(path.name for path in FOLDER.glob("*.py"))
    assert [name[:2] for name in files] == [f"{i:02}" for i in range(1, len(files) + 1)]
    here = Path(__file__).read_text(encoding="utf-8")
    twist = {"11"}  # tests/absynth/test_twist.py
    assert all(f'load("{name[:2]}")' in here or name in here or name[:2] in twist for name in files)
