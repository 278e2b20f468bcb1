from __future__ import annotations

import pytest

from lmtrace.records.schema import Field, RunHeader


@pytest.fixture
def header() -> RunHeader:
    return RunHeader(
        model={"class": "GPT2LMHeadModel", "sites": ["embed", "block.0", "block.1", "final"]},
        signals={"probe": [{"labels": "role"}]},
        fields={
            "probe": [
                Field(metric="accuracy", title="Probe accuracy", low=0.0, high=1.0, better="up", null="majority")
            ],
            "curvature": [Field(metric="density", title="Spectrum", axis="eigenvalue, density")],
        },
        seeds={"run": 0},
    )
