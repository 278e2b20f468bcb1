"""What is read off the runs of `studies.emergence`: curves, events, orders over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from lmtrace.analysis.compression import Compression, compression
from lmtrace.analysis.emergence import Emergence, emergence
from lmtrace.analysis.trends import Order, order
from lmtrace.run import Run, open_run

Curve = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class One:
    """One finished run and what is read off it."""

    condition: str
    seed: int
    run: Run

    def curve(self, signal: str, metric: str, label: str | None = None, split: str | None = None, site: str | None = None) -> Curve:  # fmt: skip
        """Return steps, values, standard errors."""
        series = self.run.series(signal=signal, metric=metric, label=label, split=split)
        column = 0 if site is None else series.sites.index(site)
        error = series.stderr[:, column]
        return series.steps.astype(float), series.values[:, column], error if np.isfinite(error).all() else None

    @cached_property
    def last_block(self) -> str:
        """Return the name of the last block."""
        return [s for s in self.run.series(signal="dimension", metric="two_nn").sites if s and s.startswith("block")][
            -1
        ]

    @cached_property
    def kl_parts(self) -> tuple[Curve, Curve]:
        """Return the structural and the lexical part of the KL from the exact law."""
        steps, kl, _ = self.curve("truth", "kl")
        share = self.curve("truth", "structural_share")[1]
        return (steps, kl * share, None), (steps, kl * (1 - share), None)

    @cached_property
    def pairs(self) -> dict[str, Emergence | None]:
        """Return the emergence of agreement and of selection in minimal pairs, against who knows everything else."""
        return {
            k: emergence(
                *self.curve("pairs", "accuracy", f"kind={k}"), null=max(0.5, self.run.header.data[f"{k} without {k}"])
            )
            for k in ("agreement", "selection")
        }

    @cached_property
    def events(self) -> dict[str, Emergence | None]:
        """Return every emergence that orders are made of."""
        structural, lexical = self.kl_parts
        found = {**self.pairs, "structural KL": emergence(*structural), "lexical KL": emergence(*lexical)}
        for label, split in (("upos", "lexical"), ("role", "sentence")):
            series = self.run.series(signal="probe", metric="accuracy", label=label, split=split)
            column = series.sites.index(self.last_block)
            steps, values, error = self.curve("probe", "accuracy", label, split, self.last_block)
            null = np.maximum(series.null[:, column], values[0])
            spread = None if error is None else np.hypot(error, error[0])
            found[f"probe {label}"] = emergence(steps, values, spread, null=null)
        return found

    @cached_property
    def peaks(self) -> dict[str, Compression | None]:
        """Return rise and fall of the intrinsic dimension at three sites, at 5 % over the three."""
        sites = dict.fromkeys(("embed", "block.0", self.last_block))
        return {
            s: compression(*self.curve("dimension", "two_nn", site=s), false_alarm=0.05 / len(sites)) for s in sites
        }

    def mean(self, values: Curve, low: float, high: float) -> float:
        """Return the mean of a curve over a range of steps."""
        inside = (values[0] >= low) & (values[0] <= high)
        return float(np.nanmean(values[1][inside]))


def load(folder: Path, conditions: Sequence[str]) -> dict[str, list[One]]:
    """Return condition -> finished runs."""
    found: dict[str, list[One]] = {}
    for condition in conditions:
        for path in sorted((folder / condition).glob("*/run.sqlite")):
            run = open_run(path.parent)
            if run.header.status == "finished":
                found.setdefault(condition, []).append(One(condition, int(path.parent.name), run))
    return found


def times(runs: Sequence[One], name: str, which: str = "midpoint") -> tuple[list[float], list[float]]:
    """Return the times of an event and the uncertainty of the grid of measurements there, in log(1 + step)."""
    at, slack = [], []
    for one in runs:
        found = one.events[name]
        value = None if found is None else getattr(found, which)
        steps = one.run.steps.astype(float)
        at.append(np.nan if value is None else float(value))
        after = 1 if value is None else int(np.clip(np.searchsorted(steps, value), 1, steps.size - 1))
        slack.append(float(np.log1p(steps[after]) - np.log1p(steps[after - 1])) / 2)
    return at, slack


def ordered(runs: Sequence[One], first: str, second: str, which: str = "midpoint") -> Order:
    """Return the order of two events from paired differences within seeds."""
    (a, slack_a), (b, slack_b) = times(runs, first, which), times(runs, second, which)
    return order(a, b, grid=np.add(slack_a, slack_b))


def say(found: Order, first: str, second: str) -> str:
    """Return an order in words."""
    if found.ratio is None:
        return f"not resolved ({found.note})"
    span = "" if found.interval is None else f" (95 % interval {found.interval[0]:.2f} to {found.interval[1]:.2f})"
    words = {"first": f"{first} before {second}", "second": f"{second} before {first}"}.get(
        found.verdict, "not resolved"
    )
    return f"{words}; ratio of times {found.ratio:.2f}{span}, {found.num_runs} seeds" + (
        f"; {found.note}" if found.note else ""
    )


def ratio(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios with Student's 95 % interval."""
    logs = np.log(np.asarray(values))
    if logs.size < 2:
        return float(np.exp(logs.mean())), 0.0, np.inf
    margin = float(stdtrit(logs.size - 1, 0.975) * logs.std(ddof=1) / np.sqrt(logs.size))
    return tuple(float(np.exp(v)) for v in (logs.mean(), logs.mean() - margin, logs.mean() + margin))  # pyright: ignore


def span(values: Sequence[float | None]) -> str:
    """Return median and range in words."""
    known = [v for v in values if v is not None and np.isfinite(v)]
    return f"median {np.median(known):.0f}, {min(known):.0f} to {max(known):.0f}" if known else "none"
