"""Formulas without a tracer, as in a notebook: on arrays or tensors, each with its error.

Run: python examples/08_functional.py, or open it cell by cell.
"""

# %% [markdown]
# # How many dimensions does a cloud have?

# %%
import numpy as np
import torch

import lmtrace.functional as F

rng = np.random.default_rng(0)
sphere = rng.standard_normal((2000, 6))
sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)  # 5 dimensions, turned into 30
cloud = sphere @ rng.standard_normal((6, 30))
dimension = F.two_nn(cloud)
print(
    f"TwoNN {dimension.value:.2f} ± {dimension.stderr:.2f}; participation ratio {F.participation_ratio(cloud).value:.2f}; truth 5, in 6 directions"
)

# %% [markdown]
# # Can a label be read off, and is it knowledge?
# Random labels of word types can be read off other tokens of the same types, but not off unseen types.

# %%
types = rng.integers(0, 200, 3000)
x = rng.standard_normal((200, 128))[types] + 0.3 * rng.standard_normal((3000, 128))
y, sentences = rng.integers(0, 4, 200)[types], np.repeat(np.arange(600), 5)
by_sentence = F.linear_probe(x, y, groups=sentences, split="sentence")
by_type = F.linear_probe(x, y, groups=sentences, types=types, split="lexical")
print(
    f"accuracy {by_sentence.accuracy:.2f} on new sentences, {by_type.accuracy:.2f} on new words, majority {by_type.majority:.2f}"
)

# %% [markdown]
# # How sharp is a minimum?
# Least squares: the Hessian is X'X / n, exactly.

# %%
data = torch.randn(200, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
weights = torch.zeros(12, dtype=torch.float64, requires_grad=True)
spectrum = F.hessian_spectrum(lambda: 0.5 * ((data @ weights - 1) ** 2).mean(), [weights])
exact = float(torch.linalg.eigvalsh(data.T @ data / 200)[-1])
print(f"largest eigenvalue {spectrum.largest:.4f}, exactly {exact:.4f}")

# %% [markdown]
# # When did it emerge, and has it converged?

# %%
steps = np.arange(0, 2000, 50)
curve = 0.3 + 0.5 / (1 + np.exp(-(steps - 800) / 80)) + 0.01 * rng.standard_normal(len(steps))
found = F.emergence(steps, curve, stderr=np.full(len(steps), 0.01))
assert found is not None
end = F.convergence(steps, curve, window=12, tolerance=0.05)
print(f"onset {found.onset}, midpoint {found.midpoint:.0f} {found.interval}; converged: {end.converged}")
