"""The probe `kind="discriminant"`: its penalty is chosen on units left out, and likelihood mends it where it is refuted.

One eigendecomposition of the training rows (`Spectrum`) serves every labelling, its penalties and its control task:

1. *Ridge path.* Generalised cross-validation of ridge regression to one-hot labels for every penalty of `GRID`, from the
   spectrum alone; what is left out are units (sentences, or word types under the lexical split).
2. *Discriminant.* Penalised discriminant analysis (Hastie, Buja and Tibshirani 1995) under the penalty whose predictions of
   units left out correlate best with the labels; its scores are multiplied by the number that gives predictions of rows
   whose unit is left out the greatest likelihood. Where classes are Gaussian clouds of one shape, no fit of a likelihood
   comes near it on few rows.
3. *Score test.* Where the discriminant is right, the gradient of the likelihood is the noise of the sample. Where it is
   more than `REFUTED` times that (labels of word types, row norms with a long tail, borders between unequal clouds), softmax
   regression goes on from the discriminant until it has converged (`TOLERANCE`), under a penalty on the length of the
   weights: `SHARE` of the ridge path's, over what the scores were multiplied by (its square where that is above one, because
   the weights that are meant are larger by so much).

Nothing depends on the axes of the rows: a rotation of them changes rounding only. No feature is scaled by itself; the
unit of the penalty is the mean variance.
"""

from __future__ import annotations

import math
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
SCALES = (1 / 8, 16.0)
"""Least and greatest number that the scores of a discriminant may be multiplied by."""
NEWTON = 6
"""Steps to that number."""
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

    def rotated(self, sample: Sample) -> Tensor:
        """Return [n, r] rows in the basis, less their mean in the training part."""
        vectors = self.vectors.to(sample.rows.dtype)
        return sample.rows @ vectors - (self.vectors.T @ sample.offset).to(sample.rows.dtype)

    @property
    def unit(self) -> float:
        """Mean eigenvalue: the unit of penalties."""
        return float(self.values.mean()) if len(self.values) else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Several labellings of the same rows, their classes side by side, in the eigenbasis.

    Attributes
    ----------
    spectrum
        Of the rows.
    cross : [r, classes]
        float64, sum of the rows of each class, less their mean.
    counts : [classes]
        float64, rows of each.
    of : [classes]
        int64, the labelling of each.
    num_rows
        Of the sample.
    units
        What is left out together where that is not a row: see `Units`.
    """

    spectrum: Spectrum
    cross: Tensor
    counts: Tensor
    of: Tensor
    num_rows: int
    units: Units | None = None

    def by_labelling(self, values: Tensor) -> Tensor:
        """Return [penalties, labellings] sums of values: [penalties, classes]."""
        return values.new_zeros(len(values), int(self.of[-1]) + 1).index_add_(1, self.of, values)


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Projection of rows and labels on the means of units, whose rows are left out together.

    Attributes
    ----------
    num
        Of the units.
    scatter : [r, r]
        float64, of the means in the eigenbasis, each counted as often as it has rows.
    cross : [r, classes]
        float64, of means of rows with means of one-hot labels.
    variance : [classes]
        float64, sum of squares of the means of one-hot labels.
    """

    num: int
    scatter: Tensor
    cross: Tensor
    variance: Tensor

    @classmethod
    def of(cls, rotated: Tensor, hot: Tensor, units: Tensor) -> Units:
        """Return the projection; rotated: [n, r], hot: [classes, n] one-hot labels, units: [n] int64."""
        unit = units.unique(return_inverse=True)[1]
        size = torch.bincount(unit).double()
        num, n = len(size), len(unit)
        sums = rotated.new_zeros(num, rotated.shape[1]).index_add_(0, unit, rotated).double()
        means = sums / size.sqrt()[:, None]
        classes = hot.new_zeros(num, len(hot)).index_add_(0, unit, hot.T).double()
        classes = (classes / size[:, None] - hot.sum(1).double() / n) * size.sqrt()[:, None]
        return cls(num, means.T @ means, means.T @ classes, classes.square().sum(0))


