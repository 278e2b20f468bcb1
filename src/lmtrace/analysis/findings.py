"""What a run says: every finding with its numbers, its null and its caveats. "Nothing" is a finding too."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import norm

from lmtrace.analysis import emergence as emerging
from lmtrace.analysis.alerts import alerts
from lmtrace.analysis.compression import compression
from lmtrace.analysis.convergence import convergence
from lmtrace.analysis.emergence import Emergence, emergence
from lmtrace.analysis.finding import Finding, closed, name_of, say, say_error, say_interval, say_step
from lmtrace.analysis.phases import MIN_POINTS, change_points
from lmtrace.analysis.readings import (
    Readable,
    best_site,
    column,
    direction,
    field_of,
    floor_of,
    is_value,
    keys_of,
    read,
    whole,
)
from lmtrace.analysis.trends import (
    NOT_RESOLVED,
    between,
    breakpoints,
    combined_event,
    memorisation,
    separated,
)
from lmtrace.records.schema import Series, SeriesKey

_FALSE_ALARM = 0.05


def findings(run: Readable) -> list[Finding]:
    """Return what can be said about a run, verdicts first.

    Parameters
    ----------
    run
        An open run.

    Returns
    -------
    list[Finding]
        Alerts, loss against its floor, emergence and its order, contextual gain, phases, compression, memorisation,
        curvature, convergence. Every finding has at least one series that it rests on.
    """
    found = [*_alerts(run), *_floor(run)]
    emerged = list(_emergences(run))
    found += [finding for finding, _ in emerged]
    found += [*_orders(emerged), *_gains(run), *_phases(run), *_compression(run), *_memorisation(run)]
    found += [*_curvature(run), *_combined(run), *_convergence(run), *_costs(run)]
    return found


# ---------------------------------------------------------------------------------------------------------- alerts, floor
def _alerts(run: Readable) -> Iterator[Finding]:
    for alert in alerts(run):
        yield Finding(
            kind="leak" if alert.kind == "leak" else "alert",
            sentence=alert.text,
            numbers={"step": alert.step, "value": alert.value, "limit": alert.limit},
            null=alert.limit,
            series=(alert.series,),
            site=alert.site,
            caveats=(alert.look_at,),
        )


def _floor(run: Readable) -> Iterator[Finding]:
    loss, floor = whole(run, "output", "loss"), floor_of(run)
    if loss is None or floor is None:
        return
    steps, values, stderr, _ = column(loss)
    if not values.size:
        return
    excess = whole(run, "truth", "excess")
    paired = column(excess) if excess is not None else None
    if paired is not None and paired[1].size:  # the oracle on the same tokens: its noise cancels
        left, error, keys = float(paired[1][-1]), paired[2], (loss.key, excess.key)  # pyright: ignore
        error = float(error[-1]) if error is not None else None
    else:
        last = 0.0 if stderr is None else float(stderr[-1])
        left, error, keys = float(values[-1]) - floor[0], float(np.hypot(last, floor[1])) or None, (loss.key,)
    margin = 1.96 * error if error is not None else None
    share = (values[0] - values[-1]) / (values[0] - floor[0]) if values[0] > floor[0] else None
    sentence = (
        f"The panel's loss went from {say(values[0])} (untrained) to {say(values[-1])} nats at step {say_step(steps[-1])}; "
        f"the exact floor is {say(floor[0])}, so {say_error(left, error)} nats per token are left to learn"
    )
    sentence += f" ({100 * share:.0f} % of the way is done)." if share is not None else "."
    yield Finding(
        kind="floor",
        sentence=sentence,
        numbers={"start": float(values[0]), "final": float(values[-1]), "floor": floor[0], "excess": left, "done": share},
        interval=None if margin is None else (left - margin, left + margin),
        null=floor[0],
        series=keys,
        caveats=() if error is not None else ("No standard error was given.",),
    )


# -------------------------------------------------------------------------------------------------------------- emergence
def _emergences(run: Readable) -> Iterator[tuple[Finding, Emergence | None]]:
    for key, sites in _curves(run):
        series = read(run, key)
        numbers = [(_emergence_at(series, site)) for site in sites(series)]
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


def _emergence_at(series: Series, index: int) -> tuple[Finding, Emergence | None] | None:
    """Describe one curve against the harder of its null and its value at step 0."""
    steps, values, stderr, null = column(series, index)
    if values.size < emerging.MIN_POINTS:
        return None
    site, sign = series.sites[index], direction(series)
    start = float(values[0])
    against = np.full(values.size, start) if null is None else sign * np.maximum(sign * null, sign * start)
    error = None if stderr is None else np.hypot(stderr, stderr[0])
    found = emergence(steps, values, error, null=against)
    if found is not None and found.direction != series.field.better:
        found = None
    final, final_error = float(values[-1]), None if stderr is None else float(stderr[-1])
    name = name_of(series, site)
    numbers: dict[str, Any] = {"final": final, "stderr": final_error, "start": start, "null": None if null is None else float(null[-1])}
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
            f", was half way at {say_step(found.midpoint)} ({say_interval(found.interval)}) and 90 % done "
            f"{'at ' if found.saturation is not None else ''}{say_step(found.saturation)}; it ends at "
            f"{say_error(final, final_error)}, against {beside}."
        )
        kind, interval = "emergence", closed(found.interval)
        if found.note:
            caveats.append(found.note[0].upper() + found.note[1:] + ".")
    return Finding(
        kind=kind, sentence=sentence, numbers=numbers, interval=interval, series=(series.key,), site=site,
        null=start if null is None else float(null[-1]), caveats=tuple(caveats),
    ), found  # fmt: skip


def _orders(emerged: list[tuple[Finding, Emergence | None]]) -> Iterator[Finding]:
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
            assert e1.midpoint is not None and e2.midpoint is not None
            verdict = separated(e1.interval, e2.interval)
            caveats = ["One run: compare seeds before believing an order.", "Each layer at the site where it ends best."]
            numbers = {"first_midpoint": e1.midpoint, "second_midpoint": e2.midpoint}
            if verdict == NOT_RESOLVED:
                sentence = (
                    f"Order of {one} and {two} (half way at {say_step(e1.midpoint)} and {say_step(e2.midpoint)}): "
                    "not resolved, their intervals overlap."
                )
            else:
                if verdict == "second":
                    (one, f1, e1), (two, f2, e2) = (two, f2, e2), (one, f1, e1)
                sentence = (
                    f"In this run {one} came before {two}: half way at {say_step(e1.midpoint)} "
                    f"({say_interval(e1.interval)}) against {say_step(e2.midpoint)} ({say_interval(e2.interval)})."
                )
            yield Finding(
                kind=NOT_RESOLVED if verdict == NOT_RESOLVED else "order", sentence=sentence, numbers=numbers,
                null="intervals that overlap", series=(f1.series[0], f2.series[0]), caveats=tuple(caveats),
            )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- gains over a null
_GAINS = {
    "gain_over_embed": ("contextual gain", "no more can be read from context than from the word itself"),
    "selectivity": ("selectivity", "the probe reads no more than it can memorise (control task)"),
    "gain_over_start": ("gain over the untrained model", "the untrained model reads as well"),
}


def _gains(run: Readable) -> Iterator[Finding]:
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
        quantile = float(norm.isf(0.025 / len(known)))  # the best of several sites
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


# ------------------------------------------------------------------------------------------------------------------ phases
_PHASED = (
    ("output", "loss"), ("truth", "kl"), ("output", "category_accuracy"), ("curvature", "lambda_max"),
    ("curvature", "trace"), ("dimension", "two_nn"), ("probe", "accuracy"),
)  # fmt: skip


def known_breaks(run: Readable) -> list[float]:
    """Return the steps at which the learning rate of a run has a kink or a jump."""
    if "learning_rate" not in run.scalar_metrics:
        return []
    return breakpoints(*run.scalars("learning_rate"))


def _phases(run: Readable) -> Iterator[Finding]:
    curves: list[tuple[Series, int]] = []
    for signal, metric in _PHASED:
        keys = [k for k in keys_of(run, signal, metric) if not is_value(k)]
        for key in keys[:3] if signal == "probe" else keys[:1]:
            series = read(run, key)
            if signal == "dimension":
                index = len(series.sites) // 2
            else:
                index = best_site(series) or 0
            if np.isfinite(series.values[:, index]).sum() >= MIN_POINTS:
                curves.append((series, index))
    curves = curves[:10]
    breaks = known_breaks(run)
    quiet: list[tuple[Series, int]] = []
    for series, index in curves:
        steps, values, _, _ = column(series, index)
        changes = change_points(steps, values, false_alarm=_FALSE_ALARM / len(curves), covariates=breaks)
        name = name_of(series, series.sites[index])
        if not changes:
            quiet.append((series, index))
        for change in changes:
            yield Finding(
                kind="phase",
                sentence=(
                    f"{name} changed abruptly between steps {say_interval(change.interval)}, by {say(change.size)}: more "
                    f"than a smooth trend with the same noise does (p = {say(change.p_value, 2)})."
                ),
                numbers={"step": change.step, "size": change.size, "p_value": change.p_value},
                interval=closed(change.interval),
                null="smooth trend + AR(1) noise",
                series=(series.key,),
                site=series.sites[index],
                caveats=(f"{len(curves)} curves were searched; together they give a false alarm in 5 % of runs.",),
            )
    if quiet:
        names = "; ".join(name_of(s, s.sites[i]) for s, i in quiet)
        known = f" beyond the known breaks of the learning rate ({', '.join(map(say_step, breaks))})" if breaks else ""
        yield Finding(
            kind="no transition",
            sentence=f"No transition{known}: a smooth trend with autocorrelated noise explains {names}.",
            numbers={"num_curves": len(quiet)},
            null="smooth trend + AR(1) noise",
            series=tuple(s.key for s, _ in quiet),
            caveats=("Absence of evidence: a small jump in a noisy or sparsely measured curve is not seen.",),
        )


# ------------------------------------------------------------------------------------------------- dimension and curvature
def _compression(run: Readable) -> Iterator[Finding]:
    for key in keys_of(run, "dimension"):
        series = read(run, key)
        if series.field.unit != "dimensions" or key.metric not in ("two_nn", "participation_ratio"):
            continue
        for index, site in enumerate(series.sites):
            steps, values, stderr, _ = column(series, index)
            if values.size < 8:
                continue
            found = compression(steps, values, stderr, false_alarm=_FALSE_ALARM / len(series.sites))
            name = name_of(series, site)
            if found is None:
                yield Finding(
                    kind="no compression",
                    sentence=f"{name}: no rise and fall beyond noise (from {say(values[0])} to {say(values[-1])}).",
                    numbers={"start": float(values[0]), "final": float(values[-1])},
                    null="monotone curve + AR(1) noise", series=(key,), site=site,
                )  # fmt: skip
                continue
            yield Finding(
                kind="compression",
                sentence=(
                    f"{name} rose by {say(found.rise)} to {say(found.level)} at step {say_step(found.peak)} "
                    f"({say_interval(found.interval)}) and then fell by {say(found.fall)} (p = {say(found.p_value, 2)})."
                ),
                numbers={"peak": found.peak, "level": found.level, "rise": found.rise, "fall": found.fall, "p_value": found.p_value},
                interval=closed(found.interval), null="monotone curve + AR(1) noise", series=(key,), site=site,
                caveats=("Estimates above about 20 dimensions are lower bounds.",) if found.level > 20 else (),
            )  # fmt: skip


def _curvature(run: Readable) -> Iterator[Finding]:
    for metric, name in (("preconditioned_edge", "Adam's"), ("edge", "gradient descent's")):
        series = whole(run, "curvature", metric)
        values = column(series)[1] if series is not None else np.array([])
        if series is None or values.size < 4:
            continue
        late = values[values.size // 2 :]
        mean, error = float(late.mean()), float(late.std(ddof=1) / np.sqrt(late.size))
        at = abs(mean - 1) < 0.1 + 2 * error
        where = "at the edge of stability" if at else "below the edge of stability" if mean < 1 else "above the edge of stability"
        yield Finding(
            kind="curvature",
            sentence=f"Over the second half of the run {name} sharpness relative to its limit is {say_error(mean, error)}: {where}.",
            numbers={"mean": mean, "stderr": error, "final": float(values[-1])},
            interval=(mean - 2 * error, mean + 2 * error), null=1.0, series=(series.key,),
            caveats=("The limit is exact for full-batch training; with small batches sharpness settles below it.",),
        )  # fmt: skip
        return


def _combined(run: Readable) -> Iterator[Finding]:
    curvature, dimension = whole(run, "curvature", "trace"), whole(run, "dimension", "two_nn")
    if curvature is None or dimension is None:
        return
    steps, first, second = np.intersect1d(curvature.steps, dimension.steps, return_indices=True)
    index = len(dimension.sites) // 2
    falling, rising = curvature.values[first, 0], dimension.values[second, index]
    keep = np.isfinite(falling) & np.isfinite(rising)
    if keep.sum() < 5:
        return
    found = combined_event(steps[keep], falling[keep], rising[keep])
    text = "does not occur" if found.step is None else f"is at step {say_step(found.step)}"
    yield Finding(
        kind="descriptor",
        sentence=(
            f"The published event, falling curvature meeting rising dimension after min-max scaling, {text}; unrelated "
            f"curves cross with probability {say(found.p_value, 2)}, so it is no evidence of anything."
        ),
        numbers={"step": found.step, "p_value": found.p_value},
        null="two unrelated curves, one falling and one rising",
        series=(curvature.key, dimension.key),
        site=dimension.sites[index],
        caveats=("A descriptor of the published work, never evidence.",),
    )


# ------------------------------------------------------------------------------------------- memorisation and convergence
def _memorisation(run: Readable) -> Iterator[Finding]:
    loss = whole(run, "output", "loss")
    if loss is None or "loss" not in run.scalar_metrics:
        return
    steps, values, stderr, _ = column(loss)
    train = between(steps, *run.scalars("loss"))
    keep = np.isfinite(train)
    if keep.sum() < emerging.MIN_POINTS:
        return
    error = None if stderr is None else stderr[keep]
    found = memorisation(steps[keep], train[keep], values[keep], error)
    gap = float(values[keep][-1] - train[keep][-1])
    caveats = ("The train loss is the mean over the batches between two measurements, so early on it lags behind.",)
    if found is None:
        yield Finding(
            kind="no memorisation",
            sentence=f"Train and panel loss do not drift apart beyond noise (panel minus train at the end: {say(gap)} nats).",
            numbers={"gap": gap}, null=0.0, series=(loss.key,), caveats=caveats,
        )  # fmt: skip
        return
    more = " and the panel's loss rises again" if found.panel_rises else ""
    yield Finding(
        kind="memorisation",
        sentence=f"Memorisation: from step {say_step(found.onset)} the panel's loss stays above the train loss{more}; the gap ends at {say(gap)} nats.",
        numbers={"onset": found.onset, "gap": gap, "panel_rises": found.panel_rises},
        interval=closed(found.emergence.interval), null=0.0, series=(loss.key,), caveats=caveats,
    )  # fmt: skip


def _convergence(run: Readable) -> Iterator[Finding]:
    loss = whole(run, "output", "loss")
    if loss is None:
        return
    steps, values, _, _ = column(loss)
    if values.size < 8:
        return
    window = max(5, min(20, values.size // 4))
    span = float(steps[-1] - steps[-window])
    tolerance = max(0.01 * float(np.ptp(values)), 1e-12) / span
    found = convergence(steps, values, window=window, tolerance=tolerance)
    assert found.slope is not None and found.interval is not None
    per = 1000.0
    slope = f"{say(found.slope * per)} nats per 1,000 steps ({say(found.interval[0] * per)} to {say(found.interval[1] * per)})"
    yield Finding(
        kind="convergence" if found.converged else "not converged",
        sentence=(
            f"The panel's loss has converged since step {say_step(found.step)}: its slope is {slope}."
            if found.converged
            else f"The panel's loss has not converged: its slope over the last {window} measurements is {slope}."
        ),
        numbers={"step": found.step, "slope": found.slope, "window": window, "tolerance": tolerance},
        interval=found.interval,
        null=f"less than 1 % of the whole change over {window} measurements",
        series=(loss.key,),
        caveats=("A plateau is not the end where train and panel loss differ: late generalisation is possible.",),
    )


def _costs(run: Readable) -> Iterator[Finding]:
    keys = keys_of(run, "cost", "seconds")
    totals = {k.label or "all": float(np.nansum(read(run, k).values)) for k in keys}
    if not totals:
        return
    worst = sorted(totals, key=lambda name: -totals[name])[:3]
    total = sum(totals.values())
    share = next((column(read(run, k))[1] for k in keys_of(run, "cost", "share")), np.array([]))
    text = f", {100 * share[-1]:.1f} % of the time" if share.size else ""
    yield Finding(
        kind="cost",
        sentence=f"Measuring took {say(total)} s{text}; most of it {', '.join(f'{w} ({say(totals[w])} s)' for w in worst)}.",
        numbers={"seconds": total, **{f"seconds.{w}": totals[w] for w in totals}},
        series=tuple(keys),
    )
