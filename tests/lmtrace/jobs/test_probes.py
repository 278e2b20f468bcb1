"""Probes trained at one step and tested at others, as a stranger would do it: kept in a run, saved, applied elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import lmtrace
import lmtrace.functional as F
from lmtrace.errors import ConfigError, DataError, RunError
from lmtrace.probing.linear import fit
from lmtrace.probing.rows import Design, Targets
from lmtrace.probing.splits import sentence_split
from lmtrace.signals.probe import Probe
from lmtrace_helpers import tiny
from probe_views import word_panel

STEPS = (0, 10, 20)
SITES = ("embed", "block.0", "final")


@pytest.fixture(scope="module")
def panel():
    return word_panel(num_sentences=120)


@pytest.fixture(scope="module")
def models(panel):
    """The model at every step: other weights each time, so that every probe is another one."""
    return {step: tiny("gpt2", panel.tokenizer, seed=step).eval() for step in STEPS}


def states(model, panel):
    """{site: [words, d]} by the model's own hidden states, one sentence at a time."""
    rows = {site: [] for site in SITES}
    for ids in panel.encoder.ids:
        with torch.no_grad():
            found = model(torch.as_tensor(ids)[None], output_hidden_states=True).hidden_states
        for site, layer in zip(SITES, (0, 1, -1), strict=True):
            rows[site].append(found[layer][0, 1:-1])  # <s> and </s> are no words
    return {site: torch.cat(parts) for site, parts in rows.items()}


def slow_matrix(models, panel, layer, site, labelled_only=False):
    """{(t, u): accuracy} of the probe of step t on the words of step u: one fit per step, then a loop over words.

    The signal standardises by all words of a site, whichever layer labels them.
    """
    labels = panel.labels(layer)
    rows = np.flatnonzero(labels.codes >= 0) if labelled_only else np.arange(panel.num_words)
    codes, test = labels.codes[rows], sentence_split(panel.word_sentence, 0)[rows]
    x = {step: states(model, panel)[site][torch.as_tensor(rows)] for step, model in models.items()}
    result, way = {}, "embedding" if site == "embed" else "ridge"
    for t in models:
        [found] = fit(Design.of(x[t], test), Targets.of([(codes, len(labels.names))], test), way)
        weight, bias = found.linear.weight.numpy(), found.linear.bias.numpy()
        for u in models:
            right = [
                int(np.argmax(x[u][i].double().numpy() @ weight + bias) == codes[i])
                for i in np.flatnonzero(test & (codes >= 0))
            ]
            result[t, u] = float(np.mean(right))
    return result


def train(models, panel, run, signals):
    """A training whose weights at the steps are those of the models."""
    model = tiny("gpt2", panel.tokenizer, seed=0)
    with lmtrace.Tracer(model, panel, run=run, signals=signals, every=10) as tracer:
        for step in range(1, max(STEPS) + 1):
            if step in models:
                model.load_state_dict(models[step].state_dict())
            tracer.step()
    return lmtrace.open_run(run)


def transfer(run, label, split, site):
    series = run.series(signal="probe", metric="transfer", label=label, split=split)
    return {int(step): row[series.sites.index(site)] for step, row in zip(series.steps, series.values, strict=True)}


@pytest.fixture(scope="module")
def run(models, panel, tmp_path_factory):
    signals = [Probe(labels=("upos", "role"), split="sentence", sites=SITES, keep_at=(0, 10))]
    return train(models, panel, tmp_path_factory.mktemp("kept") / "run", signals)


@pytest.mark.parametrize("label", ["upos", "role"])
@pytest.mark.parametrize("site", SITES)
def test_kept_probes_equal_a_loop(run, models, panel, label, site):
    expected = slow_matrix(models, panel, label, site)
    own = run.series(signal="probe", metric="accuracy", label=label, split="sentence")
    n = own.n[0][own.sites.index(site)]
    for i, step in enumerate(STEPS):
        assert own.values[i][own.sites.index(site)] == pytest.approx(expected[step, step], abs=1.1 / n)
    for kept, later in ((0, (10, 20)), (10, (20,))):
        found = transfer(run, label, f"sentence@{kept}", site)
        assert tuple(found) == later, "a probe is applied after its own step only"
        for step in later:
            assert found[step] == pytest.approx(expected[kept, step], abs=1.1 / n)


