"""Comparison of runs: seeds of one setting, or settings with paired seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.special import ndtri, stdtrit

from lmtrace.analysis.emergence import MIN_POINTS, Emergence, emergence
from lmtrace.analysis.findings.finding import (
    Finding,
    closed,
    name_of,
    say,
    say_error,
    say_interval,
    say_step,
    say_when,
)
from lmtrace.analysis.readings import Readable, best_site, column, direction, field_of, is_value, read
from lmtrace.analysis.trends import NOT_RESOLVED, order, separated
from lmtrace.errors import RunError
from lmtrace.records.schema import Series, SeriesKey

_FEW = "Fewer than 5 seeds: enough to look at, not to describe."


def compare(runs: Sequence[Readable], others: Sequence[Readable] | None = None) -> list[Finding]:
    """Compare runs.

    With `others`, run i of the first group is paired with run i of the second (same seed, other setting): differences of the final
    values and of times are taken within pairs. Without, two runs are compared by the standard errors of their own measurements, and three
    or more are seeds of one setting: the spread of their final values and of their midpoints, and the order in which the
    label layers emerged, from differences within each seed.

    Parameters
    ----------
    runs
        Two or more open runs; or one or more with as many `others`.
    others
        The second group.

    Returns
    -------
    list[Finding]
        Differences first, of final values and of times; then what is not clear of zero ("not resolved"). A caveat that holds for
        all stands once, at the first.
    """
    if others is not None:
        if len(others) != len(runs) or not runs:
            raise RunError(f"compare: {len(runs)} runs and {len(others)} others are not pairs", "Give one partner each")
        if len(runs) == 1:
            return _two(runs[0], others[0])
        return _paired(runs, others)
    if len(runs) < 2:
        raise RunError(f"compare needs at least two runs, got {len(runs)}", "Name more run folders")
    return _two(runs[0], runs[1]) if len(runs) == 2 else _seeds(runs)


def _shared(runs: Sequence[Readable]) -> list[SeriesKey]:
    """Return the keys that every run has and that are expected to go somewhere; no single label values."""
    rest = [set(run.keys()) for run in runs[1:]]
    keys = [k for k in runs[0].keys() if all(k in r for r in rest) and not is_value(k)]
    return [k for k in keys if field_of(runs[0], k).better]


def _final(run: Readable, key: SeriesKey) -> tuple[float, float | None, Series, str | None] | None:
    """Return last value, its standard error, the series and the site where it is best."""
    series = read(run, key)
    index = best_site(series)
    if index is None:
        return None
    _, values, stderr, _ = column(series, index)
    return float(values[-1]), None if stderr is None else float(stderr[-1]), series, series.sites[index]


_ONE_EACH = "One run each: another seed may differ by more than these errors."


def _two(run: Readable, other: Readable) -> list[Finding]:
    found: list[Finding] = []
    times = _times([run, other])
    for key in _shared([run, other]):
        a, b = _final(run, key), _final(other, key)
        if a is None or b is None or a[1] is None or b[1] is None:
            continue
        error = float(np.hypot(a[1], b[1]))
        found.append(_difference(
            key, a[2], b[0] - a[0], float(-ndtri(0.025)) * error, f"{say_error(a[0], a[1])} and {say_error(b[0], b[1])}",
            1,
        ))  # fmt: skip
        found += _two_times(key, a[2], *times[key])
    return _arranged(found, (_ONE_EACH,))


def _two_times(key: SeriesKey, series: Series, one: _Time, two: _Time) -> list[Finding]:
    """Compare when a quantity was half way in two runs: ordered only where the intervals are disjoint."""
    if one.found is None and two.found is None:
        return []
    name = name_of(series)
    if one.found is None or two.found is None:
        which = "second" if one.found is None else "first"
        return [Finding(
            kind="difference", sentence=f"{name} emerged in the {which} run only.", numbers={"emerged_in": which},
            null="both or neither", series=(key,),
        )]  # fmt: skip
    verdict = separated(one.found.interval, two.found.interval)
    spans = f"half way {_say_time(one.found)} in the first and {_say_time(two.found)} in the second"
    if verdict == NOT_RESOLVED:
        sentence = f"{name}: {spans}, not resolved."
    else:
        sentence = f"{name} came earlier in the {verdict} run: {spans}."
    return [Finding(
        kind="difference" if verdict != NOT_RESOLVED else NOT_RESOLVED, sentence=sentence,
        numbers={"first_midpoint": one.found.midpoint, "second_midpoint": two.found.midpoint},
        null="intervals that overlap", series=(key,),
    )]  # fmt: skip


def _say_time(found: Emergence) -> str:
    return f"{say_when(found.midpoint)} ({say_interval(found.interval)})" if found.midpoint is not None else f"in {say_interval(found.interval)}"  # fmt: skip


def _arranged(found: list[Finding], caveats: tuple[str, ...]) -> list[Finding]:
    """Return what differs first, then what does not, and every shared caveat once, at the first."""
    clear = [f for f in found if f.kind != NOT_RESOLVED]
    rest = [f for f in found if f.kind == NOT_RESOLVED]
    arranged = [*clear, *rest]
    if arranged and caveats:
        arranged[0] = replace(arranged[0], caveats=(*arranged[0].caveats, *caveats))
    return arranged


def _paired(runs: Sequence[Readable], others: Sequence[Readable]) -> list[Finding]:
    found: list[Finding] = []
    first, second = _times(runs), _times(others)
    for key in _shared([*runs, *others]):
        pairs = [(a, b) for a, b in ((_final(r, key), _final(o, key)) for r, o in zip(runs, others)) if a and b]
        if len(pairs) < 2:
            continue
        d = np.array([b[0] - a[0] for a, b in pairs])
        margin = float(stdtrit(d.size - 1, 0.975) * d.std(ddof=1) / np.sqrt(d.size))
        means = f"{say(float(np.mean([a[0] for a, _ in pairs])))} and {say(float(np.mean([b[0] for _, b in pairs])))} on average"
        found.append(_difference(key, pairs[0][0][2], float(d.mean()), margin, means, d.size))
        found += _paired_times(key, pairs[0][0][2], first[key], second[key])
    return _arranged(found, (_FEW,) if len(runs) < 5 else ())


def _paired_times(key: SeriesKey, series: Series, first: list[_Time], second: list[_Time]) -> list[Finding]:
    """Compare when a quantity was half way under two settings, from differences within pairs of seeds."""
    emerged = [sum(time.found is not None for time in times) for times in (first, second)]
    if not any(emerged):
        return []
    verdict = order(*([time.midpoint for time in times] for times in (first, second)), grid=_slack(first, second))
    name, num = name_of(series), len(first)
    counts = f"emerged in {emerged[0]} of {num} runs of the first setting and {emerged[1]} of the second"
    if verdict.ratio is None or verdict.interval is None:
        sentence = f"{name} {counts}; their times: not resolved ({verdict.note})."
    else:
        span = f"{say(verdict.ratio)} times as late in the second ({say(verdict.interval[0])} to {say(verdict.interval[1])})"
        sentence = f"{name} {counts}; half way {span}"
        sentence += ", not resolved." if verdict.verdict == NOT_RESOLVED else f": earlier in the {verdict.verdict}."
    return [Finding(
        kind=NOT_RESOLVED if verdict.verdict == NOT_RESOLVED else "difference", sentence=sentence,
        numbers={"ratio": verdict.ratio, "num_pairs": verdict.num_runs, "emerged": emerged},
        interval=None if verdict.interval is None else closed(verdict.interval), null=1.0, series=(key,),
    )]  # fmt: skip


def _difference(key: SeriesKey, series: Series, value: float, margin: float, levels: str, num: int) -> Finding:
    low, high = value - margin, value + margin
    clear = low > 0 or high < 0
    better = "" if not clear else ", better in the second" if value * direction(series) > 0 else ", better in the first"
    ends = f"{name_of(series)} ends at {levels}: second minus first {say(value)} ({say(low)} to {say(high)})"
    return Finding(
        kind="difference" if clear else NOT_RESOLVED,
        sentence=f"{ends}{better}." if clear else f"{ends}, not resolved.",
        numbers={"difference": value, "num_pairs": num}, interval=(low, high), null=0.0, series=(key,),
    )  # fmt: skip


def _seeds(runs: Sequence[Readable]) -> list[Finding]:
    found: list[Finding] = []
    times = _times(runs)
    for key in _shared(runs):
        ends = [e for e in (_final(run, key) for run in runs) if e is not None]
        if len(ends) < 2:
            continue
        series = ends[0][2]
        values = np.array([e[0] for e in ends])
        middles = [time.midpoint for time in times[key]]
        emerged = sum(time.found is not None for time in times[key])
        margin = float(stdtrit(values.size - 1, 0.975) * values.std(ddof=1) / np.sqrt(values.size))
        known = [m for m in middles if np.isfinite(m)]
        when = f"it emerged in {emerged or 'none'} of {len(runs)} seeds"
        if known:
            when += (
                f", half way at {say_step(float(np.median(known)))} (median of {len(known)}; "
                f"{say_step(min(known))} to {say_step(max(known))})"
            )
        mean = float(values.mean())
        ends_at = f"{say(mean)} at the end ({say(mean - margin)} to {say(mean + margin)})"
        found.append(Finding(
            kind="seeds",
            sentence=f"{name_of(series)} over {values.size} seeds: {ends_at}; {when}.",
            numbers={
                "mean": mean, "std": float(values.std(ddof=1)), "emerged": emerged, "num_runs": len(runs), "midpoints": middles,
            },
            interval=closed((mean - margin, mean + margin)), series=(key,),
        ))  # fmt: skip
    orders = _orders(times)
    caveats = (_FEW,) if len(runs) < 5 else ()
    if orders:
        caveats = (*caveats, "Times are halves of the way: what is noisier is known less well, not later.")
    return _arranged([*found, *orders], caveats)


@dataclass(frozen=True, slots=True)
class _Time:
    """When a quantity emerged in one run at its best site, and half of the gap of measurements there, in log(1 + step)."""

    found: Emergence | None = None
    slack: float = 0.0

    @property
    def midpoint(self) -> float:
        """Return the half-way step, NaN where it is not known."""
        return np.nan if self.found is None or self.found.midpoint is None else self.found.midpoint


def _times(runs: Sequence[Readable]) -> dict[SeriesKey, list[_Time]]:
    """Return the times of every shared series in every run, at 5 % for all series of a run together."""
    keys = _shared(runs)
    level = 0.05 / max(len(keys), 1)
    return {key: [_time(run, key, level) for run in runs] for key in keys}


def _time(run: Readable, key: SeriesKey, level: float) -> _Time:
    series = read(run, key)
    index = best_site(series)
    if index is None:
        return _Time()
    steps, values, stderr, null = column(series, index)
    if values.size < MIN_POINTS:
        return _Time()
    found = emergence(steps, values, stderr, null=null, false_alarm=level)
    if found is None or found.direction != series.field.better:
        return _Time()
    if found.midpoint is None:
        return _Time(found)
    after = int(np.clip(np.searchsorted(steps, found.midpoint), 1, steps.size - 1))
    return _Time(found, float(np.log1p(steps[after]) - np.log1p(steps[after - 1])) / 2)


def _slack(first: Sequence[_Time], second: Sequence[_Time]) -> np.ndarray:
    """Return per run by how much two times may differ because of the grid of measurements alone."""
    return np.array([a.slack + b.slack for a, b in zip(first, second)])


def _orders(times: dict[SeriesKey, list[_Time]]) -> list[Finding]:
    found: list[Finding] = []
    for (one, first), (two, second) in combinations(times.items(), 2):
        same = (one.signal, one.metric, one.split) == (two.signal, two.metric, two.split)
        if not same or one.label is None or two.label is None:
            continue
        verdict = order([t.midpoint for t in first], [t.midpoint for t in second], grid=_slack(first, second))
        if verdict.ratio is None:
            continue
        names = (one.label, two.label) if verdict.verdict != "second" else (two.label, one.label)
        interval = None if verdict.interval is None else closed(verdict.interval)
        span = "" if verdict.interval is None else f" ({say(verdict.interval[0])} to {say(verdict.interval[1])})"
        ratio = f"; {two.label} came {say(verdict.ratio)} times as late as {one.label}{span}"
        resolved = verdict.verdict != NOT_RESOLVED
        found.append(Finding(
            kind="order" if resolved else NOT_RESOLVED,
            sentence=(
                f"{names[0]} came before {names[1]} in {verdict.num_runs} paired seeds{ratio}."
                if resolved
                else f"Order of {one.label} and {two.label} over {verdict.num_runs} paired seeds: not resolved{ratio}."
            ),
            numbers={"ratio": verdict.ratio, "num_runs": verdict.num_runs}, interval=interval, null=1.0, series=(one, two),
            caveats=(verdict.note,) if verdict.note else (),
        ))  # fmt: skip
    return found
