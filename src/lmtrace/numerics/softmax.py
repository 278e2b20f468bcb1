"""Classifiers fitted by iteration: multinomial logistic regression, and a perceptron with one hidden layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmtrace.numerics.moments import Moments, centre
from lmtrace.numerics.ridge import Basis, Linear

IMPOSSIBLE = -60.0
"""Bias of a class that no row can be of: next to nothing in float32, but not so small that exp takes its slow way."""


def softmax_regression(
    x: Tensor, codes: Tensor, num_classes: int, penalty: float = 1.0, max_iter: int = 200, basis: Basis | None = None
) -> Linear:
    """Return multinomial logistic regression fitted by L-BFGS.

    Minimises sum_i -log p(y_i | x_i) + penalty / 2 ||W||^2 with p = softmax(x W + b) on standardised features; the
    bias is not penalised. With penalty 1 this is scikit-learn's default on standardised features. The problem is
    solved in the eigenbasis of the correlation matrix, where few iterations suffice.

    Parameters
    ----------
    x : [n, d]
        Training rows.
    codes : [n]
        int64 class of every row.
    penalty
        On the weights of standardised features; not per row.
    max_iter
        L-BFGS iterations.
    basis
        Of the same rows, where it is at hand.
    """
    basis = basis or Basis.of(Moments.of(x))
    z = centre(x, basis.moments.mean).div_(basis.scale.to(x.dtype)).float()
    prior = (torch.bincount(codes, minlength=num_classes) + 0.5) / (len(x) + 0.5 * num_classes)
    start = torch.zeros(z.shape[1], num_classes, dtype=torch.float64, device=z.device)
    [(weight, bias)] = _fit(z, codes[None], basis, [penalty], max_iter, [start], [prior.log().double()])
    return Linear(weight, bias, penalty / len(x), float(x.shape[1] + 1))


def refined(
    basis: Basis, z: Tensor, codes: Tensor, linears: Sequence[Linear], scale: float, max_iter: int
) -> list[Linear]:
    """Return each ridge regression after a few iterations of softmax regression, which begin at a multiple of it.

    The penalty is a quarter of the ridge's, because the curvature of the logistic loss is at most a quarter of that of
    the square loss, and at most 1, scikit-learn's default. Few iterations are a regularisation too.

    Parameters
    ----------
    basis
        Of the training rows.
    z : [n, d]
        The same rows, standardised, float32.
    codes : [tasks, n]
        int64 class of every row.
    linears
        Ridge regression to the one-hot classes, for each task.
    scale
        The search begins at this multiple of its scores: those lie between 0 and 1, logits do not.
    """
    penalties = [min(1.0, linear.penalty * len(z) / 4) for linear in linears]
    weight = scale * basis.scale[:, None] * torch.cat([linear.weight for linear in linears], 1)
    bias = torch.cat([linear.bias for linear in linears]) * scale + basis.moments.mean / basis.scale @ weight
    sizes = [linear.weight.shape[1] for linear in linears]
    found = _fit(z, codes, basis, penalties, max_iter, weight.split(sizes, 1), bias.split(sizes))
    return [
        Linear(weight, bias, penalty / len(z), linear.dof)
        for (weight, bias), penalty, linear in zip(found, penalties, linears, strict=True)
    ]


def _fit(
    z: Tensor,
    codes: Tensor,
    basis: Basis,
    penalties: Sequence[float],
    max_iter: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> list[tuple[Tensor, Tensor]]:
    """Return weights [d, classes] and biases [classes] of each task, float64, for rows as they came.

    The tasks are searched side by side; those with fewer classes are filled up with classes that no row can be of.

    Parameters
    ----------
    z : [n, d]
        Standardised, float32.
    codes : [tasks, n]
        int64 class of every row.
    basis
        Of the rows.
    penalties
        One per task.
    weights : [d, classes] each
        Where the search begins, on standardised rows.
    biases : [classes] each
    """
    (n, d), tasks, sizes = z.shape, len(codes), [len(bias) for bias in biases]
    k = max(sizes)
    penalty = torch.tensor(penalties, dtype=torch.float64, device=z.device)[:, None] / n
    curvature = (basis.values / n + 2 * penalty).sqrt()  # [tasks, d]
    stretch = (1 / curvature).float()[:, None]  # preconditioned -> eigenbasis
    vectors = basis.vectors.float()
    shrink = (penalty / curvature.square()).float()[:, None]
    gold, minus = codes[:, None], z.new_full((1, 1, 1), -1.0).expand(tasks, 1, n)
    # Rows last: torch's softmax over a last axis of fewer than 16 classes is ten times slower. And kept between calls,
    # because fresh memory costs more than what is done with it.
    logits, logp = z.new_empty(2, tasks, k, n)

    def objective(theta: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        weight, bias = theta[:, : k * d].view(tasks, k, d), theta[:, k * d :]
        flat = (weight * stretch).view(-1, d) @ vectors.T
        torch.addmm(bias.reshape(-1, 1), flat, z.T, out=logits.view(-1, n))
        torch.log_softmax(logits, 1, out=logp)
        shrunk = shrink * weight
        value = 0.5 * (shrunk * weight).sum((1, 2)) - logp.gather(1, gold).sum((1, 2)) / n

        def gradient() -> Tensor:
            residual = logp.exp_().scatter_add_(1, gold, minus)
            slope = ((residual.view(-1, n) @ z) @ vectors).view(tasks, k, d)
            return torch.cat([(slope * (stretch / n) + shrunk).view(tasks, -1), residual.sum(2) / n], 1)

        return value, gradient

    first = z.new_zeros(tasks, k * d + k)
    first[:, k * d :] = IMPOSSIBLE
    turned = torch.cat(list(weights), 1).T @ basis.vectors  # [classes of all tasks, d]
    for i, (weight, bias) in enumerate(zip(turned.split(sizes), biases, strict=True)):
        first[i, : sizes[i] * d] = (weight * curvature[i]).float().view(-1)
        first[i, k * d : k * d + sizes[i]] = bias.float()
    theta = minimise(objective, first, max_iter).double()
    weight = theta[:, : k * d].view(tasks, k, d) / curvature[:, None]
    kept = torch.cat([weight[i, :size] for i, size in enumerate(sizes)]) @ basis.vectors.T / basis.scale
    shift = kept @ basis.moments.mean
    return [
        (w.T, theta[i, k * d : k * d + size] - s)
        for i, (w, s, size) in enumerate(zip(kept.split(sizes), shift.split(sizes), sizes, strict=True))
    ]


Objective = Callable[[Tensor], tuple[Tensor, Callable[[], Tensor]]]
"""theta -> (values [problems], and what gives their gradients [problems, parameters]): called at most once, at once."""


def minimise(objective: Objective, theta: Tensor, max_iter: int, tolerance: float = 1e-5, history: int = 10) -> Tensor:
    """Return where L-BFGS with backtracking ends, for smooth convex functions with curvature of about 1 or less.

    Several independent problems are searched side by side. A problem ends at `max_iter`, where no entry of its gradient
    exceeds `tolerance`, or where rounding hides all descent.
    Written out because a call of SciPy's costs more than the few iterations that a small problem needs.
    Source: Nocedal and Wright 2006, algorithms 7.4 and 3.1.

    Parameters
    ----------
    objective
        See `Objective`. No gradient is asked for at points that are refused, and at the last one.
    theta : [problems, parameters]
        Where to begin.
    """
    value, slopes = objective(theta)
    gradient = slopes()
    running = torch.ones_like(value, dtype=torch.bool)
    moves: list[tuple[Tensor, Tensor, Tensor]] = []
    for iteration in range(1, max_iter + 1):
        running = running & (gradient.abs().amax(1) >= tolerance)
        if not bool(running.any()):
            break
        direction, stack = -gradient, []
        for s, y, rho in reversed(moves):
            a = rho * (s * direction).sum(1)
            direction = direction - a[:, None] * y
            stack.append(a)
        if moves:
            _, y, rho = moves[-1]
            # A move without curvature (rho 0) says nothing of the scale.
            scale = torch.where(rho > 0, 1 / (rho * y.square().sum(1)).clamp(min=1e-30), 1.0)
        else:
            scale = torch.full_like(value, 4.0)
        direction = direction * scale[:, None]
        for (s, y, rho), a in zip(moves, reversed(stack), strict=True):
            direction = direction + (a - rho * (y * direction).sum(1))[:, None] * s
        candidate, value, slopes, running = _descend(objective, theta, value, gradient, direction, running)
        if iteration == max_iter:
            return candidate
        new_gradient = slopes()
        s, y = candidate - theta, new_gradient - gradient
        sy = (s * y).sum(1)
        moves = [*moves[-(history - 1) :], (s, y, torch.where(sy > 1e-12, 1 / sy.clamp(min=1e-12), 0.0))]
        theta, gradient = candidate, new_gradient
    return theta


def _descend(
    objective: Objective, theta: Tensor, value: Tensor, gradient: Tensor, direction: Tensor, running: Tensor
) -> tuple[Tensor, Tensor, Callable[[], Tensor], Tensor]:
    """Return where each problem goes along its direction, value and gradient there, and which problems still run."""
    slope, step, failed = (gradient * direction).sum(1), running.to(theta), ~running
    for _ in range(12):
        candidate = theta + step[:, None] * direction
        new_value, slopes = objective(candidate)
        enough = (new_value <= value + 1e-4 * step * slope) | ~running
        if bool(enough.all()):
            return candidate, new_value, slopes, running
        failed, step = ~enough, torch.where(enough, step, step / 2)
    # Rounding hides all descent: these problems end where they are.
    step = torch.where(failed, 0.0, step)
    candidate = theta + step[:, None] * direction
    return candidate, *objective(candidate), running & ~failed


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
        self.mean = x.mean(0)
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
