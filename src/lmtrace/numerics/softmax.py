"""Classifiers fitted by iteration: multinomial logistic regression, and a perceptron with one hidden layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lmtrace.numerics.moments import Moments, centre
from lmtrace.numerics.ridge import Basis, Linear


def softmax_regression(
    x: Tensor,
    codes: Tensor,
    num_classes: int,
    penalty: float = 1.0,
    max_iter: int = 200,
    basis: Basis | None = None,
    start: Tensor | None = None,
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
    start : [d, classes]
        First weights; without them the search begins at the class frequencies.
    """
    basis = basis or Basis.of(Moments.of(x))
    n, d, k = len(x), x.shape[1], num_classes
    curvature = (basis.values / n + 2 * penalty / n).sqrt()
    rotate = basis.vectors / curvature  # standardised -> preconditioned
    z = centre(x, basis.moments.mean).div_(basis.scale.to(x.dtype)).float() @ rotate.float()
    shrink = (penalty / n / curvature.square()).float()[:, None]
    onehot = torch.nn.functional.one_hot(codes, k).to(z)

    def objective(theta: Tensor) -> tuple[float, Tensor]:
        weight, bias = theta[: d * k].view(d, k), theta[d * k :]
        logp = torch.log_softmax(torch.addmm(bias, z, weight), 1)
        shrunk = shrink * weight
        value = 0.5 * float((shrunk * weight).sum()) - float(logp.gather(1, codes[:, None]).sum()) / n
        residual = logp.exp_().sub_(onehot).div_(n)
        return value, torch.cat([(z.T @ residual + shrunk).view(-1), residual.sum(0)])

    if start is None:
        prior = (onehot.sum(0) + 0.5) / (n + 0.5 * k)
        first = torch.cat([z.new_zeros(d * k), prior.log()])
    else:
        weight = curvature[:, None] * (basis.vectors.T @ (start.double() * basis.scale[:, None]))
        first = torch.cat([weight.view(-1), basis.moments.mean @ start.double()]).float()
    theta = minimise(objective, first, max_iter).double()
    weight = (rotate @ theta[: d * k].view(d, k)) / basis.scale[:, None]
    return Linear(weight, theta[d * k :] - basis.moments.mean @ weight, penalty / n, float(d + 1))


def minimise(
    objective: Callable[[Tensor], tuple[float, Tensor]],
    theta: Tensor,
    max_iter: int,
    tolerance: float = 1e-5,
    history: int = 10,
) -> Tensor:
    """Return where L-BFGS with backtracking ends, for a smooth convex function with curvature of about 1 or less.

    It ends at `max_iter`, where no entry of the gradient exceeds `tolerance`, or where rounding hides all descent.
    Written out because a call of SciPy's costs more than the few iterations that a small problem needs.
    Source: Nocedal and Wright 2006, algorithms 7.4 and 3.1.

    Parameters
    ----------
    objective
        theta -> (value, gradient).
    theta : [parameters]
        Where to begin.
    """
    value, gradient = objective(theta)
    moves: list[tuple[Tensor, Tensor, float]] = []
    for _ in range(max_iter):
        if float(gradient.abs().max()) < tolerance:
            break
        direction, stack = -gradient, []
        for s, y, sy in reversed(moves):
            a = float(s @ direction) / sy
            direction = direction - a * y
            stack.append(a)
        if moves:
            s, y, sy = moves[-1]
            direction = direction * (sy / float(y @ y))
        else:
            direction = direction * 4.0
        for (s, y, sy), a in zip(moves, reversed(stack), strict=True):
            direction = direction + (a - float(y @ direction) / sy) * s
        slope, step = float(gradient @ direction), 1.0
        for _ in range(12):
            candidate = theta + step * direction
            new_value, new_gradient = objective(candidate)
            if new_value <= value + 1e-4 * step * slope:
                break
            step /= 2
        else:
            break
        s, y = candidate - theta, new_gradient - gradient
        if (sy := float(s @ y)) > 1e-12:
            moves = [*moves[1 - history :], (s, y, sy)] if len(moves) >= history else [*moves, (s, y, sy)]
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
