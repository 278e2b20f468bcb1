"""Curvature of a loss: extreme eigenvalues, trace and spectral density of its Hessian, which is never formed.

Everything rests on products `H v`; see `lmtrace.numerics.hessian_operator`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.density import Density, density_of, quadrature
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.hessian_operator import HessianOperator, Loss, Method, Parameters
from lmtrace.numerics.hutchinson import mean_estimate, quadratic_forms
from lmtrace.numerics.lanczos import (
    NotFiniteError,
    Spectrum,
    default_generator,
    lanczos,
    missing_spectrum,
    random_start,
)

MAX_ASYMMETRY = 2e-2
"""Above this, relative to the norm of H, products by double backward are not those of a Hessian."""


def hessian_spectrum(
    loss: Loss,
    params: Parameters,
    k: int = 1,
    tol: float = 1e-3,
    *,
    tol_smallest: float | None = None,
    smallest: bool = True,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    max_products: int = 300,
    method: Method = "auto",
) -> Spectrum:
    """Return the k largest eigenvalues and the smallest one of the Hessian, with residuals.

    Lanczos with full reorthogonalisation (Paige 1972; Parlett 1998, ch. 13) on Hessian-vector products. "Largest" is
    algebraic: the most negative eigenvalue may be larger in magnitude, and is `smallest`.

    Parameters
    ----------
    loss, params
        As for `HessianOperator`.
    k
        How many of the largest.
    tol
        An eigenpair counts when ``||H v - lambda v|| <= tol * max |lambda|`` (the smallest: ``tol * |lambda|`` itself, or 1 %
        of the former). The eigenvalue's error is at most that residual, and usually of the order of its square.
    smallest
        Whether the most negative eigenvalue is wanted too (more products).
    start
        [P], a start vector, such as the eigenvector of the measurement before.
    generator
        Source of the random start; a fixed seed by default.
    max_products
        Limit on Hessian-vector products.
    method
        As for `HessianOperator`.

    Returns
    -------
    Spectrum
        What did not converge is missing (None, or fewer than k eigenvalues) and `note` says why.

    Examples
    --------
    >>> w = torch.ones(3, requires_grad=True)
    >>> curvatures = torch.tensor([3.0, 2.0, -1.0])
    >>> found = hessian_spectrum(lambda: 0.5 * (curvatures * w * w).sum(), [w])
    >>> round(found.largest, 4), round(found.smallest, 4)
    (3.0, -1.0)
    """
    try:
        operator = HessianOperator(loss, params, method=method)
        return operator_spectrum(
            operator, k, tol, smallest=smallest, start=start, generator=generator, max_products=max_products
        )
    except NotFiniteError as error:
        return missing_spectrum(str(error))


def operator_spectrum(
    operator: HessianOperator,
    k: int = 1,
    tol: float = 1e-3,
    *,
    tol_smallest: float | None = None,
    smallest: bool = True,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    max_products: int = 300,
    max_basis: int = 48,
) -> Spectrum:
    """Return `hessian_spectrum` of an operator that exists, and check its symmetry, which costs nothing.

    Some attention kernels and custom functions return gradients whose own derivative is silently incomplete. Then
    products by double backward are not symmetric; central differences are used instead, and the operator says so.
    """
    generator = generator or default_generator()
    if start is None:
        start = random_start(operator.size, generator, operator.dtype, operator.device)
    options: dict[str, Any] = {
        "k": k,
        "tol": tol,
        "tol_smallest": tol_smallest,
        "smallest": smallest,
        "max_products": max_products,
        "max_basis": max_basis,
        "generator": generator,
    }
    spectrum = lanczos(operator, start, **options)
    if spectrum.asymmetry > MAX_ASYMMETRY and operator.method == "double backward":
        operator.fall_back(f"double backward is not symmetric here (by {spectrum.asymmetry:.1e} of the norm)")
        spectrum = lanczos(operator, start, **options)
    if spectrum.asymmetry > MAX_ASYMMETRY:
        spectrum = missing_spectrum(
            f"products are not symmetric (by {spectrum.asymmetry:.1e} of the norm): the loss has kinks, or is not the same "
            "at every call"
        )
    return replace(spectrum, method=operator.method, reason=operator.reason)


def hessian_trace(
    loss: Loss,
    params: Parameters,
    num_probes: int = 30,
    generator: torch.Generator | None = None,
    *,
    method: Method = "auto",
) -> Estimate:
    """Return the trace of the Hessian by Hutchinson's estimator with Rademacher probes.

    tr H = E[v' H v] for v with independent entries +-1 (Hutchinson 1990). Its variance is 2 sum_{i != j} H_ij^2 per
    probe.

    Parameters
    ----------
    loss, params, method
        As for `HessianOperator`.
    num_probes
        Products to average over; relative error about 25 % at 30 on an untrained transformer.
    generator
        Source of the probes; a fixed seed by default, so that two calls on the same parameters use the same probes.

    Returns
    -------
    Estimate
        With the standard error over probes and n = `num_probes`; value None and a note where something is not finite.

    Examples
    --------
    >>> w = torch.ones(3, requires_grad=True)
    >>> curvatures = torch.tensor([3.0, 2.0, -1.0])
    >>> hessian_trace(lambda: 0.5 * (curvatures * w * w).sum(), [w]).value  # exact where H is diagonal
    4.0
    """
    if num_probes < 1:
        raise ConfigError(f"num_probes: expected at least 1, got {num_probes}")
    try:
        operator = HessianOperator(loss, params, method=method)
        return mean_estimate(quadratic_forms(operator, operator.size, num_probes, generator, operator.device)[:, 0])
    except NotFiniteError as error:
        return Estimate(None, note=str(error))


def hessian_density(
    loss: Loss,
    params: Parameters,
    num_probes: int = 10,
    num_steps: int = 80,
    *,
    generator: torch.Generator | None = None,
    method: Method = "auto",
) -> Density:
    """Return the spectral density of the Hessian by stochastic Lanczos quadrature.

    See `lmtrace.numerics.density.quadrature` (Ghorbani, Krishnan and Xiao 2019). Costs `num_probes * num_steps`
    products and holds `num_steps` vectors of P entries.

    Parameters
    ----------
    loss, params, method
        As for `HessianOperator`.
    num_probes
        Random start vectors.
    num_steps
        Lanczos steps, that is quadrature nodes, per start vector.
    generator
        Source of the start vectors; a fixed seed by default.

    Returns
    -------
    Density
        Nodes and weights (sum 1), and a smoothed curve of them; empty, with a note, where something is not finite.

    Examples
    --------
    >>> w = torch.ones(3, requires_grad=True)
    >>> curvatures = torch.tensor([3.0, 2.0, -1.0])
    >>> found = hessian_density(lambda: 0.5 * (curvatures * w * w).sum(), [w])
    >>> sorted({round(float(node)) for node in found.nodes})  # the three eigenvalues
    [-1, 2, 3]
    """
    try:
        operator = HessianOperator(loss, params, method=method)
        nodes, weights = quadrature(
            operator, operator.size, num_probes, num_steps, generator, operator.dtype, operator.device
        )
    except NotFiniteError as error:
        nothing = np.zeros(0)
        return Density(nothing, nothing, nothing, nothing, 0, 0, str(error))
    return density_of(nodes, weights, operator.size, width=1 / (2 * num_steps))
