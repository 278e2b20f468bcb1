"""Every formula as a plain function, for a notebook: on arrays or tensors, without a tracer. The signals call the same ones."""

from __future__ import annotations

from lmtrace.analysis.convergence import Convergence, convergence
from lmtrace.analysis.emergence import Emergence, emergence
from lmtrace.analysis.online import OnlineChange, online_changes
from lmtrace.analysis.phases import ChangePoint, change_points
from lmtrace.numerics.covariance import anisotropy, effective_rank, participation_ratio, pca_dimension
from lmtrace.numerics.density import Density
from lmtrace.numerics.dimension import Gride, gride, mle, two_nn, two_nn_ml
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.hessian import hessian_density, hessian_spectrum, hessian_trace
from lmtrace.numerics.lanczos import Spectrum
from lmtrace.numerics.pairs import minimal_pair_accuracy
from lmtrace.numerics.similarity import linear_cka
from lmtrace.probing.codelength import Codelength, codelength
from lmtrace.probing.kept import load_probes, save_probes, transfer_matrix
from lmtrace.probing.linear import ProbeResult, linear_probe

__all__ = [
    "ChangePoint",
    "Codelength",
    "Convergence",
    "Density",
    "Emergence",
    "Estimate",
    "Gride",
    "OnlineChange",
    "ProbeResult",
    "Spectrum",
    "anisotropy",
    "change_points",
    "codelength",
    "convergence",
    "effective_rank",
    "emergence",
    "gride",
    "hessian_density",
    "hessian_spectrum",
    "hessian_trace",
    "linear_cka",
    "linear_probe",
    "load_probes",
    "minimal_pair_accuracy",
    "mle",
    "online_changes",
    "participation_ratio",
    "pca_dimension",
    "save_probes",
    "transfer_matrix",
    "two_nn",
    "two_nn_ml",
]
