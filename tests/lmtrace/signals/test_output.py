import math

import numpy as np
import pytest
import torch

from fake_view import FakeView
from lmtrace.signals.output import Output
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from text_corpora import english, fast_tokenizer, toy


@pytest.fixture(scope="module")
def panel():
    corpus = toy(60)
    return Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus, targets=True), size=40)


def measure(panel, log_probs, signal=None):
    signal = signal or Output()
    records = list(signal.measure(FakeView(panel, signal, log_probs)))
    fields = {f.metric: f for f in signal.fields}
    for record in records:
        record.check(fields)
    return {(r.metric, r.label): r for r in records}


def random_law(panel, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(len(panel.predictions), len(panel.tokenizer), generator=rng).log_softmax(1)


def test_every_number_equals_a_loop_over_predictions(panel):
    law = random_law(panel)
    records = measure(panel, law, Output(min_count=1))
    category = panel.prediction_codes("category")
    groups = {None: range(len(law))}
    for code, name in enumerate(panel.labels("category").names):
        groups[f"category={name}"] = [i for i in range(len(law)) if category[i] == code]
    groups["token=end"] = [i for i in range(len(law)) if panel.predictions.word[i] < 0]
    kinds = {"dog": "noun", "cat": "noun", "sees": "verb", "runs": "verb", "</s>": "</s>"}
    vocabulary = panel.tokenizer.words
    for label, rows in groups.items():
        loss, right, top5, entropy, mass, syntax = [], [], [], [], [], []
        for i in rows:
            p = law[i].double().exp().numpy()
            target = int(panel.predictions.target[i])
            loss.append(-math.log(p[target]))
            order = sorted(range(len(p)), key=lambda v: (-p[v], v))
            right.append(order[0] == target)
            top5.append(target in order[:5])
            entropy.append(-sum(x * math.log(x) for x in p))
            by_kind = {}
            for word, x in zip(vocabulary, p, strict=True):
                if word in kinds:
                    by_kind[kinds[word]] = by_kind.get(kinds[word], 0) + x
            mass.append(by_kind[kinds[vocabulary[target]]])
            syntax.append(max(by_kind, key=by_kind.get) == kinds[vocabulary[target]])
        expected = {"loss": loss, "accuracy": right, "top5": top5, "entropy": entropy}
        expected |= {"category_mass": mass, "category_accuracy": syntax}
        for metric, values in expected.items():
            record = records[metric, label]
            assert record.value == pytest.approx(np.mean(values), abs=1e-6)
            assert record.n == len(values)
            assert record.stderr is not None
        assert records["loss", label].null == pytest.approx(math.log(len(vocabulary)))
    assert records["perplexity", None].value == pytest.approx(math.exp(records["loss", None].value))
    assert records["category_mass", None].split == "oracle"


def test_a_constant_predictor_scores_like_a_constant_predictor(panel):
    constant = torch.zeros(len(panel.predictions), len(panel.tokenizer)).log_softmax(1)
    records = measure(panel, constant)
    # Ties go to the smallest id, <pad>, which is never right.
    assert records["accuracy", None].value == 0
    assert records["loss", None].value == pytest.approx(records["loss", None].null, abs=1e-6)
    frequent = np.bincount(panel.predictions.target).argmax()
    constant[:, frequent] += 1
    records = measure(panel, constant.log_softmax(1))
    assert records["accuracy", None].value == pytest.approx(records["accuracy", None].null)


def test_the_right_law_is_calibrated_and_a_sure_one_is_not(panel):
    law = torch.as_tensor(panel.truth.law(np.arange(len(panel.predictions))))
    records = measure(panel, law.clamp(min=1e-30).log().float())
    record = records["ece", None]
    assert record.value < record.null + 4 * record.stderr
    sure = torch.full_like(law, -50.0)
    sure[:, 5] = 0.0
    records = measure(panel, sure.log_softmax(1).float())
    assert records["ece", None].value == pytest.approx(1 - records["accuracy", None].value, abs=1e-6)


def test_ambiguous_categories_come_from_the_panel_where_there_is_no_oracle():
    corpus = [s for s in toy(60)]
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus), size=40)
    assert panel.lexicon.source == "panel"
    assert panel.lexicon.names == ("noun", "verb", "</s>")
    law = random_law(panel)
    exact = measure(Panel.from_annotated(toy(60), WordTokenizer(toy(1).oracle.vocabulary), size=40), law[:, :9])
    assert exact["category_mass", None].split == "oracle"
    assert measure(panel, law)["category_mass", None].split == "panel"


