"""Classifiers fitted by iteration: multinomial logistic regression, and a perceptron with one hidden layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import DataError
from lmtrace.numerics.moments import Moments, Sample, all_finite, column_sums
from lmtrace.probing.closed_form import Linear


class Labellings:
    """Several labellings of the same rows, in the forms that `softmax_regressions` reads: the same at every site.

    Parameters
    ----------
    codes : [labellings, n]
        int64 class of every row; -1 where it has none.
    sizes
        Classes of each labelling.
    into : [n] or None
        int64, which of the `num` rows of the regression stands for each; None is one for each.

    Attributes
    ----------
    spans
        Where the classes of each are, all below each other.
    of : [classes]
        int64, the labelling of every class.
    cells : [labellings x n]
        int64, where the class of each row is in [classes, rows of the regression]; any class where the row has none.
    minus : [labellings x n]
        float32, -1 where the row has a class, else 0.
    weights
        (Labelling, [rows of the regression] how many with a class each stands for) where that is not one.
    rows : [labellings]
        float32, those with a class.
    start : [classes]
        Logarithm of the smoothed share of each.
    """

    def __init__(self, codes: Tensor, sizes: Sequence[int], into: Tensor | None = None, num: int = 0) -> None:
        self._given, device = (codes, sizes), codes.device
        known, starts = codes >= 0, np.cumsum([0, *sizes])
        self.spans = [slice(*ends) for ends in itertools.pairwise(starts.tolist())]
        self.of = torch.as_tensor(np.repeat(np.arange(len(sizes)), sizes), device=device)
        gold = codes.clamp(min=0) + torch.as_tensor(starts[:-1, None], device=device)
        into, num = (torch.arange(codes.shape[1], device=device), codes.shape[1]) if into is None else (into, num)
        self.cells, self.minus, self.rows = (
            (gold * num + into).flatten(),
            -known.float().flatten(),
            known.sum(1).float(),
        )
        stands = [there.new_zeros(num, dtype=torch.float32).index_add_(0, into, there.float()) for there in known]
        self.weights = [(i, weight) for i, weight in enumerate(stands) if not bool((weight == 1).all())]
        counts = torch.bincount(gold[known], minlength=len(self.of))
        all_sizes = torch.as_tensor(sizes, device=device)[self.of]
        self.start = ((counts + 0.5) / (self.rows[self.of] + 0.5 * all_sizes)).log()

    def merged(self, into: Tensor, num: int) -> Labellings:
        """Return them for a regression of `num` rows."""
        return Labellings(*self._given, into, num)


def softmax_regression(x: Tensor, codes: Tensor, num_classes: int, penalty: float = 1.0, max_iter: int = 200) -> Linear:
    """Return multinomial logistic regression of x: [n, d] to codes: [n] int64; see `softmax_regressions`."""
    sample, labels = Sample.of(x), Labellings(codes[None], [num_classes])
    return softmax_regressions(sample, whitener(sample.moments, penalty), labels, penalty, max_iter)[0]


def softmax_regressions(
    sample: Sample, white: Tensor, labels: Labellings, penalty: float, max_iter: int
) -> list[Linear]:
    """Return multinomial logistic regressions of the same rows to several labellings, by L-BFGS from zero on.

    Each minimises sum_i -log p(y_i | x_i) + penalty / 2 ||W||^2 with p = softmax(x W + b) and W the weights of
    standardised features, over the rows that have a label; the bias is not penalised. With penalty 1 this is
    scikit-learn's default on standardised features.

    The search goes on in whitened coordinates, where the loss is curved alike in all directions. Its first step is along
    the ridge regression to one-hot labels, so that few steps are a ridge regression that has been mended, and regularise
    more than the penalty says. The labellings are searched side by side.

    Parameters
    ----------
    sample
        The rows: [n, d], those that are alike once where the labels are merged.
    white : [d, d]
        From `whitener`; it changes the way, not the end.
    labels
        Of the rows.
    max_iter
        Steps.
    """
    x, d = sample.rows, sample.rows.shape[1]
    # From weights of whitened rows and a bias at their mean to weights of the rows and a bias at their origin.
    back = x.new_zeros(d + 1, d + 1)
    back[:d, :d], back[d, d] = white, 1.0
    back[:d, d] = -(back[:d, :d] @ sample.offset.to(x.dtype))
    share = (1 / labels.rows[labels.of]).to(x.dtype)[:, None]
    pull = penalty * share * torch.cat([sample.moments.scale, x.new_zeros(1)]).square().to(x.dtype)
    objective = negative_log_likelihood(x, labels, lambda theta: theta @ back, lambda slope: slope @ back.T, pull)
    start = torch.cat([x.new_zeros(len(labels.of), d), labels.start.to(x.dtype)[:, None]], 1)
    theta = minimise(objective, start, labels.of, max_iter, first=objective(start, True))
    weight, bias = (theta @ back).double().split([d, 1], 1)
    bias = bias[:, 0] - weight @ sample.origin
    return [
        Linear(weight[span].T, bias[span], penalty / count)
        for span, count in zip(labels.spans, labels.rows.tolist(), strict=True)
    ]


def negative_log_likelihood(
    x: Tensor,
    labels: Labellings,
    to_linear: Callable[[Tensor], Tensor],
    to_slope: Callable[[Tensor], Tensor],
    pull: Tensor,
) -> Objective:
    """Return the mean negative log-likelihood of every labelling, with pull / 2 times its squared weights, as `minimise` reads it.

    Parameters
    ----------
    x : [n, d]
        The rows, those that are alike once where the labels are merged.
    to_linear
        Parameters [classes, any] -> weights of the rows and a bias at their origin, [classes, d + 1].
    to_slope
        Gradient by these -> gradient by the parameters.
    pull : [classes, d + 1]
        Penalty on each, per row.
    """
    n, d = x.shape
    share, minus = (1 / labels.rows[labels.of]).to(x.dtype)[:, None], labels.minus.to(x.dtype)
    # Rows last: torch's softmax over a last axis of fewer than 16 classes is ten times slower. And kept between calls,
    # because fresh memory costs more than what is done with it.
    logits, logp = x.new_empty(2, len(labels.of), n)

    def objective(theta: Tensor, blank: bool = False) -> tuple[Tensor, Callable[[], Tensor]]:
        linear = to_linear(theta)
        if blank:
            logits.copy_(linear[:, d:])
        else:
            torch.addmm(linear[:, d:], linear[:, :d], x.T, out=logits)
        for span in labels.spans:
            torch.log_softmax(logits[span], 0, out=logp[span])
        pulled = pull * linear
        loss = (logp.view(-1).index_select(0, labels.cells) * minus).view(len(labels.spans), -1).sum(1) / labels.rows

        def gradient() -> Tensor:
            residual = logp.exp_()
            for i, weight in labels.weights:
                residual[labels.spans[i]] *= weight
            residual.view(-1).index_add_(0, labels.cells, minus)
            slope = torch.empty_like(linear)
            torch.mm(residual, x, out=slope[:, :d])
            torch.sum(residual, 1, out=slope[:, d])
            return to_slope(pulled.addcmul_(slope, share))

        return loss.index_add(0, labels.of, (pulled * linear).sum(1), alpha=0.5), gradient

    return objective


def whitener(moments: Moments, penalty: float) -> Tensor:
    """Return P: [d, d] float32 with P (S + r D^2) P' = 1, S the covariance matrix of the rows and D their deviations.

    r is twice the penalty per row, because the curvature of a logistic loss is at most half of S, and no less than the
    rounding in float32.

    Raises
    ------
    DataError
        Where squares of the rows overflow.
    """
    n, d = moments.n, len(moments.mean)
    units, r = 1 / moments.scale, 2 * penalty / max(n, 1) + 4e-7 * d
    correlation = torch.outer(units, units / max(n, 1)).mul_(moments.scatter).float()
    if not all_finite(correlation):
        raise DataError(
            "probe: the rows are so large that their squares overflow", "Look at the model's activations first"
        )
    correlation.diagonal().add_(r)
    factor, failed = torch.linalg.cholesky_ex(correlation)
    while bool(failed):
        correlation.diagonal().add_(9 * r)
        r *= 10
        factor, failed = torch.linalg.cholesky_ex(correlation)
    return torch.linalg.solve_triangular(factor, torch.diag(units.float()), upper=False)


CHECK_EVERY = 4
"""Steps between two looks at whether a search has come to its end."""

Objective = Callable[..., tuple[Tensor, Callable[[], Tensor]]]
"""theta -> (values [problems], and what gives the gradient [rows, columns]: called at most once, at once)."""


def minimise(
    objective: Objective,
    theta: Tensor,
    of: Tensor,
    max_iter: int,
    tolerance: float = 1e-5,
    history: int = 10,
    first: tuple[Tensor, Callable[[], Tensor]] | None = None,
    scale: float = 4.0,
) -> Tensor:
    """Return where L-BFGS with backtracking ends, for smooth convex functions with curvature of about 1 or less.

    Several independent problems are searched side by side. A problem ends at `max_iter`, where no entry of its gradient
    exceeds `tolerance`, or where rounding hides all descent.
    Written out because a call of SciPy's costs more than the few iterations that a small problem needs.
    Source: Nocedal and Wright 2006, algorithms 7.4 and 3.1.

    Parameters
    ----------
    objective
        See `Objective`. No gradient is asked for at points that are refused, and at the last one.
    theta : [rows, columns]
        Where to begin: the parameters of all problems below each other.
    of : [rows]
        int64, the problem of every row, rising.
    first
        The objective there, where it is known.
    scale
        Inverse of the curvature that the first step counts on.
    """
    value, slopes = first or objective(theta)
    gradient = slopes()
    none = torch.zeros_like(value)

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return none.index_add(0, of, (a * b).sum(1))

    def rows(values: Tensor) -> Tensor:
        return values.index_select(0, of)[:, None]

    running, all_run = torch.ones_like(value, dtype=torch.bool), True
    moves: list[tuple[Tensor, Tensor, Tensor]] = []
    scales = torch.full_like(value, scale)
    for iteration in range(1, max_iter + 1):
        if iteration % CHECK_EVERY == 1:
            steep = (gradient.abs().amax(1) >= tolerance).to(value)
            running = running & (none.index_add(0, of, steep) > 0)
            all_run = bool(running.all())
            if not (all_run or bool(running.any())):
                break
        direction, stack = -gradient, []
        for s, y, rho in reversed(moves):
            a = rho * inner(s, direction)
            direction.addcmul_(rows(a), y, value=-1)
            stack.append(a)
        direction *= rows(scales)
        for (s, y, rho), a in zip(moves, reversed(stack), strict=True):
            direction.addcmul_(rows(a - rho * inner(y, direction)), s)
        slope = inner(gradient, direction)
        candidate = theta + (direction if all_run else direction * rows(running))
        new_value, slopes = objective(candidate)
        enough = new_value <= value + 1e-4 * slope
        if not bool((enough if all_run else enough | ~running).all()):
            # The first step was the whole one.
            step, failed = running.to(theta), running & ~enough
            for _ in range(11):
                step = torch.where(failed, step / 2, step)
                candidate = theta + rows(step) * direction
                new_value, slopes = objective(candidate)
                failed = running & ~(new_value <= value + 1e-4 * step * slope)
                if not bool(failed.any()):
                    break
            else:  # rounding hides all descent: these problems end where they are
                running = running & ~failed
                all_run = False
                candidate = theta + rows(torch.where(failed, 0.0, step)) * direction
                new_value, slopes = objective(candidate)
        if iteration == max_iter:
            return candidate
        new_gradient = slopes()
        s, y = candidate - theta, new_gradient - gradient
        sy = inner(s, y)
        # A move without curvature says nothing, and nothing of the scale.
        useful = sy > 1e-12
        moves = [*moves[-(history - 1) :], (s, y, torch.where(useful, 1 / sy.clamp(min=1e-12), 0.0))]
        scales = torch.where(useful, sy / inner(y, y).clamp(min=1e-30), 1.0)
        theta, value, gradient = candidate, new_value, new_gradient
    return theta


class Perceptron:
    """One hidden layer of rectified units, fitted with Adam on standardised features.

    Parameters
    ----------
    x : [n, d]
        Training rows.
    codes : [n]
        int64 class of every row.
    num_classes, hidden
        Sizes.
    seed
        Of the first weights and of the order of the rows.
    epochs, min_steps, batch_size, learning_rate, weight_decay
        Of Adam; the learning rate falls linearly to zero. Few rows are repeated until `min_steps` are done.
    """

    def __init__(
        self, x: Tensor, codes: Tensor, num_classes: int, hidden: int = 256, seed: int = 0, *,
        epochs: int = 20, min_steps: int = 400, batch_size: int = 256, learning_rate: float = 3e-3, weight_decay: float = 1e-4,
    ) -> None:  # fmt: skip
        self.mean = (column_sums(x) / max(len(x), 1)).to(x.dtype)
        self.scale = torch.where(x.std(0, correction=0) > 0, x.std(0, correction=0), 1.0)
        generator = torch.Generator().manual_seed(seed)
        sizes = [(x.shape[1], hidden), (hidden, num_classes)]
        draw = [torch.randn(size, generator=generator) * (2.0 / size[0]) ** 0.5 for size in sizes]
        self.parameters = [p.to(x.device) for size in zip(draw, sizes) for p in (size[0], torch.zeros(size[1][1]))]
        z, n = (x - self.mean) / self.scale, len(x)
        with torch.enable_grad():
            parameters = [p.requires_grad_() for p in self.parameters]
            optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
            per_epoch = -(-n // batch_size)
            epochs = max(epochs, -(-min_steps // per_epoch))
            steps = epochs * per_epoch
            done = 0
            for _ in range(epochs):
                for rows in torch.randperm(n, generator=generator).to(x.device).split(batch_size):
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate * (1 - done / steps)
                    loss = torch.nn.functional.cross_entropy(self._forward(z[rows]), codes[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    done += 1
        self.parameters = [p.detach() for p in parameters]

    def _forward(self, z: Tensor) -> Tensor:
        w1, b1, w2, b2 = self.parameters
        return torch.relu(z @ w1 + b1) @ w2 + b2

    def scores(self, x: Tensor) -> Tensor:
        """Return [n, classes] logits of x: [n, d]."""
        return self._forward((x - self.mean) / self.scale)
