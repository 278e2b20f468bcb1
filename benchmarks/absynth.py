"""ABSynth: sampling, scoring, files.

Rates are per second of processor time of one process, so that neighbours on the machine do not count.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import absynth

Row = dict[str, str | float]

_STREAM = """
import resource, sys, time
import absynth
start = time.process_time()
absynth.generate_to(sys.argv[1], absynth.Grammar.preset("small"), int(sys.argv[2]), seed=0)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
print(peak, time.process_time() - start)
"""


def _cpu_seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """Return the least processor time of some calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def _limits(grammar: absynth.Grammar, labels: int) -> tuple[float, float]:
    """Return sentences/s if only random numbers were drawn, and if only the label columns were copied."""
    longest = int(grammar.program.length.max())
    stream = np.random.Generator(np.random.Philox(0))
    draw = _cpu_seconds(lambda: stream.random((65_536, 1 + 4 * longest))) / 65_536
    block = np.zeros(2_000_000, np.int32)
    copy = _cpu_seconds(lambda: block.copy()) / len(block)
    mean = float(grammar.program.probability @ grammar.program.length)
    return 1 / draw, 1 / (copy * mean * labels)


def rows() -> list[Row]:
    """Return the measured figures with their bounds."""
    grammar = absynth.Grammar.preset("small")
    absynth.generate(grammar, n=4096)  # compiles the grammar
    n = 200_000

    def sample() -> absynth.Corpus:
        corpus = absynth.generate(grammar, n=n, seed=1)
        for layer in corpus.layer_names:
            corpus.column(layer)
        corpus.head_column()
        return corpus

    sampling = n / _cpu_seconds(sample)
    drawing, copying = _limits(grammar, len(absynth.generate(grammar, n=1).layer_names) + 3)
    part = absynth.generate(grammar, n=40_000, seed=2)
    oracle = absynth.Oracle(grammar)
    oracle.score(part[:1000])
    scoring = len(part) / _cpu_seconds(lambda: oracle.score(part), repeats=2)
    found: list[Row] = [
        {
            "name": "sampling with all labels",
            "value": sampling,
            "unit": "sentences/s",
            "bound": ">= 100000",
            "note": f"{sampling / drawing:.0%} of drawing the random numbers alone ({drawing:,.0f}), "
            f"{sampling / copying:.0%} of copying the columns alone ({copying:,.0f})",
        },
        {
            "name": "exact surprisal and entropy",
            "value": scoring,
            "unit": "sentences/s",
            "bound": ">= 20000",
            "note": "default grammar, one process, tables built; more sentences share more prefixes",
        },
    ]
    with tempfile.TemporaryDirectory() as folder:
        found += _files(grammar, Path(folder))
        found += _streamed(Path(folder))
    found.append(_start_up())
    return found


def _files(grammar: absynth.Grammar, folder: Path) -> list[Row]:
    corpus = absynth.generate(grammar, n=200_000, seed=3)
    path = folder / "c.parquet"
    writing = len(corpus) / _cpu_seconds(lambda: corpus.save(path), repeats=2)
    reading = len(corpus) / _cpu_seconds(lambda: absynth.load(path), repeats=2)
    size = path.stat().st_size / len(corpus)
    score = absynth.Oracle(grammar).score(corpus[:20_000])
    least = float(score.surprisal.sum()) / 20_000 / 8
    found: list[Row] = [
        {
            "name": "Parquet, tokens and all labels",
            "value": size,
            "unit": "bytes/sentence",
            "bound": "<= 60",
            "note": f"{size / least:.1f} times the entropy of a sentence ({least:.1f} bytes)",
        },
        {
            "name": "Parquet, writing",
            "value": writing,
            "unit": "sentences/s",
            "bound": "",
            "note": "all threads counted",
        },
        {
            "name": "Parquet, reading",
            "value": reading,
            "unit": "sentences/s",
            "bound": "",
            "note": "with checks against the grammar",
        },
    ]
    part = corpus[:20_000]
    for suffix in (".jsonl", ".conllu"):
        path = folder / f"c{suffix}"
        rate = len(part) / _cpu_seconds(lambda path=path: part.save(path), repeats=2)
        size = path.stat().st_size / len(part)
        found.append(
            {
                "name": f"{suffix[1:]}, writing",
                "value": rate,
                "unit": "sentences/s",
                "bound": "",
                "note": f"{size:.0f} bytes/sentence",
            }
        )
    return found


def _streamed(folder: Path, wanted: int = 10_000_000, seconds: float = 120.0) -> list[Row]:
    """Stream to Parquet in a process of its own; fewer sentences where the machine would need more than two minutes."""

    def run(n: int) -> tuple[float, float]:
        command = [sys.executable, "-c", _STREAM, str(folder / "s.parquet"), str(n)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        wall = time.perf_counter() - start
        return float(done.stdout.split()[0]), wall

    first = 400_000
    small, wall = run(first)
    n = min(wanted, max(first, int(seconds / wall * first)))
    peak, wall = run(n)
    scaled = "" if n == wanted else f"scaled down from {wanted:,} to keep to two minutes; "
    return [
        {
            "name": f"streamed to Parquet, {n:,} sentences",
            "value": peak,
            "unit": "MiB resident at most",
            "bound": "<= 1024",
            "note": f"{scaled}{small:.0f} MiB at {first:,} sentences; {n / wall:,.0f} sentences/s of wall time",
        }
    ]


def _start_up() -> Row:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def start(code: str) -> float:
        times = []
        for _ in range(5):
            begin = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            end = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime)
        return min(times)

    bare = start("pass")
    compiled = start("import absynth; absynth.Grammar.preset('small').program") - bare
    return {
        "name": "import absynth",
        "value": start("import absynth") - bare,
        "unit": "s",
        "bound": "<= 0.3",
        "note": f"processor time above an empty interpreter; with a grammar compiled {compiled:.2f} s",
    }
