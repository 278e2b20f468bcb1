"""Classifiers fitted by iteration: multinomial logistic regression, and a perceptron with one hidden layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmtrace.numerics.moments import Moments, centre
from lmtrace.numerics.ridge import Basis, Linear


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
    start = z.new_zeros(1, z.shape[1], num_classes, dtype=torch.float64)
    [weight], [bias] = _fit(z, codes[None], basis, [penalty], max_iter, start, prior.log()[None])
    weight = weight / basis.scale[:, None]
    return Linear(weight, bias - basis.moments.mean @ weight, penalty / len(x), float(x.shape[1] + 1))


def refined(
    basis: Basis, z: Tensor, codes: Sequence[Tensor], linears: Sequence[Linear], scale: float, max_iter: int
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
    codes : [n] each
        int64 class of every row, for each task.
    linears
        Ridge regression to the one-hot classes, for each task.
    scale
        The search begins at this multiple of its scores: those lie between 0 and 1, logits do not.
    """
    found: dict[int, Linear] = {}
    sizes = [linear.weight.shape[1] for linear in linears]
    for size in dict.fromkeys(sizes):  # tasks with the same number of classes share their products
        chosen = [i for i, other in enumerate(sizes) if other == size]
        penalties = [min(1.0, linears[i].penalty * len(z) / 4) for i in chosen]
        start = torch.stack([linears[i].weight * basis.scale[:, None] for i in chosen])
        bias = torch.stack([linears[i].bias + basis.moments.mean @ linears[i].weight for i in chosen])
        task = torch.stack([codes[i] for i in chosen])
        weights, biases = _fit(z, task, basis, penalties, max_iter, scale * start, scale * bias)
        for i, weight, bias, penalty in zip(chosen, weights, biases, penalties, strict=True):
            weight = weight / basis.scale[:, None]
            found[i] = Linear(weight, bias - basis.moments.mean @ weight, penalty / len(z), linears[i].dof)
    return [found[i] for i in range(len(linears))]


def _fit(
    z: Tensor, codes: Tensor, basis: Basis, penalties: Sequence[float], max_iter: int, start: Tensor, start_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weights [tasks, d, classes] and biases [tasks, classes], float64, on the standardised rows z.

    Parameters
    ----------
    z : [n, d]
        float32.
    codes : [tasks, n]
        Of tasks with the same number of classes.
    basis
        Of z.
    penalties
        One per task.
    start : [tasks, d, classes]
        Weights where the search begins, on standardised rows.
    start_bias : [tasks, classes]
    """
    (n, d), (tasks, _, k) = z.shape, start.shape
    penalty = torch.tensor(penalties, dtype=torch.float64, device=z.device)[:, None] / n
    curvature = (basis.values / n + 2 * penalty).sqrt()  # [tasks, d]
    rotate = basis.vectors / curvature[:, None]  # preconditioned -> standardised
    turn = rotate.float()
    shrink = (penalty / curvature.square()).float()[:, :, None]
    gold = codes[:, None]
    minus = z.new_full((1, 1, 1), -1.0).expand(tasks, 1, n)
    # Rows last: torch's softmax over a last axis of fewer than 16 classes is ten times slower. And kept between calls,
    # because fresh memory costs more than what is done with it.
    logits, logp = z.new_empty(2, tasks, k, n)

    def objective(theta: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        weight, bias = theta[:, : d * k].view(tasks, d, k), theta[:, d * k :]
        flat = (turn @ weight).mT.reshape(tasks * k, d)
        torch.addmm(bias.reshape(-1, 1), flat, z.T, out=logits.view(-1, n))
        torch.log_softmax(logits, 1, out=logp)
        shrunk = shrink * weight
        value = 0.5 * (shrunk * weight).sum((1, 2)) - logp.gather(1, gold).sum((1, 2)) / n

        def gradient() -> Tensor:
            residual = logp.exp_().scatter_add_(1, gold, minus)
            slope = (residual.view(-1, n) @ z).view(tasks, k, d).mT / n
            return torch.cat([(turn.mT @ slope + shrunk).reshape(tasks, -1), residual.sum(2) / n], 1)

        return value, gradient

    weight = curvature[:, :, None] * (basis.vectors.T @ start)
    first = torch.cat([weight.reshape(tasks, -1), start_bias.to(weight)], 1).float()
    theta = minimise(objective, first, max_iter).double()
    return rotate @ theta[:, : d * k].view(tasks, d, k), theta[:, d * k :]


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
