"""The same file whatever the chunk, the number of processes and the hash seed; in constant memory."""

import hashlib
import os
import subprocess
import sys

import pytest

import absynth
from absynth.files import scan
from absynth.formats import jsonl, parquet

SUFFIXES = (".parquet", ".jsonl")
N = 10_000


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def grammar():
    return absynth.Grammar.preset("tiny")


@pytest.fixture(scope="module")
def expected(grammar, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    corpus = absynth.generate(grammar, n=N, seed=5)
    for suffix in SUFFIXES:
        corpus.save(folder / f"c{suffix}")
    return {suffix: digest(folder / f"c{suffix}") for suffix in SUFFIXES}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("workers", "chunk"), [(1, 1), (1, 9000), (2, 4096), (4, 4096)])
def test_chunks_and_processes_give_one_file(grammar, expected, tmp_path, suffix, workers, chunk):
    path = tmp_path / f"c{suffix}"
    seen = []
    absynth.generate_to(path, grammar, N, seed=5, workers=workers, chunk=chunk, progress=seen.append)
    assert digest(path) == expected[suffix]
    assert seen == sorted(seen)
    assert seen[-1] == N
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_hash_seed_does_not_matter(expected, tmp_path, hash_seed):
    code = (
        "import absynth, sys; g = absynth.Grammar.preset('tiny')\n"
        f"for s in {SUFFIXES!r}: absynth.generate_to(sys.argv[1] + s, g, {N}, seed=5)"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], check=True, env=environment)
    for suffix in SUFFIXES:
        assert digest(tmp_path / f"c{suffix}") == expected[suffix]


def test_row_groups_do_not_depend_on_chunks(grammar, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS", 1500)
    corpus = absynth.generate(grammar, n=5_000, seed=1)
    corpus.save(tmp_path / "a.parquet")
    absynth.generate_to(tmp_path / "b.parquet", grammar, 5_000, seed=1, chunk=4096)
    assert digest(tmp_path / "a.parquet") == digest(tmp_path / "b.parquet")
    pq = pytest.importorskip("pyarrow.parquet")
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 4
    assert list(absynth.load(tmp_path / "b.parquet")) == list(corpus)
    parts = list(scan(tmp_path / "b.parquet"))
    assert [len(part) for part in parts] == [1500, 1500, 1500, 500]
    imported = absynth.Corpus(corpus.ids, corpus.offsets, corpus.vocabulary, layers={"role": corpus.column("role")})
    imported.save(tmp_path / "i.parquet")
    assert list(absynth.load(tmp_path / "i.parquet")) == list(imported)


def test_scanning_in_parts_is_loading(grammar, tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "PART", 1000)
    corpus = absynth.generate(grammar, n=2500, seed=1)
    corpus.save(tmp_path / "c.jsonl")
    parts = list(scan(tmp_path / "c.jsonl"))
    assert [len(part) for part in parts] == [1000, 1000, 500]
    assert absynth.Corpus.concatenate(parts).fingerprint == corpus.fingerprint


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sentence_k_does_not_depend_on_n(grammar, tmp_path, suffix):
    for n in (0, 1, 100, 5000):
        absynth.generate_to(tmp_path / f"{n}{suffix}", grammar, n, seed=2)
    longest = list(absynth.load(tmp_path / f"5000{suffix}"))
    for n in (0, 1, 100):
        assert list(absynth.load(tmp_path / f"{n}{suffix}")) == longest[:n]


def test_a_failure_leaves_nothing(grammar, tmp_path):
    def stop(done):
        raise RuntimeError("enough")

    path = tmp_path / "c.jsonl"
    with pytest.raises(RuntimeError, match="enough"):
        absynth.generate_to(path, grammar, 9000, progress=stop, chunk=4096)
    with pytest.raises(absynth.AbsynthError, match="workers"):
        absynth.generate_to(path, grammar, 10, workers=0)
    with pytest.raises(absynth.AbsynthError, match="whole number"):
        absynth.generate_to(path, grammar, -1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_n(tmp_path, suffix):
    code = (
        "import absynth, resource, sys; g = absynth.Grammar.preset('small')\n"
        f"absynth.generate_to(sys.argv[1] + '{suffix}', g, int(sys.argv[2]), chunk=16384)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    peaks = []
    for n in (150_000, 600_000):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "c"), str(n)],
            check=True,
            env=environment,
            capture_output=True,
            text=True,
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 120, peaks
    assert peaks[1] < 1024
