"""The probe `kind="discriminant"`: its penalty is chosen on units left out, and likelihood mends it where it is refuted.

One eigendecomposition of the training rows (`Spectrum`) serves every labelling, its penalties and its control task:

1. *Ridge path.* Regression to one-hot labels for every penalty of `GRID`, and what it says of rows whose unit (sentence, or
   word type under the lexical split) was left out, in closed form.
2. *Discriminant.* Penalised discriminant analysis (Hastie, Buja and Tibshirani 1995) under the penalty whose predictions of
   units left out correlate best with the labels; its scores are multiplied by the number that gives these predictions the
   greatest likelihood. Where classes are Gaussian clouds of one shape, no fit of a likelihood comes near it on few rows.
3. *Score test.* Where the discriminant is right, the gradient of the likelihood is the noise of the sample. Where it is
   more than `REFUTED` times that (labels of word types, row norms with a long tail, borders between unequal clouds), softmax
   regression goes on from the discriminant until it has converged (`TOLERANCE`), under a penalty on the length of the
   weights: `SHARE` of the ridge path's, over what the scores were multiplied by (its square where that is above one, because
   the weights that are meant are larger by so much).

Nothing depends on the axes of the rows: a rotation of them changes rounding only. No feature is scaled by itself; the
unit of the penalty is the mean variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lmtrace.errors import DataError
from lmtrace.numerics.moments import Sample
from lmtrace.probing.closed_form import Linear
from lmtrace.probing.softmax import Labellings, minimise, negative_log_likelihood

GRID = tuple(10.0 ** (k / 2) for k in range(-14, 5))
"""Penalties in units of the mean variance: 1e-7 ... 100."""
SCALES = tuple(2.0 ** (k / 2) for k in range(-6, 9))
"""Numbers that the scores of a discriminant may be multiplied by: 1/8 ... 16."""
REFUTED = 1.2
"""Squared gradient of the likelihood over that of noise, from which on the discriminant does not stand."""
SHARE = 0.01
"""Penalty of softmax regression over that of the ridge path, where the discriminant need not be multiplied."""
STEPS = 40
"""Of softmax regression, at most."""
TOLERANCE = 1e-3
"""Greatest entry of a gradient, per row and in coordinates of unit curvature, at which softmax regression has converged."""
JUDGED = 1000
"""Rows of units left out that choose a penalty; more would cost more than they tell."""
EQUAL = 1e-3
"""Relative difference below which two penalties predict units left out as well."""
SPENT = 0.98
"""Share of the rows that a fit may use up, lest there is nothing left to judge it by."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Eigenbasis of the scatter matrix of training rows.

    Attributes
    ----------
    values : [r]
        float64, above zero.
    vectors : [d, r]
        float64, eigenvectors in columns; r is at most the number of rows less one.
    """

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, sample: Sample) -> Spectrum:
        """Return the spectrum of a sample, from the smaller of its two matrices of products."""
        n, d = sample.rows.shape
        if not bool(torch.isfinite(sample.moments.scatter).all()):
            raise DataError(
                "probe: the rows are so large that their squares overflow", "Look at the model's activations first"
            )
        if n > d:
            values, vectors = torch.linalg.eigh(sample.moments.scatter)
        else:
            # The vectors of X'X are X'u / sqrt(v), with u those of XX'.
            x = sample.rows.double() - sample.offset
            values, left = torch.linalg.eigh(x @ x.T)
            vectors = x.T @ left / values.clamp(min=1e-300).sqrt()
        kept = values > 1e-13 * values[-1:].clamp(min=1e-300)
        return cls(values[kept], vectors[:, kept])

    @property
    def unit(self) -> float:
        """Mean eigenvalue: the unit of penalties."""
        return float(self.values.mean()) if len(self.values) else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """The ridge path of several labellings, judged on rows whose unit is left out.

    Attributes
    ----------
    rows : [rows judged]
        int64, which of the training rows they are.
    gold : [rows judged, classes]
        One-hot labels less the share of every class; classes of all labellings side by side.
    scores : [penalties, rows judged, classes]
        Predictions of `gold`.
    leverage : [penalties, rows judged]
        Of each row in the fit to all rows.
    usable : [penalties]
        bool, whether the fit leaves something to judge it by.
    """

    rows: Tensor
    gold: Tensor
    scores: Tensor
    leverage: Tensor
    usable: Tensor


def left_out(sample: Sample, spectrum: Spectrum, cross: Tensor, share: Tensor, codes: Tensor, units: Tensor) -> LeftOut:
    """Return predictions of rows without their unit, for every penalty of `GRID`.

    For one row this is exact: r / (1 - h), with residual r and leverage h. For the m rows of a unit the m x m matrix of
    leverages is replaced by its diagonal and the mean of what is beside it, which is exact where the rows of a unit are
    equal (a word type at the embedding), and is inverted by Sherman and Morrison.

    Parameters
    ----------
    cross : [r, classes]
        float64, sum of the rows of each class in the eigenbasis.
    share : [classes]
        float64, of each class.
    codes : [labellings, n]
        Column of `cross` of every row.
    units : [n]
        int64, the unit of every row.
    """
    n, device = len(units), units.device
    judged = _whole_units(units, JUDGED)
    unit = units[judged].unique(return_inverse=True)[1]
    count = torch.bincount(unit).double()
    vectors = spectrum.vectors.to(sample.rows.dtype)
    rows = (sample.rows[judged] - sample.offset.to(sample.rows.dtype)) @ vectors
    of_unit = rows.new_zeros(len(count), rows.shape[1]).index_add_(0, unit, rows)
    gold = torch.zeros(len(judged), len(share), dtype=torch.float64, device=device)
    gold.scatter_(1, codes[:, judged].T, 1.0).sub_(share)
    scores, leverages, usable = [], [], []
    squares, unit_squares = rows.square(), of_unit.square()
    for penalty in GRID:
        inverse = 1 / (spectrum.values + penalty * spectrum.unit)
        residual = gold - (rows @ (inverse[:, None] * cross).to(rows.dtype)).double()
        leverage = (squares @ inverse.to(rows.dtype)).double() + 1 / n
        together = (unit_squares @ inverse.to(rows.dtype)).double() + count.square() / n
        alone = torch.zeros_like(count).index_add_(0, unit, leverage)
        beside = (together - alone) / (count * (count - 1)).clamp(min=1)
        each = 1 / (1 - leverage + beside[unit]).clamp(min=1e-6)
        every = torch.zeros_like(count).index_add_(0, unit, each)
        factor = beside / (1 - beside * every).clamp(min=1e-6)
        residual *= each[:, None]
        sums = residual.new_zeros(len(count), len(share)).index_add_(0, unit, residual)
        residual += (each * factor[unit])[:, None] * sums[unit]
        scores.append(gold - residual)
        leverages.append(leverage)
        usable.append(float((spectrum.values * inverse).sum()) + 1 < SPENT * n)
    return LeftOut(judged, gold, torch.stack(scores), torch.stack(leverages), torch.tensor(usable, device=device))


def _whole_units(units: Tensor, num: int) -> Tensor:
    """Return [rows] int64: all rows of units drawn until they are about `num`; the same for the same units."""
    if len(units) <= num:
        return torch.arange(len(units), device=units.device)
    values, unit, count = units.unique(return_inverse=True, return_counts=True)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0)).to(units.device)
    before = count[order].cumsum(0) - count[order]
    drawn = torch.zeros(len(values), dtype=torch.bool, device=units.device)
    drawn[order] = before < num
    return drawn[unit].nonzero()[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class Discriminant:
    """Penalised discriminant analysis of one labelling, in the eigenbasis.

    Attributes
    ----------
    weight : [r, classes]
        float64.
    bias : [classes]
        float64, at the mean of the rows, less `prior`.
    prior : [classes]
        float64, logarithm of the smoothed share of each class.
    scale
        What the scores are multiplied by.
    index
        Of its penalty in `GRID`.
    weaker
        The penalty of softmax regression. It goes by the smaller one of what predicts units left out with the best correlation
        and with the least squared error: correlation alone shrinks too much where one border is thin, squared error alone
        where rows have long tails.
    """

    weight: Tensor
    bias: Tensor
    prior: Tensor
    scale: float
    index: int
    weaker: float


def discriminant(spectrum: Spectrum, judged: LeftOut, cross: Tensor, counts: Tensor, span: slice) -> Discriminant:
    """Return the discriminant of the labelling whose classes are `span`; counts: [its classes] float64 rows."""
    gold, scores = judged.gold[:, span], judged.scores[:, :, span]
    fitted = (scores * gold).sum((1, 2)).clamp(min=0)
    alike = fitted.square() / scores.square().sum((1, 2)).clamp(min=1e-300)
    wrong = (gold - scores).square().sum((1, 2))
    last = len(GRID) - 1
    usable = judged.usable if bool(judged.usable.any()) else torch.arange(len(GRID), device=gold.device) == last
    alike = torch.where(usable, alike, -1.0)
    wrong = torch.where(usable, wrong, torch.inf)
    # Of penalties that predict as well, the largest: rounding must not choose among equals.
    index = int((alike >= alike.max() * (1 - EQUAL)).nonzero()[-1])
    least = int((wrong <= wrong.min() * (1 + EQUAL)).nonzero()[-1])
    n = float(counts.sum())
    solved = cross[:, span] / (spectrum.values + GRID[index] * spectrum.unit)[:, None]
    means = cross[:, span] / counts.clamp(min=1)
    # Within-class scatter + penalty = total + penalty - M N M', inverted by Woodbury's identity.
    identity = torch.eye(len(counts), dtype=means.dtype, device=means.device)
    turn = n * torch.linalg.pinv(identity - counts[:, None] * (means.T @ (solved / counts.clamp(min=1))))
    turn = turn / counts.clamp(min=1)[:, None]
    weight = solved @ turn
    bias = -0.5 * (means * weight).sum(0)
    prior = ((counts + 0.5) / (n + 0.5 * len(counts))).log()
    raw = scores[index] @ turn + bias
    target = gold.argmax(1)
    losses = [torch.nn.functional.cross_entropy(scale * raw + prior, target) for scale in SCALES]
    scale = SCALES[int(torch.stack(losses).argmin())]
    weaker = SHARE * min(GRID[index], GRID[least]) / max(scale, scale**2)
    return Discriminant(weight, bias, prior, scale, index, weaker)


def discriminants(
    sample: Sample, spectrum: Spectrum, labels: Labellings, codes: Tensor, units: Tensor, merged: Callable[..., tuple]
) -> list[Linear]:
    """Return the discriminant probes of several labellings of the same rows.

    Parameters
    ----------
    sample
        The rows: [n, d].
    labels, codes : [labellings, n]
        Of all of the rows; each has a class in each.
    units : [n]
        int64; rows of a unit are left out together.
    merged
        Labels -> (sample, labels) for iterations, with equal rows once.
    """
    n, starts = len(sample.rows), torch.tensor([span.start for span in labels.spans], device=codes.device)
    columns = codes + starts[:, None]
    hot = torch.zeros(len(labels.of), n, dtype=sample.rows.dtype, device=codes.device).scatter_(0, columns, 1.0)
    counts = hot.sum(1).double()
    sums = (hot @ sample.rows).double() - counts[:, None] * sample.offset
    cross = spectrum.vectors.T @ sums.T
    judged = left_out(sample, spectrum, cross, counts / n, columns, units)
    found = [discriminant(spectrum, judged, cross, counts[span], span) for span in labels.spans]
    refuted = _refuted(sample, spectrum, judged, labels, hot, found)
    open_ = [i for i, is_open in enumerate(refuted) if is_open]
    linears = [_closed(sample, spectrum, one) for one in found]
    if open_:
        sizes = [len(found[i].prior) for i in open_]
        some_sample, some_labels = merged(Labellings(codes[open_], sizes))
        ends = _iterate(some_sample, sample, spectrum, some_labels, [found[i] for i in open_])
        for i, linear in zip(open_, ends, strict=True):
            linears[i] = linear
    return linears


def _closed(sample: Sample, spectrum: Spectrum, one: Discriminant) -> Linear:
    weight = spectrum.vectors @ (one.scale * one.weight)
    bias = one.scale * one.bias + one.prior - sample.moments.mean @ weight
    return Linear(weight, bias, GRID[one.index])


def _refuted(
    sample: Sample, spectrum: Spectrum, judged: LeftOut, labels: Labellings, hot: Tensor, found: list[Discriminant]
) -> list[bool]:
    """Return which discriminants the score test refutes.

    With P the probabilities, the squared length of X'(P - Y) where the covariance of the rows is one, over what it is in
    the mean if labels are drawn from P. A scale below one is no excuse: it hides that few rows decide.
    """
    dtype = sample.rows.dtype
    scales = [max(one.scale, 1.0) for one in found]
    turned = torch.cat([scale * one.weight for scale, one in zip(scales, found, strict=True)], 1)
    weight = (spectrum.vectors @ turned).T
    bias = torch.cat([scale * one.bias + one.prior for scale, one in zip(scales, found, strict=True)])
    bias = bias - weight @ sample.offset
    p = torch.addmm(bias.to(dtype)[:, None], weight.to(dtype), sample.rows.T)
    for span in labels.spans:
        p[span] = torch.softmax(p[span], 0)
    spread = p - p.square()
    wrong = p.sub_(hot)
    slope = (wrong @ sample.rows).double() - wrong.sum(1).double()[:, None] * sample.offset
    slope = (slope @ spectrum.vectors).T
    answers = []
    for one, span in zip(found, labels.spans, strict=True):
        shrunk = spectrum.values + GRID[one.index] * spectrum.unit
        length = float((slope[:, span].square() / shrunk[:, None]).sum())
        uncertain = spread[span].sum(0).double()
        # Leverages of all rows would cost a product as large as that of the rows with themselves: their sum is known.
        weights = judged.leverage[one.index]
        mean = uncertain.mean() * (spectrum.values / shrunk).sum()
        sampled = uncertain[judged.rows]
        skew = (sampled * weights).mean() / (sampled.mean() * weights.mean()).clamp(min=1e-300)
        answers.append(length > REFUTED * float(mean * skew))
    return answers


def _iterate(
    rows: Sample, sample: Sample, spectrum: Spectrum, labels: Labellings, found: list[Discriminant]
) -> list[Linear]:
    """Return softmax regressions that begin at discriminants, in coordinates in which each class is curved alike.

    Parameters
    ----------
    rows
        Of `sample`, equal ones once; the labels are theirs.
    """
    dtype, n, rank = sample.rows.dtype, len(sample.rows), len(spectrum.values)
    offset, vectors = sample.offset.to(dtype), spectrum.vectors.to(dtype)
    weight = torch.cat([one.scale * one.weight for one in found], 1).T
    bias = torch.cat([one.scale * one.bias + one.prior for one in found])
    penalty = torch.cat([torch.full_like(one.prior, one.weaker * spectrum.unit) for one in found])[:, None]
    start = (weight @ spectrum.vectors.T).to(dtype)
    logits = torch.addmm((bias.to(dtype) - start @ offset)[:, None], start, rows.rows.T)
    for span in labels.spans:
        logits[span] = torch.softmax(logits[span], 0)
    curved = (logits - logits.square()).mean(1).double().clamp(min=1e-6)
    units = torch.cat([(n / (curved[:, None] * spectrum.values + penalty)).sqrt(), curved.rsqrt()[:, None]], 1)
    theta = torch.cat([weight, bias[:, None]], 1) / units
    units = units.to(dtype)

    def to_linear(theta: Tensor) -> Tensor:
        scaled = theta * units
        turned = scaled[:, :rank] @ vectors.T
        return torch.cat([turned, scaled[:, rank:] - (turned @ offset)[:, None]], 1)

    def to_slope(slope: Tensor) -> Tensor:
        turned = (slope[:, :-1] - torch.outer(slope[:, -1], offset)) @ vectors
        return torch.cat([turned, slope[:, -1:]], 1) * units

    pull = torch.cat(
        [(penalty / n).to(dtype).expand(-1, rows.rows.shape[1]), penalty.new_zeros(len(penalty), 1).to(dtype)], 1
    )
    objective = negative_log_likelihood(rows, labels, to_linear, to_slope, pull)
    end = minimise(objective, theta.to(dtype), labels.of, STEPS, TOLERANCE, scale=1.0)
    weight, bias = to_linear(end).double().split([rows.rows.shape[1], 1], 1)
    bias = bias[:, 0] - weight @ sample.origin
    return [
        Linear(weight[span].T, bias[span], one.weaker, iterated=True)
        for span, one in zip(labels.spans, found, strict=True)
    ]
