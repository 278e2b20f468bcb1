"""How much of the time measuring may take, and how the tracer keeps to it.

Time is credit. Every second of the run adds `share` seconds of it, shared out over the accounts of the signals, one account per
stride, in proportion to what they would spend if nothing held them back; a measurement is paid from its account. So all
intervals are stretched by the same factor, the ratios between the signals stay what was asked for, and what one account
cannot use goes to the others. Step 0 is on credit, and every account holds back what its last measurement will cost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lmtrace.errors import ConfigError
from lmtrace.observe.interface import Signal

MAX_STRETCH = 4.0
"""Intervals may grow by this factor before samples are made smaller."""

SETTLED = 2
"""Measurements before a sample may shrink: the first one also pays for what is done once (splits, references)."""

CULPRIT = 0.2
"""A signal's sample shrinks only where it takes at least this share of measuring."""


@dataclass
class Account:
    """Credit of the signals of one stride, in seconds.

    Attributes
    ----------
    cost
        What one of their measurements takes: a running mean in which the first ones soon count little.
    balance
        Credit; negative as long as step 0 is not paid off.
    owed
        They were due and could not be paid.
    count
        Measurements that the mean is over.
    """

    cost: float = 0.0
    balance: float = 0.0
    owed: bool = False
    count: int = 0

    def pay(self, cost: float) -> None:
        """Take in what a measurement took."""
        self.count += 1
        self.cost += max(0.1, 2 / (self.count + 1)) * (cost - self.cost)
        self.balance -= cost
        self.owed = False


