"""What the runs of `studies.emergence` say: statements with intervals and nulls, figures, and the page of the docs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lmtrace.analysis.phases import change_points
from lmtrace.analysis.trends import combined_event, order
from studies._emergence_runs import One, load, ordered, ratio, say, span, times
from studies._figure import BLUE, GREEN, ORANGE, Lines, Panel, draw

WARMUP = 20
TITLES = {
    "base": "base (2 x 64)", "attention_only": "attention only (2 x 64)", "large": "large (4 x 96)",
    "syntax_first": "syntax first", "semantics_first": "semantics first",
}  # fmt: skip
PAIRS = (("agreement", "selection"), ("structural KL", "lexical KL"), ("probe upos", "probe role"))


def write_page(runs: Path, docs: Path, conditions: Sequence[str], switch: int) -> int:
    """Write figures and page; print the verdicts; return 1 where there are no runs to speak of."""
    found = load(runs, conditions)
    if not found.get("base"):
        print("no finished runs: python -m studies.emergence --all")
        return 1
    docs.mkdir(parents=True, exist_ok=True)
    figures(found, docs, switch)
    text = page(found, switch)
    (docs / "emergence.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def figures(found: dict[str, list[One]], docs: Path, switch: int) -> None:
    """Draw every seed of every condition."""
    kinds = (("agreement", BLUE, ""), ("selection", ORANGE, "5 3"))

    def panels(lines: object, level: float | None = None) -> list[Panel]:
        return [
            Panel(TITLES[c], lines(ones), level, switch if c.endswith("_first") else None)  # pyright: ignore
            for c, ones in found.items()
        ]

    draw(docs / "emergence_pairs.svg", panels(lambda ones: [
        Lines(k, colour, [o.curve("pairs", "accuracy", f"kind={k}")[:2] for o in ones], dash) for k, colour, dash in kinds
    ], 0.5), "share of minimal pairs right (dotted: chance)", low=0.4)  # fmt: skip
    draw(docs / "emergence_kl.svg", panels(lambda ones: [
        Lines("between categories", BLUE, [o.kl_parts[0][:2] for o in ones]),
        Lines("within a category", ORANGE, [o.kl_parts[1][:2] for o in ones], "5 3"),
    ]), "KL from the exact law, nats (log scale)", log=True)  # fmt: skip
    draw(docs / "emergence_dimension.svg", panels(lambda ones: [
        Lines("embedding", GREEN, [o.curve("dimension", "two_nn", site="embed")[:2] for o in ones], "1 2"),
        Lines("first block", ORANGE, [o.curve("dimension", "two_nn", site="block.0")[:2] for o in ones], "5 3"),
        Lines("last block", BLUE, [o.curve("dimension", "two_nn", site=o.last_block)[:2] for o in ones]),
    ]), "intrinsic dimension, TwoNN (log scale)", log=True)  # fmt: skip
    draw(docs / "emergence_curvature.svg", panels(lambda ones: [
        Lines("trace", BLUE, [o.curve("curvature", "trace")[:2] for o in ones]),
        Lines("largest eigenvalue", ORANGE, [o.curve("curvature", "lambda_max")[:2] for o in ones], "5 3"),
    ]), "Hessian of the panel's loss (log scale; below 1 cut)", log=True, low=1.0)  # fmt: skip


def page(found: dict[str, list[One]], switch: int) -> str:
    """Return the page as Markdown."""
    counts = ", ".join(f"{TITLES[c]}: {len(ones)}" for c, ones in found.items())
    few = any(len(ones) < 5 for ones in found.values())
    out = [
        "# What emerges when", "",
        "Written by `python -m studies.emergence --page` from the runs themselves; every number below is computed, none typed.", "",
        "A decoder of two blocks learns the tiny ABSynth language with selection (strength 0.9). Every seed has its own language, corpus, "
        "initial weights and order of data. 1,500 steps of 64 fresh sentences, Adam at 0.002 after 20 steps of warm-up, 42 measurements, "
        "dense early and again after the switch. *Attention only* leaves out the feed-forward layers; *large* has four blocks of width 96. "
        f"The twins end in the same language; before step {switch} *syntax first* has no selection (who does what to whom is left to chance) "
        "and *semantics first* has no plural, no past and simple sentences only.", "",
        f"Finished runs: {counts}." + (" **Fewer than five seeds in some conditions: enough to look at, not to describe.**" if few else ""), "",
        *_short(found, switch), *_order(found), *_twins(found, switch), *_dimension(found, switch), *_curvature(found, switch), *_event(found, switch),
        "## What this does not say", "",
        "- Two choices were made after the first runs had been seen: the null of agreement (one half at first; with the exact one its onset came later, 66 instead of 48 steps on two seeds), and the "
        "windows of steps over which dimension and trace are compared (chosen on one seed). Intervals that rest on them are exploratory.",
        "- One family of synthetic languages, models of 50,000 to 500,000 parameters, one learning rate. An order here is the order on this data.",
        "- 'Syntax' and 'semantics' are what the three pairs of quantities measure, no more. Midpoints of quantities with different ceilings are "
        "compared on log step; a noisier quantity crosses later by construction.",
        "- Curvature is that of 32 panel sequences: compare steps, not values with other work. The published curvature score, which divides the trace by "
        "the root of an effective rank, was left out: at four start vectors and 40 Lanczos steps that rank read 33,430, 7,323 and 40,922 at steps 0, 1 and 5.",
        "",
    ]  # fmt: skip
    return "\n".join(out)


def _short(found: dict[str, list[One]], switch: int) -> list[str]:
    """Return the answers, one line each."""
    base, orders = found["base"], []
    for first, second in PAIRS:
        verdicts = {
            TITLES[c]: ordered(found[c], first, second).verdict
            for c in ("base", "attention_only", "large")
            if c in found
        }
        words = {"first": f"{first} earlier", "second": f"{second} earlier", "not resolved": "not resolved"}
        orders.append(f"- {first} before {second}: " + "; ".join(f"{c}: {words[v]}" for c, v in verdicts.items()) + ".")
    peaks = sum(o.peaks[o.last_block] is not None for ones in found.values() for o in ones)
    total = sum(map(len, found.values()))
    fall = ratio(
        [
            o.mean(c, 1200, 1500) / o.mean(c, 0, 2)
            for o in base
            for c in [o.curve("dimension", "two_nn", site=o.last_block)]
        ]
    )
    rise = ratio(
        [o.mean(c, 7, 14) / o.mean(c, 0, 2) for o in base for c in [o.curve("dimension", "two_nn", site=o.last_block)]]
    )
    lines = [
        "## In short", "", "Syntax before semantics depends on what is measured (midpoints, paired within seeds):", "", *orders, "",
        f"The dimension of the last block ends at {fall[0]:.2f} times its start ({fall[1]:.2f} to {fall[2]:.2f}) in *base*; by step 14 it is {rise[0]:.2f} times its start "
        f"({rise[1]:.2f} to {rise[2]:.2f}). Within a single run a rise before the fall is clear of a monotone curve in {peaks} of {total} runs.", "",
    ]  # fmt: skip
    twin = found.get("syntax_first", [])
    if len(twin) > 1:
        curves = [o.curve("curvature", "trace") for o in twin]
        middle, low, high = ratio([o.mean(c, 750, 930) / o.mean(c, switch - 90, switch) for o, c in zip(twin, curves)])
        verdict = (
            "rises: no collapse"
            if low > 1
            else "falls"
            if high < 1
            else "neither rises nor falls beyond the scatter of seeds"
        )
        lines += [
            f"While selection is learned after the switch, the trace of the Hessian {verdict} ({middle:.2f} times, {low:.2f} to {high:.2f}).",
            "",
        ]
    return lines


def _order(found: dict[str, list[One]]) -> list[str]:
    out = [
        "## Syntax before semantics?", "", "![Minimal pairs over training, every seed](emergence_pairs.svg)", "",
        "Three pairs of quantities, chosen before the runs: minimal pairs of **agreement** (singular and plural verbs equally often, so that a "
        "constant preference scores one half) against **selection** (swapped arguments; who knows the language but for selection scores "
        f"{np.mean([o.run.header.data['selection without selection'] for ones in found.values() for o in ones]):.2f} by calculation, who knows it "
        f"but for plural nouns {np.mean([o.run.header.data['agreement without agreement'] for ones in found.values() for o in ones]):.2f} in agreement, from "
        "coordinated subjects: these are the nulls); "
        "the part of the KL from the exact law that lies **between categories** against that **within** one; probes of the last block for **part of "
        "speech** (words unseen by the probe) against **role**. Order: mean difference of log midpoints within each seed, Student's interval, widened by the "
        "grid of measurements. Null: no difference.", "",
        "| condition | pair | midpoint of the first | of the second | verdict |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for condition in ("base", "attention_only", "large"):
        for first, second in PAIRS:
            ones = found.get(condition, [])
            if ones:
                verdict = say(ordered(ones, first, second), first, second)
                a, b = times(ones, first)[0], times(ones, second)[0]
                out.append(f"| {TITLES[condition]} | {first} / {second} | {span(a)} | {span(b)} | {verdict} |")
    return [*out, "", "![KL from the exact law, in its two parts](emergence_kl.svg)", ""]


def _twins(found: dict[str, list[One]], switch: int) -> list[str]:
    out = [
        "## Is that order a law of training, or of the data?", "",
        "If the order belongs to learning, it survives when the corpus is turned round. Onsets (first measurement from which the accuracy stays above its null by two "
        "standard errors), because before the switch *semantics first* can show selection in simple sentences only.", "",
        "| condition | onset of agreement | onset of selection | as the corpus says in | order |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    kept = {}
    for condition in ("base", "syntax_first", "semantics_first"):
        ones = found.get(condition, [])
        if not ones:
            continue
        a, b = (times(ones, name, "onset")[0] for name in ("agreement", "selection"))
        early, late = (a, b) if condition == "syntax_first" else (b, a)
        kept[condition] = sum(x < switch < y for x, y in zip(early, late)) if condition != "base" else None
        sides = "" if condition == "base" else f"{kept[condition]} of {len(ones)} runs"
        verdict = say(ordered(ones, "agreement", "selection", "onset"), "agreement", "selection")
        out.append(f"| {TITLES[condition]} | {span(a)} | {span(b)} | {sides} | {verdict} |")
    right = sum(n for n in kept.values() if n is not None)
    total = sum(len(found.get(c, [])) for c in ("syntax_first", "semantics_first"))
    out += [
        "", f"In {right} of {total} runs on turned corpora the one is learned before the switch and the other after it, as the corpus says"
        + (": **the data can turn the order.** That the untouched corpus has an order of its own is not excluded" if total and right == total else "") + ".", "",
    ]  # fmt: skip
    return out


def _dimension(found: dict[str, list[One]], switch: int) -> list[str]:
    out = [
        "## Does the dimension rise and then compress?", "", "![Intrinsic dimension, every seed](emergence_dimension.svg)", "",
        "TwoNN of the same 2,000 tokens at every step. A rise and fall counts where no monotone curve with the same autocorrelated noise shows one as clearly "
        "(5 % over the three sites of a run). The test has little power against a rise of three measurements, so the seeds are compared below as well.", "",
        "| condition | site | rise and fall in | peak at step | level at the start, the peak, the end (means) |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for condition, ones in found.items():
        for site in ("embed", "block.0", "last block"):
            where = [o.last_block if site == "last block" else site for o in ones]
            peaks = [o.peaks[w] for o, w in zip(ones, where)]
            curves = [o.curve("dimension", "two_nn", site=w)[1] for o, w in zip(ones, where)]
            kept = [p for p in peaks if p is not None]
            top = f"{np.mean([p.level for p in kept]):.1f}" if kept else "none"
            levels = f"{np.mean([c[0] for c in curves]):.1f}, {top}, {np.mean([c[-1] for c in curves]):.1f}"
            out.append(
                f"| {TITLES[condition]} | {site} | {len(kept)} of {len(ones)} | {span([p.peak for p in kept])} | {levels} |"
            )
    base = found["base"]
    peak = [p.peak if (p := o.peaks[o.last_block]) is not None else np.nan for o in base]
    out += ["", f"Peak of the last block against agreement in *base*: {say(order(peak, times(base, 'agreement')[0], grid=0.15), 'the peak', 'agreement')}.", ""]  # fmt: skip
    for words, first, second in (("steps 7 to 14 against steps 0 to 2", (0, 2), (7, 14)), ("the last 300 steps against steps 7 to 14", (7, 14), (1200, 1500))):  # fmt: skip
        curves = [o.curve("dimension", "two_nn", site=o.last_block) for o in base]
        middle, low, high = ratio([o.mean(c, *second) / o.mean(c, *first) for o, c in zip(base, curves)])
        verdict = "**rises**" if low > 1 else "**falls**" if high < 1 else "not resolved"
        out += [
            f"Over seeds of *base*, last block, {words}: {middle:.2f} times ({low:.2f} to {high:.2f}), {verdict}.",
            "",
        ]
    late = [o.mean(o.curve("dimension", "two_nn", site=o.last_block), 750, 930) / o.mean(o.curve("dimension", "two_nn", site=o.last_block), switch - 90, switch) for o in found.get("syntax_first", [])]  # fmt: skip
    if late:
        middle, low, high = ratio(late)
        verdict = "rises" if low > 1 else "falls" if high < 1 else "not resolved"
        out += [
            f"While *syntax first* learns selection (steps 750 to 930 against the 90 before the switch) the dimension of the last block is {middle:.2f} times what it was "
            f"({low:.2f} to {high:.2f}): {verdict}. Semantics that compress would give less than 1.", "",
        ]  # fmt: skip
    return out


def _curvature(found: dict[str, list[One]], switch: int) -> list[str]:
    out = [
        "## Does curvature collapse?", "", "![Trace and largest eigenvalue of the Hessian, every seed](emergence_curvature.svg)", "",
        "An abrupt change counts where no smooth trend with the same autocorrelated noise explains it (5 % per curve, end of warm-up and switch as known "
        "breaks). On the logarithm of the trace, where it is positive.", "",
        "| condition | abrupt changes of the trace in | of the largest eigenvalue in | trace highest at step |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for condition, ones in found.items():
        known = [WARMUP, *([switch] if condition.endswith("_first") else [])]
        cells = []
        for metric in ("trace", "lambda_max"):
            curves = [o.curve("curvature", metric) for o in ones]
            changes = [
                change_points(x, np.where(y > 0, np.log(np.maximum(y, 1e-9)), np.nan), covariates=known)
                for x, y, _ in curves
            ]
            steps = sorted(int(c.step) for found_here in changes for c in found_here)
            cells.append(
                f"{sum(map(bool, changes))} of {len(ones)} runs"
                + (f" (steps {', '.join(map(str, steps))})" if steps else "")
            )
        highest = [float(x[np.nanargmax(y)]) for x, y, _ in (o.curve("curvature", "trace") for o in ones)]
        out.append(f"| {TITLES[condition]} | {cells[0]} | {cells[1]} | {span(highest)} |")
    for condition, what, before, during in (
        ("base", "agreement (steps 75 to 165, against 14 to 28)", (14, 28), (75, 165)),
        (
            "syntax_first",
            f"selection (steps 750 to 930, against the 90 before the switch at {switch})",
            (switch - 90, switch),
            (750, 930),
        ),
    ):
        ones = found.get(condition, [])
        if ones:
            curves = [o.curve("curvature", "trace") for o in ones]
            middle, low, high = ratio([o.mean(c, *during) / o.mean(c, *before) for o, c in zip(ones, curves)])
            verdict = "**it rises**" if low > 1 else "**it falls**" if high < 1 else "not resolved"
            out += ["", f"While {TITLES[condition]} learns {what} the trace is {middle:.2f} times what it was before ({low:.2f} to {high:.2f}): {verdict}."]  # fmt: skip
    return [*out, ""]


def _event(found: dict[str, list[One]], switch: int) -> list[str]:
    out = [
        "## The published combined event", "",
        "Falling curvature meets rising dimension after min-max scaling (here: trace falling, dimension of the last block turned upside down where it falls). "
        "Its null p-value is the chance that two unrelated monotone noisy curves cross: a descriptor, never evidence.", "",
        "| condition | event at step | null p-value | onset of selection |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for condition, ones in found.items():
        events = []
        for o in ones:
            steps, trace, _ = o.curve("curvature", "trace")
            events.append(combined_event(steps, trace, -o.curve("dimension", "two_nn", site=o.last_block)[1]))
        p = [e.p_value for e in events]
        out.append(
            f"| {TITLES[condition]} | {span([e.step for e in events])} | {min(p):.2f} to {max(p):.2f} | "
            f"{span(times(ones, 'selection', 'onset')[0])} |"
        )
    twin, apart = found.get("syntax_first", []), 0
    for o, onset in zip(twin, times(twin, "selection", "onset")[0]):
        steps, trace, _ = o.curve("curvature", "trace")
        at = combined_event(steps, trace, -o.curve("dimension", "two_nn", site=o.last_block)[1]).step
        apart += at is not None and at < switch < onset
    return [
        *out,
        "",
        f"In {apart} of {len(twin)} runs of *syntax first* the event comes before the switch and selection after it.",
        "",
    ]
