"""Old import paths give the modules under their new names; the public face is the one of the first round."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from unittest import mock

import pytest

import absynth
import lmtrace
from lmtrace.aliases import ALIASES, AliasFinder, install

PUBLIC = {
    "lmtrace": {
        "Converged", "Field", "LightningCallback", "Needs", "Panel", "Record", "Schedule", "Signal", "TraceCallback", "TraceError",
        "Tracer", "WordTokenizer", "__version__", "analyze", "functional", "inspect", "kept_probes", "open_run", "plan", "sweep",
        "verify",
    },
    "lmtrace.functional": {
        "ChangePoint", "Codelength", "Convergence", "Density", "Emergence", "Estimate", "Gride", "OnlineChange", "ProbeResult",
        "Spectrum", "anisotropy", "change_points", "codelength", "convergence", "effective_rank", "emergence", "gride",
        "hessian_density", "hessian_spectrum", "hessian_trace", "linear_cka", "linear_probe", "load_probes",
        "minimal_pair_accuracy", "mle", "online_changes", "participation_ratio", "pca_dimension", "save_probes",
        "transfer_matrix", "two_nn", "two_nn_ml",
    },
    "absynth": {
        "AbsynthError", "Construction", "Corpus", "Frame", "Grammar", "Oracle", "Sentence", "Zipf", "describe", "generate",
        "generate_to", "load", "minimal_pairs", "plot", "stream",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_those_of_the_first_round(name):
    module = importlib.import_module(name)
    assert set(module.__all__) == PUBLIC[name]
    for public in PUBLIC[name]:
        assert getattr(module, public) is not None


@pytest.mark.parametrize(("old", "new"), ALIASES.items())
def test_an_old_name_is_the_same_module(old, new):
    found = importlib.import_module(old)
    assert found is importlib.import_module(new)
    assert found.__name__ == found.__spec__.name == new
    room, _, name = old.rpartition(".")
    assert getattr(importlib.import_module(room), name) is found


def test_what_was_documented_imports_as_it_was_written():
    from lmtrace.records.run import Run, open_run
    from lmtrace.schedule import Schedule
    from lmtrace.tracer import Tracer

    assert (Tracer, Schedule, open_run) == (lmtrace.Tracer, lmtrace.Schedule, lmtrace.open_run)
    assert pickle.loads(pickle.dumps(Run)) is Run


def test_a_patch_under_the_old_name_holds_under_the_new_one():
    from lmtrace.live import tracer

    with mock.patch("lmtrace.tracer.DRAIN_EVERY", 3):
        assert tracer.DRAIN_EVERY == 3
    assert tracer.DRAIN_EVERY != 3


def test_the_finder_is_there_once_and_costs_nothing():
    install()
    assert sum(isinstance(finder, AliasFinder) for finder in sys.meta_path) == 1
    code = "import sys, lmtrace; from lmtrace.aliases import ALIASES; print(any(new in sys.modules for new in ALIASES.values()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    with pytest.raises(ModuleNotFoundError, match="lmtrace.nowhere"):
        importlib.import_module("lmtrace.nowhere")


def test_absynth_is_one_package():
    assert absynth.__version__ == lmtrace.__version__
