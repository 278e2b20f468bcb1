"""When to measure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from lmtrace.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps at which a measurement is due; step 0 always is.

    Attributes
    ----------
    every
        Distance between measurements in optimizer steps, or 0.
    steps
        Steps besides those.
    per_decade
        Measurements per factor of ten of the step, or 0: dense early, sparse late.
    strides
        Signal -> measured at every n-th due step only (and at step 0, and at the last one where that is known). Signals have
        strides of their own as well, which a mere list of steps overrides: what is listed is measured.
    """

    every: int = 0
    steps: frozenset[int] = frozenset()
    per_decade: int = 0
    strides: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.every < 0 or self.per_decade < 0 or any(s < 0 for s in self.steps):
            raise ConfigError(f"a schedule has no negative steps, got {self}", "Use every=100, or a list of steps")
        if any(stride < 1 for stride in self.strides.values()):
            raise ConfigError(f"strides must be at least 1, got {self.strides}")

    @classmethod
    def of(cls, every: int | Schedule | Iterable[int]) -> Schedule:
        """Return a schedule from an int, a list of steps, or a schedule.

        Raises
        ------
        ConfigError
            For anything else, and for an int below 1.
        """
        if isinstance(every, Schedule):
            return every
        if isinstance(every, (bool, str)) or (isinstance(every, int) and every < 1):
            raise ConfigError(f"every must be a positive int, a list of steps or a Schedule, got {every!r}")
        if isinstance(every, int):
            return cls(every=every)
        return cls(steps=frozenset(int(step) for step in every))

    def due(self, step: int) -> bool:
        """Return whether a measurement is due after this step."""
        if step == 0 or step in self.steps:
            return True
        if self.every and step % self.every == 0:
            return True
        return bool(self.per_decade) and self._bin(step) != self._bin(step - 1)

    def _bin(self, step: int) -> int:
        return -1 if step < 1 else math.floor(self.per_decade * math.log10(step) + 1e-9)

    def stride(self, name: str, own: int) -> int:
        """Return at every how many due steps a signal, whose own stride is `own`, takes part."""
        return self.strides.get(name, own if self.every or self.per_decade else 1)

    def signal_due(self, name: str, own: int, count: int) -> bool:
        """Return whether a signal takes part in the measurement number `count` (0 is that of step 0)."""
        return count % self.stride(name, own) == 0
