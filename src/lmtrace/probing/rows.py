"""What probes are fitted on: the rows of a site in two parts, and the labels of those rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.moments import Moments, Sample, centre_
from lmtrace.probing.closed_form import Basis, Linear
from lmtrace.probing.discriminant import Spectrum
from lmtrace.probing.softmax import Labellings, whitener

WAYS = {"ridge": (0.1, 4), "unseen": (0.1, 3), "embedding": (2.0, 12), "types": (30.0, 12), "logistic": (1.0, 200)}
"""Ways of softmax regression: penalty on the weights of standardised features (not per row), and L-BFGS steps."""
OF_TYPES = ("embedding", "types")
"""Ways for rows that are alike for all words of a type."""


class Arrangement:
    """An order of rows in which the training part of a split, or of two splits that overlap, is a slice.

    What lies in both training parts is then taken from a site, centred and multiplied once.

    Parameters
    ----------
    tests
        Split -> [n] bool, its test part; one split or two.
    rows : [n] or None
        int64, which rows of a matrix they are; None is all.

    Attributes
    ----------
    rows, tests
        As given.
    order : [n]
        int64, places among the rows: those that only the first split trains on, those of both, those of the second only,
        and the others.
    taken : [n]
        int64, the rows in that order.
    """

    def __init__(self, tests: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> None:
        self.tests = dict(tests)
        first, *others = self.tests.values()
        second = others[0] if others else np.ones_like(first)
        self.rows = np.arange(len(first)) if rows is None else rows
        cell = np.array([[1, 0], [2, 3]])[first.astype(int), second.astype(int)]
        self.order = np.argsort(cell, kind="stable")
        self.taken = self.rows[self.order]
        self._ends = np.searchsorted(cell[self.order], np.arange(4)).tolist()

    def cells(self, split: str) -> list[slice]:
        """Return where the training rows of a split are, in two cells, of which splits share one."""
        first = list(self.tests).index(split)
        return [slice(*self._ends[i : i + 2]) for i in (first, first + 1)]

    def training(self, split: str) -> np.ndarray:
        """Return [training rows] int64: their places among the rows, in the order in which they lie."""
        one, other = self.cells(split)
        return self.order[one.start : other.stop]

    def held_out(self, split: str) -> np.ndarray:
        """Return [test rows] int64: where the test rows of a split are in the order."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(place))
        return place[self.tests[split]]


class Arranged:
    """Rows in the order of an arrangement, less their mean; fitted lazily.

    Parameters
    ----------
    rows : [n, d]
        In that order; overwritten.
    arrangement
        Of the rows.

    Attributes
    ----------
    finite
        Whether all of them are.
    """

    def __init__(self, rows: Tensor, arrangement: Arrangement) -> None:
        self.arrangement, self.rows, self.origin = arrangement, rows, centre_(rows)
        self.finite = bool(torch.isfinite(self.origin).all())
        self._moments: dict[tuple[int, int], Moments] = {}
        self._designs: dict[str, Design] = {}

    def design(self, split: str) -> Design:
        """Return the design of one of the splits."""
        if split not in self._designs:
            self._designs[split] = Design(self, split)
        return self._designs[split]

    def moments(self, split: str) -> Moments:
        """Return the moments of the training rows of a split."""
        one, other = self.arrangement.cells(split)
        return self._of_cell(one) + self._of_cell(other)

    @cached_property
    def alike(self) -> Tensor | None:
        """[n] int64, the same number for rows that are equal; None where a quarter of the rows or fewer are like another."""
        bits = self.rows.view(torch.int32)  # products of rows may differ by rounding where the rows do not
        odd = torch.arange(bits.shape[1], dtype=torch.int32, device=bits.device) * 0x1E3779B8 + 1
        values, into = (bits * odd).sum(1, dtype=torch.int32).unique(return_inverse=True)
        if len(values) > 0.75 * len(into):
            return None
        equal = torch.equal(self.rows.index_select(0, _first(into, len(values))[into]), self.rows)
        return into if equal else None

    def _of_cell(self, cell: slice) -> Moments:
        key = (cell.start, cell.stop)
        if key not in self._moments:
            self._moments[key] = Moments.of_rows(self.rows[cell], self.origin)
        return self._moments[key]


def _first(into: Tensor, num: int) -> Tensor:
    """Return [num] int64: the first place of every number in into: [n]."""
    places = torch.arange(len(into), device=into.device)
    return places.new_empty(num).scatter_reduce_(0, into, places, "amin", include_self=False)


