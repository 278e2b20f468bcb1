"""Lanczos with full reorthogonalisation: both ends of the spectrum of a symmetric operator, with residuals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError, SignalError
from lmtrace.numerics.vectors import dot, norm

Product = Callable[[Tensor], Tensor]

EXTRA = 8
"""Products made after a fresh random direction has been added, before the result is believed."""

LITTLE = 0.7
"""Share of a vector that a pass over the basis has to leave for what is left to be free of the basis to rounding."""

DEFAULT_SEED = 0x6C6D7472616365
"""Of probes and start vectors. Not a seed that data are likely to have been drawn with: a start vector that is a row
of the data is not a random one."""


def default_generator() -> torch.Generator:
    """Return the generator of probes and start vectors where none is given: the same ones at every call."""
    return torch.Generator().manual_seed(DEFAULT_SEED)


class NotFiniteError(SignalError):
    """A loss, gradient or product is not finite, so that the quantity does not exist."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The ends of a spectrum.

    Attributes
    ----------
    largest, smallest
        Algebraically largest and smallest eigenvalue; None where not converged or not asked for.
    eigenvalues : [k or fewer]
        float64, falling: the largest ones, as far as each residual is below the tolerance.
    residuals : [k or fewer]
        ||H v - lambda v|| of each of them (an upper bound).
    smallest_residual
        The same for `smallest`.
    vectors : [k or fewer, P]
        Their eigenvectors, unit length.
    smallest_vector : [P] or None
        The eigenvector of `smallest`.
    num_products
        Products it took.
    asymmetry
        Largest entry of the projected operator that would be zero for a symmetric one, relative to its norm.
    method, reason
        How products were taken, and why by a fall-back ("central differences"); empty for a plain operator.
    note
        Empty, or what is missing and why.
    """

    largest: float | None
    smallest: float | None
    eigenvalues: np.ndarray
    residuals: np.ndarray
    smallest_residual: float | None = None
    vectors: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    smallest_vector: Tensor | None = None
    num_products: int = 0
    asymmetry: float = 0.0
    method: str = ""
    reason: str = ""
    note: str = ""


def missing_spectrum(note: str) -> Spectrum:
    """Return a spectrum without numbers, and why."""
    return Spectrum(None, None, np.empty(0), np.empty(0), note=note)


def random_start(size: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a Gaussian vector [size] of unit length, the same on every device."""
    x = torch.randn(size, generator=generator, dtype=dtype, device=generator.device).to(device)
    return x / norm(x)


