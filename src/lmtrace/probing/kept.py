"""Linear probes on disk (safetensors), and their accuracy at other steps: the train-at-t, test-at-t' matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmtrace.errors import ConfigError, DataError
from lmtrace.probing.closed_form import Linear
from lmtrace.probing.linear import KINDS, Kind, as_codes, as_rows, as_vector, fit, obstacle
from lmtrace.probing.rows import Design, Targets
from lmtrace.probing.splits import sentence_split

MEMORY = "kept|"
"""Beginning of the names under which kept probes lie in a run's memory."""


@dataclass(frozen=True, slots=True)
class KeptKey:
    """What a kept probe was fitted on.

    Attributes
    ----------
    site, label, split
        As in its records.
    step
        At which it was fitted.
    """

    site: str
    label: str
    split: str
    step: int

    @property
    def name(self) -> str:
        """Its name in files and mappings: "block.0|role|sentence|100"; "|" and "%" within a part are escaped."""
        return "|".join(map(_escaped, (self.site, self.label, self.split, str(self.step))))

    @classmethod
    def of(cls, name: str) -> KeptKey:
        """Return the key of a name; `DataError` where it is none."""
        parts = [_plain(part) for part in name.split("|")]
        if len(parts) != 4 or not parts[3].isdigit():
            raise DataError(f"{name!r} is no name of a kept probe", "Name probes 'site|label|split|step'")
        site, label, split, step = parts
        return cls(site, label, split, int(step))

    def in_memory(self, pair: str) -> str:
        """Return the name in a run's memory, without the part (weight, bias, names) at its end."""
        return MEMORY + "|".join(map(_escaped, (str(self.step), self.site, self.label, self.split, pair)))

    @classmethod
    def of_memory(cls, name: str) -> KeptKey:
        """Return the key of a name from `in_memory`."""
        step, site, label, split, _ = (_plain(part) for part in name.removeprefix(MEMORY).split("|"))
        return cls(site, label, split, int(step))


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("|", "%7C")


def _plain(part: str) -> str:
    return part.replace("%7C", "|").replace("%25", "%")


def remember(memory: MutableMapping[str, Tensor], key: KeptKey, pair: str, probe: Linear, names: Sequence[str]) -> None:
    """Put a probe into a run's memory, with the names of its classes."""
    name = key.in_memory(pair)
    memory[f"{name}|weight"] = probe.weight.float().cpu()
    memory[f"{name}|bias"] = probe.bias.float().cpu()
    memory[f"{name}|names"] = torch.tensor(list(json.dumps(tuple(names)).encode()), dtype=torch.uint8)


def remembered(memory: Mapping[str, Any], name: str) -> Linear | None:
    """Return the probe under a name from `KeptKey.in_memory`, None where there is none; its penalty is not kept, so NaN."""
    if f"{name}|weight" not in memory:
        return None
    weight, bias, letters = (torch.as_tensor(memory[f"{name}|{part}"]) for part in ("weight", "bias", "names"))
    return Linear(weight.double(), bias.double(), float("nan"), tuple(json.loads(bytes(letters.tolist()))))


def kept_in(memory: Mapping[str, Any]) -> dict[KeptKey, Linear]:
    """Return all probes of a run's memory."""
    names = [name.removesuffix("|weight") for name in memory if name.startswith(MEMORY) and name.endswith("|weight")]
    found = {KeptKey.of_memory(name): remembered(memory, name) for name in names}
    return {key: probe for key, probe in found.items() if probe is not None}


def save_probes(path: str | Path, probes: Mapping[str, Linear]) -> None:
    """Write probes under their names ("block.0|role|sentence|100": site, label, split, step); float32, no pickle.

    Parameters
    ----------
    path
        Of a .safetensors file.
    probes
        Name -> fitted probe.

    Raises
    ------
    ConfigError, DataError
        Where there is no probe, something else than a linear probe, or the file cannot be written.

    Examples
    --------
    >>> import lmtrace
    >>> save_probes("probes.safetensors", lmtrace.kept_probes("runs/first"))  # doctest: +SKIP
    """
    if not probes:
        raise ConfigError("save_probes: there are no probes to save", "Pass a mapping of names to probes")
    tensors = {}
    for name, probe in probes.items():
        if not isinstance(probe, Linear):
            raise ConfigError(
                f"save_probes: {name!r} is a {type(probe).__name__}",
                "Pass linear probes: of transfer_matrix or kept_probes",
            )
        tensors[f"{name}|weight"] = probe.weight.float().cpu().contiguous()
        tensors[f"{name}|bias"] = probe.bias.float().cpu().contiguous()
        tensors[f"{name}|settings"] = torch.tensor([probe.penalty], dtype=torch.float64)
    names = {name: json.dumps(probe.names) for name, probe in probes.items()}
    try:
        save_file(tensors, str(path), metadata=names)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be written: {_line(error)}", "Check the folder and its rights") from error


