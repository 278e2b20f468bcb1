"""How alike the representations are: between sites, and of each site with itself at earlier measurements.

Similarity is debiased linear CKA (equation: `lmtrace.numerics.similarity.linear_cka`), 1 for equal up to rotation and scale, about
0 for unrelated. Drift is one minus the mean squared cosine of the principal angles between the subspaces of the
`num_directions` largest variances then and now.

When it misleads: CKA is led by the few directions of largest variance, so a change in small ones is not seen; drift is of these
directions only, and directions of nearly equal variance turn without meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.similarity import cka_of_grams, gram, principal_directions, subspace_drift
from lmtrace.observe.interface import Needs, Signal, Sites, View
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import Panel

FLAT = "no variance that points share, or numbers that are not finite"
TOO_FEW = "fewer directions with variance than num_directions"


@dataclass(frozen=True, kw_only=True)
class Similarity(Signal):
    """Linear CKA between sites and over time, and the drift of principal subspaces.

    Parameters
    ----------
    sites
        "all" or names.
    num_points
        Tokens in the sample, the same ones at every step and site; what is remembered grows with its square.
    num_directions
        Size of the principal subspaces.
    """

    sites: Sites = "all"
    num_points: int = 512
    num_directions: int = 10

    name = "similarity"
    cost = "no pass of its own; num_points^2 x d_model operations per site"
    source = "Kornblith et al. 2019; Nguyen, Raghu and Kornblith 2021 (debiased); Bjoerck and Golub 1973 (angles)"
    fields = (
        Field(
            metric="cka_previous",
            title="CKA with the previous measurement",
            high=1.0,
            null="unrelated representations: zero",
            meaning="Debiased linear CKA of the site now and at the measurement before.",
        ),
        Field(
            metric="cka_first",
            title="CKA with the first measurement",
            high=1.0,
            null="unrelated representations: zero",
            meaning="Debiased linear CKA of the site now and at the first measurement.",
        ),
        Field(
            metric="cka_below",
            title="CKA with the site below",
            high=1.0,
            null="unrelated representations: zero",
            meaning="Debiased linear CKA of the site and the one before it in the model.",
        ),
        Field(
            metric="cka_sites",
            title="CKA between sites",
            high=1.0,
            axis="site, site: in the order of the model",
            meaning="Debiased linear CKA of every two sites of one stream.",
        ),
        Field(
            metric="drift_previous",
            title="Subspace drift since the previous measurement",
            low=0.0,
            high=1.0,
            null="random subspaces: 1 - num_directions / d_model",
            meaning="One minus the mean squared cosine of the principal angles; 0 is the same subspace.",
        ),
        Field(
            metric="drift_first",
            title="Subspace drift since the first measurement",
            low=0.0,
            high=1.0,
            null="random subspaces: 1 - num_directions / d_model",
            meaning="One minus the mean squared cosine of the principal angles; 0 is the same subspace.",
        ),
    )

    def __post_init__(self) -> None:
        if self.num_points < 10:
            raise ConfigError(f"similarity: num_points must be at least 10, got {self.num_points}")
        if self.num_directions < 1:
            raise ConfigError(f"similarity: num_directions must be at least 1, got {self.num_directions}")

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the sites' activations."""
        return Needs(sites=self.sites)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield CKA and drift of every site, and one matrix between the sites of each stream."""
        grams: dict[str, dict[str, Tensor | None]] = {}
        for site in view.sites:
            points = self._sample(view, site)
            matrix = gram(points)
            directions = principal_directions(points, self.num_directions)
            stream = grams.setdefault(_stream(site), {})
            below = next(reversed(stream), None)
            stream[site] = matrix
            for when in ("previous", "first"):
                yield self._cka(view, f"cka_{when}", site, matrix, view.memory.get(f"{when} gram {site}"), when)
                yield self._drift(view, when, site, directions)
            if below is not None:
                yield self._cka(view, "cka_below", site, matrix, stream[below], below)
            self._remember(view, site, matrix, directions)
        for name, stream in grams.items():
            yield self._between(view, name, stream)

    def _sample(self, view: View, site: str) -> Tensor:
        points = view.tokens(site)
        if len(points) <= self.num_points:
            return points
        chosen = torch.randperm(len(points), generator=view.generator("sample"))[: self.num_points]
        return points[chosen.sort().values.to(points.device)]

    def _cka(self, view: View, metric: str, site: str, matrix: Tensor | None, other: Tensor | None, of: str) -> Record:
        reason = ""
        if matrix is None:
            reason = FLAT
        elif other is None:
            reason = "nothing to compare with yet" if of in ("previous", "first") else f"{of}: {FLAT}"
        elif other.shape != matrix.shape:
            reason = f"the sample had {len(other)} points before and has {len(matrix)} now"
        if reason or matrix is None or other is None:
            return self.record(view, metric, site=site, missing=reason)
        found = cka_of_grams(matrix, other.to(matrix.device))
        if found.value is None:
            return self.record(view, metric, site=site, missing=found.note)
        return self.record(view, metric, found.value, site=site, stderr=found.stderr, n=found.n, null=0.0)

    def _drift(self, view: View, when: str, site: str, directions: Tensor | None) -> Record:
        before = view.memory.get(f"{when} directions {site}")
        if directions is None:
            return self.record(view, f"drift_{when}", site=site, missing=TOO_FEW)
        if before is None or before.shape != directions.shape:
            return self.record(view, f"drift_{when}", site=site, missing="nothing to compare with yet")
        value = subspace_drift(before.to(directions), directions)
        null = 1 - self.num_directions / len(directions)
        return self.record(
            view, f"drift_{when}", value, site=site, n=min(self.num_points, len(view.tokens(site))), null=null
        )

    def _remember(self, view: View, site: str, matrix: Tensor | None, directions: Tensor | None) -> None:
        for what, value in (("gram", matrix), ("directions", directions)):
            if value is not None:
                kept = value.float().cpu()
                view.memory[f"previous {what} {site}"] = kept
                view.memory.setdefault(f"first {what} {site}", kept)

    def _between(self, view: View, stream: str, grams: dict[str, Tensor | None]) -> Record:
        split = stream or None
        flat = [site for site, matrix in grams.items() if matrix is None]
        if flat:
            return self.record(view, "cka_sites", split=split, missing=f"{', '.join(flat)}: {FLAT}")
        rows = torch.stack([matrix.ravel() for matrix in grams.values() if matrix is not None])
        values = (rows @ rows.T).double().cpu().numpy()  # the Gram matrices have norm 1
        n = len(next(m for m in grams.values() if m is not None))
        return self.record(view, "cka_sites", split=split, array=np.minimum(values, 1.0), n=n)


def _stream(site: str) -> str:
    """Return "encoder" or "decoder" for encoder-decoder models, else ""."""
    return site.split(".")[0] if site.startswith(("encoder.", "decoder.")) else ""
