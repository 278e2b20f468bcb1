"""Classifiers fitted by iteration: multinomial logistic regression, and a perceptron with one hidden layer."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from lmtrace.numerics.moments import Moments
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
    n, d, k = len(x), x.shape[1], num_classes
    curvature = (basis.values / n + 2 * penalty / n).sqrt()
    rotate = basis.vectors / curvature  # standardised -> preconditioned
    z = ((x.double() - basis.moments.mean) / basis.scale @ rotate).float()
    shrink = (penalty / n / curvature.square()).cpu().numpy()[:, None]
    counts = torch.bincount(codes, minlength=k).double()
    rows = torch.arange(n, device=x.device)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = theta[: d * k].reshape(d, k), theta[d * k :]
        weight = torch.as_tensor(w, dtype=torch.float32, device=z.device)
        logp = torch.log_softmax(torch.addmm(torch.as_tensor(b, dtype=torch.float32, device=z.device), z, weight), 1)
        value = -float(logp[rows, codes].mean(dtype=torch.float64)) + 0.5 * float((shrink * w * w).sum())
        residual = logp.exp_()
        residual[rows, codes] -= 1.0
        residual /= n
        gradient_w = (z.T @ residual).double().cpu().numpy() + shrink * w
        gradient_b = residual.sum(0, dtype=torch.float64).cpu().numpy()
        return value, np.concatenate([gradient_w.ravel(), gradient_b])

    start = np.zeros(d * k + k)
    start[d * k :] = ((counts + 0.5) / (n + 0.5 * k)).log().cpu().numpy()
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": max_iter, "gtol": 1e-5})
    theta = torch.as_tensor(found.x, dtype=torch.float64, device=x.device)
    weight = (rotate @ theta[: d * k].reshape(d, k)) / basis.scale[:, None]
    return Linear(weight, theta[d * k :] - basis.moments.mean @ weight, penalty / n, float(d + 1))


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
