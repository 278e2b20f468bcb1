"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the library is imported; nothing here asks the Hub


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real corpora: LMTRACE_DATA, or ../shared/data beside the repository."""
    named = os.environ.get("LMTRACE_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real corpora: {folder} is not a folder (set LMTRACE_DATA)")
    return folder
