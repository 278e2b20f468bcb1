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


def mixed_state_chain(process: np.ndarray, depth: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Return ([beliefs, beliefs] transition matrix, [beliefs] entropy of the next symbol in nats) of the reachable beliefs.

    The first is the stationary law, before any symbol. For processes with finitely many beliefs, such as RRXOR.
    """
    found = [stationary(process)]
    index = {tuple(np.round(found[0], 9)): 0}
    moves: list[tuple[int, int, float]] = []
    entropies: list[float] = []
    for i, belief in enumerate(found):  # grows while it is read
        mass = np.array([(belief @ t).sum() for t in process])
        entropies.append(float(-(mass[mass > 0] * np.log(mass[mass > 0])).sum()))
        for t, p in zip(process, mass, strict=True):
            if p > 1e-12:
                new = belief @ t / p
                key = tuple(np.round(new, 9))
                if key not in index:
                    if len(found) > 3**depth:
                        raise ValueError("the process has too many beliefs")
                    index[key] = len(found)
                    found.append(new)
                moves.append((i, index[key], float(p)))
    chain = np.zeros((len(found), len(found)))
    for i, j, p in moves:
        chain[i, j] += p
    return chain, np.array(entropies)


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
    chain, uncertainty = mixed_state_chain(rrxor())
    states, rate = len(chain), float(np.linalg.matrix_power(chain, 1000)[0] @ uncertainty)
    first_ten = np.mean([np.linalg.matrix_power(chain, t)[0] @ uncertainty for t in range(1, 10)])
    print(f"RRXOR: entropy rate {rate:.5f} nats (known {2 / 3 * math.log(2):.5f}), {states} mixed states (known 36)")
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

    def held_out() -> float:
        with torch.no_grad():
            ids = torch.as_tensor(test)
            return torch.nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()

    first, null = regress()
    print(f"step 0: R^2 {first:.3f} from all layers (shuffled beliefs: {null:.3f})")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / (steps + 1))
        x = torch.as_tensor(sample(process, 128, length, rng))
        loss = torch.nn.functional.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (steps // 5) == 0:
            print(f"step {step}: loss {held_out():.4f} (floor {first_ten:.4f}), R^2 {regress()[0]:.3f}", flush=True)
    (last, _), loss_last = regress(), held_out()
    next_token = np.einsum("ns,ksj->nk", truth, process)
    surface = r_squared(next_token[:, :1], truth, half)
    print(f"next-token law alone: R^2 {surface:.3f} (known .247)")
    known = [0.85772, 0.81336, 0.79812, 0.79474]
    checks = {
        "entropies of Mess3 are the known ones": all(
            abs(a - b) < 1e-5 for a, b in zip(entropies[1:5], known, strict=True)
        ),
        "entropy rate of Mess3": abs(entropies[-1] - 0.79346) < 5e-4,
        "entropy rate and mixed states of RRXOR": abs(rate - 2 / 3 * math.log(2)) < 1e-9 and states == 36,
        "the untrained twin already decodes part of it": 0.3 < first < 0.75 and abs(null) < 0.05,
        "training adds to it": last > first + 0.15,
        "the loss is above its exact floor, and within .02 nats of it": -0.01 < loss_last - first_ten < 0.02,
        "more is held than the next-token law": last > surface + 0.3 and abs(surface - 0.247) < 0.05,
    }
    for text, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {text}")
    print(f"VERDICT: {'holds' if all(checks.values()) else 'fails'} ({time.perf_counter() - start:.0f} s)")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
