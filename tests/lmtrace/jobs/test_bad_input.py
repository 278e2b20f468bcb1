"""Bad input through the command line: one line that says what, where and what to do; nothing half-written."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import resource
import shutil
import sys

import numpy as np
import pytest
from torch import nn
from transformers import ByT5Tokenizer

import absynth
import lmtrace
from lmtrace.cli.main import main
from lmtrace.errors import DataError
from lmtrace.live.tracer import Tracer
from lmtrace.run import open_run
from lmtrace.signals.probe import Probe

ROWS = "1\tthe\tthe\tDET\t_\t_\t2\tdet\t_\t_\n2\tdog\tdog\tNOUN\t_\t_\t3\tnsubj\t_\t_\n3\truns\trun\tVERB\t_\t_\t0\troot\t_\t_\n\n"
GOOD = (ROWS * 60).encode()
QUICK = ("--size", "2x32", "--steps", "4", "--signals", "output", "--set", "batch_size=8", "--set", "data.panel_size=8")


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a command in a folder of its own; return (exit code, lines of standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, file_limit: int | None = None) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["lmtrace", *map(str, arguments)])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            if file_limit is not None:  # a disk that is full: files cannot grow past this
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, hard))
            with pytest.raises(SystemExit) as stop:
                main()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return stop.value.code, capsys.readouterr().err.splitlines()

    return run


def noise(size):
    """Return bytes that do not compress, so that a cut lies inside of the stream."""
    return np.random.default_rng(0).bytes(size).hex().encode()


def parquet(folder):
    path = folder / "whole.parquet"
    absynth.generate(absynth.Grammar.preset("tiny"), n=300, seed=0).save(path)
    return path.read_bytes()


def jsonl(folder):
    path = folder / "whole.jsonl"
    absynth.generate(absynth.Grammar.preset("tiny"), n=30, seed=0).save(path)
    return path.read_bytes()


PUBLISHED = json.dumps([{"sentence": "noun1 transitive_verb2", "semantics": ""}] * 40).encode()
CUT = {
    "cut.conllu": lambda folder: GOOD[:-40],
    "cut.conllu.gz": lambda folder: gzip.compress(GOOD + b"# " + noise(9000) + b"\n\n")[:-5000],
    "cut.conllu.xz": lambda folder: lzma.compress(GOOD + b"# " + noise(9000) + b"\n\n")[:-5000],
    "cut.parquet": lambda folder: parquet(folder)[:-2000],
    "cut.json": lambda folder: PUBLISHED[: len(PUBLISHED) // 2],
    "cut.jsonl": lambda folder: jsonl(folder)[:-300],
}


@pytest.mark.parametrize("where", ["--corpus", "--panel"])
@pytest.mark.parametrize("name", list(CUT))
def test_a_truncated_file_is_said_to_be_one(call, tmp_path, name, where):
    (tmp_path / "good.conllu").write_bytes(GOOD)
    (tmp_path / name).write_bytes(CUT[name](tmp_path))
    before = sorted(p.name for p in tmp_path.iterdir())
    files = ("--corpus", name) if where == "--corpus" else ("--corpus", "good.conllu", "--panel", name)
    code, err = call("train", *files, "--run", "r", *QUICK)
    assert code == 1
    assert err[-1].startswith(f"lmtrace: {name}")
    assert any(word in err[-1] for word in ("truncated", "undamaged", "damaged"))
    assert [line for line in err if line.startswith("lmtrace: ")] == [err[-1]]
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_byte_tokenizer_needs_no_offsets(call, tmp_path):
    (tmp_path / "good.conllu").write_bytes(GOOD)
    ByT5Tokenizer().save_pretrained(tmp_path / "slow")
    code, _ = call("train", "--corpus", "good.conllu", "--tokenizer", "slow", "--run", "r", *QUICK)
    assert code == 0
    assert any((tmp_path / "r").iterdir())


@pytest.mark.parametrize(
    ("limit", "match", "measured"),
    [
        (10_000, "cannot create a run in r", None),
        (400_000, "cannot save the checkpoint r/checkpoints/final: .*Free space on this disk", [0, 4]),
        (3_000_000, "cannot train in r: a file could not be written whole. Free space on this disk", [0]),
    ],
)
def test_a_full_disk(call, tmp_path, limit, match, measured):
    """The database needs 225 kB, the weights 2.2 MB, the optimizer of a checkpoint twice as much."""
    arguments = ("train", "--corpus", "absynth:small", "--set", "data.sentences=400", "--run", "r", *QUICK)
    arguments += ("--size", "2x96", "--save-every", "2" if limit == 3_000_000 else "0")
    code, err = call(*arguments, file_limit=limit)
    assert code == 1
    assert [line for line in err if line.startswith("lmtrace: ")] == [err[-1]]
    assert re.search(match, err[-1])
    untrained = tmp_path / "r" / "checkpoints" / "checkpoint-0"  # written whole before the disk was full
    files = [p.name for p in tmp_path.rglob("*") if p.is_file() and p.parent != untrained]
    if measured is None:
        assert list(tmp_path.iterdir()) == []
    else:
        assert sorted(files) == [".writer", "run.sqlite"]
        assert lmtrace.open_run(tmp_path / "r").steps.tolist() == measured, "what was measured is kept"


def test_no_blocks_give_reasons_and_no_layer_leaves_no_run(panel, gpt2, tmp_path):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm = nn.Embedding(50, 8), nn.LSTM(8, 8, batch_first=True)

        def forward(self, ids):
            return self.lstm(self.embed(ids))[0]

    with Tracer(Recurrent(), panel, run=tmp_path / "lstm", signals="output,dimension") as tracer:
        tracer.step()
    run = open_run(tmp_path / "lstm")
    assert all("no blocks found in Recurrent" in r.missing for r in run.records() if r.signal == "dimension")
    assert all("over 8 classes" in r.missing for r in run.records() if r.signal == "output")
    run.close()
    shutil.rmtree(tmp_path / "lstm")
    with pytest.raises(DataError, match=r"no label layer 'sense'. It has: .*role.*upos") as caught:
        Tracer(gpt2, panel, run=tmp_path / "run", signals=[Probe(labels="sense")]).__enter__()
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
