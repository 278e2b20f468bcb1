"""The stop rule: training has converged when the curves that it watches have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from lmtrace.analysis.convergence import FLAT_SHARE, check_window, judge
from lmtrace.errors import ConfigError
from lmtrace.records.schema import Record, SeriesKey


class StopRule(Protocol):
    """Decides, from the records so far, whether training has converged, as `Converged` does."""

    def update(self, step: int, records: Sequence[Record]) -> Any:
        """Take in one measurement; return a decision (with `.reason`) at which training should stop, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Watch:
    """One curve that a stop rule watches: a series at one site.

    Attributes
    ----------
    signal, metric, label, split, site
        As in `Record`; the train loss is ("train", "loss").
    """

    signal: str
    metric: str
    label: str | None = None
    split: str | None = None
    site: str | None = None

    @classmethod
    def parse(cls, text: str) -> Watch:
        """Read "signal.metric[label,split]@site"; the parts in brackets and the site may be left out."""
        match = re.fullmatch(r"(\w+)\.(\w+)(?:\[([^,\]]*)(?:,([^\]]*))?\])?(?:@(.+))?", text.strip())
        if match is None:
            raise ConfigError(f"Converged: cannot read the series {text!r}", "Write signal.metric[label,split]@site")
        signal, metric, label, split, site = match.groups()
        return cls(signal, metric, label or None, split or None, site)

    @property
    def key(self) -> SeriesKey:
        """Return the key of its series."""
        return SeriesKey(self.signal, self.metric, self.label, self.split)

    def sees(self, record: Record) -> bool:
        """Tell whether a record belongs to it."""
        return (self.signal, self.metric, self.label, self.split, self.site) == (
            record.signal, record.metric, record.label, record.split, record.site,
        )  # fmt: skip

    def __str__(self) -> str:
        label = (
            ""
            if self.label is None and self.split is None
            else f"[{self.label or ''}" + (f",{self.split}]" if self.split is not None else "]")
        )
        return f"{self.signal}.{self.metric}{label}" + (f"@{self.site}" if self.site is not None else "")


@dataclass(frozen=True, slots=True)
class Decision:
    """A stop rule has fired.

    Attributes
    ----------
    step
        At which measurement.
    stop
        Whether training should stop (False: only watching, or held back by a gap between train and panel loss).
    reason
        A sentence.
    numbers
        Slopes, and the gap where it is known.
    """

    step: int
    stop: bool
    reason: str
    numbers: dict[str, float]


_PANEL = Watch("output", "loss")
TRAIN = Watch("train", "loss")
MAY_GENERALISE = "train and panel loss differ: it may still generalise"


@dataclass
class _History:
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, step: int, value: float, window: int) -> None:
        self.steps, self.values = [*self.steps, step][-window:], [*self.values, value][-window:]
        self.low, self.high = min(self.low, value), max(self.high, value)


