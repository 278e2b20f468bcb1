"""Peers side by side: time, memory and accuracy of the same quantity on the same points, each in a process of its own.

Processor time on one thread. DADApy needs NumPy below 2 and jax, so it is measured only where somebody installed it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
NUM, WIDTH, TRUE_DIMENSION = 10_000, 256, 10
WORDS, FEATURES, CLASSES = 20_000, 256, 12


def _sphere(num: int = NUM) -> np.ndarray:
    """Return points of a sphere of 10 dimensions in 256, rotated."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num, TRUE_DIMENSION + 1))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    turn, _ = np.linalg.qr(rng.standard_normal((WIDTH, TRUE_DIMENSION + 1)))
    return (x @ turn.T).astype(np.float32)


def _labelled(num: int = WORDS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, classes that a noisy linear rule decides, and the sentence of every row."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num, FEATURES)).astype(np.float32)
    scores = x @ rng.standard_normal((FEATURES, CLASSES)) / np.sqrt(FEATURES)
    return x, (scores + 0.3 * rng.standard_normal(scores.shape)).argmax(1), np.arange(num) // 10


def _two_nn(x: np.ndarray) -> float:
    from lmtrace.functional import two_nn

    return float(two_nn(x).value or np.nan)


def _mle(x: np.ndarray) -> float:
    from lmtrace.functional import mle

    return float(mle(x, k=20, average="arithmetic").value or np.nan)


def _skdim_two_nn(x: np.ndarray) -> float:
    import skdim

    return float(skdim.id.TwoNN().fit(x).dimension_)


def _skdim_mle(x: np.ndarray) -> float:
    import skdim

    return float(skdim.id.MLE().fit(x, n_neighbors=20, comb="mean").dimension_)


def _dadapy_two_nn(x: np.ndarray) -> float:
    from dadapy import Data

    return float(Data(x.astype(np.float64), verbose=False).compute_id_2NN()[0])


def _probe(kind: str) -> Callable[[Any], float]:
    def run(data: Any) -> float:
        from lmtrace.functional import linear_probe

        x, y, groups = data
        return float(linear_probe(x, y, groups=groups, kind=kind).accuracy or np.nan)

    return run


def _sklearn_probe(data: Any) -> float:
    from sklearn.linear_model import LogisticRegression

    from lmtrace.probing.splits import sentence_split

    x, y, groups = data
    test = sentence_split(groups, 0)
    return float(LogisticRegression(max_iter=200).fit(x[~test], y[~test]).score(x[test], y[test]))


DIMENSION = f"sphere of dimension {TRUE_DIMENSION}, {NUM:,} x {WIDTH}"
PROBE = f"{WORDS:,} x {FEATURES}, {CLASSES} classes"
PEERS: dict[str, tuple[str, str, Callable[[], Any], Callable[[Any], float], str]] = {
    "TwoNN, lmtrace": ("", DIMENSION, _sphere, _two_nn, "dimension"),
    "TwoNN, scikit-dimension": ("skdim", DIMENSION, _sphere, _skdim_two_nn, "dimension"),
    "TwoNN, DADApy": ("dadapy", DIMENSION, _sphere, _dadapy_two_nn, "dimension"),
    "MLE k = 20, lmtrace": ("", DIMENSION, _sphere, _mle, "dimension"),
    "MLE k = 20, scikit-dimension": ("skdim", DIMENSION, _sphere, _skdim_mle, "dimension"),
    "probe, lmtrace ridge": ("", PROBE, _labelled, _probe("ridge"), "accuracy"),
    "probe, lmtrace logistic": ("", PROBE, _labelled, _probe("logistic"), "accuracy"),
    "probe, scikit-learn": ("sklearn", PROBE, _labelled, _sklearn_probe, "accuracy"),
}
"""Name -> (package, what is measured on, data, action, what it gives)."""


def rows() -> list[dict[str, Any]]:
    """Return seconds of every peer, with its peak memory and its answer in the note."""
    found = []
    for name, (package, setting, _, _, kind) in PEERS.items():
        if package and importlib.util.find_spec(package) is None:
            found.append({"name": name, "value": float("nan"), "unit": "s", "note": f"{package} is not installed"})
            continue
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.peers", name],
            capture_output=True, text=True, env={**os.environ, **ONE_THREAD},
        )  # fmt: skip
        if child.returncode:
            reason = child.stderr.strip().splitlines()[-1] if child.stderr.strip() else f"exit {child.returncode}"
            found.append({"name": name, "value": float("nan"), "unit": "s", "note": reason})
            continue
        told = json.loads(child.stdout.splitlines()[-1])
        note = f"{setting}: {kind} {told['answer']:.3f}, peak {told['mib']:.0f} MiB above the data"
        found.append({"name": name, "value": told["seconds"], "unit": "s", "note": note})
    return found


def _measure(name: str) -> dict[str, float]:
    """Warm up on a small input (imports, compilation), then time one call and read the peak of the memory."""
    _, _, make, action, _ = PEERS[name]
    action(make(1_000))  # type: ignore[call-arg]
    data = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    answer = action(data)
    seconds = time.process_time() - start
    return {
        "seconds": seconds,
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "answer": answer,
    }


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
