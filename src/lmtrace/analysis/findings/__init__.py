"""What a run says: every finding with its numbers, its null and its caveats. "Nothing" is a finding too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmtrace.analysis import emergence as emerging
from lmtrace.analysis.alerts import alerts
from lmtrace.analysis.convergence import convergence
from lmtrace.analysis.findings.change import (
    combined_findings,
    compression_findings,
    curvature_findings,
    massive_findings,
    phase_findings,
)
from lmtrace.analysis.findings.finding import Finding, closed, say, say_error, say_step
from lmtrace.analysis.findings.learning import emergence_findings, gain_findings, order_findings, silence_findings
from lmtrace.analysis.readings import (
    Readable,
    column,
    floor_of,
    keys_of,
    read,
    whole,
)
from lmtrace.analysis.trends import (
    between,
    memorisation,
)
from lmtrace.records.wording import OFF


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
    found = [*_future(run), *_overlap(run), *_alerts(run), *massive_findings(run), *_switched_off(run), *_floor(run)]
    found += silence_findings(run)
    emerged = list(emergence_findings(run))
    found += [finding for finding, _ in emerged]
    found += [
        *order_findings(emerged),
        *gain_findings(run),
        *phase_findings(run),
        *compression_findings(run),
        *_memorisation(run),
        *_two_valleys(run),
    ]
    found += [*curvature_findings(run), *combined_findings(run), *_convergence(run), *_costs(run)]
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


def _switched_off(run: Readable) -> Iterator[Finding]:
    """Say which signals were given up, so that their curves' early end is not taken for that of the run."""
    said: set[str] = set()
    for key in run.keys():
        if key.label is not None or key.signal in said:  # a signal that fails is missing as a whole
            continue
        series = read(run, key)
        last = series.steps[-1] if series.steps.size else None
        for why in [why for (step, _), why in series.missing.items() if step == last][:1]:
            if why.startswith(OFF):
                said.add(key.signal)
                yield Finding(
                    kind="alert", sentence=f"The signal {key.signal} is {why}.", numbers={"step": int(last or 0)},
                    series=(key,), caveats=("Its curves end there: later values are not known.",),
                )  # fmt: skip


