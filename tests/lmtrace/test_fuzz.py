"""Whatever lies in a file or is typed, every reader either reads it or says in one line what is wrong."""

from __future__ import annotations

import gzip
import json
import lzma
import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmtrace.analysis.stopping import Converged
from lmtrace.cli.settings import merge
from lmtrace.errors import TraceError
from lmtrace.jobs.checkpoints import find_checkpoints
from lmtrace.jobs.data import read_card
from lmtrace.jobs.train import config_of, settings_file
from lmtrace.probing.closed_form import Linear
from lmtrace.probing.kept import load_probes, save_probes
from lmtrace.records.schema import Record, RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run
from lmtrace.text.pairs import read_pairs
from lmtrace.text.readers import read
from lmtrace.text.tokenizer import WordTokenizer

CONLLU = """# sent_id = 1
# text = the dog sees
1\tthe\tthe\tDET\tDT\tDefinite=Def|PronType=Art\t2\tdet\t_\trole=none
2\tdog\tdog\tNOUN\tNN\tNumber=Sing\t3\tnsubj\t_\tSpaceAfter=No
2.1\tx\tx\tX\t_\t_\t_\t_\t3:dep\t_
3-4\tsees it\t_\t_\t_\t_\t_\t_\t_\t_
3\tsees\tsee\tVERB\tVB\t_\t0\troot\t_\t_
4\tit\tit\tPRON\tPRP\t_\t3\tobj\t_\t_

1\ta\ta\tX\t_\t_\t0\troot\t_\t_

"""
JSONL = (
    '{"tokens": ["the", "dog"], "labels": {"role": [null, "Agent"]}, "heads": [2, 0], "deprels": ["det", "root"]}\n' * 3
)
PUBLISHED = json.dumps(
    [{"sentence": "a b", "tokens": ["a", "b"], "semantic_roles": {"a": "Agent"}, "pos": ["X", "Y"], "frame": "f"}]
)
PAIRS = '{"sentence_good": "the dog sees", "sentence_bad": "the dog see", "UID": "agreement"}\n' * 3
TOML = 'model = "gpt2"\nsteps = 3\n[data]\ncorpus = "absynth:tiny"\nsentences = 100\n'
CARD = '{"task": "causal", "step": 3, "data": {"corpus": "absynth:tiny"}}'
WORDS = '{"type": "lmtrace.WordTokenizer", "version": 1, "words": ["a", "b"]}'
DEEP = "[" * 100_000


def config_from(path):
    return config_of(settings_file(path))


READERS = {
    "a.conllu": (read, CONLLU),
    "a.jsonl": (read, JSONL),
    "a.json": (read, PUBLISHED),
    "a.txt": (read, "the dog sees\nit\n"),
    "pairs.jsonl": (read_pairs, PAIRS),
    "run.toml": (config_from, TOML),
    "run.json": (config_from, json.dumps({"model": "gpt2", "steps": 3, "data": {"sentences": 500}})),
    "word_tokenizer.json": (WordTokenizer.load, WORDS),
    "lmtrace.json": (lambda path: read_card(path.parent), CARD),
    "checkpoint-1/trainer_state.json": (
        lambda path: find_checkpoints([path.parent, path.parent.parent]),
        '{"global_step": 3}',
    ),
}


def survives(action, *arguments):
    """Return whether the action succeeded; anything but our own error of one line is a failure of the test."""
    try:
        action(*arguments)
    except TraceError as error:
        assert "\n" not in str(error), str(error)  # noqa: PT017  most arguments raise nothing
        return False
    return True


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut, flip, insert, delete or copy, once or a few times."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        if not data:
            break
        at, kind = chance.randrange(len(data)), chance.randrange(5)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at] = chance.randrange(256)
        elif kind == 2:
            data[at:at] = chance.choice(
                (b"\x00", b"\xff\xfe", b"\n", b"\t", b'"', b"{", b"[", b"-1", b"1e999", b"null", b"9" * 30)
            )
        elif kind == 3:
            del data[at : at + chance.randrange(1, 40)]
        else:
            other = chance.randrange(len(data))
            data[at : at + 20] = data[other : other + 20]
    return bytes(data)


JUNK = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["tokens", "labels", "role", "heads", "deprels", "good", "bad", "words", "data", "steps", "model", "step", "x"]),
            inner, max_size=4,
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
)  # fmt: skip
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", READERS)
@quick
@given(seed=st.integers(0, 2**32), junk=JUNK)
def test_readers_of_files(name, seed, junk, tmp_path_factory):
    action, whole = READERS[name]
    path = tmp_path_factory.mktemp("fuzz") / name
    path.parent.mkdir(exist_ok=True)
    for content in (damaged(whole.encode(), random.Random(seed)), junk):
        path.write_bytes(content)
        survives(action, path)


