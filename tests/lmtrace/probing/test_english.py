"""Part of speech on real text: activations of a small transformer, against scikit-learn on the same split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lmtrace.numerics.clustered import clustered_mean
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.probing.linear import fit, linear_probe, majority
from lmtrace.probing.rows import Design, Targets
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
    x, y, groups, _ = english
    test = sentence_split(groups, 0)
    scaler = StandardScaler().fit(x[site][~test])
    train, held_out = (scaler.transform(x[site][part]) for part in (~test, test))
    theirs = LogisticRegression(max_iter=300).fit(train, y[~test]).predict(held_out)
    codes = np.unique(y, return_inverse=True)[1]
    design, targets = Design.of(x[site], test), Targets.of([(codes, int(codes.max()) + 1)], test)
    truth = codes[test]
    their_codes = np.searchsorted(np.unique(y), theirs)
    for kind in ("logistic", "ridge"):
        ours = fit(design, targets, kind)[0].predicted
        # Rows near a boundary fall to either side, by the steps of a search and by rounding: as often right as wrong, so
        # the mean difference is within its sampling error over sentences, whatever the processor.
        gap = clustered_mean((ours == truth).astype(float) - (their_codes == truth), groups[test])
        assert abs(gap.value) < 3 * gap.stderr + 1 / len(truth), (kind, gap)
    # The same loss and penalty, searched to its end by both: few rows are that near.
    assert (fit(design, targets, "logistic")[0].predicted == their_codes).mean() > 0.98
    assert (ours == truth).mean() > majority(codes, test) + 0.2


@pytest.mark.slow
def test_random_labels_are_at_chance(english):
    x, y, groups, _ = english
    shuffled = np.random.default_rng(0).permutation(y)
    result = linear_probe(x["block.1"], shuffled, groups)
    assert abs(result.accuracy - result.majority) < 3 * result.stderr
