"""What probes are fitted on: the rows of a site in two parts, and the labels of those rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.moments import Moments, centre, standardise
from lmtrace.numerics.ridge import Basis, Linear
from lmtrace.numerics.softmax import Labellings, whitener

WAYS = {"ridge": (0.1, 4), "unseen": (0.1, 3), "embedding": (2.0, 12), "types": (30.0, 12), "logistic": (1.0, 200)}
"""Ways of softmax regression: penalty on the weights of standardised features (not per row), and L-BFGS steps."""


class Design:
    """Rows, split into training and test part, with what all probes on them share; fitted lazily.

    Parameters
    ----------
    x : [words, d]
        Where the rows are taken from.
    test : [n]
        bool, the part of each row.
    rows : [n] or None
        int64, which of x they are; None is all.
    """

    def __init__(self, x: Tensor, test: np.ndarray, rows: np.ndarray | None = None) -> None:
        rows = np.arange(len(x)) if rows is None else rows
        self.train, self.test = (
            x.index_select(0, torch.as_tensor(rows[part], device=x.device)) for part in (~test, test)
        )
        self._white: dict[float, Tensor] = {}

    @cached_property
    def _trained(self) -> tuple[Moments, Tensor]:
        return standardise(self.train)

    @property
    def moments(self) -> Moments:
        """Return the moments of the training rows."""
        return self._trained[0]

    @cached_property
    def basis(self) -> Basis:
        """Return the eigenbasis of the training rows."""
        return Basis.of(self.moments)

    def white(self, penalty: float) -> Tensor:
        """Return what whitens the standardised training rows for a regression with this penalty."""
        if penalty not in self._white:
            self._white[penalty] = whitener(self.moments, penalty)
        return self._white[penalty]

    @cached_property
    def standardised(self) -> tuple[Tensor, Tensor]:
        """Return (training rows, test rows) with mean 0 and deviation 1 over the training rows, float32."""
        moments, train = self._trained
        test = centre(self.test, moments.mean).div_(moments.scale.to(self.test.dtype)).float()
        return train, test

    def scores(self, linears: Sequence[Linear], test: bool = True) -> list[Tensor]:
        """Return [rows, classes] float32 scores of the test rows, or of the training rows, for every probe."""
        weight = torch.cat([linear.weight for linear in linears], 1)
        bias = torch.cat([linear.bias for linear in linears]) + self.moments.mean @ weight
        scores = torch.addmm(bias.float(), self.standardised[int(test)], (weight * self.moments.scale[:, None]).float())
        return list(scores.split([linear.weight.shape[1] for linear in linears], 1))


def shared_design(cache: dict[Any, Any], x: Tensor, rows: np.ndarray, test: np.ndarray) -> Design:
    """Return the design of some rows of x, made once per cache, which all signals of a measurement share.

    Parameters
    ----------
    x : [words, d]
        All words of a site.
    rows : [n]
        int64, those that are used.
    test : [n]
        bool, the part of each.
    """
    key = ("numerics.design", id(x), row_key(rows, test))
    if key not in cache:
        # x is kept beside the design, so that its id is not given to another tensor meanwhile.
        cache.setdefault(key, (x, Design(x, test, rows)))
    return cache[key][1]


def row_key(rows: np.ndarray, test: np.ndarray) -> bytes:
    """Return a short name of rows: [n] int64 and their parts: [n] bool."""
    return hashlib.blake2b(rows.tobytes() + test.tobytes()).digest()


class Targets:
    """Several labellings of the same rows, in the forms that fits read: the same at every site.

    Parameters
    ----------
    tasks
        (Class of every row, [n] int64, -1 where it has no label; number of classes) of each.
    test : [n]
        bool, the split of the rows.
    device
        Where the rows lie.

    Attributes
    ----------
    sizes
        Classes of each.
    train, test
        Codes of both parts: [tasks, rows of the part] int64.
    """

    def __init__(
        self, tasks: Sequence[tuple[np.ndarray, int]], test: np.ndarray, device: torch.device | str = "cpu"
    ) -> None:
        self.sizes = [size for _, size in tasks]
        codes = np.stack([codes for codes, _ in tasks]).astype(np.int64)
        self.train, self.test = (torch.as_tensor(codes[:, part], device=device) for part in (~test, test))

    @cached_property
    def labellings(self) -> Labellings:
        """Return the training part as softmax regression reads it."""
        return Labellings(self.train, self.sizes)