def load_probes(path: str | Path) -> dict[str, Linear]:
    """Return the probes that `save_probes` wrote.

    Raises
    ------
    DataError
        Where the file holds something else.

    Examples
    --------
    >>> probes = load_probes("probes.safetensors")  # doctest: +SKIP
    >>> probes["block.0|role|sentence|100"].scores(x).argmax(1)  # doctest: +SKIP
    """
    try:
        tensors = load_file(str(path))
        with safe_open(str(path), "pt") as file:
            classes = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read: {_line(error)}", "Pass the .safetensors file of save_probes"
        ) from error
    names = sorted(name.removesuffix("|weight") for name in tensors if name.endswith("|weight"))
    expected = {f"{name}|{part}" for name in names for part in ("weight", "bias", "settings")}
    settings = [tensors[f"{name}|settings"] for name in names if f"{name}|settings" in tensors]
    if not names or set(tensors) != expected or any(t.shape != (1,) for t in settings):
        raise DataError(f"{path} does not hold probes", "Pass a file that save_probes wrote")
    found = {}
    for name in names:
        weight, bias = tensors[f"{name}|weight"].double(), tensors[f"{name}|bias"].double()
        of_classes = _names(classes.get(name, "[]"))
        if weight.ndim != 2 or bias.shape != weight.shape[1:] or len(of_classes) not in (0, len(bias)):
            raise DataError(f"{path}: the parts of probe {name!r} do not fit", "Pass a file that save_probes wrote")
        found[name] = Linear(weight, bias, float(tensors[f"{name}|settings"][0]), names=of_classes)
    return found


def _names(text: str) -> tuple[str, ...]:
    """Return the classes that the file names; something else there counts as one class, which fits no probe."""
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return ("",)
    return tuple(found) if isinstance(found, list) and all(isinstance(name, str) for name in found) else ("",)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


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

    Raises
    ------
    ConfigError, DataError
        Where there are no steps or no such kind, rows or widths differ, or nothing can be fitted: one class, one sentence,
        fewer than 10 test rows.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=400)
    >>> code = rng.standard_normal((400, 4)) + 4 * y[:, None]
    >>> matrix, _ = transfer_matrix([code, -code], y, groups=np.arange(400) // 4)
    >>> (matrix > 0.9).tolist()
    [[True, False], [False, True]]
    """
    if kind not in KINDS:
        raise ConfigError(f"transfer_matrix: kind is {kind!r}", f"Choose one of {', '.join(KINDS)}")
    rows, (codes, names), group = [as_rows(x) for x in activations], as_codes(y), as_vector(groups, "groups")
    if not rows:
        raise ConfigError("transfer_matrix: there are no activations", "Pass one [n, d] per step")
    shapes = sorted({tuple(x.shape) for x in rows})
    if len(shapes) > 1:
        raise DataError(
            f"transfer_matrix: activations differ in shape, {shapes[0]} and {shapes[1]}",
            "Take the same words from one site at every step",
        )
    for name, values in (("y", codes), ("groups", group)):
        if len(values) != len(rows[0]):
            raise DataError(f"transfer_matrix: the activations have {len(rows[0])} rows and {name} has {len(values)}")
    test = sentence_split(group, seed) if len(group) else np.zeros(0, bool)
    if reason := obstacle(codes, test, group, names, "sentence"):
        raise DataError(f"transfer_matrix: {reason}")
    probes, targets = [], Targets.of([(codes, len(names))], test, rows[0].device, group)
    for x in rows:
        probe = fit(Design.of(x, test), targets, kind, seed)[0].linear
        if probe is None:
            raise DataError(f"transfer_matrix: a probe of kind {kind!r} has no weights", "Choose a linear kind")
        probes.append(replace(probe, names=names))
    held_out = torch.as_tensor(test)
    accuracy = np.empty((len(rows), len(rows)))
    for t, probe in enumerate(probes):
        for u, x in enumerate(rows):
            predicted = probe.scores(x[held_out].double()).argmax(1).cpu().numpy()
            accuracy[t, u] = (predicted == codes[test]).mean()
    return accuracy, probes
