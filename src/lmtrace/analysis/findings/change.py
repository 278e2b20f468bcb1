"""Findings about how the run changed: phases, compression, curvature, the published combined event."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmtrace.analysis.compression import compression
from lmtrace.analysis.findings.finding import Finding, closed, name_of, say, say_error, say_interval, say_step
from lmtrace.analysis.phases import MIN_POINTS, change_points
from lmtrace.analysis.readings import (
    Readable,
    best_site,
    column,
    is_value,
    keys_of,
    read,
    whole,
)
from lmtrace.analysis.trends import (
    breakpoints,
    combined_event,
)
from lmtrace.records.schema import Series

_FALSE_ALARM = 0.05


# ------------------------------------------------------------------------------------------------------------------ phases
# Continuous ones: what counts right answers jumps where a probability passes another, however smoothly it moves
# (Schaeffer et al. 2023). A refitted probe's accuracy does not.
_PHASED = (
    ("output", "loss"), ("truth", "kl"), ("output", "category_mass"), ("curvature", "lambda_max"),
    ("curvature", "trace"), ("dimension", "two_nn"), ("probe", "accuracy"),
)  # fmt: skip


def known_breaks(run: Readable) -> list[float]:
    """Return the steps at which the learning rate of a run has a kink or a jump."""
    if "learning_rate" not in run.scalar_metrics:
        return []
    return breakpoints(*run.scalars("learning_rate"))


def phase_findings(run: Readable) -> Iterator[Finding]:
    """Look for abrupt changes in the main curves; the false-alarm rate is that of all of them together."""
    curves: list[tuple[Series, int]] = []
    for signal, metric in _PHASED:
        keys = [k for k in keys_of(run, signal, metric) if not is_value(k)]
        for key in keys[:3] if signal == "probe" else keys[:1]:
            series = read(run, key)
            index = len(series.sites) // 2 if signal == "dimension" else best_site(series) or 0
            if np.isfinite(series.values[:, index]).sum() >= MIN_POINTS:
                curves.append((series, index))
    curves = curves[:10]
    breaks = known_breaks(run)
    quiet: list[tuple[Series, int]] = []
    for series, index in curves:
        steps, values, stderr, _ = column(series, index)
        changes = change_points(steps, values, false_alarm=_FALSE_ALARM / len(curves), covariates=breaks)
        if stderr is not None:  # one word of a small test part is a jump where the rest stands still, and no phase
            changes = [c for c in changes if abs(c.size) > 2 * float(np.median(stderr))]
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
            caveats=(
                "Absence of evidence: a small jump in a noisy or sparsely measured curve is not seen, and one below two standard errors is not told.",
            ),
        )


# ------------------------------------------------------------------------------------------------- dimension and curvature
def compression_findings(run: Readable) -> Iterator[Finding]:
    """Say of each site whether its dimension rose and fell."""
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


def curvature_findings(run: Readable) -> Iterator[Finding]:
    """Compare sharpness over the second half of the run with its limit of stability, of the optimizer where it is known."""
    for metric, name in (("preconditioned_edge", "Adam's"), ("edge", "SGD's")):
        series = whole(run, "curvature", metric)
        values = column(series)[1] if series is not None else np.array([])
        if series is None or values.size < 4:  # of fewer than two in the second half nothing can be said
            continue
        late = values[values.size // 2 :]
        mean, error = float(late.mean()), float(late.std(ddof=1) / np.sqrt(late.size))
        low, high = mean - 2 * error, mean + 2 * error
        where = (
            "at the edge of stability"
            if low > 0.8 and high < 1.2
            else "below the edge of stability"
            if high < 1
            else "above the edge of stability"
            if low > 1
            else "where that lies is not resolved"
        )
        yield Finding(
            kind="curvature",
            sentence=f"Over the second half of the run {name} sharpness relative to its limit is {say_error(mean, error)}: {where}.",
            numbers={"mean": mean, "stderr": error, "final": float(values[-1])},
            interval=(low, high), null=1.0, series=(series.key,),
            caveats=(
                "The limit is exact for full-batch training; with small batches sharpness settles below it.",
                f"The limit that it is relative to: {series.field.meaning}",
            ),
        )  # fmt: skip
        return


def massive_findings(run: Readable) -> Iterator[Finding]:
    """Name the dimensions and the token where a few coordinates own the variance."""
    events = run.events("massive") if hasattr(run, "events") else ()  # pyright: ignore[reportAttributeAccessIssue]
    keys = keys_of(run, "dimension", "top_coordinates")
    for event in events[:1] if keys else ():
        yield Finding(
            kind="alert", sentence=event.text, numbers={"step": event.step, **event.data},
            null="all coordinates alike", series=tuple(keys[:1]), site=event.data["site"],
        )  # fmt: skip


def combined_findings(run: Readable) -> Iterator[Finding]:
    """Place the published combined event, with the probability that unrelated curves show it."""
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
