"""Linear probes on disk (safetensors), and their accuracy at other steps: the train-at-t, test-at-t' matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lmtrace.errors import DataError
from lmtrace.numerics.probing import Design, Kind, as_codes, as_rows, as_vector, fit
from lmtrace.numerics.ridge import Linear
from lmtrace.numerics.splits import sentence_split


def save_probes(path: str | Path, probes: Mapping[str, Linear]) -> None:
    """Write probes under their names ("block.0|role|100"); float32, no pickle.

    Parameters
    ----------
    path
        Of a .safetensors file.
    probes
        Name -> fitted probe.
    """
    tensors = {}
    for name, probe in probes.items():
        tensors[f"{name}|weight"] = probe.weight.float().cpu().contiguous()
        tensors[f"{name}|bias"] = probe.bias.float().cpu().contiguous()
        tensors[f"{name}|settings"] = torch.tensor([probe.penalty, probe.dof], dtype=torch.float64)
    save_file(tensors, str(path))


def load_probes(path: str | Path) -> dict[str, Linear]:
    """Return the probes that `save_probes` wrote.

    Raises
    ------
    DataError
        Where the file holds something else.
    """
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}", "Get the file again") from error
    names = sorted(name.removesuffix("|weight") for name in tensors if name.endswith("|weight"))
    expected = {f"{name}|{part}" for name in names for part in ("weight", "bias", "settings")}
    settings = [tensors[f"{name}|settings"] for name in names if f"{name}|settings" in tensors]
    if not names or set(tensors) != expected or any(t.shape != (2,) for t in settings):
        raise DataError(f"{path} does not hold probes", "Pass a file that save_probes or a Probe with keep_at wrote")
    return {
        name: Linear(
            tensors[f"{name}|weight"].double(), tensors[f"{name}|bias"].double(), *tensors[f"{name}|settings"].tolist()
        )
        for name in names
    }


def transfer_matrix(
    activations: Sequence[Any], y: Any, groups: Any, kind: Kind = "ridge", seed: int = 0
) -> tuple[np.ndarray, list[Linear]]:
    """Return ([steps, steps] accuracy of the probe trained at row t on the activations of column t', the probes).

    Parameters
    ----------
    activations
        One [n, d] per step, of the same words.
    y : [n]
        Labels.
    groups : [n]
        Sentence of every row; all probes share one split by sentence, so a diagonal entry is `linear_probe`'s accuracy.
    """
    rows, (codes, names) = [as_rows(x) for x in activations], as_codes(y)
    test = sentence_split(as_vector(groups, "groups"), seed)
    probes = []
    for x in rows:
        probe = fit(Design(x, test), [(codes, len(names))], test, kind, seed)[0].linear
        if probe is None:
            raise DataError(f"transfer_matrix: a probe of kind {kind!r} has no weights", "Choose a linear kind")
        probes.append(probe)
    held_out = torch.as_tensor(test)
    accuracy = np.empty((len(rows), len(rows)))
    for t, probe in enumerate(probes):
        for u, x in enumerate(rows):
            predicted = probe.scores(x[held_out].double()).argmax(1).cpu().numpy()
            accuracy[t, u] = (predicted == codes[test]).mean()
    return accuracy, probes