def warm_start(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Return a start vector from earlier eigenvectors [j, P], with a random part.

    The random part matters: the eigenvector of the measurement before is nearly an eigenvector of this one, but
    perhaps no longer of its largest eigenvalue, and Lanczos from an exact eigenvector would never see another.
    """
    total = vectors.sum(0)
    total = total / max(norm(total), torch.finfo(total.dtype).tiny)
    start = total + 0.3 * random_start(total.numel(), generator, total.dtype, total.device)
    return start / norm(start)


def lanczos(
    product: Product,
    start: Tensor,
    *,
    k: int = 1,
    tol: float = 1e-3,
    tol_smallest: float | None = None,
    smallest: bool = True,
    max_products: int = 300,
    max_basis: int = 48,
    generator: torch.Generator | None = None,
) -> Spectrum:
    """Return the k largest eigenvalues, and the smallest one, of a symmetric operator.

    The projected matrix T = Q' H Q is filled column by column with what full reorthogonalisation computes anyway, so
    that a restart (Wu and Simon 2000) and a fresh random direction are the same step as any other. A single Krylov
    space holds one copy of a multiple eigenvalue; with k > 1 a random direction is therefore added after convergence,
    until nothing new appears among the k largest.

    Parameters
    ----------
    product
        [P] -> [P].
    start
        [P], any length, not zero.
    k
        How many of the largest eigenvalues.
    tol
        Bound on the residual, relative to the largest magnitude among the eigenvalues.
    tol_smallest
        The same for the smallest eigenvalue, relative to its own magnitude, or to 1 % of the largest where that is more; `tol`
        by default.
    smallest
        Whether the smallest eigenvalue has to converge too.
    max_products
        Limit on products; what has not converged by then is missing.
    max_basis
        Vectors held at most (raised to 2 k + 12 where that is more); a restart compresses them when it is reached.
    generator
        Source of the random directions; a fixed seed by default.

    Returns
    -------
    Spectrum
        With `note` naming what did not converge.

    Raises
    ------
    NotFiniteError
        Where a product is not finite.
    """
    if k < 1 or tol <= 0 or max_products < 1:
        raise ConfigError(f"lanczos: expected k, max_products >= 1 and tol > 0, got {k}, {max_products} and {tol}")
    generator = generator or default_generator()
    size = start.numel()
    k = min(k, size)
    capacity = min(max(max_basis, 2 * k + 12), max_products, size)
    tols = (tol, tol if tol_smallest is None else tol_smallest)
    exhausted = max(1e-3 * tol, 10 * torch.finfo(start.dtype).eps)
    basis = start.new_empty(capacity, size)
    projected = np.zeros((capacity, capacity))
    queue: list[_Pending] = [_Pending(start, 0.0, np.zeros(capacity))]
    num_basis, num_products, since_fresh, asymmetry = 0, 0, 0, 0.0
    values, mix, residuals = np.zeros(0), np.zeros((0, 0)), np.zeros(0)
    confirmed: np.ndarray | None = None

    while num_products < max_products:
        if num_basis == capacity:
            keep = np.unique(np.r_[0:3, max(0, capacity - k - max(k, 5)) : capacity])
            num_basis = len(keep)
            basis[:num_basis] = _rows(basis, mix, keep)
            projected[:] = 0.0
            projected[range(num_basis), range(num_basis)] = values[keep]
            queue = [pending.rotated(mix[:, keep], capacity) for pending in queue]
        absorbed = ~np.any([pending.owners != 0 for pending in queue], axis=0)[:num_basis]
        # A fresh direction goes ahead until it has shown what it can find; otherwise the oldest is next.
        pending = queue.pop(-1 if since_fresh < EXTRA else 0)
        if pending.outside == num_basis:
            torch.div(pending.vector, pending.norm, out=basis[num_basis])
        else:
            basis[num_basis] = _orthonormal(pending.vector, basis[:num_basis], generator)
        image = product(basis[num_basis])
        num_basis, num_products, since_fresh = num_basis + 1, num_products + 1, since_fresh + 1
        # What the image has along those that the direction came from is known, and goes first. A pass over all of the
        # basis takes the rest; a second one, without which the loss of orthogonality doubles at every step, is only
        # needed where that was much (Giraud, Langou and Rozloznik 2005).
        column = pending.norm * pending.owners[:num_basis]
        column[-1] = dot(basis[num_basis - 1], image)
        known = np.flatnonzero(column)
        image = image - torch.as_tensor(column[known], dtype=image.dtype, device=image.device) @ basis[known]
        before = norm(image)
        correction, rest = _project_out(image, basis[:num_basis])
        column, beta = column + correction, norm(rest)
        if not (np.isfinite(column).all() and np.isfinite(beta)):  # one bad entry of the image makes all of them so
            raise NotFiniteError("a Hessian-vector product is not finite")
        projected[:num_basis, num_basis - 1] = projected[num_basis - 1, :num_basis] = column
        values, mix = np.linalg.eigh(projected[:num_basis, :num_basis])
        scale = float(np.abs(values).max())
        if absorbed.any() and scale > 0:
            asymmetry = max(asymmetry, float(np.abs(column[:-1][absorbed]).max()) / scale)
        if num_basis == size:
            residuals = np.zeros(size)
            break
        if beta > exhausted * scale:
            outside = num_basis if beta > LITTLE * before else -1
            queue.append(_Pending(rest, beta, np.eye(1, capacity, num_basis - 1)[0], outside))
        residuals = sum((p.norm * np.abs(p.owners[:num_basis] @ mix) for p in queue), np.zeros(num_basis))

        settled = since_fresh >= EXTRA and num_basis >= k and _converged(values, residuals, k, tols, smallest)
        if settled:
            if k == 1 or (confirmed is not None and np.all(np.abs(values[-k:] - confirmed) <= tol * scale)):
                break
            confirmed = values[-k:].copy()
        if settled or not queue:  # go on from a random direction
            queue.append(_Pending(torch.zeros_like(start), 0.0, np.zeros(capacity)))
            since_fresh = 0
    return _spectrum(basis, values, mix, residuals, k, tols, smallest, num_products, asymmetry)


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A direction that waits to enter the basis: what products left outside it.

    The part of H Q outside the basis is the sum of `vector owners'` over the queue. A zero vector asks for a random
    one.

    Attributes
    ----------
    outside
        Of how many basis vectors, the first ones, it is known to be free to rounding; -1 where nothing is known.
    """

    vector: Tensor
    norm: float
    owners: np.ndarray
    outside: int = -1

    def rotated(self, mix: np.ndarray, capacity: int) -> _Pending:
        """Return the same over a basis of combinations: mix, [old, new], of the old one, which was `capacity` vectors."""
        owners = np.zeros_like(self.owners)
        owners[: mix.shape[1]] = self.owners[: len(mix)] @ mix
        return _Pending(self.vector, self.norm, owners, mix.shape[1] if self.outside == capacity else -1)


def _limits(values: np.ndarray, tols: tuple[float, float]) -> tuple[float, float]:
    """Return the largest residuals allowed for the largest eigenvalues and for the smallest one.

    The smallest is often a hundred times smaller in magnitude: a residual relative to the norm of H would say nothing.
    """
    scale = float(np.abs(values).max())
    return tols[0] * scale, tols[1] * max(abs(float(values[0])), 0.01 * scale)


def _converged(values: np.ndarray, residuals: np.ndarray, k: int, tols: tuple[float, float], smallest: bool) -> bool:
    top, bottom = _limits(values, tols)
    return bool(np.all(residuals[-k:] <= top)) and (not smallest or residuals[0] <= bottom)


def _rows(basis: Tensor, mix: np.ndarray, columns: np.ndarray) -> Tensor:
    """Return the Ritz vectors [columns, P]."""
    return torch.as_tensor(mix[:, columns].T.copy(), dtype=basis.dtype, device=basis.device) @ basis[: len(mix)]


def _project_out(vector: Tensor, basis: Tensor) -> tuple[np.ndarray, Tensor]:
    """Return the coefficients of `vector` on the orthonormal rows of `basis` (float64), and what is left of it."""
    coefficients = basis @ vector
    return coefficients.double().cpu().numpy(), vector - coefficients @ basis


def _orthonormal(candidate: Tensor, basis: Tensor, generator: torch.Generator) -> Tensor:
    """Return the direction of `candidate` outside `basis`, or a random one where nothing is left of it."""
    length = norm(candidate)
    for _ in range(5):
        if length > 0:
            rest, before = candidate / length, 1.0
            for _ in range(3):  # until a pass takes little away: twice is enough (Giraud, Langou and Rozloznik 2005)
                _, rest = _project_out(rest, basis)
                left = norm(rest)
                if left > LITTLE * before:
                    return rest / left
                if left < 1e-3:
                    break
                before = left
        candidate = random_start(candidate.numel(), generator, candidate.dtype, candidate.device)
        length = norm(candidate)
    raise NotFiniteError("no direction outside the Lanczos basis: the start vector or a product is not finite")


def _spectrum(
    basis: Tensor,
    values: np.ndarray,
    mix: np.ndarray,
    residuals: np.ndarray,
    k: int,
    tols: tuple[float, float],
    smallest: bool,
    num_products: int,
    asymmetry: float,
) -> Spectrum:
    top, bottom = _limits(values, tols)
    order = np.arange(len(values))[::-1][:k]
    # Only an unbroken run from the top is known to be "the j largest".
    good = int(np.cumprod(residuals[order] <= top).sum())
    order = order[:good]
    has_smallest = smallest and bool(residuals[0] <= bottom)
    notes = []
    if good < k:
        got = f"residual {residuals[::-1][good]:.2g}, limit {top:.2g}" if good < len(values) else "too few products"
        notes.append(f"{good} of {k} largest converged after {num_products} products ({got})")
    if smallest and not has_smallest:
        got = f"residual {residuals[0]:.2g}, limit {bottom:.2g}"
        notes.append(f"the smallest did not converge after {num_products} products ({got})")
    return Spectrum(
        largest=float(values[-1]) if good else None,
        smallest=float(values[0]) if has_smallest else None,
        eigenvalues=values[order].copy(),
        residuals=residuals[order].copy(),
        smallest_residual=float(residuals[0]) if has_smallest else None,
        vectors=_rows(basis, mix, order),
        smallest_vector=_rows(basis, mix, np.array([0]))[0] if has_smallest else None,
        num_products=num_products,
        asymmetry=asymmetry,
        note="; ".join(notes),
    )
