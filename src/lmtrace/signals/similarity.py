"""How alike the representations are: between sites, and of each site with itself at earlier measurements.

Similarity is debiased linear CKA (equation: `lmtrace.numerics.similarity.linear_cka`), 1 for equal up to rotation and scale, about
0 for unrelated. Drift is one minus the mean squared cosine of the principal angles between the subspaces of the
`num_directions` largest variances then and now.

Each has a companion, `_robust`, of the tokens' directions from their spatial median (`lmtrace.numerics.robust`). The null of CKA
is that of unrelated tokens that have only their place in common: shuffled among the first, the last and the other tokens.

When it misleads: CKA is led by the few directions of largest variance, so a change in small ones is not seen. Where a few
coordinates of a thousand times the usual size at the first token own the variance (massive activations), CKA is 1 for unrelated
tokens as its null then says: read the robust companion. Drift is of the largest directions only, and directions of nearly equal
variance turn without meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.robust import spatial_signs
from lmtrace.numerics.similarity import cka_of_grams, gram, principal_directions, subspace_drift
from lmtrace.observe.interface import Needs, Signal, Sites, View
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import Panel

FLAT = "no variance that points share, or numbers that are not finite"
TOO_FEW = "fewer directions with variance than num_directions"


_DRIFT = "One minus the mean squared cosine of the principal angles; 0 is the same subspace."
_RANDOM = "random subspaces: 1 - num_directions / d_model"
_SHUFFLED = "unrelated tokens: the same, shuffled among the first, the last and the other tokens of their sequences"


def _twice(
    metric: str, title: str, meaning: str, null: str = _SHUFFLED, low: float | None = None
) -> tuple[Field, Field]:
    """Return the field of a metric and that of its robust companion."""
    robust = f"{meaning} Of directions from the spatial median, in which no few tokens decide."
    return (
        Field(metric=metric, title=title, low=low, high=1.0, null=null, meaning=meaning),
        Field(metric=f"{metric}_robust", title=f"{title}, robust", low=low, high=1.0, null=null, meaning=robust),
    )


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
    source = "Kornblith et al. 2019; Nguyen, Raghu and Kornblith 2021 (debiased); Bjoerck and Golub 1973; Visuri et al. 2000 (robust)"
    fields = (
        *_twice(
            "cka_previous",
            "CKA with the previous measurement",
            "Debiased linear CKA of the site now and at the measurement before.",
        ),
        *_twice(
            "cka_first",
            "CKA with the first measurement",
            "Debiased linear CKA of the site now and at the first measurement.",
        ),
        *_twice(
            "cka_below",
            "CKA with the site below",
            "Debiased linear CKA of the site and the one before it in the model.",
        ),
        Field(
            metric="cka_sites",
            title="CKA between sites",
            high=1.0,
            axis="site, site: in the order of the model",
            meaning="Debiased linear CKA of every two sites of one stream.",
        ),
        *_twice("drift_previous", "Subspace drift since the previous measurement", _DRIFT, null=_RANDOM, low=0.0),
        *_twice("drift_first", "Subspace drift since the first measurement", _DRIFT, null=_RANDOM, low=0.0),
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
        plain: dict[str, dict[str, Tensor | None]] = {}
        robust: dict[str, dict[str, Tensor | None]] = {}
        for site in view.sites:
            points, shuffled = self._sample(view, site)
            yield from self._site(view, site, points, shuffled, plain.setdefault(_stream(site), {}), "")
            yield from self._site(
                view, site, spatial_signs(points), shuffled, robust.setdefault(_stream(site), {}), "_robust"
            )
        for name, stream in plain.items():
            yield self._between(view, name, stream)

    def _site(
        self, view: View, site: str, points: Tensor, shuffled: Tensor, stream: dict[str, Tensor | None], kind: str
    ) -> Iterator[Record]:
        """Yield CKA and drift of a site's points [n, d], which are plain or robust as `kind` says, and add its Gram matrix."""
        matrix = gram(points)
        directions = principal_directions(points, self.num_directions)
        below = next(reversed(stream), None)
        stream[site] = matrix
        for when in ("previous", "first"):
            before = view.memory.get(f"{when} gram{kind} {site}")
            yield self._cka(view, f"cka_{when}{kind}", site, matrix, before, when, shuffled)
            yield self._drift(view, when, kind, site, directions)
        if below is not None:
            yield self._cka(view, f"cka_below{kind}", site, matrix, stream[below], below, shuffled)
        self._remember(view, f"{kind} {site}", matrix, directions)

    def _sample(self, view: View, site: str) -> tuple[Tensor, Tensor]:
        """Return the sampled tokens of a site [n, d], and [n] an order in which each stands at an unrelated one's place."""
        points = view.tokens(site)
        ends = _ends(view.panel, site, len(points))
        if len(points) > self.num_points:
            chosen = torch.randperm(len(points), generator=view.generator("sample"))[: self.num_points].sort().values
            points, ends = points[chosen.to(points.device)], ends[chosen.numpy()]
        order = np.arange(len(ends))
        for end in np.unique(ends):
            members = np.flatnonzero(ends == end)
            drawn = torch.randperm(len(members), generator=view.generator(f"shuffle {end}")).numpy()
            order[members] = members[drawn]
        return points, torch.from_numpy(order)

    def _cka(
        self, view: View, metric: str, site: str, matrix: Tensor | None, other: Tensor | None, of: str, shuffled: Tensor
    ) -> Record:
        reason = ""
        if matrix is None:
            reason = FLAT
        elif other is None:
            reason = "nothing to compare with yet" if of in ("previous", "first") else f"{of}: {FLAT}"
        elif other.shape != matrix.shape:
            reason = f"the sample had {len(other)} points before and has {len(matrix)} now"
        if reason or matrix is None or other is None:
            return self.record(view, metric, site=site, missing=reason)
        other = other.to(matrix.device)
        found = cka_of_grams(matrix, other)
        if found.value is None:
            return self.record(view, metric, site=site, missing=found.note)
        order = shuffled.to(matrix.device)
        null = cka_of_grams(matrix, other[order][:, order]).value
        return self.record(view, metric, found.value, site=site, stderr=found.stderr, n=found.n, null=null)

    def _drift(self, view: View, when: str, kind: str, site: str, directions: Tensor | None) -> Record:
        before, metric = view.memory.get(f"{when} directions{kind} {site}"), f"drift_{when}{kind}"
        if directions is None:
            return self.record(view, metric, site=site, missing=TOO_FEW)
        if before is None or before.shape != directions.shape:
            return self.record(view, metric, site=site, missing="nothing to compare with yet")
        value = subspace_drift(before.to(directions), directions)
        null = 1 - self.num_directions / len(directions)
        return self.record(view, metric, value, site=site, n=min(self.num_points, len(view.tokens(site))), null=null)

    def _remember(self, view: View, what_of: str, matrix: Tensor | None, directions: Tensor | None) -> None:
        for what, value in (("gram", matrix), ("directions", directions)):
            if value is not None:
                kept = value.float().cpu()
                view.memory[f"previous {what}{what_of}"] = kept
                view.memory.setdefault(f"first {what}{what_of}", kept)

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


def _ends(panel: Panel, site: str, num_tokens: int) -> np.ndarray:
    """Return [tokens]: 1 at the first token of a sequence, 2 at the last, else 0."""
    side = panel.decoder if site.startswith("decoder.") and panel.decoder is not None else panel.encoder
    ends = np.zeros(num_tokens, np.int64)
    ends[side.offsets[1:] - 1] = 2
    ends[side.offsets[:-1]] = 1
    return ends
