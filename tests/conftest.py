"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the library is imported; nothing here asks the Hub


# A gate must not change its mind: the same cases every time. HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("gate", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real corpora: LMTRACE_DATA, or ../shared/data beside the repository."""
    named = os.environ.get("LMTRACE_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real corpora: {folder} is not a folder (set LMTRACE_DATA)")
    return folder


SLOW_LIMIT = 2400
"""Seconds: four times the limit of other tests, for those that train or draw much on a machine that is slow or shared."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that are marked slow their own time limit, where they name none."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT))