@dataclass
class Budget:
    """Keeps measuring to a share of the time since the start; without a share, everything that is due is allowed.

    Parameters
    ----------
    share
        Largest share of the time, between 0 and 1; None for no limit.

    Attributes
    ----------
    spent
        Seconds of measuring so far.
    count
        Measurements since the start.
    dues
        Due steps so far, step 0 not counted; some were left out.
    sizes
        Position of a signal -> its sample sizes, where they have shrunk.

    Raises
    ------
    ConfigError
        For a share outside of that.
    """

    share: float | None = None
    started: float = field(default_factory=time.perf_counter)
    spent: float = 0.0
    count: int = 0
    dues: int = 0
    accounts: dict[int, Account] = field(default_factory=dict)
    sizes: dict[int, dict[str, int]] = field(default_factory=dict)
    _poured: float = 0.0
    _asked: int = 0
    _told: float = 1.0

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share < 1:
            raise ConfigError(f"budget is a share of the time between 0 and 1, got {self.share}")

    def start(self) -> None:
        """Start the clock; what is owed from before a resume stays."""
        self.started, self.spent, self.count, self._asked = time.perf_counter(), 0.0, 0, 0
        self._poured = self.started

    def training_time(self) -> float:
        """Return the seconds since the start that were not spent on measuring."""
        return time.perf_counter() - self.started - self.spent

    def choose(self, strides: Sequence[int], due: Sequence[bool]) -> list[int]:
        """Return which signals are measured at a due step: those that are due, or were and could not be paid.

        Parameters
        ----------
        strides
            Of every signal; those of one stride are measured together.
        due
            Whether each is due by its stride.
        """
        if self.share is None:
            return [i for i, now in enumerate(due) if now]
        self._asked += 1
        self.dues += 1
        for stride, now in zip(strides, due, strict=True):
            self.accounts.setdefault(stride, Account()).owed |= now
        self._pour(self.share)
        # Pays for this measurement, and keeps what the last one takes.
        ready = {s for s, a in self.accounts.items() if a.owed and a.balance >= 2 * a.cost}
        most_frequent = min(self.accounts, default=1)
        if most_frequent not in ready and self.accounts[most_frequent].owed:
            return []  # the others wait for it, so that one pass serves all
        return [i for i, stride in enumerate(strides) if stride in ready]

    def _pour(self, share: float) -> None:
        now = time.perf_counter()
        income, self._poured = share * max(0.0, now - self._poured), now
        while income > 0.0:
            open_ = {s: a for s, a in self.accounts.items() if a.balance < 4 * a.cost}
            total = sum(a.cost / s for s, a in open_.items())
            if not total:
                return
            rest = 0.0
            for stride, account in open_.items():
                part = income * (account.cost / stride) / total
                taken = min(part, 4 * account.cost - account.balance)
                account.balance += taken
                rest += part - taken
            income = rest if rest > 1e-12 * income else 0.0

    def add(self, seconds: float, parts: Mapping[int, float], strides: Sequence[int]) -> None:
        """Take in the cost of a measurement.

        Parameters
        ----------
        seconds
            Wall time of the whole.
        parts
            Position of every signal that took part -> its seconds; where signals ran side by side their sum may be
            more than the whole. What is in no part (the shared pass, writing) falls to the smallest stride.
        """
        self.spent += seconds
        self.count += 1
        taking_part = {strides[i] for i in parts}
        if not taking_part:
            return
        paid = dict.fromkeys(taking_part, 0.0)
        scale = min(1.0, seconds / max(sum(parts.values()), 1e-12))
        for i, part in parts.items():
            paid[strides[i]] += part * scale
        paid[min(taking_part)] += max(0.0, seconds - sum(paid.values()))
        for stride, cost in paid.items():
            self.accounts.setdefault(stride, Account()).pay(cost)

    def owes(self, stride: int) -> bool:
        """Return whether the signals of a stride were due and left out."""
        return stride in self.accounts and self.accounts[stride].owed

    @property
    def wanted(self) -> float:
        """Return the seconds of measuring per due step, were everything measured when it is due."""
        return sum(account.cost / stride for stride, account in self.accounts.items())

    @property
    def stretch(self) -> float:
        """Return by which factor intervals have to be longer than asked for, so that the share is kept; at least 1."""
        training = self.training_time()
        if self.share is None or not self._asked or training <= 0.0:
            return 1.0
        # At the intervals asked for, what lies between two due steps is training.
        return max(1.0, self.wanted * (1 - self.share) / (self.share * training / self._asked))

    def adapt(
        self, step: int, signals: list[Signal], spent: dict[int, float], strides: Sequence[int]
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """Make a sample smaller where stretching alone goes too far; return what is to be recorded as events.

        Parameters
        ----------
        step
            Of the measurement that begins.
        signals
            Changed in place.
        spent
            Position of a signal -> seconds of its last measurement, which is forgotten where its sample shrinks.
        strides
            Of every signal.
        """
        if self.share is None or self.count < SETTLED:
            return []
        found: list[tuple[str, str, dict[str, Any]]] = []
        stretch, reason = self.stretch, f"to keep to {100 * self.share:g} % of the time"
        if abs(math.log(stretch / self._told)) >= math.log(1.5):
            self._told = stretch
            text = f"{reason}, intervals are {stretch:.2g} times as long as asked for"
            found.append(("budget", text, {"share": self.share, "stretch": stretch, "spent": self.spent}))
        costs = {i: seconds / strides[i] for i, seconds in spent.items() if smaller(signals[i]) is not None}
        largest = max(costs, key=lambda i: costs[i], default=None)
        if largest is not None and stretch > MAX_STRETCH and costs[largest] >= CULPRIT * self.wanted:
            before = signals[largest]
            after = signals[largest] = smaller(before) or before
            self.sizes[largest] = sizes_of(after)
            del spent[largest]
            changes = [f"{k} = {v} instead of {getattr(before, k)}" for k, v in sizes_of(after).items()]
            text = f"{reason}, {before.name} is measured with {' and '.join(changes)} from step {step} on"
            data = {"signal": before.name, "before": sizes_of(before), "after": sizes_of(after), "stretch": stretch}
            found.append(("budget", text, data))
        return found

    def state(self) -> dict[str, Any]:
        """Return what a resume has to know, as plain data."""
        accounts = {str(s): [a.cost, a.balance, a.owed, a.count] for s, a in self.accounts.items()}
        sizes = {str(i): dict(found) for i, found in self.sizes.items()}
        return {"accounts": accounts, "sizes": sizes, "dues": self.dues, "told": self._told}

    def load(self, state: Mapping[str, Any], signals: list[Signal]) -> None:
        """Take up what `state` gave; samples that had shrunk are small again."""
        self.accounts = {int(s): Account(*values) for s, values in state["accounts"].items()}
        self.sizes = {int(i): dict(found) for i, found in state["sizes"].items()}
        self.dues, self._told = int(state["dues"]), float(state["told"])
        for i, found in self.sizes.items():
            signals[i] = replace(signals[i], **found)


def smaller(signal: Signal) -> Signal | None:
    """Return the signal with its sample sizes halved, as far as it allows (`Signal.shrinks`); None where it does not."""
    sizes = {
        name: max(least, getattr(signal, name) // 2)
        for name, least in signal.shrinks.items()
        if getattr(signal, name) > least
    }
    return replace(signal, **sizes) if sizes else None


def sizes_of(signal: Signal) -> dict[str, int]:
    """Return the sample sizes that `smaller` may change."""
    return {name: getattr(signal, name) for name in signal.shrinks}
