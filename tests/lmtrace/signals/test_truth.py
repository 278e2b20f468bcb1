import math

import numpy as np
import pytest
import torch

from fake_view import FakeView
from lmtrace.observe import capture
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.truth import Truth, divergence
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import PlainModel
from text_corpora import ToyOracle, english, toy


@pytest.fixture(scope="module")
def panel():
    corpus = toy(80)
    return Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus), size=50)


def measure(panel, log_probs, **kwargs):
    signal = Truth(**kwargs)
    records = list(signal.measure(FakeView(panel, signal, log_probs)))
    fields = {f.metric: f for f in signal.fields}
    for record in records:
        record.check(fields)
    return {(r.metric, r.label): r for r in records}


def law_of(panel):
    return torch.as_tensor(panel.truth.law(np.arange(len(panel.predictions))))


def random_law(panel):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(len(panel.predictions), len(panel.tokenizer), generator=rng).log_softmax(1)


def test_every_number_equals_a_loop_over_positions(panel):
    law, log_q = law_of(panel).numpy(), random_law(panel)
    records = measure(panel, log_q)
    groups = [[5, 6], [7, 8], [3], [0, 1, 2, 4]]  # nouns, verbs, the end, all other tokens
    category = panel.prediction_codes("category")
    for label, rows in {None: range(len(law)), "category=verb": np.flatnonzero(category == 1)}.items():
        kl, excess, illegal, structural = [], [], [], []
        for i in rows:
            p, q = law[i], log_q[i].double().exp().numpy()
            kl.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))
            y = panel.predictions.target[i]
            excess.append(math.log(p[y]) - math.log(q[y]))
            illegal.append(sum(b for a, b in zip(p, q, strict=True) if a == 0))
            pairs = [(p[g].sum(), q[g].sum()) for g in groups]
            structural.append(sum(a * math.log(a / b) for a, b in pairs if a > 0))
        assert records["kl", label].value == pytest.approx(np.mean(kl), abs=1e-6)
        assert records["excess", label].value == pytest.approx(np.mean(excess), abs=1e-6)
        assert records["illegal_mass", label].value == pytest.approx(np.mean(illegal), abs=1e-6)
        assert records["structural_share", label].value == pytest.approx(sum(structural) / sum(kl), abs=1e-6)
        assert all(records[m, label].stderr > 0 for m in ("kl", "excess", "illegal_mass", "structural_share"))


def test_the_exact_law_has_no_divergence_and_no_illegal_mass(panel):
    records = measure(panel, law_of(panel).clamp(min=1e-35).log().float())
    assert records["kl", None].value == pytest.approx(0, abs=1e-6)
    assert records["excess", None].value == pytest.approx(0, abs=1e-6)
    assert records["illegal_mass", None].value < 1e-6
    assert "zero" in records["structural_share", None].missing
    floor = records["floor", None]
    assert floor.value == pytest.approx(panel.truth.surprisal.mean())
    assert floor.stderr > 0


def test_kept_places_of_the_law_give_the_same_numbers(panel, monkeypatch):
    instrument = Instrument(PlainModel(len(panel.tokenizer)).eval(), panel, [Truth()], None, on_error="raise")

    def measured():
        return [repr(record) for record in instrument.measure(0) if record.signal != "cost"]

    monkeypatch.setattr(capture, "MAX_CELLS", -1)
    fresh = measured()
    assert not any(key[0] == "capture.cells" for key in panel._made)
    monkeypatch.undo()
    assert measured() == fresh
    assert any(key[0] == "capture.cells" for key in panel._made)
    assert measured() == fresh


def test_the_uniform_law_is_the_null(panel):
    uniform = torch.zeros(len(panel.predictions), len(panel.tokenizer)).log_softmax(1)
    for record in measure(panel, uniform).values():
        if record.null is not None:
            assert record.value == pytest.approx(record.null, abs=1e-6)


def test_mixing_up_words_of_a_category_is_lexical_and_categories_structural(panel):
    law = law_of(panel)
    lexical, structural = law.clone(), law.clone()
    for a, b in ((5, 6), (7, 8)):
        lexical[:, [a, b]] = law[:, [a, b]].mean(1, keepdim=True)
    structural = 0.8 * law + 0.2 * law.mean(0)
    records = measure(panel, lexical.clamp(min=1e-35).log().float())
    assert records["structural_share", None].value < 1e-5
    records = measure(panel, structural.log().float().clamp(min=-80))
    assert records["structural_share", None].value > 0.5


@pytest.mark.statistical
def test_excess_is_the_divergence_to_its_standard_error():
    corpus = toy(4000, seed=5)
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus), size=4000)
    log_q = (0.7 * law_of(panel) + 0.3 / len(panel.tokenizer)).log().float()
    records = measure(panel, log_q)
    excess, kl = records["excess", None], records["kl", None]
    assert abs(excess.value - kl.value) < 4 * excess.stderr
    assert excess.stderr < 0.01


def test_without_a_law_there_is_a_reason(panel):
    plain = Panel.from_annotated(english(), WordTokenizer.from_corpus(english()))
    records = measure(plain, None)
    assert records["kl", None].missing == "the corpus has no oracle"


def test_wider_logits_count_as_illegal(panel):
    wide = torch.cat([law_of(panel) * 0.75, torch.full((len(panel.predictions), 5), 0.05)], 1)
    records = measure(panel, wide.clamp(min=1e-35).log().float())
    assert records["illegal_mass", None].value == pytest.approx(0.25, abs=1e-5)
    assert records["kl", None].value == pytest.approx(-math.log(0.75), abs=1e-5)


def test_an_oracle_without_categories_gives_no_share():
    class Bare(ToyOracle):
        categories = None

    corpus = toy(40)
    corpus.oracle = Bare()
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus))
    records = measure(panel, random_law(panel))
    assert records["kl", None].value > 0
    assert not any(metric == "structural_share" for metric, _ in records)


def test_divergence_of_certain_and_impossible_tokens():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    log_q = torch.tensor([[0.0, -math.inf], [math.log(0.25), math.log(0.75)]], dtype=torch.float64)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(p, log_q).tolist() == pytest.approx([0.0, expected])
