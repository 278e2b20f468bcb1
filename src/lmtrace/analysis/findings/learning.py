"""Findings about what was learned: emergence, its order, and gains over a null model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import ndtri

from lmtrace.analysis import emergence as emerging
from lmtrace.analysis.emergence import Emergence, emergence
from lmtrace.analysis.findings.finding import Finding, closed, name_of, say, say_error, say_interval, say_step, say_when
from lmtrace.analysis.readings import (
    Readable,
    best_site,
    column,
    direction,
    field_of,
    is_value,
    keys_of,
    read,
)
from lmtrace.analysis.trends import (
    NOT_RESOLVED,
    separated,
)
from lmtrace.records.schema import Series, SeriesKey


# -------------------------------------------------------------------------------------------------------------- emergence
def emergence_findings(run: Readable) -> Iterator[tuple[Finding, Emergence | None]]:
    """Describe every curve that should go somewhere, with its emergence where there is one."""
    for key, sites in _curves(run):
        series = read(run, key)
        beaten = _reference(run, key)
        numbers = [(_emergence_at(series, site, beaten)) for site in sites(series)]
        found = [pair for pair in numbers if pair is not None]
        if len(found) > 1:
            best = max(range(len(found)), key=lambda i: direction(series) * found[i][0].numbers["final"])
            times = [e.midpoint for _, e in found if e is not None and e.midpoint is not None]
            for i, (finding, e) in enumerate(found):
                finding.numbers["best_site"] = i == best
                finding.numbers["first_site"] = bool(times) and e is not None and e.midpoint == min(times)
        yield from found


def _curves(run: Readable) -> Iterator[tuple[SeriesKey, Any]]:
    """Yield the series that are expected to go somewhere, with the choice of sites that are described.

    The first metric of a signal that has a direction is described at every site, its other metrics only where the
    signal has no sites; values of a label ("role=Agent") by their first rising metric, at the best site.
    """
    headline: dict[str, str] = {}
    by_value: dict[str, str] = {}
    keys = [key for key in run.keys() if field_of(run, key).better]
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


def _at_best(series: Series) -> list[int]:
    best = best_site(series)
    return [] if best is None else [best]


def _reference(run: Readable, key: SeriesKey) -> float | None:
    """Return what word frequencies alone reach, for the panel's loss and perplexity; a rung of the ladder for the excess over it.

    A model trained on shuffled words learns how frequent each is, and nothing of the language.
    """
    if key.signal == "ladder" and key.metric == "excess":
        return 0.0
    if key.signal != "output" or key.metric not in ("loss", "perplexity") or key.label is not None:
        return None
    unigram = [k for k in keys_of(run, "ladder", "reference_loss") if k.split == "unigram"]
    values = column(read(run, unigram[0]))[1] if unigram else np.array([])
    if not values.size:
        return None
    return float(values[-1]) if key.metric == "loss" else float(np.exp(values[-1]))


def _emergence_at(series: Series, index: int, beaten: float | None = None) -> tuple[Finding, Emergence | None] | None:
    """Describe one curve against the hardest of its null, its value at step 0, and what a reference reaches (`beaten`)."""
    steps, values, stderr, null = column(series, index)
    if values.size < emerging.MIN_POINTS:
        return None
    site, sign = series.sites[index], direction(series)
    start = float(values[0])
    if beaten is not None:
        null = np.full(values.size, beaten) if null is None else sign * np.maximum(sign * null, sign * beaten)
    against = np.full(values.size, start) if null is None else sign * np.maximum(sign * null, sign * start)
    error = None if stderr is None else np.hypot(stderr, stderr[0])
    found = emergence(steps, values, error, null=against)
    if found is not None and found.direction != series.field.better:
        found = None
    final, final_error = float(values[-1]), None if stderr is None else float(stderr[-1])
    name = name_of(series, site)
    numbers: dict[str, Any] = {
        "final": final,
        "stderr": final_error,
        "start": start,
        "null": None if null is None else float(null[-1]),
    }
    beside = f"{say(start)} untrained"
    if null is not None:
        beside += f" and {say(float(null[-1]))} with nothing to find"
    caveats = [] if stderr is not None else ["No standard errors: the scatter around the fit stands for them."]
    if steps[0] != 0:
        caveats.append(f"The first measurement is at step {say_step(steps[0])}, not at the untrained model.")
    if found is None:
        sentence = f"{name}: nothing emerged; it ends at {say_error(final, final_error)}, against {beside}."
        kind, interval = "no emergence", None
    else:
        numbers |= {
            "onset": found.onset, "onset_after": found.onset_after, "midpoint": found.midpoint,
            "saturation": found.saturation, "p_value": found.p_value,
            "saturation_interval": closed(found.saturation_interval),
        }  # fmt: skip
        sentence = f"{name} emerged: it left its null at step {say_step(found.onset)}"
        if found.onset_after is not None:
            sentence += f" (after {say_step(found.onset_after)})"
        sentence += (
            f", was half way {say_when(found.midpoint)} ({say_interval(found.interval)}) and 90 % done "
            f"{say_when(found.saturation)}; it ends at "
            f"{say_error(final, final_error)}, against {beside}."
        )
        kind, interval = "emergence", closed(found.interval)
        if found.note:
            caveats.append(found.note[0].upper() + found.note[1:] + ".")
    return Finding(
        kind=kind, sentence=sentence, numbers=numbers, interval=interval, series=(series.key,), site=site,
        null=start if null is None else float(null[-1]), caveats=tuple(caveats),
    ), found  # fmt: skip


def order_findings(emerged: list[tuple[Finding, Emergence | None]]) -> Iterator[Finding]:
    """Compare the label layers of one signal at the site where each is best. One run only: other seeds may differ."""
    best: dict[tuple[str, str, str | None], dict[str, tuple[Finding, Emergence]]] = {}
    for finding, e in emerged:
        key = finding.series[0]
        if e is None or e.midpoint is None or key.label is None or is_value(key):
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
    """Say of each difference to a null model, at its best site, whether it is clear of zero."""
    for key in run.keys():
        if key.metric not in _GAINS or is_value(key):
            continue
        kind, otherwise = _GAINS[key.metric]
        series = read(run, key)
        last = [(column(series, i), site) for i, site in enumerate(series.sites) if site != "embed"]
        known = [(c[1][-1], c[2][-1], site) for c, site in last if c[1].size and c[2] is not None]
        if not known:
            continue
        value, error, site = max(known, key=lambda row: row[0] / max(row[1], 1e-12))
        quantile = float(-ndtri(0.025 / len(known)))  # the best of several sites
        low, high = float(value - quantile * error), float(value + quantile * error)
        clear = low > 0
        what = f"{name_of(series, site)}: {say_error(float(value), float(error))} at the end"
        yield Finding(
            kind=kind if clear else f"no {kind}",
            sentence=f"{what}, clear of zero." if clear else f"{what}: no {kind}; {otherwise}.",
            numbers={"final": float(value), "stderr": float(error), "num_sites": len(known)},
            interval=(low, high),
            null=0.0,
            series=(key,),
            site=site,
            caveats=(f"The best of {len(known)} sites; the interval allows for that.",) if len(known) > 1 else (),
        )
