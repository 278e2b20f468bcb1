"""In-context Markov chains (Edelman et al. 2024): the model passes the unigram solution, then the bigram one takes over.

Every sequence has its own chain: 3 states, rows drawn from Dirichlet(1). A two-layer attention-only model learns in context. Known: the mean
loss of the uniform, the in-context unigram and the in-context bigram predictor; the order of the phases.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from studies._model import Decoder

STATES, LENGTH = 3, 100
# Of one sample of sequences: the loss of a sequence has a standard deviation of about .2, so a sample of 256 strays by .0125.
KNOWN = {"uniform": 1.0986, "unigram": 0.9964, "bigram": 0.8745}


def sample(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return [n, LENGTH] sequences, each from its own chain, started at random."""
    rows = rng.dirichlet(np.ones(STATES), size=(n, STATES)).cumsum(-1)
    found = np.empty((n, LENGTH), np.int64)
    found[:, 0] = rng.integers(STATES, size=n)
    for t in range(1, LENGTH):
        now = rows[np.arange(n), found[:, t - 1]]
        found[:, t] = np.minimum((rng.random(n)[:, None] > now).sum(1), STATES - 1)
    return found


def references(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return name -> [n, LENGTH - 1, STATES] laws of the next state: Bayes with a Dirichlet(1) prior on counts so far."""
    one_hot = np.eye(STATES)[x]
    unigram = np.cumsum(one_hot, axis=1)[:, :-1] + 1
    pairs = one_hot[:, :-1, :, None] * one_hot[:, 1:, None, :]
    before = np.concatenate([np.zeros_like(pairs[:, :1]), np.cumsum(pairs, axis=1)[:, :-1]], axis=1)
    bigram = np.take_along_axis(before, x[:, :-1, None, None].repeat(STATES, 3), axis=2)[:, :, 0] + 1
    laws = {"uniform": np.ones_like(unigram), "unigram": unigram, "bigram": bigram}
    return {name: law / law.sum(-1, keepdims=True) for name, law in laws.items()}


def loss_of(law: np.ndarray, x: np.ndarray) -> float:
    """Return the mean negative log-likelihood (nats) of the next state."""
    return float(-np.log(np.take_along_axis(law, x[:, 1:, None], axis=2)).mean())


def main(seed: int = 0, steps: int = 700) -> int:
    """Train, print what happens when, and the verdict."""
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    test = sample(512, rng)
    laws = references(test)
    many = sample(4000, rng)
    found = {name: loss_of(law, many) for name, law in references(many).items()}
    own = {name: loss_of(law, test) for name, law in laws.items()}
    for name, value in found.items():
        print(f"{name:8} predictor: loss {value:.4f} nats (known {KNOWN[name]:.4f})")
    model = Decoder(STATES, LENGTH, width=64, layers=2, heads=1, attention_only=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    passed_unigram = closest_bigram = None
    for step in range(steps + 1):
        if step % 25 == 0:
            with torch.no_grad():
                log_probs = model(torch.as_tensor(test))[:, :-1].log_softmax(-1).double().numpy()
            loss = loss_of(np.exp(log_probs), test)
            distance = {name: float((law * (np.log(law) - log_probs)).sum(-1).mean()) for name, law in laws.items()}
            nearest = min(distance, key=distance.__getitem__)
            print(f"step {step:4}: loss {loss:.4f}, KL from " + ", ".join(f"{k} {v:.4f}" for k, v in distance.items()))
            if passed_unigram is None and loss < own["unigram"]:
                passed_unigram = step
            if closest_bigram is None and nearest == "bigram":
                closest_bigram = step
        x = torch.as_tensor(sample(64, rng))
        loss_now = torch.nn.functional.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad()
        loss_now.backward()
        optimizer.step()
    checks = {
        "the reference predictors have the known losses": all(abs(found[k] - KNOWN[k]) < 0.02 for k in KNOWN),
        "the model passes the unigram solution": passed_unigram is not None,
        "the bigram solution takes over, and later": passed_unigram is not None
        and closest_bigram is not None
        and closest_bigram >= passed_unigram - 50,
        "it does not beat the bigram solution": loss > own["bigram"] - 0.01,
    }
    print(f"unigram loss passed at step {passed_unigram}, nearest to bigram from step {closest_bigram}")
    for text, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {text}")
    print(f"VERDICT: {'holds' if all(checks.values()) else 'fails'} ({time.perf_counter() - start:.0f} s)")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