def test_saved_probes_are_applied_to_other_runs_and_to_earlier_steps(run, models, panel, tmp_path):
    probes = lmtrace.kept_probes(run)
    assert set(probes) == {f"{s}|{label}|sentence|{t}" for s in SITES for label in ("upos", "role") for t in (0, 10)}
    assert probes["block.0|role|sentence|10"].names == panel.labels("role").names
    F.save_probes(tmp_path / "probes.safetensors", probes)
    loaded = F.load_probes(tmp_path / "probes.safetensors")
    assert {name: p.names for name, p in loaded.items()} == {name: p.names for name, p in probes.items()}
    assert all(
        torch.equal(loaded[name].weight, p.weight) and torch.equal(loaded[name].bias, p.bias)
        for name, p in probes.items()
    )
    signal = Probe(labels=("upos", "role"), split="sentence", sites=SITES, apply=str(tmp_path / "probes.safetensors"))
    for step, model in models.items():
        other = lmtrace.analyze(model, panel, run=tmp_path / f"run{step}", signals=[signal], step=step)
        for label in ("upos", "role"):
            expected = slow_matrix(models, panel, label, "final")
            n = other.series(signal="probe", metric="accuracy", label=label, split="sentence").n[0][-1]
            for kept in (0, 10):
                [value] = transfer(other, label, f"sentence@{kept}", "final").values()
                assert value == pytest.approx(expected[kept, step], abs=1.1 / n)


def test_the_matrix_equals_a_loop(models, panel):
    labels = panel.labels("role")
    rows = np.flatnonzero(labels.codes >= 0)
    # The function splits the labelled words, the signal the panel: here they hold the same sentences.
    assert set(panel.word_sentence[rows]) == set(range(panel.num_sentences))
    x = [states(models[step], panel)["final"][torch.as_tensor(rows)] for step in STEPS]
    y = np.array(labels.names)[labels.codes[rows]]
    matrix, probes = F.transfer_matrix(x, y, panel.word_sentence[rows])
    expected = slow_matrix(models, panel, "role", "final", labelled_only=True)
    n = int(sentence_split(panel.word_sentence, 0)[rows].sum())
    assert matrix == pytest.approx(np.array([[expected[t, u] for u in STEPS] for t in STEPS]), abs=1.1 / n)
    assert all(p.names == labels.names for p in probes)


def test_classes_are_told_apart_by_name_and_not_by_place(models, panel, tmp_path):
    """A probe whose columns stand in another order reads the same."""
    run = lmtrace.analyze(
        models[0], panel, run=tmp_path / "a", signals=[Probe(labels="role", sites=("final",), keep_at=(0,))]
    )
    [(name, probe)] = lmtrace.kept_probes(run).items()
    turned = [2, 0, 1]
    other = replace(
        probe, weight=probe.weight[:, turned], bias=probe.bias[turned], names=tuple(probe.names[i] for i in turned)
    )
    F.save_probes(tmp_path / "p.safetensors", {name: other})
    signal = Probe(labels="role", sites=("final",), apply=str(tmp_path / "p.safetensors"))
    again = lmtrace.analyze(models[0], panel, run=tmp_path / "b", signals=[signal])
    value = again.series(signal="probe", metric="transfer", label="role", split="sentence@0").values[0][0]
    own = again.series(signal="probe", metric="accuracy", label="role", split="sentence")
    assert value == pytest.approx(own.values[0][0], abs=1.1 / own.n[0][0])


