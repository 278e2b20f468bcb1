"""Pairs and suites that a command names as files."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from lmtrace.cli.main import main
from lmtrace.errors import DataError
from lmtrace.jobs.pair_files import with_files
from lmtrace.run import open_run
from lmtrace.signals.pairs import Pairs
from lmtrace.signals.suites import Suites

FORMATS = Path(__file__).parents[2] / "data" / "formats"
CORPUS = "1\tboats\tboat\tNOUN\t_\t_\t2\tnsubj\t_\t_\n2\tsink\tsink\tVERB\t_\t_\t0\troot\t_\t_\n\n" * 40


def test_files_are_read_at_once_and_given_to_the_signals():
    pairs, suite = str(FORMATS / "agreement.jsonl"), str(FORMATS / "suite.json")
    assert with_files("standard", None, None) == "standard"
    chosen = with_files("output,pairs", pairs, suite)
    assert [signal.name for signal in chosen] == ["output", "pairs", "suites"]
    assert [s.pairs for s in chosen if isinstance(s, Pairs)] == [pairs]
    assert [s.suites for s in chosen if isinstance(s, Suites)] == [suite]
    with pytest.raises(DataError, match="cannot be opened"):
        with_files("output", "nowhere.jsonl", None)
    with pytest.raises(DataError, match="a suite of SyntaxGym"):
        with_files("output", suite, None)


def test_train_and_analyze_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.conllu").write_text(CORPUS)
    shutil.copy(FORMATS / "agreement.jsonl", tmp_path / "p.jsonl")
    shutil.copy(FORMATS / "suite.json", tmp_path / "s.json")
    files = ("--pairs", "p.jsonl", "--suites", "s.json", "--signals", "output")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lmtrace", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code

    assert call("train", "--corpus", "c.conllu", "--run", "r", "--size", "1x32", "--steps", "2", "--set", "batch_size=4",
                "--tokenizer", "bpe", *files) == 0  # fmt: skip
    checkpoint = str(next((tmp_path / "r").rglob("config.json")).parent)
    assert call("analyze", checkpoint, "--panel", "c.conllu", "--run", "a", *files) == 0
    capsys.readouterr()
    for run in ("r", "a"):
        opened = open_run(tmp_path / run)
        for signal, label in (("pairs", "kind=person"), ("suites", "suite=agreement_pp")):
            series = opened.series(signal=signal, metric="accuracy", label=label)
            assert len(series.values) >= 1
            assert all(value in (0.0, 0.5, 1.0) for value in series.values.ravel())
    (tmp_path / "s.json").write_text(json.dumps({"meta": {}}))
    assert call("analyze", checkpoint, "--panel", "c.conllu", "--run", "b", *files) == 1
    assert "s.json: not a suite of SyntaxGym" in capsys.readouterr().err
