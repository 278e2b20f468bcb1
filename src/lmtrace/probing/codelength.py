"""Online description length of labels given representations: how much effort a probe needs to read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lmtrace.errors import DataError
from lmtrace.probing.linear import as_codes, as_rows, as_vector
from lmtrace.probing.softmax import softmax_regression

PORTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Shares of the sentences after which the probe is fitted again (Voita and Titov 2020)."""


@dataclass(frozen=True, slots=True)
class Codelength:
    """Length of the labels' code.

    Attributes
    ----------
    bits
        Online (prequential) code; None where it cannot be computed.
    uniform_bits
        n log2 K: the code that knows nothing.
    ratio
        bits / uniform_bits; 1 where nothing is gained, above 1 where the probe misleads.
    n
        Rows.
    note
        Why `bits` is None.
    """

    bits: float | None
    uniform_bits: float
    ratio: float | None
    n: int = 0
    note: str = ""


def codelength(x: Any, y: Any, groups: Any, seed: int = 0) -> Codelength:
    """Return the online description length of the labels y given the rows x.

    Sentences come in a seeded random order, in portions that double. The first portion costs log2 K bits a label; each
    further one costs -log2 p(y | x) under a logistic probe (penalty 1 on standardised features) fitted on all portions
    before it. p is the probe's softmax mixed with the uniform code, with the weight of one row per class, so that a
    class not seen yet has a finite price.

    Source: Voita and Titov 2020 (arXiv 2003.12298).

    Parameters
    ----------
    x : [n, d]
        Representations.
    y : [n]
        Labels: ints or strings.
    groups : [n]
        Sentence of every row.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 8))
    >>> sentences = np.arange(1000) // 5
    >>> codelength(x, x[:, 0] > 0, groups=sentences).ratio < 0.3  # can be read off
    True
    >>> codelength(x, rng.integers(0, 2, 1000), groups=sentences).ratio > 0.9  # cannot
    True
    """
    rows, (codes, names), group = as_rows(x), as_codes(y), as_vector(groups, "groups")
    if not len(rows) == len(codes) == len(group):
        raise DataError(f"codelength: x, y and groups have {len(rows)}, {len(codes)} and {len(group)} rows")
    k, n = len(names), len(codes)
    uniform = n * float(np.log2(max(k, 1)))
    if k < 2:
        return Codelength(None, uniform, None, n, f"{k} class: nothing to encode")
    sentences, index = np.unique(group, return_inverse=True)
    if len(sentences) < 2:
        return Codelength(None, uniform, None, n, "1 sentence cannot be sent in portions")
    place = np.random.default_rng([seed, 5]).permutation(len(sentences))[index]
    ends = sorted({max(1, round(share * len(sentences))) for share in PORTIONS})
    bits, start = 0.0, 0
    target = torch.as_tensor(codes, device=rows.device)
    for end in ends:
        known = torch.as_tensor(place < start, device=rows.device)
        fresh = torch.as_tensor((place >= start) & (place < end), device=rows.device)
        num_known, num_fresh = int(known.sum()), int(fresh.sum())
        if num_known == 0:
            bits += num_fresh * float(np.log2(k))
        elif num_fresh:
            probe = softmax_regression(rows[known], target[known], k, max_iter=100)
            logits = probe.scores(rows[fresh]).double()
            p = torch.softmax(logits, 1).gather(1, target[fresh][:, None])[:, 0]
            bits -= float(((num_known * p + 1) / (num_known + k)).log2().sum())
        start = end
    return Codelength(bits, uniform, bits / uniform, n)