def test_subwords_are_counted_by_kind_and_label():
    panel = Panel.from_annotated(english(), fast_tokenizer("gpt2"), layers=["upos"], end=True)
    records = measure(panel, random_law(panel))
    n = {kind: records["loss", f"token={kind}"].n for kind in ("end", "first", "continuation")}
    assert n["end"] == len(english())
    assert n["first"] == panel.num_words
    loose = (panel.predictions.word < 0) & ~panel.predictions.first
    assert sum(n.values()) + loose.sum() == len(panel.predictions) == records["loss", None].n
    assert records["loss", "upos=WORD"].n + records["loss", "upos=PUNCT"].n == n["first"] + n["continuation"]
    words = measure(panel.with_end(False), random_law(panel))
    assert words["loss", None].n == len(panel.predictions) - n["end"]
    assert words["loss", "token=end"].value == records["loss", "token=end"].value
    total = records["loss", None].value * len(panel.predictions)
    ends = records["loss", "token=end"].value * n["end"]
    assert words["loss", None].value == pytest.approx((total - ends) / words["loss", None].n)
    targets = panel.predictions.target[~panel.ends]
    assert words["accuracy", None].null == pytest.approx(np.bincount(targets).max() / len(targets))


def test_rare_values_are_missing_with_the_count(panel):
    records = measure(panel, random_law(panel), Output(min_count=10_000))
    assert {r.missing is not None for r in records.values() if r.metric == "loss"} == {True}
    assert "fewer than 10000" in records["loss", "category=noun"].missing


def test_layers_with_too_many_values_are_left_out(panel):
    assert "category" in Output().needs(panel).labels
    assert "category" not in Output(max_values=1).needs(panel).labels
    assert Output(layers=("construction",)).needs(panel).labels == ("construction",)


def test_one_sentence_has_no_standard_error():
    corpus = toy(1)
    one = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus))
    records = measure(one, random_law(one), Output(min_count=1))
    assert records["loss", None].value > 0
    assert records["loss", None].stderr is None


def test_sequence_to_sequence_has_exact_match_and_bleu(panel):
    seq = panel.with_objective("seq2seq")
    law = torch.full((len(seq.predictions), len(seq.tokenizer)), -20.0)
    law[torch.arange(len(law)), torch.as_tensor(seq.predictions.target)] = 0.0
    perfect = measure(seq, law.log_softmax(1))
    assert perfect["exact_match", None].value == perfect["bleu", None].value == 1
    first = int(np.flatnonzero(seq.predictions.sentence == 3)[0])
    law[first] = 0.0
    one_wrong = measure(seq, law.log_softmax(1))
    assert one_wrong["exact_match", None].value == pytest.approx(1 - 1 / seq.num_sentences)
    assert 0.9 < one_wrong["bleu", None].value < 1


def test_a_diverged_model_gives_reasons(panel):
    law = random_law(panel)
    law[3] = math.nan
    records = measure(panel, law)
    assert "nan" in records["loss", None].missing
    assert "nan" in records["perplexity", None].missing


def test_a_model_with_more_logits_than_the_tokenizer_has_ids(panel):
    wide = torch.cat([random_law(panel), torch.zeros(len(panel.predictions), 3)], 1).log_softmax(1)
    records = measure(panel, wide)
    assert records["loss", None].null == pytest.approx(math.log(len(panel.tokenizer) + 3))
    assert 0 < records["category_mass", None].value < 1