def penalties(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return the penalties of ridge regression that predict rows left out best, [labellings] each, in units of variance.

    The first is the one whose predictions correlate best with the labels, the second has the least squared error. Residuals
    of rows left out are those of the fit over 1 - tr H / n (generalised cross-validation, Golub, Heath and Wahba 1979), so
    all comes from the spectrum, at a price that rows have no part in. Where units are left out, the means of units and what
    is left of the rows beside them are each divided by their own mean leverage.
    Of penalties that are as good (`EQUAL`), the largest, between the points of `GRID` by interpolation: rounding moves it by
    rounding.
    """
    values, unit, n = problem.spectrum.values, problem.spectrum.unit, problem.num_rows
    grid = torch.tensor(GRID, dtype=values.dtype, device=values.device)
    inverse = 1 / (values + grid[:, None] * unit)
    variance, square = problem.counts - problem.counts.square() / n, problem.cross.square()
    agree, spent = inverse @ square, (inverse * values).sum(1) + 1
    residual = variance - 2 * agree + (inverse.square() * values) @ square
    parts: list[Part] = [(variance - agree, residual, spent / n)]
    if problem.units is not None:
        parts = _two_parts(problem, problem.units, inverse, parts[0])
    left = [1 / (1 - used).clamp(min=1e-6)[:, None] for _, _, used in parts]
    with_gold = torch.stack([along * scale for (along, _, _), scale in zip(parts, left, strict=True)]).sum(0)
    squares = torch.stack([part * scale**2 for (_, part, _), scale in zip(parts, left, strict=True)]).sum(0)
    fitted = problem.by_labelling(variance - with_gold).clamp(min=0)
    length = problem.by_labelling(variance - 2 * with_gold + squares).clamp(min=1e-300)
    unusable = spent[:, None] >= SPENT * n
    unusable[-1] = False
    alike = (fitted.square() / length).masked_fill(unusable, -1.0)
    wrong = problem.by_labelling(squares).masked_fill(unusable, torch.inf)
    return _largest(alike), _largest(-wrong)


Part = tuple[Tensor, Tensor, Tensor]
"""[penalties, classes] residuals times labels and residuals squared; [penalties] mean leverage."""


def _two_parts(problem: Problem, units: Units, inverse: Tensor, whole: Part) -> list[Part]:
    """Return the means of units, and what is left of the rows beside them."""
    along, square, leverage = whole
    solved = inverse[:, :, None] * problem.cross
    agree = (solved * units.cross).sum(1)
    of_means = units.variance - agree
    squares = of_means - agree + (solved * (units.scatter @ solved)).sum(1)
    used, beside = inverse @ units.scatter.diagonal() + 1, max(problem.num_rows - units.num, 1)
    rest = (leverage * problem.num_rows - used) / beside
    return [(of_means, squares, used / units.num), (along - of_means, square - squares, rest)]


def _largest(score: Tensor) -> Tensor:
    """Return [labellings] the largest penalty at which a score: [penalties, labellings] is as good as the best one."""
    best = score.amax(0)
    bound = best - EQUAL * best.abs()
    last = (score >= bound).double().mul(torch.arange(1, len(GRID) + 1, device=score.device)[:, None]).argmax(0)
    after = (last + 1).clamp(max=len(GRID) - 1)
    high, low = score.gather(0, last[None])[0], score.gather(0, after[None])[0]
    part = torch.where(after > last, (high - bound) / (high - low).clamp(min=1e-300), 0.0)
    grid = torch.tensor(GRID, dtype=torch.float64, device=score.device).log()
    return (grid[last] + part.clamp(0, 1) * (grid[after] - grid[last])).exp()


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """Ridge regressions, each under its own penalty, judged on rows whose unit is left out.

    Attributes
    ----------
    rows : [rows judged]
        int64, which of the training rows they are.
    gold : [rows judged, classes]
        One-hot labels less the share of every class.
    scores : [rows judged, classes]
        Predictions of `gold`.
    leverage : [rows judged, labellings]
        Of each row in the fit to all rows.
    """

    rows: Tensor
    gold: Tensor
    scores: Tensor
    leverage: Tensor


def left_out(rotated: Tensor, problem: Problem, chosen: Tensor, codes: Tensor, units: Tensor) -> LeftOut:
    """Return predictions of rows without their unit.

    For one row this is exact: r / (1 - h), with residual r and leverage h. For the m rows of a unit the m x m matrix of
    leverages is replaced by its diagonal and the mean of what is beside it, which is exact where the rows of a unit are
    equal (a word type at the embedding), and is inverted by Sherman and Morrison.

    Parameters
    ----------
    rotated : [n, r]
        The rows in the eigenbasis.
    chosen : [labellings]
        Penalty of each.
    codes : [labellings, n]
        Class of every row, among those of all labellings.
    units : [n]
        int64, the unit of every row.
    """
    n, of = len(units), problem.of
    judged = _whole_units(units, JUDGED)
    unit = units[judged].unique(return_inverse=True)[1]
    count = torch.bincount(unit).double()[:, None]
    rows, dtype, spectrum = rotated[judged], rotated.dtype, problem.spectrum
    of_unit = rows.new_zeros(len(count), rows.shape[1]).index_add_(0, unit, rows)
    gold = torch.zeros(len(judged), len(of), dtype=torch.float64, device=units.device)
    gold.scatter_(1, codes[:, judged].T, 1.0).sub_(problem.counts / n)
    inverse = 1 / (spectrum.values[:, None] + chosen * spectrum.unit)
    residual = gold - (rows @ (inverse[:, of] * problem.cross).to(dtype)).double()
    leverage = (rows.square() @ inverse.to(dtype)).double() + 1 / n
    together = (of_unit.square() @ inverse.to(dtype)).double() + count.square() / n
    alone = torch.zeros_like(together).index_add_(0, unit, leverage)
    beside = (together - alone) / (count * (count - 1)).clamp(min=1)
    each = 1 / (1 - leverage + beside[unit]).clamp(min=1e-6)
    every = torch.zeros_like(together).index_add_(0, unit, each)
    factor = beside / (1 - beside * every).clamp(min=1e-6)
    residual *= each[:, of]
    sums = residual.new_zeros(len(count), len(of)).index_add_(0, unit, residual)
    residual += (each * factor[unit])[:, of] * sums[unit]
    return LeftOut(judged, gold, gold - residual, leverage)


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
    penalty
        In units of the mean variance.
    weaker
        The penalty of softmax regression. It goes by the smaller one of what predicts rows left out with the best correlation
        and with the least squared error: correlation alone shrinks too much where one border is thin, squared error alone
        where rows have long tails.
    """

    weight: Tensor
    bias: Tensor
    prior: Tensor
    scale: float
    penalty: float
    weaker: float


def discriminant(problem: Problem, judged: LeftOut, span: slice, penalty: float, least: float) -> Discriminant:
    """Return the discriminant of the labelling whose classes are `span`; the penalties are those of `penalties`."""
    spectrum, counts, cross = problem.spectrum, problem.counts[span], problem.cross[:, span]
    n = float(counts.sum())
    solved = cross / (spectrum.values + penalty * spectrum.unit)[:, None]
    means = cross / counts.clamp(min=1)
    # Within-class scatter + penalty = total + penalty - M N M', inverted by Woodbury's identity.
    identity = torch.eye(len(counts), dtype=means.dtype, device=means.device)
    turn = n * torch.linalg.pinv(identity - counts[:, None] * (means.T @ (solved / counts.clamp(min=1))))
    turn = turn / counts.clamp(min=1)[:, None]
    weight = solved @ turn
    bias = -0.5 * (means * weight).sum(0)
    prior = ((counts + 0.5) / (n + 0.5 * len(counts))).log()
    raw = (judged.scores[:, span] @ turn + bias).T.contiguous()
    scale = _most_likely(raw, prior, judged.gold[:, span].argmax(1))
    weaker = SHARE * min(penalty, least) / max(scale, scale**2)
    return Discriminant(weight, bias, prior, scale, penalty, weaker)


def _most_likely(raw: Tensor, prior: Tensor, target: Tensor) -> float:
    """Return the number that scores: [classes, rows] are multiplied by for the greatest likelihood, within `SCALES`."""
    scale, gold = 1.0, raw.gather(0, target[None])[0].mean()
    for _ in range(NEWTON):
        p = torch.softmax(scale * raw + prior[:, None], 0).mul_(raw)
        mean = p.sum(0)
        slope, curvature = mean.mean() - gold, (p.mul_(raw).sum(0) - mean.square()).mean()
        # The likelihood is concave in the scale; in its logarithm no step can leave the positive numbers.
        move = float(-slope / (scale * curvature).clamp(min=1e-300))
        scale = min(max(scale * math.exp(min(max(move, -1.4), 1.4)), SCALES[0]), SCALES[1])
    return scale


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
    rotated = spectrum.rotated(sample)
    means = Units.of(rotated, hot, units) if len(units.unique()) < n else None
    problem = Problem(spectrum, (hot @ rotated).double().T, counts, labels.of, n, means)
    chosen, least = penalties(problem)
    judged = left_out(rotated, problem, chosen, columns, units)
    ends = zip(labels.spans, chosen.tolist(), least.tolist(), strict=True)
    found = [discriminant(problem, judged, span, *pair) for span, *pair in ends]
    refuted = _refuted(rotated, spectrum, judged, labels, hot, found)
    open_ = [i for i, is_open in enumerate(refuted) if is_open]
    linears = [_closed(sample, spectrum, one) for one in found]
    if open_:
        sizes = [len(found[i].prior) for i in open_]
        distinct, some_labels = merged(Labellings(codes[open_], sizes))
        rows = rotated if distinct is sample else spectrum.rotated(distinct)
        ends = _iterate(rows, sample, spectrum, some_labels, [found[i] for i in open_])
        for i, linear in zip(open_, ends, strict=True):
            linears[i] = linear
    return linears


def _closed(sample: Sample, spectrum: Spectrum, one: Discriminant) -> Linear:
    weight = spectrum.vectors @ (one.scale * one.weight)
    bias = one.scale * one.bias + one.prior - sample.moments.mean @ weight
    return Linear(weight, bias, one.penalty)


def _refuted(
    rotated: Tensor, spectrum: Spectrum, judged: LeftOut, labels: Labellings, hot: Tensor, found: list[Discriminant]
) -> list[bool]:
    """Return which discriminants the score test refutes.

    With P the probabilities, the squared length of X'(P - Y) where the covariance of the rows is one, over what it is in
    the mean if labels are drawn from P. A scale below one is no excuse: it hides that few rows decide.
    """
    dtype = rotated.dtype
    scales = [max(one.scale, 1.0) for one in found]
    weight = torch.cat([scale * one.weight for scale, one in zip(scales, found, strict=True)], 1)
    bias = torch.cat([scale * one.bias + one.prior for scale, one in zip(scales, found, strict=True)])
    p = torch.addmm(bias.to(dtype)[:, None], weight.T.to(dtype), rotated.T)
    for span in labels.spans:
        p[span] = torch.softmax(p[span], 0)
    spread = (p - p.square()).double()
    slope = (p.sub_(hot) @ rotated).double().T
    answers = []
    for i, (one, span) in enumerate(zip(found, labels.spans, strict=True)):
        shrunk = spectrum.values + one.penalty * spectrum.unit
        length = float((slope[:, span].square() / shrunk[:, None]).sum())
        uncertain = spread[span].sum(0)
        # Leverages of all rows would cost a product as large as that of the rows with themselves: their sum is known.
        weights = judged.leverage[:, i]
        mean = uncertain.mean() * (spectrum.values / shrunk).sum()
        sampled = uncertain[judged.rows]
        skew = (sampled * weights).mean() / (sampled.mean() * weights.mean()).clamp(min=1e-300)
        answers.append(length > REFUTED * float(mean * skew))
    return answers


def _iterate(
    rows: Tensor, sample: Sample, spectrum: Spectrum, labels: Labellings, found: list[Discriminant]
) -> list[Linear]:
    """Return softmax regressions that begin at discriminants, in coordinates in which each class is curved alike.

    Parameters
    ----------
    rows : [distinct, r]
        Of `sample` in the eigenbasis, equal ones once; the labels are theirs.
    """
    dtype, n, rank = rows.dtype, len(sample.rows), len(spectrum.values)
    weight = torch.cat([one.scale * one.weight for one in found], 1).T
    bias = torch.cat([one.scale * one.bias + one.prior for one in found])
    penalty = torch.cat([torch.full_like(one.prior, one.weaker * spectrum.unit) for one in found])[:, None]
    logits = torch.addmm(bias.to(dtype)[:, None], weight.to(dtype), rows.T)
    for span in labels.spans:
        logits[span] = torch.softmax(logits[span], 0)
    curved = (logits - logits.square()).mean(1).double().clamp(min=1e-6)
    units = torch.cat([(n / (curved[:, None] * spectrum.values + penalty)).sqrt(), curved.rsqrt()[:, None]], 1)
    theta = (torch.cat([weight, bias[:, None]], 1) / units).to(dtype)
    units = units.to(dtype)
    pull = torch.cat([(penalty / n).expand(-1, rank), torch.zeros_like(penalty)], 1).to(dtype)
    objective = negative_log_likelihood(rows, labels, lambda theta: theta * units, lambda slope: slope * units, pull)
    end = minimise(objective, theta, labels.of, STEPS, TOLERANCE, scale=1.0)
    turned, bias = (end * units).double().split([rank, 1], 1)
    weight = spectrum.vectors @ turned.T
    bias = bias[:, 0] - sample.moments.mean @ weight
    return [
        Linear(weight[:, span], bias[span], one.weaker, iterated=True)
        for span, one in zip(labels.spans, found, strict=True)
    ]