class Converged:
    """Stop rule: training has converged when the watched curves have.

    Deterministic and fed by measurements only, so that a live run, a resumed run and `replay` decide the same at every step.

    Parameters
    ----------
    *watch
        Curves as `Watch` or text ("output.loss", "probe.accuracy[role]@final"); default the panel's loss.
    window, tolerance
        As in `convergence`.
    combine
        "all", "any", or how many of the curves must have converged.
    patience
        Number of measurements in a row at which that must hold.
    watch_only
        Never stop; only record where it would have stopped.
    gap
        Panel loss minus train loss, as a share of the panel loss, from which a plateau is not trusted: networks that have
        memorised may generalise much later (grokking; Power et al. 2022). A gap below 1 % of the panel loss's whole change is none.
    on_gap
        "warn": note it and go on; "stop": stop, and say so.
    """

    def __init__(
        self,
        *watch: Watch | str,
        window: int = 20,
        tolerance: float | None = None,
        combine: Literal["all", "any"] | int = "all",
        patience: int = 1,
        watch_only: bool = False,
        gap: float = 0.1,
        on_gap: Literal["warn", "stop"] = "warn",
    ) -> None:
        check_window(window, tolerance, "Converged")
        self.watch = tuple(w if isinstance(w, Watch) else Watch.parse(w) for w in watch) or (_PANEL,)
        if combine not in ("all", "any") and not (isinstance(combine, int) and 1 <= combine <= len(self.watch)):
            raise ConfigError(
                f"Converged: combine is {combine!r}", f"Give all, any, or a number from 1 to {len(self.watch)}"
            )
        if patience < 1 or gap <= 0 or on_gap not in ("warn", "stop"):
            raise ConfigError(
                f"Converged: patience {patience}, gap {gap}, on_gap {on_gap!r}",
                'Patience must be 1 or more, gap positive, on_gap "warn" or "stop"',
            )
        self.window, self.tolerance, self.combine, self.patience = window, tolerance, combine, patience
        self.watch_only, self.gap, self.on_gap = watch_only, gap, on_gap
        self.would_stop: int | None = None
        self.stopped: int | None = None
        self.notes: list[tuple[str, str, dict[str, Any]]] = []
        self._histories = {w: _History() for w in dict.fromkeys((*self.watch, _PANEL, TRAIN))}
        self._train: list[float] = []
        self._held = 0
        self._held_back = False
        self._last = -1
        self._converged = dict.fromkeys(self.watch, False)
        self._slopes: dict[str, float] = {}

    @classmethod
    def parse(cls, text: str) -> Converged:
        """Read a rule from words: "output.loss probe.accuracy[role]@final window=30 combine=any patience=2"."""
        readers = {
            "window": int, "tolerance": float, "patience": int, "gap": float, "on_gap": str,
            "combine": lambda v: int(v) if v.isdigit() else v,
        }  # fmt: skip
        watch, settings = [], {}
        for word in text.split():
            name, equals, value = word.partition("=")
            if not equals or "[" in name:
                watch.append(word)
            elif name not in readers:
                raise ConfigError(f"Converged: no setting {name!r}", f"Choose from: {', '.join(readers)}")
            else:
                try:
                    settings[name] = readers[name](value)
                except ValueError:
                    raise ConfigError(f"Converged: {name} cannot be {value!r}", "Give a number") from None
        return cls(*watch, **settings)

    def settings(self) -> dict[str, Any]:
        """Return the rule as plain data."""
        names = ("window", "tolerance", "combine", "patience", "watch_only", "gap", "on_gap")
        return {"watch": [str(w) for w in self.watch], **{name: getattr(self, name) for name in names}}

    def fresh(self) -> Converged:
        """Return the same rule without its history."""
        settings = self.settings()
        return Converged(*self.watch, **{k: v for k, v in settings.items() if k != "watch"})

    def scalars(self, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
        """Take in dense training scalars, before the measurement that follows them; only "loss" is used."""
        if name == "loss":
            self._train += [float(v) for v in values if np.isfinite(v)]

    def update(self, step: int, records: Iterable[Record]) -> Decision | None:
        """Take in one measurement; return the decision where the rule fires, once, otherwise None.

        Parameters
        ----------
        step
            Of the measurement; steps must rise.
        records
            All records of the measurement.

        Raises
        ------
        ConfigError
            Where the first measurement has no record of a watched curve.
        """
        if step <= self._last:
            raise ConfigError(f"Converged: step {step} after step {self._last}", "Call load_state_dict on resume")
        records = list(records)
        self._demand(records)
        self._last, self.notes = step, []
        readings = [(w, r.value) for r in records if r.value is not None for w in self._histories if w.sees(r)]
        if self._train:
            readings.append((TRAIN, float(np.mean(self._train))))
            self._train = []
        changed = False
        for w, value in readings:
            self._histories[w].add(step, float(value), self.window)
            if w in self._converged:
                changed = True
                self._judge(w)
        if not changed or self.stopped is not None:
            return None
        num = sum(self._converged.values())
        needed = {"all": len(self.watch), "any": 1}.get(self.combine, self.combine)  # pyright: ignore
        self._held = self._held + 1 if num >= needed else 0
        return self._fire(step) if self._held >= self.patience else None

    def _demand(self, records: Sequence[Record]) -> None:
        if self._last >= 0:
            return
        names = {str(Watch(r.signal, r.metric, r.label, r.split, r.site)) for r in records}
        lost = [str(w) for w in self.watch if w != TRAIN and str(w) not in names]
        if lost:
            raise ConfigError(
                f"Converged: nothing measured at the first step is called {', '.join(lost)}",
                f"Choose from: {', '.join(sorted(names)[:12])}" + (" ..." if len(names) > 12 else ""),
            )

    def _judge(self, w: Watch) -> None:
        history = self._histories[w]
        if len(history.values) < self.window:
            return
        x, y = np.asarray(history.steps, np.float64), np.asarray(history.values)
        self._converged[w], slope, _, _ = judge(x, y, self.tolerance, history.high - history.low)
        self._slopes[str(w)] = slope

    def _fire(self, step: int) -> Decision | None:
        gap = self._gap()
        numbers = {f"slope {name}": slope for name, slope in self._slopes.items()}
        names = ", ".join(str(w) for w, yes in self._converged.items() if yes)
        reason = f"converged at step {step}: {names} within tolerance over {self.window} measurements"
        if gap is not None:
            numbers["gap"] = gap
            reason = f"plateau at step {step} ({names}) while {MAY_GENERALISE} (panel minus train: {gap:.3g} nats)"
        elif not self._histories[TRAIN].values and TRAIN not in self.watch:
            reason += "; the train loss is not known, so late generalisation cannot be ruled out"
        first = self.would_stop is None
        self.would_stop = step if first else self.would_stop
        held_back = gap is not None and self.on_gap == "warn"
        decision = Decision(step, not (held_back or self.watch_only), reason, numbers)
        if held_back:
            if not self._held_back:  # once: the plateau may come and go with the noise
                self.notes.append(("warning", f"not stopped: {reason}", {"step": step, **numbers}))
            self._held_back = True
            return None
        if self.watch_only:
            if not first:
                return None
            self.notes.append(("stop", f"would stop: {reason}", {"step": step, **numbers}))
            return decision
        self.stopped = step
        self.notes.append(("stop", reason, {"step": step, **numbers}))
        return decision

    def _gap(self) -> float | None:
        """Return panel minus train loss over the window where it is beyond noise and larger than `gap` allows.

        A gap below 1 % of the panel loss's whole change counts as closed: once a network has generalised both losses are near
        zero, and their ratio says nothing.
        """
        history = self._histories[_PANEL]
        train, panel = self._histories[TRAIN].values, history.values
        if len(train) < 3 or len(panel) < 3:
            return None
        a, b = np.asarray(train), np.asarray(panel)
        gap = float(b.mean() - a.mean())
        noise = float(np.hypot(a.std(ddof=1) / np.sqrt(a.size), b.std(ddof=1) / np.sqrt(b.size)))
        least = max(self.gap * abs(float(b.mean())), FLAT_SHARE * (history.high - history.low))
        return gap if gap > 3 * noise and gap > least else None

    # -- resume ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resume needs, as plain JSON data."""
        return {
            "settings": self.settings(),
            "histories": {
                str(w): {"steps": h.steps, "values": h.values, "range": [h.low, h.high] if h.values else None}
                for w, h in self._histories.items()
            },
            "train": self._train, "held": self._held, "held_back": self._held_back, "last": self._last,
            "converged": {str(w): yes for w, yes in self._converged.items()}, "slopes": self._slopes,
            "would_stop": self.would_stop, "stopped": self.stopped,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises
        ------
        ConfigError
            Where the state is of a rule with other settings.
        """
        mine = {k: v for k, v in self.settings().items() if k != "watch_only"}
        theirs = {k: v for k, v in state["settings"].items() if k != "watch_only"}
        if mine != theirs:
            different = ", ".join(k for k in mine if mine[k] != theirs.get(k))
            raise ConfigError(
                f"Converged: the saved state has other settings: {different}", "Resume with the same rule"
            )
        for w, history in self._histories.items():
            saved = state["histories"][str(w)]
            low, high = saved["range"] or (float("inf"), float("-inf"))
            history.steps, history.values, history.low, history.high = (
                list(saved["steps"]),
                list(saved["values"]),
                low,
                high,
            )
        self._converged = {w: bool(state["converged"][str(w)]) for w in self.watch}
        self._train, self._slopes = list(state["train"]), dict(state["slopes"])
        self._held, self._held_back, self._last = state["held"], state["held_back"], state["last"]
        self.would_stop, self.stopped = state["would_stop"], state["stopped"]
