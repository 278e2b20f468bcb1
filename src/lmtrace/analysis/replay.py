"""What a stop rule would have done on a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmtrace.analysis.findings.finding import Finding, closed, say, say_step
from lmtrace.analysis.readings import Readable, column, keys_of, measurements, whole
from lmtrace.analysis.stopping import TRAIN, Converged, Decision, Watch
from lmtrace.errors import ConfigError
from lmtrace.records.schema import SeriesKey
from lmtrace.records.wording import listed


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome.

    Attributes
    ----------
    step
        Where the rule would have stopped training; None where it would not.
    would_stop
        First step at which it fired, also where it only watched or was held back by a gap.
    last
        Last measured step of the run.
    steps_saved
        Steps that would not have been trained; 0 where it would not have stopped.
    loss_given_up
        Panel loss there minus the lowest later one, in nats; None where it would not have stopped or no panel loss is known.
    stderr
        Standard error of `loss_given_up`, as if the two were independent; None where not given.
    decisions, notes
        What the rule said, in order.
    """

    step: int | None
    would_stop: int | None
    last: int
    steps_saved: int
    loss_given_up: float | None
    stderr: float | None
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...]

    def finding(self) -> Finding:
        """Return it as a sentence with its numbers."""
        numbers: dict[str, Any] = {
            "step": self.step, "would_stop": self.would_stop, "last": self.last, "steps_saved": self.steps_saved,
            "loss_given_up": self.loss_given_up, "stderr": self.stderr,
        }  # fmt: skip
        interval = None
        if self.step is not None:
            share = 100 * self.steps_saved / self.last if self.last else 0.0
            sentence = f"The rule would have stopped at step {say_step(self.step)} of {say_step(self.last)}: "
            sentence += f"{share:.0f} % of the steps saved"
            if self.loss_given_up is not None:
                sentence += f", {say(self.loss_given_up)} nats of panel loss given up"
                if self.stderr is not None:
                    margin = 1.96 * self.stderr
                    interval = closed((self.loss_given_up - margin, self.loss_given_up + margin))
            sentence += "."
        elif self.would_stop is not None:
            sentence = f"The rule fired first at step {say_step(self.would_stop)} but would not have stopped: {'; '.join(self.notes)}."
        else:
            sentence = f"The rule would not have stopped within {say_step(self.last)} steps."
        return Finding(
            kind="replay", sentence=sentence, numbers=numbers, interval=interval, null="training to the end",
            series=(SeriesKey("output", "loss"),), caveats=("A later drop of a plateau cannot be foreseen.",),
        )  # fmt: skip


def replay(run: Readable, rule: Converged | str) -> Replay:
    """Feed a finished run to a stop rule, measurement by measurement, as the live run would have.

    Parameters
    ----------
    run
        An open run.
    rule
        A rule (its history is not used and not changed), or its text as in `Converged.parse`.

    Raises
    ------
    ConfigError
        Where the run has no such series.
    """
    rule = Converged.parse(rule) if isinstance(rule, str) else rule.fresh()
    known = set(run.keys())
    lost = [str(w) for w in rule.watch if w.key not in known and w != TRAIN]
    if lost:
        raise ConfigError(
            f"the run measures nothing that is called {', '.join(lost)}", f"Choose from: {_choices(rule.watch, run)}"
        )
    wanted = {w.key for w in rule.watch} | {SeriesKey("output", "loss")}
    keys = [key for key in run.keys() if key in wanted]
    dense = run.scalars("loss") if "loss" in run.scalar_metrics else (np.array([]), np.array([]))
    decisions: list[Decision] = []
    notes: list[str] = []
    done, last = 0, 0
    for step, records in measurements(run, keys):
        end = int(np.searchsorted(dense[0], step, side="right"))
        if end > done:
            rule.scalars("loss", dense[0][done:end].tolist(), dense[1][done:end].tolist())
            done = end
        decision = rule.update(step, records)
        notes += [text for _, text, _ in rule.notes]
        if decision is not None:
            decisions.append(decision)
        last = step
    stop = rule.stopped
    given_up, error = _given_up(run, stop) if stop is not None else (None, None)
    saved = last - stop if stop is not None else 0
    return Replay(stop, rule.would_stop, last, saved, given_up, error, tuple(decisions), tuple(notes))


def _choices(watch: Sequence[Watch], run: Readable) -> str:
    """Return the run's series, those of the signals that were asked for first."""
    asked = {w.signal for w in watch}
    keys = sorted(run.keys(), key=lambda key: key.signal not in asked)
    return listed([str(Watch(key.signal, key.metric, key.label, key.split)) for key in keys])


def _given_up(run: Readable, stop: int) -> tuple[float | None, float | None]:
    if not keys_of(run, "output", "loss"):
        return None, None
    loss = whole(run, "output", "loss")
    if loss is None:
        return None, None
    steps, values, stderr, _ = column(loss)
    before, after = np.flatnonzero(steps <= stop), np.flatnonzero(steps >= stop)
    if not before.size or not after.size:
        return None, None
    here, best = int(before[-1]), int(after[np.argmin(values[after])])
    error = None if stderr is None else float(np.hypot(stderr[here], stderr[best]))
    return float(values[here] - values[best]), error
