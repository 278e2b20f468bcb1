from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from lmtrace.probing.rows import Arranged, Arrangement
from lmtrace.probing.splits import sentence_split
from lmtrace.signals.belief import Belief, HeldOut
from lmtrace.signals.probe import Probe
from lmtrace_helpers import PlainModel
from probe_views import PlantedTruth, PlantedView, by, word_panel


@pytest.fixture(scope="module")
def panel():
    panel = copy.copy(word_panel())
    panel.truth = PlantedTruth()
    return panel


def beliefs_of(panel, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(5), panel.num_words)


def test_a_linear_image_of_the_belief_is_read_and_noise_is_not(panel):
    rng = np.random.default_rng(1)
    beliefs = beliefs_of(panel)
    read = beliefs @ rng.standard_normal((5, 20)) + 0.01 * rng.standard_normal((panel.num_words, 20))
    sites = {"embed": rng.standard_normal((panel.num_words, 20)), "block.0": read}
    view = PlantedView(panel, {k: torch.as_tensor(v).float() for k, v in sites.items()}, truth=PlantedTruth(beliefs))
    records = list(Belief().measure(view))
    found = by(records, "r2", site="block.0")
    assert found.value > 0.98
    assert abs(found.null) < 0.1
    assert abs(by(records, "r2", site="embed").value) < 0.1
    gain = by(records, "r2_gain_over_embed", site="block.0")
    assert gain.value == pytest.approx(found.value - by(records, "r2", site="embed").value)
    assert 0 < gain.stderr < 0.1


def test_the_score_is_that_of_scikit_learn_where_the_penalty_is_nothing(panel):
    rng = np.random.default_rng(2)
    beliefs = beliefs_of(panel)
    x = beliefs @ rng.standard_normal((5, 6)) + 0.3 * rng.standard_normal((panel.num_words, 6))
    view = PlantedView(panel, {"block.0": torch.as_tensor(x)}, truth=PlantedTruth(beliefs))
    test = sentence_split(panel.word_sentence, 0)
    fitted = LinearRegression().fit(x[~test], beliefs[~test])
    residual = ((beliefs[test] - fitted.predict(x[test])) ** 2).sum()
    expected = 1 - residual / ((beliefs[test] - beliefs[test].mean(0)) ** 2).sum()
    found = by(list(Belief().measure(view)), "r2")
    assert found.value == pytest.approx(expected, abs=0.01)
    weighted = r2_score(beliefs[test], fitted.predict(x[test]), multioutput="variance_weighted")
    assert weighted == pytest.approx(expected)


def test_the_design_is_that_of_the_probe(panel):
    """Both read the same words in the same parts: their statistics are made once."""
    beliefs, truth = beliefs_of(panel), PlantedTruth(beliefs_of(panel))
    x = {"block.0": torch.as_tensor(np.hstack([beliefs, beliefs**2])).float()}
    view = PlantedView(panel, x, truth=truth)
    list(Belief().measure(view))
    assert len(view.cache) == 1
    list(Probe(labels="upos", split="sentence").measure(view))
    assert len(view.cache) == 1


def test_without_beliefs_there_is_a_reason(panel):
    ones = {"embed": torch.ones(panel.num_words, 3)}
    (record,) = Belief().measure(PlantedView(panel, ones, truth=PlantedTruth(None)))
    assert record.missing == "the corpus's oracle offers no beliefs"
    (record,) = Belief().measure(PlantedView(word_panel(), ones))
    assert record.missing.startswith("no oracle")
    constant = np.full((panel.num_words, 2), 0.5)
    (record,) = Belief().measure(PlantedView(panel, ones, truth=PlantedTruth(constant)))
    assert record.missing == "the beliefs are the same at every word"


def mess3(a=0.85, x=0.05):
    """Transition matrices [symbol, from, to] of the Mess3 process (Shai et al. 2024)."""
    b, y = (1 - a) / 2, 1 - 2 * x
    first = [[a * y, b * x, b * x], [a * x, b * y, b * x], [a * x, b * x, b * y]]
    second = [[b * y, a * x, b * x], [b * x, a * y, b * x], [b * x, a * x, b * y]]
    third = [[b * y, b * x, a * x], [b * x, b * y, a * x], [b * x, b * x, a * y]]
    return np.array([first, second, third])


def test_the_untrained_twin_already_holds_most_of_the_belief():
    transitions = mess3()
    assert np.allclose(transitions.sum((0, 2)), 1.0)
    rng = np.random.default_rng(0)
    sequences, beliefs = np.zeros((300, 10), np.int64), np.zeros((300, 10, 3))
    entropy = np.zeros(10)
    for i in range(300):
        belief = np.full(3, 1 / 3)
        for t in range(10):
            p = np.einsum("f,sft->s", belief, transitions)
            sequences[i, t] = rng.choice(3, p=p)
            belief = belief @ transitions[sequences[i, t]]
            beliefs[i, t] = belief = belief / belief.sum()
            p = np.einsum("f,sft->s", belief, transitions)
            entropy[t] -= (p * np.log(p)).sum() / 300
    np.testing.assert_allclose(entropy[:4], [0.85772, 0.81336, 0.79812, 0.79474], atol=0.02)
    torch.manual_seed(0)
    model = PlainModel(3, width=64, layers=4, heads=1).eval()
    hidden = []
    model.transformer["h"][3].register_forward_hook(lambda module, args, output: hidden.append(output))
    with torch.no_grad():
        model(torch.as_tensor(sequences))
    x, groups = hidden[0].reshape(3000, 64), np.repeat(np.arange(300), 10)
    test = sentence_split(groups, 0)
    arrangement = Arrangement({"sentence": test})
    asked = HeldOut([beliefs.reshape(3000, 3)], arrangement, groups)
    [error], [total] = asked.errors(Arranged(x[arrangement.taken], arrangement).design("sentence")), asked.totals
    assert 0.9 < 1 - error.sum() / total.sum() < 0.97
