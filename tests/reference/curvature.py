"""Slow, obvious references for curvature: dense Hessians, finite differences, and laws that are known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return all entries as one vector."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def dense_hessian(loss: Callable[[], Tensor], params: Sequence[Tensor]) -> Tensor:
    """Return [P, P], one row per entry of the gradient, by double backward."""
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        grads = torch.autograd.grad(loss(), params, create_graph=True, allow_unused=True, materialize_grads=True)
    total = sum(p.numel() for p in params)
    one_each = torch.eye(total, dtype=params[0].dtype).split([p.numel() for p in params], dim=1)
    rows = torch.autograd.grad(
        grads, params, [e.view(total, *p.shape) for e, p in zip(one_each, params)], is_grads_batched=True, allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip
    return torch.cat([r.detach().reshape(total, -1) for r in rows], dim=1)


def hvp_finite_difference(
    loss: Callable[[], Tensor], params: Sequence[Tensor], v: Tensor, step: float = 2e-4
) -> Tensor:
    """Return H v by fourth-order central differences of gradients; for float64, v of length 1 or so."""
    origin = [p.detach().clone() for p in params]

    def gradient_at(shift: float) -> Tensor:
        start = 0
        for p, o in zip(params, origin):
            p.data.copy_(o + shift * v[start : start + o.numel()].view(o.shape))
            start += o.numel()
        return flat(torch.autograd.grad(loss(), params, allow_unused=True, materialize_grads=True))

    h = step
    product = (8 * (gradient_at(h) - gradient_at(-h)) - (gradient_at(2 * h) - gradient_at(-2 * h))) / (12 * h)
    for p, o in zip(params, origin):
        p.data.copy_(o)
    return product


def marchenko_pastur(ratio: float, num: int) -> np.ndarray:
    """Return the `num` evenly spaced quantiles of the Marchenko-Pastur law of variance 1 and d / n = `ratio` < 1."""
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    x = np.linspace(low, high, 200_001)
    law = np.sqrt(np.maximum((x - low) * (high - x), 0)) / (2 * np.pi * ratio * x)
    cumulative = np.cumsum(law)
    return np.interp((np.arange(num) + 0.5) / num, cumulative / cumulative[-1], x)


def quadratic(matrix: Tensor) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """Return the loss x' A x / 2 at x = 0 and its parameters; its Hessian is A."""
    x = torch.zeros(len(matrix), dtype=matrix.dtype, requires_grad=True)
    return lambda: 0.5 * x @ matrix @ x, [x]


class TinyGpt(nn.Module):
    """A decoder with LayerNorm, tied output weights, fused attention and dropout: about 1,000 parameters."""

    def __init__(self, vocab: int = 11, d: int = 8, num_blocks: int = 1, length: int = 6, dropout: float = 0.1) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, d), nn.Embedding(length, d)
        self.h = nn.ModuleList(nn.ModuleDict(
            {
                "ln_1": nn.LayerNorm(d), "q_proj": nn.Linear(d, d), "k_proj": nn.Linear(d, d), "v_proj": nn.Linear(d, d),
                "o_proj": nn.Linear(d, d), "ln_2": nn.LayerNorm(d), "up": nn.Linear(d, 3 * d), "down": nn.Linear(3 * d, d),
            }
        ) for _ in range(num_blocks))  # fmt: skip
        self.ln_f, self.drop = nn.LayerNorm(d), nn.Dropout(dropout)
        self.lm_head = nn.Linear(d, vocab, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [batch, length, vocab]."""
        x = self.drop(self.wte(ids) + self.wpe(torch.arange(ids.shape[1])))
        for block in self.h:
            y = block["ln_1"](x)
            q, k, v = (block[name](y).unflatten(-1, (2, -1)).transpose(1, 2) for name in ("q_proj", "k_proj", "v_proj"))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.drop(block["o_proj"](y.transpose(1, 2).flatten(2)))
            x = x + self.drop(block["down"](nn.functional.gelu(block["up"](block["ln_2"](x)))))
        return self.lm_head(self.ln_f(x))


def tiny_gpt_problem(seed: int = 0, dtype: torch.dtype = torch.float64, **sizes: int):
    """Return a tiny GPT in evaluation mode and its mean loss over the valid tokens of a padded batch."""
    torch.manual_seed(seed)
    model = TinyGpt(**sizes).to(dtype).eval()
    for p in model.parameters():
        if p.ndim > 1:
            p.data.normal_(0, 0.4)
    ids = torch.randint(0, model.wte.num_embeddings, (4, 6))
    targets = ids.roll(-1, 1)
    for row, length in enumerate((5, 3, 4, 2)):
        targets[row, length:] = -100

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=-100)

    return model, loss
