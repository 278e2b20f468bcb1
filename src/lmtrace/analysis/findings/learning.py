"""Findings about what was learned: emergence, its order, and gains over a null model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import ndtri

from lmtrace.analysis import emergence as emerging
from lmtrace.analysis.emergence import Emergence, emergence
from lmtrace.analysis.findings.finding import Finding, closed, name_of, say, say_error, say_interval, say_step, say_when
from lmtrace.analysis.findings.frequency import Frequency
from lmtrace.analysis.readings import (
    Readable,
    best_site,
    column,
    direction,
    field_of,
    is_value,
    read,
)
from lmtrace.analysis.trends import (
    NOT_RESOLVED,
    separated,
)
from lmtrace.records.schema import Series, SeriesKey

# -------------------------------------------------------------------------------------------------------------- emergence
FAMILY = 0.05
"""Chance that anything at all is said to have emerged in a run in which nothing does: Holm 1979 over all of its curves."""

_OWN_FINDINGS = ("attention", "cost", "curvature", "dimension", "gradient", "similarity", "weights")
"""Signals whose quantities are expected to go nowhere; other signals without a direction are looked at both ways."""


@dataclass(slots=True)
class _Case:
    """One curve that may have emerged."""

    series: Series
    index: int
    frequency: float | None
    found: Emergence | None = None
    p_value: float = 1.0

    def look(self) -> None:
        """Test the curve for itself, at the level of the whole family."""
        steps, values, stderr, null = column(self.series, self.index)
        self.found = emergence(steps, values, stderr, null=self.against(values, null), false_alarm=FAMILY)
        better = self.series.field.better
        if self.found is not None and better and self.found.direction != better:
            self.found = None
        self.p_value = 1.0 if self.found is None else self.found.p_value

    def against(self, values: np.ndarray, null: np.ndarray | None) -> np.ndarray | None:
        """Return the harder of the null and what word frequencies reach; None where there is neither."""
        if self.frequency is None:
            return null
        reached = np.full(values.size, self.frequency)
        sign = direction(self.series)
        return reached if null is None else sign * np.maximum(sign * null, sign * reached)


def emergence_findings(run: Readable) -> Iterator[tuple[Finding, Emergence | None]]:
    """Describe every curve that should go somewhere, with its emergence where there is one."""
    frequency = Frequency.of(run)
    groups: list[list[_Case]] = []
    for key, sites in _curves(run):
        series = read(run, key)
        cases = [
            _Case(series, site, None if frequency is None else frequency.reaches(series, site))
            for site in sites(series)
            if _long_enough(series, site)
        ]
        groups.append(cases)
    every = [case for cases in groups for case in cases]
    for case in every:
        case.look()
    _holm(every)
    for cases in groups:
        told = [(_tell(case, len(every)), case.found) for case in cases]
        if len(told) > 1:
            best = max(range(len(told)), key=lambda i: direction(cases[i].series) * told[i][0].numbers["final"])
            times = [e.midpoint for _, e in told if e is not None and e.midpoint is not None]
            for i, (finding, e) in enumerate(told):
                finding.numbers["best_site"] = i == best
                finding.numbers["first_site"] = bool(times) and e is not None and e.midpoint == min(times)
        yield from told


def _long_enough(series: Series, site: int) -> bool:
    _, values, stderr, _ = column(series, site)
    return values.size >= (emerging.MIN_POINTS if stderr is None else 2)


def _holm(cases: list[_Case]) -> None:
    """Keep what is an emergence although so many curves were looked at (Holm 1979)."""
    ordered = sorted(cases, key=lambda case: case.p_value)
    for rank, case in enumerate(ordered):
        if case.p_value > FAMILY / (len(ordered) - rank):
            for rest in ordered[rank:]:
                rest.found = None
            return


def _curves(run: Readable) -> Iterator[tuple[SeriesKey, Any]]:
    """Yield the series that are expected to go somewhere, with the choice of sites that are described.

    The first metric of a signal that has a direction is described at every site, its other metrics only where the
    signal has no sites; values of a label ("role=Agent") by their first rising metric, at the best site. A signal none of whose
    fields has a direction, and that is none of those with findings of their own, is looked at both ways.
    """
    headline: dict[str, str] = {}
    by_value: dict[str, str] = {}
    undirected = undirected_signals(run)
    keys = [key for key in run.keys() if field_of(run, key).better or key.signal in undirected]
    for key in keys:
        headline.setdefault(key.signal, key.metric)
    order = {s: [f.metric for f in fields if f.better] for s, fields in run.header.fields.items()}
    for signal, metrics in order.items():
        measured = [m for m in metrics if any(k.signal == signal and k.metric == m for k in keys)]
        if measured:
            headline[signal] = measured[0]
    for key in keys:
        if is_value(key) and field_of(run, key).better == "up":
            by_value.setdefault(key.signal, key.metric)
    for key in keys:
        if is_value(key):
            if by_value.get(key.signal) == key.metric:
                yield key, _at_best
        elif key.metric == headline[key.signal]:
            yield key, lambda series: range(len(series.sites))
        elif read(run, key).sites == (None,):
            yield key, lambda series: range(1)


def undirected_signals(run: Readable) -> set[str]:
    """Return the signals none of whose measured fields has a direction, without those that have findings of their own."""
    directed = {key.signal for key in run.keys() if field_of(run, key).better}
    return {key.signal for key in run.keys()} - directed - set(_OWN_FINDINGS)


def _at_best(series: Series) -> list[int]:
    best = best_site(series)
    return [] if best is None else [best]


def _tell(case: _Case, num_curves: int) -> Finding:
    """Say of one curve whether it emerged, and when."""
    series, found = case.series, case.found
    steps, values, stderr, null = column(series, case.index)
    site, name = series.sites[case.index], name_of(series, series.sites[case.index])
    start, final = float(values[0]), float(values[-1])
    final_error = None if stderr is None else float(stderr[-1])
    nothing = None if null is None else float(null[-1])
    numbers: dict[str, Any] = {"final": final, "stderr": final_error, "start": start, "null": nothing}
    first = "untrained" if steps[0] == 0 else f"at step {say_step(steps[0])}"
    beside = [f"{say(start)} {first}"]
    if nothing is not None:
        beside.append(f"{say(nothing)} with nothing to find")
    if case.frequency is not None:
        numbers["frequency"] = case.frequency
        beside.append(f"{say(case.frequency)} by word frequencies alone")
    ends = f"it ends at {say_error(final, final_error)}, against {' and '.join(beside)}"
    caveats = [] if stderr is not None else ["No standard errors: the scatter of neighbours stands for them."]
    if steps[0] != 0:
        caveats.append(f"The first measurement is at step {say_step(steps[0])}, not at the untrained model.")
    if not series.field.better:
        caveats.append('Its field states no direction (Field(better="up")): it was looked at both ways.')
    if series.key.signal == "output" and case.frequency is None and found is not None and series.key.label is None:
        caveats.append("Word frequencies alone may do as much: no unigram reference was measured (signal ladder).")
    kind, interval = "emergence", None
    if found is None:
        kind = "no emergence"
        few = f"; {values.size} measurements, too few for a time" if values.size < emerging.MIN_POINTS else ""
        sentence = f"{name}: no sign that it emerged; {ends}{few}."
        if case.p_value <= FAMILY:
            caveats.append(
                f"By itself it would look so (p = {say(case.p_value, 2)}), as some of {num_curves} curves do by chance."
            )
    else:
        interval = closed(found.interval)
        numbers |= {
            "onset": found.onset, "onset_after": found.onset_after, "midpoint": found.midpoint,
            "saturation": found.saturation, "p_value": found.p_value, "tenth": found.tenth,
            "saturation_interval": closed(found.saturation_interval), "tenth_interval": closed(found.tenth_interval),
            "verdict": found.verdict, "why": found.why, "direction": found.direction,
            "within_gap": _within_gap(steps, found),
        }  # fmt: skip
        if found.sigmoid is not None:
            numbers |= {"sigmoid_midpoint": found.sigmoid.midpoint, "sigmoid_misfit": found.sigmoid.misfit}
        left = f"it left its null {_say_onset(found)}"
        if found.verdict == emerging.EMERGED:
            sentence = f"{name} emerged: {left}, was half way {_say_half(steps, found)}{_say_done(found)}; {ends}."
        else:
            sentence = (
                f"{name} is clear of {'its null' if null is not None else 'where it began'} and of its first value, "
                f"time not resolved ({found.why}): {left}; {ends}."
            )
        if found.note:
            caveats.append(found.note[0].upper() + found.note[1:] + ".")
    return Finding(
        kind=kind, sentence=sentence, numbers=numbers, interval=interval, series=(series.key,), site=site,
        null=start if nothing is None else nothing, caveats=tuple(caveats),
    )  # fmt: skip


def _within_gap(steps: np.ndarray, found: Emergence) -> bool:
    """Tell whether the half lies between two neighbouring measurements, so that nothing is known of when."""
    low, high = found.interval
    return bool(np.isfinite(high)) and int(((steps > low) & (steps < high)).sum()) == 0


def _say_onset(found: Emergence) -> str:
    after = "" if found.onset_after is None else f" (after {say_step(found.onset_after)})"
    return f"at step {say_step(found.onset)}{after}"


def _say_half(steps: np.ndarray, found: Emergence) -> str:
    if found.midpoint is None:
        return f"before step {say_step(found.interval[1])}"
    if not _within_gap(steps, found):
        return f"{say_when(found.midpoint)} ({say_interval(found.interval)})"
    low, high = found.interval
    return f"before {say_step(high)}" if low == 0 else f"between {say_step(low)} and {say_step(high)}"


def _say_done(found: Emergence) -> str:
    if found.saturation is None:
        return ""
    return f" and 90 % done {say_when(found.saturation)} ({say_interval(found.saturation_interval)})"


# ------------------------------------------------------------------------------------------------- what could not be said
def silence_findings(run: Readable) -> Iterator[Finding]:
    """Say which signals measured nothing, or too little for a finding, and why."""
    for signal in dict.fromkeys(key.signal for key in run.keys()):
        keys = [key for key in run.keys() if key.signal == signal]
        if signal in _OWN_FINDINGS:
            continue
        lengths = {key: _most_values(read(run, key)) for key in keys}
        longest = max(lengths.values())
        if longest == 0:
            reasons = [why for key in keys for why in read(run, key).missing.values()]
            why = reasons[0] if reasons else "no value was recorded"
            yield Finding(
                kind="missing", sentence=f"{signal}: nothing was measured: {why}.".replace("..", "."),
                numbers={"num_values": 0}, series=tuple(keys[:1]),
            )  # fmt: skip
        elif longest == 1 and run.steps.size > 1:
            yield Finding(
                kind="missing", sentence=f"{signal}: 1 measurement, too few to say when anything happened.",
                numbers={"num_values": 1}, series=tuple(keys[:1]),
                caveats=("Its stride may be longer than the run: measure it more often.",),
            )  # fmt: skip


def _most_values(series: Series) -> int:
    return int(np.isfinite(series.values).sum(axis=0).max()) if series.values.size else 0


# ------------------------------------------------------------------------------------------------------------------ order
def order_findings(emerged: list[tuple[Finding, Emergence | None]]) -> Iterator[Finding]:
    """Compare the label layers of one signal at the site where each is best. One run only: other seeds may differ.

    Intervals hold the gap of measurements around each time, so what lies within one gap is never ordered.
    """
    best: dict[tuple[str, str, str | None], dict[str, tuple[Finding, Emergence]]] = {}
    for finding, e in emerged:
        key = finding.series[0]
        if e is None or e.verdict != emerging.EMERGED or e.midpoint is None or key.label is None or is_value(key):
            continue
        if not finding.numbers.get("best_site", True):
            continue
        best.setdefault((key.signal, key.metric, key.split), {})[key.label] = (finding, e)
    for layers in best.values():
        for (one, (f1, e1)), (two, (f2, e2)) in combinations(layers.items(), 2):
            assert e1.midpoint is not None
            assert e2.midpoint is not None
            verdict = separated(e1.interval, e2.interval)
            caveats = [
                "One run: compare seeds before believing an order.",
                "Each layer at the site where it ends best.",
            ]
            numbers = {"first_midpoint": e1.midpoint, "second_midpoint": e2.midpoint}
            if verdict == NOT_RESOLVED:
                sentence = (
                    f"Order of {one} and {two} (half way {say_when(e1.midpoint)} and {say_when(e2.midpoint)}): "
                    "not resolved, their intervals overlap."
                )
            else:
                if verdict == "second":
                    (one, f1, e1), (two, f2, e2) = (two, f2, e2), (one, f1, e1)
                sentence = (
                    f"In this run {one} came before {two}: half way {say_when(e1.midpoint)} "
                    f"({say_interval(e1.interval)}) against {say_step(e2.midpoint)} ({say_interval(e2.interval)})."
                )
            yield Finding(
                kind=NOT_RESOLVED if verdict == NOT_RESOLVED else "order", sentence=sentence, numbers=numbers,
                null="intervals that overlap", series=(f1.series[0], f2.series[0]), caveats=tuple(caveats),
            )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- gains over a null
_GAINS = {
    "gain_over_embed": ("contextual gain", "that the word itself says as much is not excluded"),
    "selectivity": ("selectivity", "that it memorises (control task) is not excluded"),
    "gain_over_start": ("gain over the untrained model", "that the untrained model reads as well is not excluded"),
}


def gain_findings(run: Readable) -> Iterator[Finding]:
    """Say of each difference to a null model, at its best site, whether it is clear of zero.

    At 5 % for all of them together. A gain over step 0 in the lexical split counts beyond what it was while the model knew
    word frequencies only: embeddings hold those, and words of one class are about equally frequent.
    """
    rows = [row for key in run.keys() if key.metric in _GAINS and not is_value(key) if (row := _gain(run, key))]
    num_tests = sum(row[-1] for row in rows)
    frequency = Frequency.of(run)
    for series, value, error, index, num_sites in rows:
        key, site = series.key, series.sites[index]
        kind, otherwise = _GAINS[key.metric]
        reached = (
            frequency.reaches(series, index) if frequency is not None and key.metric == "gain_over_start" else None
        )
        least = 0.0 if reached is None else max(0.0, reached)
        quantile = float(-ndtri(0.025 / num_sites))  # the best of several sites
        low, high = value - quantile * error, value + quantile * error
        clear = value - least > float(-ndtri(0.025 / num_tests)) * error
        what = f"{name_of(series, site)}: {say_error(value, error)} at the end"
        if high < 0:
            otherwise = "it is below zero"
        elif reached is not None and low > 0:
            otherwise = f"{say(least)} came while word frequencies were all that the model knew"
        numbers: dict[str, Any] = {"final": value, "stderr": error, "num_sites": num_sites, "num_tests": num_tests}
        if reached is not None:
            numbers["frequency"] = reached
        yield Finding(
            kind=kind if clear else f"no {kind}",
            sentence=f"{what}, clear of zero." if clear else f"{what}: no {kind}; {otherwise}.",
            numbers=numbers,
            interval=(low, high),
            null=least,
            series=(key,),
            site=site,
            caveats=(f"The best of {num_sites} sites; the interval allows for that.",) if num_sites > 1 else (),
        )


def _gain(run: Readable, key: SeriesKey) -> tuple[Series, float, float, int, int] | None:
    """Return the series, the gain and its error at the best site, the site's index, and how many sites there are."""
    series = read(run, key)
    last = [(column(series, i), i) for i, site in enumerate(series.sites) if site != "embed"]
    known = [(float(c[1][-1]), float(c[2][-1]), i) for c, i in last if c[1].size and c[2] is not None]
    if not known:
        return None
    value, error, index = max(known, key=lambda row: row[0] / max(row[1], 1e-12))
    return series, value, error, index, len(known)
