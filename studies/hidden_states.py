"""Belief states of hidden Markov processes (Shai et al. 2024): exact entropies, and how well a model's residual stream holds the belief.

Mess3 and RRXOR have known entropy rates and mixed states. A decoder is trained on RRXOR; a linear map from its residual stream to the belief
is fitted on half of the sequences and judged on the rest, at step 0 (the untrained twin) and after training, next to the same map from the
next-token law alone.
"""

from __future__ import annotations

import itertools
import math
import sys
import time

import numpy as np
import torch

from studies._model import Decoder


def mess3(a: float = 0.85, x: float = 0.05) -> np.ndarray:
    """Return [symbols, states, states] joint transition and emission probabilities of Mess3."""
    b, y = (1 - a) / 2, 1 - 2 * x
    found = np.empty((3, 3, 3))
    for symbol, i, j in itertools.product(range(3), repeat=3):
        found[symbol, i, j] = (a if j == symbol else b) * (y if i == j else x)
    return found


def rrxor() -> np.ndarray:
    """Return [symbols, states, states] of random, random, exclusive-or; states S, 0, 1, T (next is 1), F (next is 0)."""
    found = np.zeros((2, 5, 5))
    found[0, 0, 1] = found[1, 0, 2] = 0.5
    found[0, 1, 4] = found[1, 1, 3] = 0.5
    found[0, 2, 3] = found[1, 2, 4] = 0.5
    found[1, 3, 0] = found[0, 4, 0] = 1.0
    return found


def stationary(process: np.ndarray) -> np.ndarray:
    """Return the stationary law of the hidden states."""
    values, vectors = np.linalg.eig(process.sum(0).T)
    law = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    return law / law.sum()


def block_entropies(process: np.ndarray, longest: int) -> list[float]:
    """Return H(next | prefix) in nats after 0, 1, ... symbols, by summing over all prefixes exactly."""
    states = stationary(process)[None, :]
    found = []
    for _ in range(longest + 1):
        joint = np.stack([states @ t for t in process], axis=1)
        mass = joint.sum(-1)
        total = mass.sum(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(float(-np.where(mass > 0, mass * np.log(mass / total), 0.0).sum()))
        states = joint.reshape(-1, states.shape[1])
        states = states[states.sum(1) > 0]
    return found


def beliefs(process: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return [sequences, length, states]: the posterior over hidden states after each symbol."""
    now = np.repeat(stationary(process)[None], len(x), 0)
    found = np.empty((*x.shape, process.shape[1]))
    for t in range(x.shape[1]):
        now = np.einsum("ni,nij->nj", now, process[x[:, t]])
        now /= now.sum(1, keepdims=True)
        found[:, t] = now
    return found


def sample(process: np.ndarray, n: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Return [n, length] symbols."""
    num_symbols, num_states, _ = process.shape
    flat = process.transpose(1, 0, 2).reshape(num_states, -1).cumsum(1)
    states = rng.choice(num_states, size=n, p=stationary(process))
    found = np.empty((n, length), np.int64)
    for t in range(length):
        choice = (rng.random(n)[:, None] > flat[states]).sum(1).clip(max=num_symbols * num_states - 1)
        found[:, t], states = choice // num_states, choice % num_states
    return found


def mixed_states(process: np.ndarray, depth: int = 14) -> int:
    """Return how many distinct beliefs can be reached, the start included."""
    start = stationary(process)
    seen, edge = {tuple(np.round(start, 9))}, [start]
    for _ in range(depth):
        following = []
        for belief, t in itertools.product(edge, process):
            new = belief @ t
            if new.sum() > 1e-12:
                new = new / new.sum()
                if tuple(np.round(new, 9)) not in seen:
                    seen.add(tuple(np.round(new, 9)))
                    following.append(new)
        edge = following
    return len(seen)


def r_squared(x: np.ndarray, y: np.ndarray, train: np.ndarray) -> float:
    """Return R^2 of a linear map with intercept, fitted on `train` rows and judged on the others."""
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    gram = design[train].T @ design[train]
    weights = np.linalg.solve(gram + 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram)), design[train].T @ y[train])
    rest = y[~train] - design[~train] @ weights
    return float(1 - (rest**2).sum() / ((y[~train] - y[train].mean(0)) ** 2).sum())


def main(seed: int = 0, steps: int = 3000) -> int:
    """Check the exact numbers, train on RRXOR, print the regressions and the verdict."""
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    entropies = block_entropies(mess3(), 9)
    print("Mess3: H(next | prefix) after 1 to 4 symbols:", " ".join(f"{h:.5f}" for h in entropies[1:5]))
    print(f"Mess3: entropy rate, from above: {entropies[-1]:.5f} nats (known .79346)")
    rate = block_entropies(rrxor(), 15)[-1]
    states = mixed_states(rrxor())
    print(f"RRXOR: H after 15 symbols {rate:.5f} nats (rate {2 / 3 * math.log(2):.5f}), {states} mixed states")
    process, length = rrxor(), 10
    test = sample(process, 3000, length, rng)
    truth = beliefs(process, test).reshape(-1, 5)
    half = np.repeat(np.arange(len(test)) < len(test) // 2, length)
    shuffled = truth[rng.permutation(len(truth))]
    model = Decoder(2, length, width=64, layers=4, heads=1)

    def regress() -> tuple[float, float]:
        with torch.no_grad():
            stack = torch.cat(model.residuals(torch.as_tensor(test)), dim=-1).double().numpy().reshape(len(truth), -1)
        return r_squared(stack, truth, half), r_squared(stack, shuffled, half)

    first, null = regress()
    print(f"step 0: R^2 {first:.3f} from all layers (shuffled beliefs: {null:.3f})")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(1, steps + 1):
        x = torch.as_tensor(sample(process, 128, length, rng))
        loss = torch.nn.functional.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (steps // 5) == 0:
            print(f"step {step}: loss {loss.item():.4f}, R^2 {regress()[0]:.3f}")
    last, _ = regress()
    next_token = np.einsum("ns,ksj->nk", truth, process)
    surface = r_squared(next_token[:, :1], truth, half)
    print(f"next-token law alone: R^2 {surface:.3f} (known .247)")
    known = [0.85772, 0.81336, 0.79812, 0.79474]
    checks = {
        "entropies of Mess3 are the known ones": all(
            abs(a - b) < 1e-5 for a, b in zip(entropies[1:5], known, strict=True)
        ),
        "entropy rate of Mess3": abs(entropies[-1] - 0.79346) < 5e-4,
        "entropy rate and mixed states of RRXOR": abs(rate - 2 / 3 * math.log(2)) < 0.01 and states == 36,
        "the untrained twin already decodes part of it": 0.3 < first < 0.75 and abs(null) < 0.05,
        "training adds to it": last > first + 0.15,
        "more is held than the next-token law": last > surface + 0.3 and abs(surface - 0.247) < 0.05,
    }
    for text, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {text}")
    print(f"VERDICT: {'holds' if all(checks.values()) else 'fails'} ({time.perf_counter() - start:.0f} s)")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
