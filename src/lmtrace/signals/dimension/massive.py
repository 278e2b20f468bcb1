"""Coordinates of a thousand times the usual size at a few tokens: which, and where (Sun, Chen, Kolter and Liu 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lmtrace.numerics.robust import coordinate_shares
from lmtrace.text.panel import Panel
from lmtrace.text.panel_parts import Side

MOST = 3
"""Coordinates that count as a few."""
OWNED = 0.5
"""Share of the variance from which on they own it."""
NARROWEST = 32
"""In fewer dimensions three coordinates are not few."""


@dataclass(frozen=True, slots=True)
class Massive:
    """Coordinates that own the variance of a site's tokens.

    Attributes
    ----------
    site
        Where.
    coordinates, shares
        Which, and the share of the variance that each holds; falling.
    token, at_token
        The token that is most often among those that make the variance, and its share among them.
    at_first
        Share of first tokens of a sequence among them.
    tokens_share
        How many of all tokens they are.
    """

    site: str
    coordinates: tuple[int, ...]
    shares: tuple[float, ...]
    token: str
    at_token: float
    at_first: float
    tokens_share: float

    @property
    def share(self) -> float:
        """Return the share of the variance that they hold together."""
        return sum(self.shares)

    def sentence(self, sites: list[str]) -> str:
        """Return what a reader needs to know; `sites` are all those where it is so."""
        which = ", ".join(f"{c} ({100 * s:.0f} %)" for c, s in zip(self.coordinates, self.shares, strict=True))
        one = len(self.coordinates) == 1
        where = (
            f"{self.at_first:.0%} of them the first of a sequence"
            if self.at_first > 0.5
            else f"{self.at_token:.0%} of them {self.token!r}"
        )
        more = f" So it is at {len(sites)} sites." if len(sites) > 1 else ""
        return (
            f"Dimension{'' if one else 's'} {which} of {self.site} own{'s' if one else ''} {self.share:.0%} of the variance, by "
            f"{self.tokens_share:.1%} of the tokens, mostly {self.token!r} ({where}).{more} CKA, participation ratio, effective rank "
            "and drift are those of these dimensions: read the robust ones."
        )

    def data(self) -> dict[str, Any]:
        """Return plain data for the event."""
        return {
            "site": self.site, "dimensions": list(self.coordinates), "shares": list(self.shares), "share": self.share,
            "token": self.token, "at_token": self.at_token, "at_first": self.at_first, "tokens_share": self.tokens_share,
        }  # fmt: skip


def find_massive(site: str, points: Tensor, rows: np.ndarray, side: Side, panel: Panel) -> Massive | None:
    """Return the few coordinates that own the variance of `points` [n, d] with the tokens where they do, or None.

    Parameters
    ----------
    rows : [n]
        Which token of the side each point is.
    """
    if points.shape[1] < NARROWEST or len(points) < 2:
        return None
    shares = coordinate_shares(points)
    top = shares.topk(MOST)
    enough = int((top.values.cumsum(0) < OWNED).sum()) + 1
    if not float(top.values.sum()) > OWNED:
        return None
    # Of those coordinates that own half of it, all that hold a tenth of the first one's share are named.
    named = max(enough, int((top.values > 0.1 * top.values[0]).sum()))
    chosen = top.indices[:named]
    away = points[:, chosen].double()
    size = (away - away.median(dim=0).values).square().sum(dim=1).cpu().numpy()
    order = np.argsort(-size, kind="stable")
    held = np.cumsum(size[order]) / size.sum()
    makers = order[: int((held < 0.9).sum()) + 1]
    known, counts = np.unique(np.concatenate(side.ids)[rows[makers]], return_counts=True)
    token = int(known[counts.argmax()])
    return Massive(
        site, tuple(chosen.tolist()), tuple(top.values[:named].tolist()), str(panel.tokenizer.decode([token])),
        float(counts.max() / len(makers)), float(np.isin(rows[makers], side.offsets[:-1]).mean()), len(makers) / len(points),
    )  # fmt: skip
