"""What sits beside a live run: a stop rule, and the alarms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lmtrace.analysis.alerts import Alarms, Alert
from lmtrace.analysis.stopping import Converged, Decision
from lmtrace.records.schema import Record


class Watcher:
    """Alerts while training, with or without a stop rule: `Tracer(..., stop=Watcher(Converged(...)))`.

    Alerts are written into the run as events of kind "alert" when they ring; they are those that `alerts` finds afterwards.

    Parameters
    ----------
    stop
        A rule, or None to watch only.
    alarms
        Default those of `Alarms`; give it the floor of the loss where that is known.

    Attributes
    ----------
    notes
        Events of the last measurement: (kind, text, data).
    rung
        Every alert so far.
    """

    def __init__(self, stop: Converged | None = None, alarms: Alarms | None = None) -> None:
        self.stop, self.alarms = stop, alarms or Alarms()
        self.notes: list[tuple[str, str, dict[str, Any]]] = []
        self.rung: list[Alert] = []
        self._waiting: list[Alert] = []

    def scalars(self, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
        """Take in dense training scalars, before the measurement that follows them."""
        if self.stop is not None:
            self.stop.scalars(name, steps, values)
        self._waiting += self.alarms.scalars(name, steps, values)

    def update(self, step: int, records: Iterable[Record]) -> Decision | None:
        """Take in one measurement; return the stop rule's decision."""
        records = list(records)
        found, self._waiting = [*self._waiting, *self.alarms.update(step, records)], []
        decision = None if self.stop is None else self.stop.update(step, records)
        self.rung += found
        self.notes = [] if self.stop is None else list(self.stop.notes)
        self.notes += [
            ("alert", alert.text, {
                "kind": alert.kind, "step": alert.step, "value": str(alert.value), "look_at": alert.look_at, "site": alert.site,
            })
            for alert in found
        ]  # fmt: skip
        return decision

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, as plain JSON data."""
        return {
            "stop": None if self.stop is None else self.stop.state_dict(),
            "alarms": self.alarms.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        if self.stop is not None and state["stop"] is not None:
            self.stop.load_state_dict(state["stop"])
        self.alarms.load_state_dict(state["alarms"])
