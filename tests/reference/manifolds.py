"""The benchmark manifolds of scikit-dimension, without its `BenchmarkManifolds` class, which needs pandas."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from skdim.datasets import BenchmarkManifolds

# name -> (generator, intrinsic dimension, number of variables)
MANIFOLDS = {
    "M1 sphere": (BenchmarkManifolds._gen_sphere_data, 10, 11),
    "M2 affine": (BenchmarkManifolds._gen_affine3_5_data, 3, 5),
    "M3": (BenchmarkManifolds._gen_nonlinear4_6_data, 4, 6),
    "M4": (BenchmarkManifolds._gen_nonlinear_data, 4, 8),
    "M5b helix": (BenchmarkManifolds._gen_helix2_data, 2, 3),
    "M6": (BenchmarkManifolds._gen_nonlinear_data, 6, 36),
    "M7 roll": (BenchmarkManifolds._gen_roll_data, 2, 3),
    "M8": (BenchmarkManifolds._gen_nonlinear_data, 12, 72),
    "M9 affine": (BenchmarkManifolds._gen_affine_data, 20, 20),
    "M10a cube": (BenchmarkManifolds._gen_cubic_data, 10, 11),
    "M10d cube": (BenchmarkManifolds._gen_cubic_data, 70, 72),
    "M11 Moebius": (BenchmarkManifolds._gen_moebius_data, 2, 3),
    "M12 normal": (BenchmarkManifolds._gen_norm_data, 20, 20),
    "M13b spiral": (BenchmarkManifolds._gen_spiral_data, 1, 13),
    "Mbeta": (BenchmarkManifolds._gen_campadelli_beta_data, 10, 40),
    "Mp3": (BenchmarkManifolds._gen_paraboloid_data, 9, 30),
}


def manifold(name: str, n: int, seed: int) -> np.ndarray:
    """Return `n` points [n, variables] of one manifold."""
    generate, dimension, variables = MANIFOLDS[name]
    source = SimpleNamespace(random_state=np.random.RandomState(seed))
    return np.asarray(generate(source, n=n, dim=variables, d=dimension), dtype=np.float64)