def test_what_cannot_be_applied_says_why(models, panel, tmp_path):
    missed = train(models, panel, tmp_path / "missed", [Probe(labels="role", sites=("final",), keep_at=(7,))])
    series = missed.series(signal="probe", metric="transfer", label="role", split="sentence@7")
    assert np.isnan(series.values).all()
    assert {reason for reason in series.missing.values()} == {
        "no probe of step 7 was kept: that step was not measured here before this one"
    }
    with pytest.raises(DataError, match="has kept no probes"):
        lmtrace.kept_probes(missed)
    with pytest.raises(RunError, match="does not exist"):
        lmtrace.kept_probes(tmp_path / "absent")
    narrow = {"final|role|sentence|3": lmtrace.probing.closed_form.Linear(torch.ones(5, 3), torch.ones(3), 1.0)}
    F.save_probes(tmp_path / "narrow.safetensors", narrow)
    signal = Probe(
        labels=("role", "upos"), split="sentence", sites=("final",), apply=str(tmp_path / "narrow.safetensors")
    )
    run = lmtrace.analyze(models[0], panel, run=tmp_path / "narrow", signals=[signal])
    [(_, reason)] = run.series(signal="probe", metric="transfer", label="role", split="sentence@3").missing.items()
    assert reason.startswith("the probe of step 3 reads 5 numbers, this site has ")
    [(_, reason)] = run.series(signal="probe", metric="transfer", label="upos", split="sentence").missing.items()
    assert reason.endswith("holds no probe of this site, label and split")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"keep_at": 100}, "keep_at is 100"),
        ({"keep_at": (1.5,)}, "keep_at is"),
        ({"keep_at": (-1,)}, "keep_at is"),
        ({"keep_at": (True,)}, "keep_at is"),
        ({"keep_at": "12"}, "keep_at is"),
        ({"apply": "/nowhere/probes.safetensors"}, "cannot be read"),
    ],
)
def test_bad_settings_are_one_line(settings, text):
    with pytest.raises((ConfigError, DataError), match=text) as caught:
        Probe(labels="role", **settings)
    assert "\n" not in str(caught.value)


def test_bad_files_are_one_line(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    from safetensors.torch import save_file

    one = {"a|weight": torch.ones(3), "a|bias": torch.ones(2), "a|settings": torch.ones(2)}
    save_file(one, str(tmp_path / "shapes.safetensors"))
    save_file({"a": torch.ones(1)}, str(tmp_path / "other.safetensors"))
    for name in ("text", "empty", "shapes", "other", "absent"):
        with pytest.raises(DataError) as caught:
            F.load_probes(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(DataError):
        F.load_probes(tmp_path)
    probe = lmtrace.probing.closed_form.Linear(torch.ones(2, 2), torch.ones(2), 1.0)
    for probes, path in (
        ({}, tmp_path / "x"),
        ({"a": torch.ones(2)}, tmp_path / "x"),
        ({"a": probe}, tmp_path / "no" / "x"),
    ):
        with pytest.raises((ConfigError, DataError)) as caught:
            F.save_probes(path, probes)
        assert "\n" not in str(caught.value)
    F.save_probes(tmp_path / "names.safetensors", {"a": probe})
    with pytest.raises(ConfigError, match="Name probes 'site"):
        Probe(labels="role", apply=str(tmp_path / "names.safetensors"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"activations": []}, "there are no activations"),
        ({"y": np.zeros(99)}, "rows and y has 99"),
        ({"groups": np.arange(7)}, "rows and groups has 7"),
        ({"groups": None}, "groups is None"),
        ({"y": np.zeros(100)}, "only one class"),
        ({"groups": np.zeros(100)}, "1 sentence cannot be split"),
        ({"kind": "svm"}, "kind is 'svm'"),
        ({"activations": [np.zeros((100, 3)), np.zeros((100, 4))]}, "activations differ in shape"),
        ({"activations": [np.full((100, 3), np.nan)]}, "not finite"),
        ({"activations": [np.zeros((0, 3))], "y": [], "groups": []}, "no word has a label"),
    ],
)
def test_bad_matrices_are_one_line(change, text):
    rng = np.random.default_rng(0)
    settings = {
        "activations": [rng.standard_normal((100, 3))],
        "y": rng.integers(2, size=100),
        "groups": np.arange(100) // 4,
    }
    with pytest.raises((ConfigError, DataError), match=text) as caught:
        F.transfer_matrix(**{**settings, **change})
    assert "\n" not in str(caught.value)
