"""Examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

SOURCE = Path(__file__).parents[1] / "src"
RUNS = re.compile(r"^\s*>>> (?!.*doctest: \+SKIP)", re.MULTILINE)
"""What is skipped needs a training around it; docs/quickstart.md and examples/ run the same."""
WITH_EXAMPLES = sorted(path for path in SOURCE.rglob("*.py") if RUNS.search(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_examples_run(path):
    module = importlib.import_module(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    failed, tried = doctest.testmod(module, extraglobs={"np": np, "torch": torch})
    assert tried > 0
    assert failed == 0


def test_every_public_formula_has_an_example():
    import lmtrace.functional as F

    functions = [getattr(F, name) for name in F.__all__ if inspect.isfunction(getattr(F, name))]
    assert len(functions) > 10
    assert not [f.__name__ for f in functions if ">>>" not in (f.__doc__ or "")]
