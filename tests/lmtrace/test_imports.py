"""What an import costs: a laptop without torch can read runs, and --help is quick."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import lmtrace", "torch"),
        ("import lmtrace.cli.main", "torch"),
        ("import lmtrace.run, lmtrace.analysis.findings, lmtrace.show.report", "torch"),
        ("import absynth", "torch"),
        ("import absynth", "lmtrace"),
        ("import absynth", "pyarrow"),
    ],
)
def test_light_imports(statement, forbidden):
    code = f"import sys; {statement}; sys.exit({forbidden!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_does_not_import_torch():
    code = (
        "import sys, runpy; sys.argv = ['lmtrace', '--help']\n"
        "try: runpy.run_module('lmtrace.cli.main', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_every_public_name_resolves():
    import lmtrace

    for name in lmtrace.__all__:
        assert getattr(lmtrace, name) is not None
    for name in lmtrace.functional.__all__:
        assert callable(getattr(lmtrace.functional, name))


def test_tracing_draws_nothing_when_it_is_imported():
    """Importing rich draws from Python's global generator: nothing that a training loop imports may import it."""
    code = (
        "import random, sys; random.seed(7); state = random.getstate()\n"
        "import lmtrace.live.tracer, lmtrace.run; from lmtrace.signals import available; available()\n"
        "print(random.getstate() == state, 'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