class Design:
    """One split of arranged rows, with what all probes on it share; fitted lazily.

    Parameters
    ----------
    arranged
        The rows.
    split
        Which of their splits.
    """

    def __init__(self, arranged: Arranged, split: str) -> None:
        self.arranged, self.split = arranged, split
        self._white: dict[float, Tensor] = {}

    @classmethod
    def of(cls, x: Tensor, test: np.ndarray, rows: np.ndarray | None = None) -> Design:
        """Return the design of some rows: [n] int64 of x: [words, d] with one split: [n] bool."""
        arrangement = Arrangement({"": test}, rows)
        return Arranged(x.index_select(0, torch.as_tensor(arrangement.taken, device=x.device)), arrangement).design("")

    @cached_property
    def training(self) -> Sample:
        """Return the training rows."""
        one, other = self.arranged.arrangement.cells(self.split)
        moments = self.arranged.moments(self.split)
        return Sample(self.arranged.rows[one.start : other.stop], self.arranged.origin, moments)

    @cached_property
    def merged(self) -> tuple[Sample, Tensor] | None:
        """Return the training rows, those that are equal once, and [training rows] which one stands for each.

        None where few are. At an embedding they are most: words of a type, or of a type at a place.
        """
        alike = self.arranged.alike
        if alike is None:
            return None
        one, other = self.arranged.arrangement.cells(self.split)
        values, into = alike[one.start : other.stop].unique(return_inverse=True)
        first = _first(into, len(values))
        return Sample(self.training.rows.index_select(0, first), self.training.origin, self.training.moments), into

    @cached_property
    def held_out(self) -> Tensor:
        """Return [test rows, d], less the origin of the training rows."""
        index = self.arranged.arrangement.held_out(self.split)
        return self.arranged.rows.index_select(0, torch.as_tensor(index, device=self.arranged.rows.device))

    @cached_property
    def basis(self) -> Basis:
        """Return the eigenbasis of the training rows, standardised."""
        return Basis.of(self.training.moments)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Return the eigenbasis of the training rows as they are."""
        return Spectrum.of(self.training)

    def once(self, labels: Labellings) -> tuple[Sample, Labellings]:
        """Return the training rows, equal ones once, and the labels of these; both as they are where few are equal."""
        if self.merged is None:
            return self.training, labels
        sample, into = self.merged
        return sample, labels.merged(into, len(sample.rows))

    def white(self, penalty: float) -> Tensor:
        """Return what whitens the training rows for a regression with this penalty."""
        if penalty not in self._white:
            self._white[penalty] = whitener(self.training.moments, penalty)
        return self._white[penalty]

    def scores(self, linears: Sequence[Linear]) -> list[Tensor]:
        """Return [test rows, classes] scores of every probe, in the precision of the rows."""
        rows, weight = self.held_out, torch.cat([linear.weight for linear in linears], 1)
        bias = torch.cat([linear.bias for linear in linears]) + self.arranged.origin @ weight
        scores = torch.addmm(bias.to(rows.dtype), rows, weight.to(rows.dtype))
        return list(scores.split([linear.weight.shape[1] for linear in linears], 1))


def arranged(
    cache: dict[Any, Any], site: str, arrangement: Arrangement, take: Callable[[np.ndarray], Tensor]
) -> Arranged:
    """Return the rows of a site in an arrangement, made once per cache, which all signals of a measurement share.

    Parameters
    ----------
    take
        Rows [n] int64 -> [n, d], the same for the same arrangement.
    """
    key = ("numerics.design", site, id(arrangement))
    if key not in cache:
        cache.setdefault(key, Arranged(take(arrangement.taken), arrangement))
    return cache[key]


class Targets:
    """Several labellings of the rows of an arrangement, in the forms that fits read: the same at every site.

    Parameters
    ----------
    tasks
        (Class of every row, [n] int64, -1 where it has no label; number of classes) of each.
    arrangement
        Of these rows.
    split
        Which of its splits.
    device
        Where the rows lie.
    units : [n] or None
        What rows are left out with when a penalty is chosen: sentence or word type. None is each by itself.

    Attributes
    ----------
    sizes
        Classes of each.
    units : [training rows]
        int64.
    train, test
        Codes of both parts: [tasks, rows of the part] int64.
    """

    def __init__(
        self,
        tasks: Sequence[tuple[np.ndarray, int]],
        arrangement: Arrangement,
        split: str,
        device: torch.device | str = "cpu",
        units: np.ndarray | None = None,
    ) -> None:
        self.sizes = [size for _, size in tasks]
        codes = np.stack([codes for codes, _ in tasks]).astype(np.int64)
        self.train = torch.as_tensor(codes[:, arrangement.training(split)], device=device)
        self.test = torch.as_tensor(codes[:, arrangement.tests[split]], device=device)
        places = arrangement.training(split)
        of_rows = places if units is None else np.unique(units[places], return_inverse=True)[1]
        self.units = torch.as_tensor(of_rows, device=device)

    @classmethod
    def of(
        cls,
        tasks: Sequence[tuple[np.ndarray, int]],
        test: np.ndarray,
        device: torch.device | str = "cpu",
        units: np.ndarray | None = None,
    ) -> Targets:
        """Return the targets of a `Design.of` rows with one split: [n] bool."""
        return cls(tasks, Arrangement({"": test}), "", device, units)

    @cached_property
    def labellings(self) -> Labellings:
        """Return the training part as softmax regression reads it."""
        return Labellings(self.train, self.sizes)
