"""Comparison of runs: seeds of one setting, or settings with paired seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.special import ndtri, stdtrit

from lmtrace.analysis.emergence import MIN_POINTS, Emergence, emergence
from lmtrace.analysis.findings.finding import Finding, closed, name_of, say, say_error, say_step
from lmtrace.analysis.readings import Readable, best_site, column, direction, field_of, is_value, read
from lmtrace.analysis.trends import NOT_RESOLVED, order
from lmtrace.errors import RunError
from lmtrace.records.schema import Series, SeriesKey

_FEW = "Fewer than 5 seeds: enough to look at, not to describe."


def compare(runs: Sequence[Readable], others: Sequence[Readable] | None = None) -> list[Finding]:
    """Compare runs.

    With `others`, run i of the first group is paired with run i of the second (same seed, other setting): differences of the final
    values are taken within pairs. Without, two runs are compared by the standard errors of their own measurements, and three
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
        A difference that is not clear of zero is "not resolved".
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


def _two(run: Readable, other: Readable) -> list[Finding]:
    found: list[Finding] = []
    for key in _shared([run, other]):
        a, b = _final(run, key), _final(other, key)
        if a is None or b is None or a[1] is None or b[1] is None:
            continue
        error = float(np.hypot(a[1], b[1]))
        found.append(_difference(
            key, a[2], b[0] - a[0], float(-ndtri(0.025)) * error, f"{say_error(a[0], a[1])} and {say_error(b[0], b[1])}",
            ("One run each: another seed may differ by more than these errors.",), 1,
        ))  # fmt: skip
    return found


def _paired(runs: Sequence[Readable], others: Sequence[Readable]) -> list[Finding]:
    found: list[Finding] = []
    for key in _shared([*runs, *others]):
        pairs = [(a, b) for a, b in ((_final(r, key), _final(o, key)) for r, o in zip(runs, others)) if a and b]
        if len(pairs) < 2:
            continue
        d = np.array([b[0] - a[0] for a, b in pairs])
        margin = float(stdtrit(d.size - 1, 0.975) * d.std(ddof=1) / np.sqrt(d.size))
        means = f"{say(float(np.mean([a[0] for a, _ in pairs])))} and {say(float(np.mean([b[0] for _, b in pairs])))} on average"
        found.append(
            _difference(key, pairs[0][0][2], float(d.mean()), margin, means, (_FEW,) if d.size < 5 else (), d.size)
        )
    return found


def _difference(
    key: SeriesKey, series: Series, value: float, margin: float, levels: str, caveats: tuple[str, ...], num: int
) -> Finding:
    low, high = value - margin, value + margin
    clear = low > 0 or high < 0
    better = "" if not clear else ", better in the second" if value * direction(series) > 0 else ", better in the first"
    ends = f"{name_of(series)} ends at {levels}: second minus first {say(value)} ({say(low)} to {say(high)})"
    return Finding(
        kind="difference" if clear else NOT_RESOLVED,
        sentence=f"{ends}{better}." if clear else f"{ends}, not resolved.",
        numbers={"difference": value, "num_pairs": num}, interval=(low, high), null=0.0, series=(key,), caveats=caveats,
    )  # fmt: skip


def _seeds(runs: Sequence[Readable]) -> list[Finding]:
    found: list[Finding] = []
    times: dict[SeriesKey, tuple[list[float], list[float]]] = {}
    caveats = (_FEW,) if len(runs) < 5 else ()
    for key in _shared(runs):
        ends = [e for e in (_final(run, key) for run in runs) if e is not None]
        if len(ends) < 2:
            continue
        series = ends[0][2]
        values = np.array([e[0] for e in ends])
        emerged = [_emerged(run, key) for run in runs]
        middles = [e.midpoint if e is not None and e.midpoint is not None else np.nan for e, _ in emerged]
        times[key] = (middles, [gap for _, gap in emerged])
        margin = float(stdtrit(values.size - 1, 0.975) * values.std(ddof=1) / np.sqrt(values.size))
        known = [m for m in middles if np.isfinite(m)]
        when = (
            f"it emerged in {len(known)} of {len(runs)} seeds, half way at {say_step(float(np.median(known)))} (median; "
            f"{say_step(min(known))} to {say_step(max(known))})"
            if known
            else f"it emerged in none of {len(runs)} seeds"
        )
        mean = float(values.mean())
        ends_at = f"{say(mean)} at the end ({say(mean - margin)} to {say(mean + margin)})"
        found.append(Finding(
            kind="seeds",
            sentence=f"{name_of(series)} over {values.size} seeds: {ends_at}; {when}.",
            numbers={
                "mean": mean, "std": float(values.std(ddof=1)), "emerged": len(known), "num_runs": len(runs), "midpoints": middles,
            },
            interval=closed((mean - margin, mean + margin)), series=(key,), caveats=caveats,
        ))  # fmt: skip
    return found + _orders(times, caveats)


def _emerged(run: Readable, key: SeriesKey) -> tuple[Emergence | None, float]:
    """Return the emergence at the best site, and the distance of measurements around its midpoint in log(1 + step)."""
    series = read(run, key)
    index = best_site(series)
    if index is None:
        return None, 0.0
    steps, values, stderr, null = column(series, index)
    if values.size < MIN_POINTS:
        return None, 0.0
    sign = direction(series)
    against = np.full(values.size, values[0]) if null is None else sign * np.maximum(sign * null, sign * values[0])
    found = emergence(steps, values, stderr, null=against)
    if found is None or found.direction != series.field.better or found.midpoint is None:
        return None, 0.0
    after = int(np.clip(np.searchsorted(steps, found.midpoint), 1, steps.size - 1))
    return found, float(np.log1p(steps[after]) - np.log1p(steps[after - 1])) / 2


def _orders(times: dict[SeriesKey, tuple[list[float], list[float]]], caveats: tuple[str, ...]) -> list[Finding]:
    found: list[Finding] = []
    for (one, (a, slack_a)), (two, (b, slack_b)) in combinations(times.items(), 2):
        same = (one.signal, one.metric, one.split) == (two.signal, two.metric, two.split)
        if not same or one.label is None or two.label is None:
            continue
        verdict = order(a, b, grid=np.maximum(slack_a, slack_b))
        names = (one.label, two.label) if verdict.verdict != "second" else (two.label, one.label)
        interval = None if verdict.interval is None else closed(verdict.interval)
        span = "" if verdict.interval is None else f" ({say(verdict.interval[0])} to {say(verdict.interval[1])})"
        ratio = (
            ""
            if verdict.ratio is None
            else f"; {two.label} came {say(verdict.ratio)} times as late as {one.label}{span}"
        )
        resolved = verdict.verdict != NOT_RESOLVED
        found.append(Finding(
            kind="order" if resolved else NOT_RESOLVED,
            sentence=(
                f"{names[0]} came before {names[1]} in {verdict.num_runs} paired seeds{ratio}."
                if resolved
                else f"Order of {one.label} and {two.label} over {verdict.num_runs} paired seeds: not resolved{ratio}."
            ),
            numbers={"ratio": verdict.ratio, "num_runs": verdict.num_runs}, interval=interval, null=1.0, series=(one, two),
            caveats=(*caveats, "A noisier quantity emerges later by construction.", *((verdict.note,) if verdict.note else ())),
        ))  # fmt: skip
    return found