@pytest.mark.parametrize("name", READERS)
def test_readers_read_what_is_whole_and_refuse_what_never_ends(name, tmp_path):
    action, whole = READERS[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(whole, encoding="utf-8")
    assert survives(action, path)
    path.write_text(DEEP)
    survives(action, path)
    path.unlink()
    path.mkdir()
    survives(action, path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
@quick
@given(seed=st.integers(0, 2**32))
def test_compressed_files(pack, seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / f"a.conllu.{'gz' if pack is gzip.compress else 'xz'}"
    path.write_bytes(damaged(pack(CONLLU.encode()), random.Random(seed)))
    survives(read, path)


@quick
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["converged", "(", ")", "output.loss", ",", "window=", "20", "tolerance=", "1e-3", "0", "-1", "=", "and", "probe.gain", "[role]", "@", "nan", " "]), max_size=12).map("".join)
)  # fmt: skip
def test_stop_rules(text):
    survives(Converged.parse, text)


@quick
@given(
    st.lists(
        st.text(max_size=30) | st.sampled_from(["a=1", "a.b=2", "a.b.c=x", ".=1", "a..b=[", "steps=-1", f"a={DEEP}"]),
        max_size=4,
    )
)
def test_assignments(texts):
    survives(lambda: config_of(merge({"a": {"b": 1}}, {"model": None, "data.seed": 3}, texts)))


# -- the run store ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    with RunWriter.create(folder, RunHeader()) as writer:
        for step in range(30):
            records = [
                Record(step=step, signal="s", metric="m", site=f"block.{i}", value=step + i, n=3) for i in range(4)
            ]
            array = Record(step=step, signal="s", metric="a", array=np.ones(5) * step)
            writer.write_scalars("loss", step, 1.0)
            memory = {"s": {"x": np.ones(3)}}
            writer.write(step, [*records, array], memory=memory, events=[("note", "text", {"a": 1})], tokens_seen=step)
    return folder


def everything(folder):
    """Read all that a run holds."""
    with open_run(folder) as run:
        list(run.records())
        run.events()
        run.series(signal="s", metric="m")
        for name in ("status", "header", "attempts", "tokens_seen", "wall_time"):
            getattr(run, name)
        for metric in run.scalar_metrics:
            run.scalars(metric)
        for step in run.steps.tolist():
            run.array(step, "s", "a")


def go_on(folder):
    with RunWriter.resume(folder, 10) as writer:
        writer.read_memory()
        writer.write(50, [Record(step=50, signal="s", metric="m", value=1.0)])


def copy_of(run: Path, target: Path) -> Path:
    for path in run.rglob("*"):
        if path.is_file():
            (target / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(run)).write_bytes(path.read_bytes())
    return target


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), what=st.sampled_from(["database", "database", "array", "memory", "header"]))
def test_damaged_runs(seed, what, whole_run, tmp_path_factory):
    chance = random.Random(seed)
    folder = copy_of(whole_run, tmp_path_factory.mktemp("run") / "r")
    if what == "header":
        _garble(folder / "run.sqlite", chance)
    else:
        files = (
            [folder / "run.sqlite"]
            if what == "database"
            else sorted(folder.glob("arrays/*" if what == "array" else "memory/*"))
        )
        path = chance.choice(files)
        path.write_bytes(damaged(path.read_bytes(), chance))
    survives(everything, folder)
    survives(go_on, folder)


def _garble(database: Path, chance: random.Random) -> None:
    """Put something else into the header, with SQLite's own means."""
    junk = [
        "",
        "{",
        "[]",
        "null",
        '{"schema_version": 99}',
        '{"status": 3}',
        '{"fields": {"s": [{}]}}',
        "x" * 100,
        DEEP,
        3,
    ]
    db = sqlite3.connect(database)
    db.execute("UPDATE header SET json = ?", (chance.choice(junk),))
    db.commit()
    db.close()


@quick
@given(seed=st.integers(0, 2**32), junk=JUNK)
def test_saved_probes(seed, junk, tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "p.safetensors"
    weight = torch.ones(2, 3, dtype=torch.float64)
    save_probes(path, {"block.0|role|1": Linear(weight, weight[0], 1.0, ("a", "b", "c"))})
    whole = path.read_bytes()
    assert survives(load_probes, path)
    for content in (damaged(whole, random.Random(seed)), junk):
        path.write_bytes(content)
        survives(load_probes, path)
