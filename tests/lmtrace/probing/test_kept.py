from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lmtrace.errors import DataError
from lmtrace.probing.closed_form import Linear
from lmtrace.probing.kept import KeptKey, kept_in, load_probes, remember, save_probes, transfer_matrix
from lmtrace.probing.linear import linear_probe


@pytest.fixture(scope="module")
def steps():
    """Activations at three steps: noise, a code of the label, the same code turned."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=800)
    code = rng.standard_normal((3, 12))[y] + 0.3 * rng.standard_normal((800, 12))
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    return [rng.standard_normal((800, 12)), code, code @ turn], y, np.arange(800) // 5


def test_the_diagonal_is_the_probe_and_a_turned_code_is_not_read_by_the_old_one(steps):
    activations, y, groups = steps
    matrix, probes = transfer_matrix(activations, y, groups)
    for t, x in enumerate(activations):
        assert matrix[t, t] == pytest.approx(linear_probe(x, y, groups).accuracy, abs=0.006)
    assert matrix[1, 1] > 0.95
    assert matrix[2, 2] > 0.95
    assert matrix[1, 2] < 0.8
    assert matrix[0, 1] < 0.8
    assert len(probes) == 3


def test_probes_come_back_from_disk(steps, tmp_path):
    activations, y, groups = steps
    _, probes = transfer_matrix(activations, y, groups)
    save_probes(tmp_path / "probes.safetensors", {f"block.0|role|{t}": p for t, p in enumerate(probes)})
    loaded = load_probes(tmp_path / "probes.safetensors")
    assert list(loaded) == ["block.0|role|0", "block.0|role|1", "block.0|role|2"]
    x = torch.as_tensor(activations[1])
    torch.testing.assert_close(loaded["block.0|role|1"].scores(x), probes[1].scores(x), atol=1e-4, rtol=1e-4)
    assert loaded["block.0|role|1"].penalty == probes[1].penalty


def test_other_files_are_refused(tmp_path):
    save_file({"a": torch.ones(1)}, str(tmp_path / "x.safetensors"))
    with pytest.raises(DataError, match="does not hold probes"):
        load_probes(tmp_path / "x.safetensors")


def test_a_perceptron_has_no_weights_to_apply(steps):
    activations, y, groups = steps
    with pytest.raises(DataError, match="Choose a linear kind"):
        transfer_matrix([activations[0][:60]], y[:60], groups[:60], kind="mlp")


@pytest.mark.parametrize("label", ["role", "a|b", "upos/basic", "x=y z", "100%", "%7C", "a|b%7C|"])
def test_a_label_may_hold_any_character(label):
    key = KeptKey("block.0", label, "sentence", 30)
    assert KeptKey.of(key.name) == key
    memory = {}
    probe = Linear(torch.ones(3, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 0.1)
    remember(memory, key, "head", probe, ("p|q", "r"))
    assert set(kept_in(memory)) == {key}
    assert kept_in(memory)[key].names == ("p|q", "r")


def test_names_of_older_files_are_read():
    assert KeptKey.of("block.0|role|sentence|100") == KeptKey("block.0", "role", "sentence", 100)
    for name in ("a|b|c", "a|b|c|x", "a|b|c|d|1"):
        with pytest.raises(DataError, match="no name of a kept probe"):
            KeptKey.of(name)
