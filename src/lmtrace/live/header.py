"""Who measured what, with which versions, on which machine: the header of a run."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lmtrace.observe.instrument import Instrument
from lmtrace.records.schema import RunHeader

PACKAGES = ("lmtrace", "torch", "numpy", "scipy", "transformers", "accelerate", "safetensors")


def run_header(name: str, instrument: Instrument, *, data: Mapping[str, Any], settings: Mapping[str, Any]) -> RunHeader:
    """Return the header of a run that starts now."""
    signals: dict[str, list[dict[str, Any]]] = {}
    for signal in instrument.signals:
        signals.setdefault(signal.name, []).append(signal.parameters())
    truth = instrument.panel.truth
    known = dict(data)
    if truth is not None and "floor_nats" not in known:
        floor = truth.floor_over(instrument.panel.averaged)
        known["floor_nats"], known["floor_stderr"] = floor.value, floor.stderr
    return RunHeader(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=instrument.describe(),
        panel=instrument.panel.describe(),
        data=known,
        signals=signals,
        fields=instrument.fields,
        versions={p: v for p in PACKAGES if (v := _version(p))} | {"python": platform.python_version()},
        hardware={
            "machine": platform.machine(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
        seeds={"signals": instrument.seed},
        settings=dict(settings),
        command=" ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]]),
        commit=_commit(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """Return the commit of the working directory, or nothing where there is none."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