def _future(run: Readable) -> Iterator[Finding]:
    """Yield the leak that the instrument saw in the model itself."""
    loss, keys = whole(run, "output", "loss"), run.keys()
    events = run.events("leak") if hasattr(run, "events") else ()  # pyright: ignore[reportAttributeAccessIssue]
    for event in events[:1]:
        yield Finding(
            kind="leak",
            sentence=event.text,
            numbers={"step": event.step, **event.data},
            null="rounding",
            series=keys[:1] if loss is None else (loss.key,),
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
    began = "untrained" if steps[0] == 0 else f"at step {say_step(steps[0])}"
    course = f"went from {say(values[0])} ({began}) to {say(values[-1])}" if steps.size > 1 else f"is {say(values[0])}"
    share = share if steps.size > 1 else None
    sentence = (
        f"The panel's loss {course} nats at step {say_step(steps[-1])}; "
        f"the exact floor is {say(floor[0])}, so {say_error(left, error)} nats per token are left to learn"
    )
    sentence += f" ({100 * share:.0f} % of the way is done)." if share is not None else "."
    yield Finding(
        kind="floor",
        sentence=sentence,
        numbers={
            "start": float(values[0]),
            "final": float(values[-1]),
            "floor": floor[0],
            "excess": left,
            "done": share,
        },
        interval=None if margin is None else (left - margin, left + margin),
        null=floor[0],
        series=keys,
        caveats=() if error is not None else ("No standard error was given.",),
    )


def _overlap(run: Readable) -> Iterator[Finding]:
    """Warn where more panel sentences lie in the training data than by chance: nothing measured on them is held out."""
    share = run.header.data.get("panel_in_training")
    chance = run.header.data.get("panel_in_training_by_chance")
    loss, keys = whole(run, "output", "loss"), run.keys()
    if not isinstance(share, int | float) or not share > _OVERLAP + (chance or 0.0) or not keys:
        return
    yield Finding(
        kind="alert",
        sentence=f"{100 * share:.0f} % of the panel's sentences lie in the training data: the panel is not held out.",
        numbers={"share": float(share)}, null=_OVERLAP, series=keys[:1] if loss is None else (loss.key,),
        caveats=("Its loss is too low, and that it does not rise is no sign that nothing is learned by heart.",),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- memorisation and convergence
_OVERLAP = 0.05


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
    lag = ("The train loss is the mean over the batches between two measurements, so early on it lags behind.",)
    if found is None:
        yield Finding(
            kind="no memorisation",
            sentence=(
                f"No sign of memorisation: the panel's loss does not rise, and its gap to the train loss does not grow once it "
                f"has come to rest (panel minus train at the end: {say(gap)} nats)."
            ),
            numbers={"gap": gap}, null=0.0, series=(loss.key,), caveats=lag,
        )  # fmt: skip
        return
    if found.kind == "gap":
        yield Finding(
            kind="gap",
            sentence=f"The panel's loss stays {say(found.gap)} nats above the train loss, and does not rise.",
            numbers={"gap": found.gap, "panel_rises": False}, null=0.0, series=(loss.key,),
            caveats=("Panel and training text may differ in kind or in how they are cut; this is no sign of memorisation.", *lag),
        )  # fmt: skip
        return
    how = (
        f"the panel's loss rises again, by {say(found.rise)} nats"
        if found.panel_rises
        else "the train loss falls on where the panel's does not"
    )
    after = (
        f"; from step {say_step(found.closed)} on the gap is closed again (late generalisation)"
        if found.closed is not None
        else f"; the gap ends at {say(found.gap)} nats"
    )
    yield Finding(
        kind="memorisation",
        sentence=f"Memorisation: from step {say_step(found.onset)} {how}{after}.",
        numbers={
            "onset": found.onset, "gap": found.gap, "largest_gap": found.largest, "rise": found.rise,
            "panel_rises": found.panel_rises, "closed": found.closed,
        },
        null=0.0, series=(loss.key,), caveats=lag,
    )  # fmt: skip


def _two_valleys(run: Readable) -> Iterator[Finding]:
    """Say whether the curvature of the panel and that of the training batch drift apart (signal `curvature`, landscape)."""
    gap = whole(run, "curvature", "trace_gap")
    if gap is None:
        return
    steps, values, stderr, _ = column(gap)
    if values.size < emerging.MIN_POINTS or stderr is None:
        return
    found = emerging.emergence(steps, values, stderr, null=0.0)
    last, error = float(values[-1]), float(stderr[-1])
    caveats = ("Both batches are small: their own difference is the null only as far as its error bar goes.",)
    if found is None:
        yield Finding(
            kind="no gap",
            sentence=f"Curvature of panel and training batch do not drift apart beyond noise (trace: {say_error(last, error)}).",
            numbers={"gap": last, "stderr": error}, null=0.0, series=(gap.key,), caveats=caveats,
        )  # fmt: skip
        return
    where = "sharper on the panel" if last > 0 else "sharper on the training batch"
    yield Finding(
        kind="gap",
        sentence=(
            f"From step {say_step(found.onset)} the loss is {where}: the traces of the two Hessians end "
            f"{say_error(last, error)} apart."
        ),
        numbers={"onset": found.onset, "gap": last, "stderr": error, "p_value": found.p_value},
        interval=closed(found.interval), null=0.0, series=(gap.key,), caveats=caveats,
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
    assert found.slope is not None
    assert found.interval is not None
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
    together = totals.pop("all", 0.0)  # the whole measurement, its parts included
    total = together or sum(totals.values())
    worst = sorted(totals, key=lambda name: -totals[name])[:3]
    share = next((column(read(run, k))[1] for k in keys_of(run, "cost", "share")), np.array([]))
    text = f", {100 * share[-1]:.1f} % of the time" if share.size else ""
    most = f"; most of it {', '.join(f'{w} ({say(totals[w])} s)' for w in worst)}" if worst else ""
    yield Finding(
        kind="cost",
        sentence=f"Measuring took {say(total)} s{text}{most}.",
        numbers={"seconds": total, **{f"seconds.{w}": totals[w] for w in totals}},
        series=tuple(keys),
    )
