"""Nearest neighbours and intrinsic dimension in units of 2 N^2 D over the rate of matrix products."""

from __future__ import annotations

import statistics

import torch
from sklearn.neighbors import NearestNeighbors

from benchmarks._timing import seconds
from lmtrace.numerics import neighbours
from lmtrace.numerics.dimension import mle, two_nn

WIDTH = 768


def _paired(points: torch.Tensor, actions: dict, repeats: int) -> dict[str, float]:
    """Return name -> median over rounds of the action's time by that of the products of all tiles, taken around it."""
    tile = points[: neighbours.TILE]
    other = tile.clone()
    products = 16
    whole = (len(points) / neighbours.TILE) ** 2 / products

    def base() -> None:
        for _ in range(products):
            torch.mm(tile, other.T)

    ratios: dict[str, list[float]] = {name: [] for name in actions}
    base()
    for action in actions.values() if repeats > 1 else ():
        action()
    for _ in range(repeats):
        for name, action in actions.items():
            before = seconds(base)
            spent = seconds(action)
            ratios[name].append(spent / (whole * (before + seconds(base)) / 2))
    return {name: statistics.median(values) for name, values in ratios.items()}


def rows():
    """Return the speed of TwoNN and MLE, and of scikit-learn's neighbours on the same points."""
    points = torch.randn(10_000, WIDTH, generator=torch.Generator().manual_seed(0))
    array = points.numpy()
    found = _paired(
        points,
        {
            "TwoNN": lambda: two_nn(points),
            "MLE, k = 20": lambda: mle(points, 20),
            "scikit-learn": lambda: NearestNeighbors(n_neighbors=2, algorithm="brute").fit(array).kneighbors(),
        },
        repeats=5,
    )
    unit = "2 N^2 D / GEMM rate"
    table = [
        {"name": "TwoNN, 10,000 x 768", "value": found["TwoNN"], "unit": unit, "bound": "<= 0.9", "note": "limit 0.5"},
        {"name": "MLE k = 20, 10,000 x 768", "value": found["MLE, k = 20"], "unit": unit, "bound": "<= 1.3"},
        {
            "name": "scikit-learn's two neighbours over TwoNN",
            "value": found["scikit-learn"] / found["TwoNN"],
            "unit": "times",
            "bound": ">= 2.3",
            "note": f"scikit-learn {found['scikit-learn']:.2f} units",
        },
    ]
    points = torch.randn(30_000, WIDTH, generator=torch.Generator().manual_seed(0))
    large = _paired(points, {"TwoNN": lambda: two_nn(points), "MLE": lambda: mle(points, 20)}, repeats=1)
    table += [
        {"name": "TwoNN, 30,000 x 768", "value": large["TwoNN"], "unit": unit, "bound": "<= 0.9", "note": "limit 0.5"},
        {"name": "MLE k = 20, 30,000 x 768", "value": large["MLE"], "unit": unit, "bound": "<= 1.3"},
    ]
    small = torch.randn(2_000, WIDTH, generator=torch.Generator().manual_seed(0))
    spent = statistics.median(seconds(lambda: neighbours.nearest(small, 20)) for _ in range(5))
    table.append({"name": "neighbours of the default sample, 2,000 x 768", "value": 1e3 * spent, "unit": "ms"})
    return table
