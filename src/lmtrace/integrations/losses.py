"""The loss that is trained: what a model returns is believed where the framework's own log says the same."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lmtrace.live.distributed import gather, on_main
from lmtrace.live.tracer import Tracer

AGREEMENT = 2e-5
"""Relative difference of a mean of float32 losses from the framework's running sum that is rounding: thousands of additions."""


class CheckedLosses:
    """The losses that the model returned since the framework's last log, checked against that log.

    Until the first log they are held back. From then on they are recorded as they come while the logs agree; once one does
    not (a `compute_loss` that adds a term, two forwards), the logged means are recorded instead, and an event says so.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.source: Literal["unknown", "model", "log"] = "unknown"
        self._since_log: list[tuple[int, Tensor | None]] = []
        self._released = 0
        """How many of these have been recorded before a log has judged them."""

    def add(self, step: int, loss: Tensor | None) -> Tensor | None:
        """Take in the model's loss of a step; return what can be recorded of it at once."""
        self._since_log.append((step, loss))
        return loss if self.source == "model" else None

    def logged(self, step: int, value: float) -> None:
        """Take in the mean training loss that the framework logs after `step`."""
        held = self._since_log[self._released :]
        since, self._since_log, self._released = self._since_log, [], 0
        if not since:
            return
        mean = self._mean([loss for _, loss in since])
        agrees = mean is not None and (
            not math.isfinite(mean) or math.isclose(mean, value, rel_tol=AGREEMENT, abs_tol=1e-6)
        )
        if agrees:
            if self.source == "unknown":
                self._tell(held)
                self.source = "model"
            elif self.source == "log":
                self.tracer.tell(step, loss=value)
            return
        if mean is not None and self.source != "log":
            self._say(held[0][0] if held and self.source == "unknown" else step + 1, mean, value)
        if self.source != "model" and held:
            self.tracer.tell(step, loss=value)
        if mean is not None:
            self.source = "log"

    def release(self) -> None:
        """Record what no log has judged so far: training ends, or its state is saved and a resume begins after these steps."""
        if self.source == "unknown":
            self._tell(self._since_log[self._released :])
            self._released = len(self._since_log)

    def _tell(self, losses: list[tuple[int, Tensor | None]]) -> None:
        for step, loss in losses:
            self.tracer.tell(step, loss=loss)

    def _say(self, first: int, mean: float, value: float) -> None:
        self.tracer.note(
            "loss",
            f"from step {first} on the loss is the one that the trainer logs ({value:.5g}): what the model returns ({mean:.5g}) is "
            "not what is trained",
            {"logged": value, "returned": mean},
        )

    def _mean(self, losses: list[Tensor | None]) -> float | None:
        """Return the mean over steps and ranks, None where a step has none; the same on every rank."""
        known = [loss for loss in losses if loss is not None]
        mine = (
            float(torch.stack([loss.float() for loss in known]).double().mean()) if len(known) == len(losses) else None
        )
        ranks = gather(mine)

        def over_ranks() -> float | None:
            return None if any(value is None for value in ranks) else math.fsum(ranks) / len(ranks)  # pyright: ignore

        return on_main(over_ranks)
