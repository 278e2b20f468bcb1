"""What has to be known after a resume: the signals' memories, and what tracer, budget and stop rule have decided."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lmtrace.live.budget import Budget
from lmtrace.observe.instrument import Instrument

STOP, TRACER = "stop rule", "tracer"
"""Under which names their states are kept among the memories."""


def remember(instrument: Instrument, stop: Any, budget: Budget, should_stop: bool) -> dict[str, dict[str, np.ndarray]]:
    """Return everything as arrays, so that it lies in the same transaction as the measurement."""
    found = {
        f"{i}.{instrument.signals[i].name}": {k: v.detach().cpu().numpy() for k, v in memory.items()}
        for i, memory in instrument.memories.items()
        if memory
    }
    failures = {str(i): number for i, number in instrument.failures.items() if number}
    spent = budget.state() if budget.share is not None else None
    end = instrument.end_known
    if failures or should_stop or spent or end is not None:
        state = {"failures": failures, "should_stop": should_stop, "budget": spent, "end": end}
        found[TRACER] = _to_bytes(state)
    if hasattr(stop, "state_dict"):
        found[STOP] = _to_bytes(stop.state_dict())
    return found


def recall(saved: Mapping[str, Mapping[str, np.ndarray]], instrument: Instrument, stop: Any, budget: Budget) -> bool:
    """Give back what `remember` returned; return whether training should stop."""
    for i, signal in enumerate(instrument.signals):
        named = saved.get(f"{i}.{signal.name}", {})
        instrument.memories[i] = {k: torch.as_tensor(v).clone() for k, v in named.items()}
    if STOP in saved and hasattr(stop, "load_state_dict"):
        stop.load_state_dict(_from_bytes(saved[STOP]))
    if TRACER not in saved:
        return False
    state = _from_bytes(saved[TRACER])
    instrument.failures.update({int(i): number for i, number in state["failures"].items()})
    if state.get("end") is not None:
        instrument.know_end(state["end"])
    if budget.share is not None and state.get("budget"):
        budget.load(state["budget"], instrument.signals)
    return state["should_stop"]


def _to_bytes(state: Any) -> dict[str, np.ndarray]:
    return {"state": np.frombuffer(json.dumps(state).encode(), np.uint8)}


def _from_bytes(saved: Mapping[str, np.ndarray]) -> Any:
    return json.loads(saved["state"].tobytes().decode())
