"""Spectral density by stochastic Lanczos quadrature, and what can be read from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.lanczos import NotFiniteError, default_generator, random_start
from lmtrace.numerics.vectors import dot, norm


@dataclass(frozen=True, slots=True, eq=False)
class Density:
    """The eigenvalue distribution of a P x P symmetric operator.

    Attributes
    ----------
    grid : [points]
        Eigenvalues, rising, where the curve is given.
    density : [points]
        Smoothed density on `grid`; its integral is 1.
    nodes, weights : [nodes]
        Quadrature: (1/P) sum_i f(lambda_i) is about sum_j weights_j f(nodes_j). The weights sum to 1. Statistics use
        these, not the smoothed curve.
    size
        P.
    num_probes
        Start vectors that were averaged.
    note
        Empty, or why the arrays are.
    """

    grid: np.ndarray
    density: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray
    size: int
    num_probes: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class SpectrumShape:
    """Numbers that describe a whole spectrum, or a list of its largest eigenvalues.

    With a_i the magnitudes |lambda_i| in falling order and p_i = a_i / sum a:

    Attributes
    ----------
    entropy_rank
        exp(-sum p_i log p_i) (Roy and Vetterli 2007).
    rank_95
        Smallest number of eigenvalues that hold 95 % of sum a.
    condition_number
        a_1 / a_r at r = rank_95: how unequal the directions are that carry the curvature. (The plain condition number
        of a network's Hessian is infinite: it has null directions.)
    decay
        s in a_i ~ i^-s, least squares in log-log over up to 50 ranks, evenly spaced in log i between 1 and rank_95;
        None where there are fewer than 3 ranks.
    negative_mass
        Share of sum a that belongs to negative eigenvalues.
    num_negative
        Number of eigenvalues below -1 % of the largest magnitude. (A quadrature cannot tell the sign of smaller ones.)
    """

    entropy_rank: float
    rank_95: float
    condition_number: float
    decay: float | None
    negative_mass: float
    num_negative: float


def quadrature(
    product: Callable[[Tensor], Tensor],
    size: int,
    num_probes: int,
    num_steps: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights [num_probes, num_steps or fewer] of stochastic Lanczos quadrature.

    From a random unit vector v, m Lanczos steps give a tridiagonal T whose eigenvalues are the nodes and whose squared
    first eigenvector components are the weights of a Gauss rule for v' f(H) v, exact for polynomials up to degree
    2 m - 1 (Golub and Meurant 1994; Ubaru, Chen and Saad 2017; Ghorbani, Krishnan and Xiao 2019). Full
    reorthogonalisation, so that no eigenvalue appears twice by rounding.

    Parameters
    ----------
    product
        [P] -> [P].
    size
        P.
    num_probes, num_steps
        Start vectors, and Lanczos steps for each. `num_steps` vectors of P entries are held.
    generator
        Source of the start vectors; a fixed seed by default.
    dtype, device
        Of the vectors.

    Returns
    -------
    Nodes and weights, [num_probes, num_steps] float64, weights of each row sum to 1. A Krylov space that is exhausted
    early is padded with weight 0.

    Raises
    ------
    NotFiniteError
        Where a product is not finite.
    """
    if num_probes < 1 or num_steps < 1:
        raise ConfigError(f"density: expected num_probes and num_steps >= 1, got {num_probes} and {num_steps}")
    generator = generator or default_generator()
    num_steps = min(num_steps, size)
    nodes, weights = np.zeros((2, num_probes, num_steps))
    basis = torch.empty(num_steps, size, dtype=dtype, device=device)
    eps = 10 * torch.finfo(dtype).eps
    for probe in range(num_probes):
        q = random_start(size, generator, dtype, torch.device(device))
        diagonal, off = np.zeros(num_steps), np.zeros(num_steps)
        taken = num_steps
        for j in range(num_steps):
            basis[j] = q
            w = product(q)
            if not bool(torch.isfinite(w).all()):
                raise NotFiniteError("a Hessian-vector product is not finite")
            diagonal[j] = dot(q, w)
            w = w - diagonal[j] * q - (off[j - 1] * basis[j - 1] if j else 0.0)
            w = w - (basis[: j + 1] @ w) @ basis[: j + 1]  # what rounding has left
            off[j] = norm(w)
            if off[j] <= eps * max(np.abs(diagonal[: j + 1]).max(), off[: j + 1].max()):
                taken = j + 1
                break
            q = w / off[j]
        matrix = np.diag(diagonal[:taken]) + np.diag(off[: taken - 1], 1) + np.diag(off[: taken - 1], -1)
        values, vectors = np.linalg.eigh(matrix)
        nodes[probe, :taken], weights[probe, :taken] = values, vectors[0] ** 2
        nodes[probe, taken:] = values[-1]
    return nodes, weights


def density_of(nodes: np.ndarray, weights: np.ndarray, size: int, *, width: float, num_points: int = 1024) -> Density:
    """Return a `Density` from quadrature nodes and weights [probes, steps].

    Parameters
    ----------
    nodes, weights
        As from `quadrature`.
    size
        P.
    width
        Standard deviation of the Gaussian that smooths the curve, as a share of the range of the nodes.
    num_points
        Points of the grid.
    """
    num_probes = len(nodes)
    flat, share = nodes.ravel(), weights.ravel() / weights.sum()
    order = np.argsort(flat)
    flat, share = flat[order], share[order]
    live = flat[share > 0]
    span = float(live.max() - live.min()) or max(abs(float(live.max())), 1.0) * 1e-3
    sigma = width * span
    grid = np.linspace(live.min() - 4 * sigma, live.max() + 4 * sigma, num_points)
    curve = np.exp(-0.5 * ((grid[:, None] - flat) / sigma) ** 2) @ share / (sigma * np.sqrt(2 * np.pi))
    curve /= trapezoid(curve, grid)
    return Density(grid, curve, flat, share, size, num_probes)


def shape_of_density(density: Density) -> SpectrumShape | None:
    """Return the `SpectrumShape` of a density; None for the zero operator."""
    return _shape(density.nodes, density.weights * density.size)


def shape_of_eigenvalues(eigenvalues: np.ndarray) -> SpectrumShape | None:
    """Return the `SpectrumShape` of a list of eigenvalues alone, such as the k largest; None if all are zero."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    return _shape(values, np.ones_like(values))


def estimate_shape(nodes: np.ndarray, weights: np.ndarray, size: int) -> dict[str, Estimate] | None:
    """Return the numbers of `SpectrumShape`, "frobenius" and "score", each with its error; None for H = 0.

    A rule with an even number of nodes often has none near zero, one with an odd number has one, and what the many small
    eigenvalues contribute hangs on that. So the spectrum is read as the mean of two rules, with m and with m - 1
    nodes. The error has two parts: what is random, by a jackknife over the probes; and half of what the two rules differ by.

    Parameters
    ----------
    nodes, weights
        As from `quadrature`, [probes, steps].
    size
        P.

    Returns
    -------
    Name -> estimate with n = probes; without an error for a single probe. "frobenius" is the root of the sum of squared
    eigenvalues, "score" Tr H / sqrt(entropy_rank).
    """
    probes = len(nodes)
    rules = (nodes, weights), _coarser(nodes, weights, size)
    both = np.concatenate([rules[0][0], rules[1][0]], 1), np.concatenate([rules[0][1], rules[1][1]], 1)
    value = _numbers(*both, size)
    if value is None:
        return None
    each = [_numbers(*rule, size) for rule in rules]
    without = [_numbers(np.delete(both[0], i, 0), np.delete(both[1], i, 0), size) for i in range(probes)]
    found = {}
    for name, number in value.items():
        others = [row and row[name] for row in (*each, *without)] if probes > 1 else [None]
        stderr = None
        if number is not None and all(x is not None for x in others):
            spread = np.array(others, np.float64)
            resolution = (spread[0] - spread[1]) / 2
            stderr = float(np.sqrt((probes - 1) * spread[2:].var() + resolution**2))
        found[name] = Estimate(number, stderr, probes, "" if number is not None else "fewer than 3 ranks")
    return found


def _numbers(nodes: np.ndarray, weights: np.ndarray, size: int) -> dict[str, float | None] | None:
    """Return the numbers of `estimate_shape` of one quadrature; None for the zero operator, or where no row is left."""
    if not len(nodes):
        return None
    x, counts = nodes.ravel(), weights.ravel() * (size / weights.sum())
    shape = _shape(x, counts)
    if shape is None:
        return None
    score = float(counts @ x) / np.sqrt(shape.entropy_rank)
    return asdict(shape) | {"frobenius": float(np.sqrt(counts @ x**2)), "score": float(score)}


def _coarser(nodes: np.ndarray, weights: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the Gauss rules with one node fewer, for the same start vectors: no product is needed for them.

    They are those of the discrete measure of each rule (Lanczos on its nodes). A rule that is exact, because its
    Krylov space was exhausted, stays as it is.
    """
    m = nodes.shape[1]
    if m < 2 or m >= size:
        return nodes, weights
    few_nodes, few_weights = np.empty((2, len(nodes), m))
    for i, (x, w) in enumerate(zip(nodes, weights)):
        few_nodes[i], few_weights[i] = x, w
        if w[-1] == 0 and x[-1] == x[-2]:  # padded
            continue
        basis, matrix, q = np.zeros((m - 1, m)), np.zeros((m - 1, m - 1)), np.sqrt(w / w.sum())
        for j in range(m - 1):
            basis[j] = q
            u = x * q
            matrix[j, j] = q @ u
            for _ in range(2):
                u -= basis[: j + 1].T @ (basis[: j + 1] @ u)
            norm = np.linalg.norm(u)
            if j < m - 2:
                matrix[j, j + 1] = matrix[j + 1, j] = norm
            q = u / max(norm, 1e-300)
        values, vectors = np.linalg.eigh(matrix)
        few_nodes[i, :-1], few_weights[i, :-1] = values, vectors[0] ** 2
        few_nodes[i, -1], few_weights[i, -1] = values[-1], 0.0
    return few_nodes, few_weights


def trace_of_density(density: Density) -> float:
    """Return the sum of the eigenvalues."""
    return float(density.size * (density.weights @ density.nodes))


def _shape(values: np.ndarray, counts: np.ndarray) -> SpectrumShape | None:
    magnitude = np.abs(values)
    total = float(counts @ magnitude)
    if total == 0.0:
        return None
    p = magnitude / total
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    order = np.argsort(-magnitude, kind="stable")
    sorted_magnitude, sorted_counts = magnitude[order], counts[order]
    mass = np.cumsum(sorted_counts * sorted_magnitude) / total
    last = min(int(np.searchsorted(mass, 0.95 - 1e-12)), len(mass) - 1)
    before = mass[last - 1] if last else 0.0
    step = (0.95 - before) * total / sorted_magnitude[last]
    rank_95 = float(sorted_counts[:last].sum() + min(np.ceil(step - 1e-9), sorted_counts[last]))
    return SpectrumShape(
        entropy_rank=float(np.exp(-(counts * p) @ logs)),
        rank_95=rank_95,
        condition_number=float(sorted_magnitude[0] / sorted_magnitude[last]),
        decay=_decay(sorted_magnitude[: last + 1], sorted_counts[: last + 1]),
        negative_mass=float(counts[values < 0] @ magnitude[values < 0]) / total,
        num_negative=float(counts[values < -0.01 * magnitude.max()].sum()),
    )


def _decay(magnitude: np.ndarray, counts: np.ndarray) -> float | None:
    middle = np.cumsum(counts) - counts / 2 + 0.5  # the middle of the ranks that a value stands for
    ranks = np.unique(np.geomspace(1, max(middle[-1], 1), 50).round())
    if len(ranks) < 3:
        return None
    x = np.log(ranks)
    y = np.interp(x, np.log(np.maximum(middle, 1e-12)), np.log(magnitude))
    x, y = x - x.mean(), y - y.mean()
    return float(-(x @ y) / (x @ x))
