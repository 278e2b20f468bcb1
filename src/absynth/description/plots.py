"""Figures of what `describe` measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from absynth.corpus import Corpus
from absynth.description.quality import Description, describe, rank_counts
from absynth.errors import AbsynthError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _PALE, _ORANGE = "#2b6cb0", "#90cdf4", "#c05621"


def plot(corpus: Corpus, folder: str | Path, scored: int = 20_000) -> list[Path]:
    """Write figures to a folder; return their paths.

    rank_frequency (words of each category by known rank, with the law), entropy_by_position, shares and
    constructions (requested against measured), lengths
    (sentences and dependencies), roles (role by category). What a corpus has no annotations for is left out.

    Parameters
    ----------
    corpus, scored
        As in `describe`.
    folder
        Made if it is not there.

    Raises
    ------
    AbsynthError
        When matplotlib is not installed, or the folder cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AbsynthError("plot", "matplotlib", 'an installed matplotlib: pip install "lmtrace[plot]"') from error
    description = describe(corpus, scored)
    drawings: dict[str, Callable[[], Figure] | None] = {
        "rank_frequency": (lambda: _ranks(Figure, corpus)) if corpus.grammar is not None else None,
        "entropy_by_position": (lambda: _entropy(Figure, description)) if description.entropy else None,
        "shares": (lambda: _shares(Figure, description, ("frame", "level")))
        if {"frame", "level"} & set(description.shares)
        else None,
        "constructions": (lambda: _shares(Figure, description, ("construction",)))
        if "construction" in description.shares
        else None,
        "lengths": lambda: _lengths(Figure, description),
        "roles": (lambda: _roles(Figure, description)) if description.roles else None,
    }
    folder = Path(folder)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in drawings.items():
            if draw is not None:
                paths.append(folder / f"{name}.png")
                draw().savefig(paths[-1], dpi=120)
    except OSError as error:
        raise AbsynthError("folder", str(folder), f"a folder that can be written ({error.strerror})") from error
    return paths


def _ranks(figure_class: Any, corpus: Corpus) -> Figure:
    shown = {name: pair for name, pair in rank_counts(corpus).items() if len(pair[0]) > 2 and pair[0].sum()}
    columns = min(5, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = figure_class(figsize=(2.6 * columns, 2.3 * rows), layout="constrained")
    for i, (name, (counts, law)) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        ranks = np.arange(1, len(counts) + 1)
        seen = counts > 0
        axes.loglog(ranks[seen], counts[seen] / counts.sum(), ".", color=_BLUE, markersize=3, label="measured")
        axes.loglog(ranks, law.probabilities(len(counts)), color=_ORANGE, linewidth=1, label="law")
        axes.set_title(f"{name} (α {law.alpha:g}, q {law.q:g})", fontsize=8)
        axes.tick_params(labelsize=7, which="both")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter("")
        if i == 0:
            axes.legend(fontsize=7, frameon=False)
    figure.supxlabel("rank", fontsize=9)
    figure.supylabel("share of the category's tokens", fontsize=9)
    return figure


def _entropy(figure_class: Any, description: Description) -> Figure:
    values = description.entropy.by_position if description.entropy else ()
    figure = figure_class(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(len(values)), values, "o-", color=_BLUE, markersize=4)
    axes.set(xlabel="words read", ylabel="entropy of the next token (bits)", ylim=(0, None))
    axes.grid(color="#edf2f7")
    return figure


def _shares(figure_class: Any, description: Description, names: tuple[str, ...]) -> Figure:
    shown = [name for name in names if name in description.shares]
    tallest = max(len(description.shares[name].counts) for name in shown)
    figure = figure_class(
        figsize=(6 if len(shown) == 1 else 4.6 * len(shown), (0.15 if tallest > 30 else 0.28) * tallest + 1.2),
        layout="constrained",
    )
    for i, name in enumerate(shown):
        shares = description.shares[name]
        axes = figure.add_subplot(1, len(shown), i + 1)
        total = sum(shares.counts.values())
        order = list(shares.counts)[::-1]
        measured = np.array([shares.counts[value] / total for value in order])
        place = np.arange(len(order))
        axes.barh(place, measured, color=_PALE, height=0.7, label="measured")
        # Two standard errors of a share of n sentences: a requested share outside is news.
        axes.errorbar(
            measured,
            place,
            xerr=2 * np.sqrt(measured * (1 - measured) / total),
            fmt="none",
            ecolor=_BLUE,
            elinewidth=1,
            label="± 2 standard errors",
        )
        if shares.requested is not None:
            axes.plot(
                [shares.requested.get(value, 0.0) for value in order],
                place,
                "o",
                color=_ORANGE,
                markersize=3,
                label="requested",
            )
        axes.set_yticks(place, [value.replace("_", " ") for value in order], fontsize=7 if len(order) > 30 else 9)
        axes.set_ylim(-0.7, len(order) - 0.3)
        axes.set_xlim(0, None)
        axes.set_title(name + ("" if shares.p is None else f": chi-square p = {shares.p:.2f}"), fontsize=9)
        axes.set_xlabel("share of sentences", fontsize=9)
        if i == 0:
            axes.legend(fontsize=8, frameon=False)
    return figure


def _lengths(figure_class: Any, description: Description) -> Figure:
    figure = figure_class(figsize=(8, 3), layout="constrained")
    histograms = [("words in the sentence", "sentences", description.lengths)]
    if description.distances:
        histograms.append(("dependency distance (1: neighbours)", "tokens", description.distances))
    for i, (x, y, counts) in enumerate(histograms):
        axes = figure.add_subplot(1, len(histograms), i + 1)
        axes.bar(list(counts), list(counts.values()), color=_BLUE)
        mean = sum(n * k for n, k in counts.items()) / sum(counts.values())
        axes.axvline(mean, color=_ORANGE, linewidth=1, label=f"mean {mean:.2f}")
        axes.set(xlabel=x, ylabel=y)
        axes.legend(fontsize=8, frameon=False)
    return figure


def _roles(figure_class: Any, description: Description) -> Figure:
    roles = list(description.roles)
    categories = list(dict.fromkeys(name for row in description.roles.values() for name in row))
    counts = np.array([[description.roles[role].get(name, 0) for name in categories] for role in roles], float)
    shares = counts / counts.sum(axis=1, keepdims=True)
    figure = figure_class(figsize=(1.5 + 0.85 * len(categories), 1.2 + 0.32 * len(roles)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", aspect="auto", vmin=0, vmax=1)
    for i, j in np.argwhere(counts > 0):
        axes.text(
            j,
            i,
            f"{int(counts[i, j]):,}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if shares[i, j] > 0.6 else "black",
        )
    axes.set_xticks(
        range(len(categories)), [name.replace("_", " ") for name in categories], rotation=30, ha="right", fontsize=8
    )
    axes.set_yticks(range(len(roles)), roles, fontsize=8)
    axes.set_title("tokens by role and category; shade: share of the role", fontsize=9)
    return figure
