"""A run in a notebook: static figures with Matplotlib, and tables for runs and findings. Interactive figures are the report's."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrace.errors import ConfigError
from lmtrace.records.schema import Series
from lmtrace.records.wording import reach
from lmtrace.show.payload import finding
from lmtrace.show.tables import best_site, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5d5d5d")
MANY_SITES = 8


def plot(
    run: Any,
    signal: str,
    metric: str | None = None,
    *,
    label: str | None = None,
    split: str | None = None,
    site: str | None = None,
    kind: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one series of a run: curves with a band of two standard errors and the null dashed, or a map of sites by steps.

    Parameters
    ----------
    run
        An open run.
    signal, metric, label, split, site
        Which series (see `Run.series`); "loss" alone is the training loss.
    kind
        "curves" or "map"; by default a map where there are more than 8 sites.
    ax
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ConfigError
        Where Matplotlib is not installed, or `kind` is something else.
    RunError
        Where none or several series match.
    """
    if kind not in (None, "curves", "map"):
        raise ConfigError(f"plot: kind is {kind!r}", 'Choose "curves" or "map"')
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError("Run.plot needs Matplotlib, which is not installed", "pip install 'lmtrace[plot]'") from error
    axes: Axes = pyplot.figure(figsize=(6.4, 3.4), layout="constrained").add_subplot() if ax is None else ax
    if metric is None and signal in run.scalar_metrics:
        steps, values = run.scalars(signal)
        axes.plot(steps, values, color=OKABE_ITO[0], linewidth=0.8)
        _finish(axes, signal.replace("_", " ").capitalize(), "nats" if signal == "loss" else "1", steps)
        return axes
    series = run.series(signal=signal, metric=metric, label=label, split=split, site=site)
    (_map if kind == "map" or (kind is None and len(series.sites) > MANY_SITES) else _curves)(axes, series)
    parts = [series.field.title, series.key.label, series.key.split and f"{series.key.split} split"]
    _finish(axes, ", ".join(part for part in parts if part), series.field.unit, series.steps)
    return axes


def _curves(ax: Axes, series: Series) -> None:
    from matplotlib import colormaps

    many = len(series.sites) > 1
    for i, site in enumerate(series.sites):
        colour = colormaps["viridis"](0.85 - 0.85 * i / max(len(series.sites) - 1, 1)) if many else OKABE_ITO[0]
        values, error = series.values[:, i], series.stderr[:, i]
        ax.plot(series.steps, values, color=colour, linewidth=1.4, label=site)
        if np.isfinite(error).any():
            ax.fill_between(series.steps, values - 2 * error, values + 2 * error, color=colour, alpha=0.15, linewidth=0)
    if np.isfinite(series.null).any():
        ax.plot(
            series.steps,
            np.nanmean(np.where(np.isfinite(series.null), series.null, np.nan), axis=1),
            color="0.45",
            linestyle="--",
            linewidth=1,
            label="null",
        )
    if many or np.isfinite(series.null).any():
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _map(ax: Axes, series: Series) -> None:
    relative = np.isfinite(series.null).all(where=np.isfinite(series.values))
    shown = (series.values - series.null if relative else series.values).T
    reach = float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 1.0
    limits: Any = {"cmap": "RdBu", "vmin": -reach, "vmax": reach} if relative else {"cmap": "viridis"}
    image = ax.pcolormesh(
        np.arange(len(series.steps)), np.arange(len(series.sites)), shown, shading="nearest", **limits
    )
    ax.set_yticks(range(len(series.sites)), [site or "whole model" for site in series.sites])
    ticks = np.unique(np.linspace(0, len(series.steps) - 1, min(6, len(series.steps))).astype(int))
    ax.set_xticks(ticks, [f"{series.steps[i]:,}" for i in ticks])
    ax.figure.colorbar(image, ax=ax, label="distance from the null" if relative else series.field.unit)


