"""Part of speech on real text: activations of a small transformer, against scikit-learn on the same split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.probing.linear import linear_probe
from lmtrace.probing.splits import sentence_split
from lmtrace.signals.probe import Probe
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import PlainModel


@pytest.fixture(scope="module")
def english(data_dir):
    """Site -> [words, d], with labels, sentences and word types of 512 sentences."""
    from lmtrace.observe.instrument import Instrument

    path = data_dir / "en_ewt-ud-dev.conllu"
    lines = path.read_text(encoding="utf-8").splitlines()
    tokenizer = WordTokenizer.from_words(sorted({line.split("\t")[1] for line in lines if line[:1].isdigit()}))
    panel = Panel.from_annotated(path, tokenizer, size=512, seed=0, max_length=64)
    torch.manual_seed(0)
    model = PlainModel(len(tokenizer), width=64).eval()
    signal = Probe(labels="upos")
    instrument = Instrument(model, panel, [signal], None, on_error="raise")
    with torch.no_grad():
        captured = instrument._capture([0], 0, [])
    measurement = Measurement(0, model, instrument.panel, instrument.known_sites, captured, 0, None)
    view = MeasurementView(measurement, signal, 0, signal.needs(panel), {})
    codes = panel.labels("upos").codes
    keep = codes >= 0
    x = {site: view.words(site)[torch.as_tensor(keep)] for site in view.sites}
    return x, codes[keep], panel.word_sentence[keep], panel.word_types[keep]


@pytest.mark.slow
@pytest.mark.parametrize("site", ["embed", "block.0", "block.1", "final"])
def test_accuracy_is_that_of_scikit_learn(english, site):
    x, y, groups, types = english
    test = sentence_split(groups, 0)
    scaler = StandardScaler().fit(x[site][~test])
    train, held_out = (scaler.transform(x[site][part]) for part in (~test, test))
    expected = LogisticRegression(max_iter=300).fit(train, y[~test]).score(held_out, y[test])
    logistic = linear_probe(x[site], y, groups, kind="logistic")
    ridge = linear_probe(x[site], y, groups, types)
    assert logistic.accuracy == pytest.approx(expected, abs=0.01)
    assert ridge.accuracy == pytest.approx(expected, abs=0.01)
    assert ridge.accuracy > ridge.majority + 0.2


@pytest.mark.slow
def test_random_labels_are_at_chance(english):
    x, y, groups, _ = english
    shuffled = np.random.default_rng(0).permutation(y)
    result = linear_probe(x["block.1"], shuffled, groups)
    assert abs(result.accuracy - result.majority) < 3 * result.stderr
