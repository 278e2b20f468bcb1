"""Intrinsic dimension of the cloud of tokens at every site: how many directions the representation really uses.

Non-linear estimates come from distances to nearest neighbours: TwoNN (line and maximum likelihood), MLE, and the GRIDE
curve of dimension against scale. Linear ones come from the covariance: participation ratio, effective rank, components
that hold 95 % of the variance; anisotropy is the mean cosine. Equations: `lmtrace.numerics.dimension`, `lmtrace.numerics.covariance`.

The same sample of tokens is used at every step and site: of all that the model reads but padding, so begin and end of sentence
are among them; masked models read them without masks. Equal tokens (all of them at the embedding) are merged first.

Where a few coordinates own the variance (`top_coordinates`), as the massive activations of many language models do, participation
ratio, effective rank and pca_95 are those of these coordinates; an event names them and the token. `_robust` ones are of the
tokens' directions from their spatial median (`lmtrace.numerics.robust`), in which no few tokens decide; TwoNN, MLE and GRIDE are
moved little.

When it misleads: above about 20 dimensions 2,000 points are too few, and the number is a lower bound (metric
`lower_bound`); estimates of runs with different `num_points` do not compare; noise of small scale raises TwoNN, look at the GRIDE curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.covariance import anisotropy, covariance, effective_rank, participation_ratio, pca_dimension
from lmtrace.numerics.dimension import MIN_POINTS, Gride, gride, lower_bound_limit, mle, two_nn, two_nn_ml
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.neighbours import Neighbours, nearest
from lmtrace.numerics.robust import coordinate_shares, spatial_signs
from lmtrace.observe.interface import Needs, Signal, Sites, View
from lmtrace.records.schema import Field, Record
from lmtrace.signals.dimension.massive import Massive, find_massive
from lmtrace.text.panel import Panel
from lmtrace.text.panel_parts import Side

NULL = "the same estimate on an isotropic normal cloud of equal number of points and width"


def _dimension(metric: str, title: str, meaning: str) -> Field:
    return Field(metric=metric, title=title, unit="dimensions", low=0.0, null=NULL, meaning=meaning)


@dataclass(frozen=True, kw_only=True)
class Dimension(Signal):
    """Intrinsic dimension per site.

    Parameters
    ----------
    sites
        "all" or names.
    num_points
        Tokens (or sentences) in the sample; the whole panel where it has fewer.
    level
        "token", or "sentence": the mean over a sentence's tokens.
    k
        Neighbours of the maximum-likelihood estimate.
    scales
        Orders of the GRIDE curve.
    """

    sites: Sites = "all"
    num_points: int = 2000
    level: Literal["token", "sentence"] = "token"
    k: int = 20
    scales: tuple[int, ...] = (1, 2, 4, 8)

    name = "dimension"
    cost = "no pass of its own; num_points^2 x d_model operations per site"
    source = "Facco et al. 2017; Levina and Bickel 2005; MacKay and Ghahramani 2005; Denti et al. 2022"
    fields = (
        _dimension("two_nn", "Intrinsic dimension (TwoNN)", "From the ratio of the two nearest distances, by a line."),
        _dimension("two_nn_ml", "Intrinsic dimension (TwoNN, ML)", "The same ratios, by maximum likelihood."),
        _dimension("mle", "Intrinsic dimension (MLE)", "From the k nearest distances, inverses averaged."),
        _dimension("participation_ratio", "Participation ratio", "(tr C)^2 / tr C^2 of the covariance C."),
        _dimension("effective_rank", "Effective rank", "exp of the entropy of the normalised singular values."),
        _dimension(
            "participation_ratio_robust", "Participation ratio, robust", "Of directions from the spatial median."
        ),
        _dimension("effective_rank_robust", "Effective rank, robust", "Of directions from the spatial median."),
        _dimension("pca_95", "Components for 95 % of variance", "Principal components that hold 95 % of the variance."),
        Field(
            metric="anisotropy",
            title="Anisotropy",
            low=-1.0,
            high=1.0,
            null="no common direction: zero",
            meaning="Mean cosine between two different tokens.",
        ),
        Field(
            metric="top_coordinates",
            title="Variance in three coordinates",
            low=0.0,
            high=1.0,
            null="all coordinates alike: 3 / d_model",
            meaning="Share of the tokens' variance that lies in the three coordinates with the most.",
        ),
        Field(
            metric="duplicates",
            title="Merged points",
            low=0.0,
            high=1.0,
            meaning="Share of the sampled points that equal another one and were merged with it.",
        ),
        Field(
            metric="lower_bound",
            title="TwoNN is a lower bound",
            low=0.0,
            high=1.0,
            meaning="1 where the estimate is above what the number of points can resolve, else 0.",
        ),
        Field(
            metric="gride",
            title="Dimension against scale",
            unit="dimensions",
            low=0.0,
            axis="rows: mean distance to the farther neighbour, dimension, standard error; columns: scales",
            meaning="A curve that falls with scale says that small scales see noise.",
        ),
    )

    def __post_init__(self) -> None:
        if self.num_points < MIN_POINTS:
            raise ConfigError(f"dimension: num_points must be at least {MIN_POINTS}, got {self.num_points}")
        if self.level not in ("token", "sentence"):
            raise ConfigError(f"dimension: level must be 'token' or 'sentence', got {self.level!r}")
        if self.k < 3:
            raise ConfigError(f"dimension: k must be at least 3, got {self.k}")

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the sites' activations."""
        return Needs(sites=self.sites)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield every field at every site."""
        nulls: dict[str, Tensor] = {}
        massive: list[Massive] = []
        told = view.memory.get("massive told")
        for site in view.sites:
            points, rows = self._sample(view, site)
            neighbours = nearest(points, max(self.k, 2 * max(self.scales)))
            n = len(neighbours.rows)
            yield self.record(view, "duplicates", neighbours.merged, site=site, n=neighbours.num_points)
            problem = neighbours.problem
            if not problem and n < MIN_POINTS:
                problem = f"{n} distinct points of {neighbours.num_points}; at least {MIN_POINTS} are needed"
            if problem:
                for field in self.fields:
                    if field.metric != "duplicates":
                        yield self.record(view, field.metric, site=site, missing=problem)
                continue
            owners = self._owners(view, site, points, rows)
            yield self._top_coordinates(view, site, points)
            massive += [owners] if owners else []
            key = f"nulls {n} {points.shape[1]}"
            if key not in nulls:
                nulls[key] = view.memory[key] if key in view.memory else self._null(view, n, points.shape[1])
            distinct = points[torch.from_numpy(neighbours.rows).to(points.device)]
            yield from self._records(view, site, distinct, neighbours, nulls[key].tolist())
        view.memory.clear()
        view.memory.update(nulls)
        if massive and told is None:
            strongest = max(massive, key=lambda found: found.share)
            view.note("massive", strongest.sentence([found.site for found in massive]), strongest.data())
        if massive or told is not None:
            view.memory["massive told"] = torch.ones(1)

    def _records(
        self, view: View, site: str, points: Tensor, neighbours: Neighbours, nulls: list[float]
    ) -> Iterator[Record]:
        estimates = self._estimates(points, neighbours)
        for (metric, estimate), null in zip(estimates.items(), nulls):
            yield self._record(view, site, metric, estimate, null)
        yield self._record(view, site, "anisotropy", anisotropy(points), 0.0)
        value, n = estimates["two_nn"].value, estimates["two_nn"].n
        if value is None:
            yield self.record(view, "lower_bound", site=site, missing=estimates["two_nn"].note)
        else:
            yield self.record(view, "lower_bound", float(value > lower_bound_limit(n)), site=site, n=n)
        curve = gride(neighbours, self.scales)
        if len(curve.scales):
            yield self.record(view, "gride", site=site, array=_array(curve), n=curve.n)
        else:
            yield self.record(view, "gride", site=site, missing=curve.note)

    def _record(self, view: View, site: str, metric: str, estimate: Estimate, null: float) -> Record:
        if estimate.value is None:
            return self.record(view, metric, site=site, missing=estimate.note)
        rest = {"stderr": estimate.stderr, "n": estimate.n, "null": null if np.isfinite(null) else None}
        return self.record(view, metric, estimate.value, site=site, **rest)

    def _estimates(self, points: Tensor, neighbours: Neighbours) -> dict[str, Estimate]:
        components, directions = covariance(points), covariance(spatial_signs(points))
        return {
            "two_nn": two_nn(neighbours),
            "two_nn_ml": two_nn_ml(neighbours),
            "mle": mle(neighbours, self.k),
            "participation_ratio": participation_ratio(components),
            "effective_rank": effective_rank(components),
            "participation_ratio_robust": participation_ratio(directions),
            "effective_rank_robust": effective_rank(directions),
            "pca_95": pca_dimension(components, 0.95),
        }

    def _null(self, view: View, n: int, width: int) -> Tensor:
        """Return the estimates of a normal cloud, in the order of `_estimates`; measured once and remembered."""
        cloud = torch.randn(n, width, generator=view.generator("null"))
        estimates = self._estimates(cloud, nearest(cloud, self.k))
        return torch.tensor([np.nan if e.value is None else e.value for e in estimates.values()], dtype=torch.float64)

    def _sample(self, view: View, site: str) -> tuple[Tensor, np.ndarray]:
        """Return the sampled points of a site and their rows: the same at every step, and at every site of the same stream."""
        points = view.tokens(site)
        if self.level == "sentence":
            points = _sentence_means(points, _side(view.panel, site).offsets)
        if len(points) <= self.num_points:
            return points, np.arange(len(points))
        chosen = torch.randperm(len(points), generator=view.generator("sample"))[: self.num_points].sort().values
        return points[chosen.to(points.device)], chosen.numpy()

    def _top_coordinates(self, view: View, site: str, points: Tensor) -> Record:
        shares = coordinate_shares(points)
        total = float(shares.topk(min(3, len(shares))).values.sum())
        return self.record(
            view, "top_coordinates", min(1.0, total), site=site, n=len(points), null=min(1.0, 3 / len(shares))
        )

    def _owners(self, view: View, site: str, points: Tensor, rows: np.ndarray) -> Massive | None:
        """Return the coordinates that own the variance at a site and the tokens at which they do, or None."""
        if self.level == "sentence":
            return None
        return find_massive(site, points, rows, _side(view.panel, site), view.panel)


def _side(panel: Panel, site: str) -> Side:
    return panel.decoder if site.startswith("decoder.") and panel.decoder is not None else panel.encoder


def _sentence_means(tokens: Tensor, offsets: np.ndarray) -> Tensor:
    """Return [sequences, d_model]: the mean over each sequence's tokens."""
    length = torch.from_numpy(np.diff(offsets)).to(tokens.device)
    owner = torch.repeat_interleave(torch.arange(len(length), device=tokens.device), length)
    sums = tokens.new_zeros((len(length), tokens.shape[1]), dtype=torch.float64)
    return sums.index_add_(0, owner, tokens.double()) / length[:, None]


def _array(curve: Gride) -> np.ndarray:
    return np.stack([curve.distance, curve.dimension, curve.stderr])