def _finish(ax: Axes, title: str, unit: str, steps: np.ndarray) -> None:
    ax.set_title(title, loc="left", fontsize="medium")
    ax.set_xlabel("step")
    mapped = bool(ax.collections) and not ax.lines
    if not mapped:
        ax.set_ylabel("" if unit == "1" else unit)
        later = steps[steps > 0]
        if len(later) and steps[-1] > 20 * later[0]:
            ax.set_xscale("symlog", linthresh=float(later[0]))
            ax.set_xlim(left=0 if steps[0] == 0 else float(later[0]))
    ax.spines[["top", "right"]].set_visible(False)


HEADLINES = (
    ("output", "loss"), ("truth", "excess"), ("probe", "accuracy"), ("pairs", "accuracy"), ("errors", "well_formed"),
    ("dimension", "two_nn"), ("curvature", "lambda_max"),
)  # fmt: skip
"""Series that stand for a run, where it has them."""


def run_html(run: Any) -> str:
    """Return what a run is, and where its main quantities went, as HTML: from step 0 to the last, at the site that ended best."""
    header, steps = run.header, run.steps
    facts = {
        "status": header.status,
        "measured": reach(steps),
        "signals": ", ".join(dict.fromkeys(k.signal for k in (*run.keys(), *run.array_keys()))),
        "created": header.created,
        "folder": str(run.folder),
    }
    rows = []
    for key in run.keys():
        if (key.signal, key.metric) in HEADLINES and not (key.label and ("=" in key.label or key.signal != "probe")):
            series = run.series(key.signal, key.metric, key.label, key.split)
            column = best_site(series)
            if column is not None:
                rows.append((HEADLINES.index((key.signal, key.metric)), _row(series, column)))
    table = ""
    if rows:
        head = "".join(f"<th>{name}</th>" for name in ("quantity", "site", "first", "last ± s.e.", "null", "unit", ""))
        body = "".join(row for _, row in sorted(rows, key=lambda item: item[0]))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return facts_html(f"Run {header.name}", facts) + table


def _row(series: Series, column: int) -> str:
    values, there = series.values[:, column], np.flatnonzero(np.isfinite(series.values[:, column]))
    last = there[-1]
    error = number(float(series.stderr[last, column]), 2)
    key = series.key
    name = " ".join(part for part in (series.field.title, key.label, key.split and f"({key.split})") if part)
    cells = (
        name, series.sites[column] or "", number(float(values[there[0]])), number(float(values[last])) + (f" ± {error}" if error else ""),
        number(float(series.null[last, column])), "" if series.field.unit == "1" else series.field.unit,
    )  # fmt: skip
    return "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + f"<td>{_spark(values[there])}</td></tr>"


def _spark(values: np.ndarray, width: int = 110, height: int = 22) -> str:
    """Return a small curve over the measurements; its numbers stand beside it, so it is hidden from screen readers."""
    if len(values) < 2:
        return ""
    low, high = float(values.min()), float(values.max())
    x = np.linspace(1, width - 1, len(values))
    y = height - 2 - (values - low) / (high - low or 1.0) * (height - 4)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<svg width="{width}" height="{height}" aria-hidden="true"><polyline points="{points}" fill="none" '
        f'stroke="{OKABE_ITO[0]}" stroke-width="1.5"/></svg>'
    )


def facts_html(title: str, facts: Mapping[str, Any]) -> str:
    """Return names and values as an HTML table."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table><caption>{html.escape(title)}</caption>{cells}</table>"


def findings_html(findings: Iterable[Any]) -> str:
    """Return findings as an HTML table."""
    rows = "".join(
        f"<tr><td><b>{html.escape(str(f.get('kind', '')))}</b></td><td style='text-align:left'>{html.escape(str(f.get('sentence', '')))}"
        + "".join(f"<br><small>{html.escape(str(c))}</small>" for c in f.get("caveats") or ())
        + "</td></tr>"
        for f in map(finding, findings)
    )
    return f"<table><caption>Findings</caption>{rows or '<tr><td>none</td></tr>'}</table>"
