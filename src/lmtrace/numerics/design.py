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
from lmtrace.numerics.softmax import whitener

WAYS = {"ridge": (0.1, 4), "unseen": (0.1, 3), "embedding": (1.0, 12), "logistic": (1.0, 200)}
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
    cells : [training rows] or None
        From `one_per_type`: the training part is their means.
    """

    def __init__(
        self, x: Tensor, test: np.ndarray, rows: np.ndarray | None = None, cells: np.ndarray | None = None
    ) -> None:
        rows = np.arange(len(x)) if rows is None else rows
        self.train, self.test = (
            x.index_select(0, torch.as_tensor(rows[part], device=x.device)) for part in (~test, test)
        )
        if cells is not None:
            cell, shift = torch.as_tensor(cells, device=x.device), self.train[:1].clone()
            sums = x.new_zeros(int(cells.max()) + 1, x.shape[1]).index_add_(0, cell, self.train - shift)
            self.train = sums.div_(torch.bincount(cell)[:, None]).add_(shift)

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

    @cached_property
    def white(self) -> Tensor:
        """Return what whitens the standardised training rows."""
        return whitener(self.moments, WAYS["ridge"][0])

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


def shared_design(
    cache: dict[Any, Any], x: Tensor, rows: np.ndarray, test: np.ndarray, cells: np.ndarray | None = None
) -> Design:
    """Return the design of some rows of x, made once per cache, which all signals of a measurement share.

    Parameters
    ----------
    x : [words, d]
        All words of a site.
    rows : [n]
        int64, those that are used.
    test : [n]
        bool, the part of each.
    cells
        As in `Design`.
    """
    key = ("numerics.design", id(x), row_key(rows, test, cells))
    if key not in cache:
        # x is kept beside the design, so that its id is not given to another tensor meanwhile.
        cache.setdefault(key, (x, Design(x, test, rows, cells)))
    return cache[key][1]


def row_key(rows: np.ndarray, test: np.ndarray, cells: np.ndarray | None = None) -> bytes:
    """Return a short name of rows: [n] int64, their parts: [n] bool and the cells of the training part."""
    return hashlib.blake2b(rows.tobytes() + test.tobytes() + (b"" if cells is None else cells.tobytes())).digest()


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
    cells
        As in `Design`.

    Attributes
    ----------
    sizes
        Classes of each.
    train, test
        Codes of both parts: [tasks, rows of the part] int64.
    """

    def __init__(
        self,
        tasks: Sequence[tuple[np.ndarray, int]],
        test: np.ndarray,
        device: torch.device | str = "cpu",
        cells: np.ndarray | None = None,
    ) -> None:
        self.sizes = [size for _, size in tasks]
        codes = np.stack([codes for codes, _ in tasks]).astype(np.int64)
        train = codes[:, ~test]
        if cells is not None:
            train = train[:, np.unique(cells, return_index=True)[1]]
        self.train, self.test = torch.as_tensor(train, device=device), torch.as_tensor(codes[:, test], device=device)


def one_per_type(types: np.ndarray, labels: Sequence[np.ndarray]) -> np.ndarray:
    """Return [n] int64 from 0 on: which rows are of the same word type and have the same labels.

    Where words of types that were not seen are to be judged, words of one type are not independent rows: counted one by
    one they make cross-validation choose too small a penalty, and frequent types decide. Each cell counts once.

    Parameters
    ----------
    types : [n]
        Word type of every row.
    labels : [n] each
        int64.
    """
    return np.unique(np.stack([types, *labels], 1), axis=0, return_inverse=True)[1].reshape(-1)
