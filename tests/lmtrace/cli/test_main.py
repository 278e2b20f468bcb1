"""The command line as a stranger meets it: exit codes, errors of one line, nothing half-written."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys

import pytest

from lmtrace.cli.main import main

SENTENCE = "1\tthe\tthe\tDET\t_\t_\t2\tdet\t_\t_\n2\tdog\tdog\tNOUN\t_\t_\t{head}\troot\t_\t_\n\n"


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder; return (exit code, standard output, lines of standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as exit:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return exit.value.code, out, err.splitlines()

    return run


TINY = (
    "train",
    "--corpus",
    "absynth:tiny",
    "--size",
    "tiny",
    "--steps",
    "2",
    "--run",
    "r",
    "--set",
    "data.sentences=100",
)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nosuch",), "nosuch"),
        (("train", "--nosuch"), "--nosuch"),
        (("train", "--learning-rate", "abc"), "--learning-rate"),
        (("findings",), "RUN"),
        (("replay", "r"), "--stop"),
        (("view", ".", "--port", "99999"), "65535"),
        ((*TINY, "--model", "gpt3"), "gpt2, llama"),
        ((*TINY, "--size", "huge"), "tiny, small"),
        ((*TINY, "--signals", "lihgt"), "light, standard"),
        ((*TINY, "--task", "masked"), "masked"),
        ((*TINY, "--task", "casual"), "'causal'"),
        ((*TINY, "--budget", "3"), "budget = 3.0"),
        ((*TINY, "--every", "0"), "every = 0"),
        ((*TINY, "--corpus", "absynth:smal"), "tiny, small, paper"),
        ((*TINY, "--set", "data.nosuch=3"), "panel_size"),
        ((*TINY, "--set", "scheduler=cosin"), "'cosine'"),
        ((*TINY, "--set", "data"), "name=value"),
        ((*TINY, "--config", "no.toml"), "no.toml: No such file"),
        (("sweep", "x", "--executor", "rey"), "serial, process, ray"),
        (("sweep", "x", "--steps", "a,b"), "--steps 'a,b'"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_one_line_and_code_2(call, tmp_path, arguments, says):
    code, out, err = call(*arguments)
    problems = [line for line in err if line.startswith("lmtrace: ")]
    assert code == 2
    assert not out
    assert len(problems) == 1
    assert err[-1] == problems[0]
    assert says in problems[0]
    assert not list(tmp_path.iterdir())


def _corpus(tmp_path, name, content: bytes):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no sentences"),
        (SENTENCE.format(head=0).rstrip().encode(), "ends within a sentence"),
        (SENTENCE.format(head=0).replace("dog", "d\xff").encode("latin-1"), "not UTF-8"),
        (SENTENCE.format(head=1).encode(), "cycle (1 -> 2 -> 1)"),
    ],
)
def test_a_bad_corpus_is_one_line_and_code_1(call, tmp_path, content, says):
    _corpus(tmp_path, "bad.conllu", content)
    code, _, err = call("train", "--corpus", "bad.conllu", "--run", "r")
    assert code == 1
    assert err[-1].startswith("lmtrace: bad.conllu")
    assert says in err[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["bad.conllu"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "--corpus", "no.conllu", "--run", "r"), "no.conllu"),
        (("analyze", "no"), "no is no folder here"),
        (("analyze", "no/such"), "no/such is no folder here"),
        (("verify", "no"), "no is no folder here"),
        (("sweep", "no", "--signals", "light"), "no is no folder here"),
        ((*TINY, "--set", "data.tokenizer=bpee"), "bpee is neither word, bpe nor a folder here"),
        (("findings", "no"), "no does not exist"),
        (("report", "no"), "no does not exist"),
        (("export", "no"), "no does not exist"),
        (("view", "no"), "no is not a folder"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_a_missing_thing_is_one_line_and_code_1(call, arguments, says):
    code, out, err = call(*arguments)
    assert code == 1
    assert not out
    assert err[-1].startswith("lmtrace: ")
    assert says in err[-1]
    assert ".." not in err[-1]


def test_a_folder_that_cannot_be_made_is_found_before_the_work(call, tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, err = call(*TINY, "--run", "file/run")
    assert code == 1
    assert err[-1].startswith("lmtrace: cannot create a run in file/run: ")
    assert "damaged" not in err[-1]


def test_a_run_that_is_there_is_said_before_the_work_and_kept(call, tmp_path):
    quick = ("--signals", "output", "--set", "batch_size=8", "--set", "data.panel_size=8")
    assert call(*TINY, *quick)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    code, _, err = call(*TINY, *quick)
    assert code == 1
    assert len(err) == 1
    assert err[0].startswith("lmtrace: run folder r already holds a run")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
    # A run is no checkpoint, but it knows where its own lie.
    code, _, err = call("analyze", "r")
    assert code == 1
    assert "r/checkpoints/final" in err[-1]
    for command in (("report", "r"), ("export", "r"), ("findings", "r"), ("signals",), ("doctor",)):
        code, out, _ = call(*command, "--json")
        assert code == 0
        json.loads(out)


def test_without_a_command_the_help_is_shown(call):
    code, out, err = call()
    assert code == 2
    assert "train" in out + "\n".join(err)


def test_every_command_explains_itself_quickly():
    import typer

    from lmtrace.cli.main import app

    names = list(typer.main.get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]
    assert {"demo", "train", "analyze", "report", "view"} <= set(names)
    for name, command in typer.main.get_command(app).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        options = [option for parameter in command.params for option in parameter.opts]
        assert command.help
        assert "--json" in options or name == "view"  # which prints an address and goes on
    for name in ("", "train"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "lmtrace.cli.main", *([name] if name else []), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Time of the processor, which does not depend on the tests that run beside this one.
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
        assert re.search(r"Usage: lmtrace", done.stdout)


def test_advice_names_flags_where_a_function_has_arguments(call, tmp_path):
    from lmtrace.records.schema import RunHeader
    from lmtrace.records.store import RunWriter

    RunWriter.create(tmp_path / "r", RunHeader()).finish()
    code, _, err = call(*TINY)
    assert code == 1
    assert "--overwrite to replace it" in err[0]
    assert "=True" not in err[0]
    code, _, err = call(*TINY, "--task", "masked", "--overwrite")
    assert err[0].endswith("Use --task auto")


def test_a_file_of_unknown_kind_lists_every_kind(call, tmp_path):
    (tmp_path / "x.doc").write_text("a b")
    _, _, err = call("train", "--corpus", "x.doc", "--run", "r")
    assert all(kind in err[-1] for kind in (".conllu", ".jsonl", ".json", ".txt", ".parquet", ".gz"))


def test_replay_lists_the_series_of_a_misspelt_one(call, tmp_path):
    from lmtrace.records.schema import Record, RunHeader
    from lmtrace.records.store import RunWriter

    with RunWriter.create(tmp_path / "r", RunHeader()) as writer:
        for step in range(3):
            known = [Record(step=step, signal="output", metric="loss", value=1.0)]
            writer.write(step, [*known, Record(step=step, signal="probe", metric="accuracy", label="role", value=1.0)])
    code, _, err = call("replay", "r", "--stop", "output.loss probe.acuracy[role]")
    assert code == 2
    assert "nothing that is called probe.acuracy[role]" in err[0]
    assert "probe.accuracy[role]" in err[0]
