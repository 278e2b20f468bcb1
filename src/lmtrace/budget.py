"""How much of the time measuring may take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lmtrace.errors import ConfigError


@dataclass
class Budget:
    """Keeps measuring to a share of the time since the start; a measurement that would pass it is left out.

    Parameters
    ----------
    share
        Largest share of the time, between 0 and 1; None for no limit.

    Raises
    ------
    ConfigError
        For a share outside of that.
    """

    share: float | None = None
    started: float = field(default_factory=time.perf_counter)
    spent: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share < 1:
            raise ConfigError(f"budget is a share of the time between 0 and 1, got {self.share}")

    def start(self) -> None:
        """Start the clock."""
        self.started, self.spent, self.count = time.perf_counter(), 0.0, 0

    def add(self, seconds: float) -> None:
        """Take in the cost of a measurement."""
        self.spent += seconds
        self.count += 1

    def allows(self) -> bool:
        """Return whether one more measurement of the mean cost so far keeps to the share."""
        if self.share is None or self.count == 0:
            return True
        typical = self.spent / self.count
        passed = time.perf_counter() - self.started
        return self.spent + typical <= self.share * (passed + typical)

    def training_time(self) -> float:
        """Return the seconds since the start that were not spent on measuring."""
        return time.perf_counter() - self.started - self.spent
