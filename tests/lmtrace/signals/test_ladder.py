import math

import numpy as np
import pytest
import torch

from fake_view import FakeView
from lmtrace.errors import ConfigError
from lmtrace.numerics.clustered import clustered_mean
from lmtrace.signals.ladder import Ladder
from lmtrace.text.panel import Panel
from lmtrace.text.readers import read
from lmtrace.text.references import RUNGS
from lmtrace.text.sequences import encode_causal
from lmtrace.text.tokenizer import WordTokenizer
from reference.ngram import probability
from text_corpora import english, fast_tokenizer, toy


@pytest.fixture(scope="module")
def panel():
    corpus, training = toy(60, seed=1), toy(400, seed=2)
    return Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus), size=40, training=training)


def measure(panel, log_probs, **kwargs):
    signal = Ladder(**kwargs)
    records = list(signal.measure(FakeView(panel, signal, log_probs)))
    fields = {f.metric: f for f in signal.fields}
    for record in records:
        record.check(fields)
    return {(r.metric, r.split): r for r in records}


def everything(panel, name):
    return panel.references[0][name].law(np.arange(len(panel.predictions)))


def test_every_reference_is_a_law(panel):
    found, missing = panel.references
    assert tuple(sorted(found, key=RUNGS.index)) == RUNGS
    assert not missing
    for name in RUNGS:
        law = everything(panel, name)
        assert law.min() >= 0
        assert np.abs(law.sum(1) - 1).max() < 1e-9
        gold = law[np.arange(len(law)), panel.predictions.target]
        assert found[name].surprisal == pytest.approx(-np.log(gold))


def test_the_ngrams_are_those_of_the_training_corpus(panel):
    training = encode_causal(toy(400, seed=2), panel.tokenizer)
    for order, name in ((1, "unigram"), (2, "bigram"), (3, "trigram")):
        law = everything(panel, name)
        for row in range(0, 40, 3):
            ids = panel.encoder.ids[panel.predictions.sentence[row]]
            at = panel.predictions.position[row] + 1
            context = (int(ids[at - 2]) if at >= 2 else None, int(ids[at - 1]))
            word = int(panel.predictions.target[row])
            expected = probability(training, len(panel.tokenizer), order, context, word)
            assert law[row, word] == pytest.approx(expected, abs=1e-12)


def test_the_construction_rung_knows_categories_and_frequencies_only(panel):
    law = everything(panel, "construction")
    dog, cat, sees, runs, end = (
        panel.tokenizer.convert_tokens_to_ids(w) for w in ("dog", "cat", "sees", "runs", "</s>")
    )
    third = np.flatnonzero(panel.predictions.position == 2)
    after_runs = [i for i in third if panel.sentences[panel.predictions.sentence[i]].tokens[1] == "runs"]
    after_sees = [i for i in third if panel.sentences[panel.predictions.sentence[i]].tokens[1] == "sees"]
    # Only the oracle knows that "runs" takes no object; the categories before are the same.
    assert law[after_runs[0]] == pytest.approx(law[after_sees[0]])
    assert law[after_sees[0], end] == pytest.approx(0.4, abs=0.06)
    assert law[after_sees[0], sees] + law[after_sees[0], runs] < 0.02
    # In the whole corpus dog is the more frequent noun, though not after a verb.
    assert law[after_sees[0], dog] > 1.5 * law[after_sees[0], cat]


@pytest.mark.parametrize("name", RUNGS)
def test_a_model_that_is_a_rung_stands_on_it(panel, name):
    law = torch.as_tensor(everything(panel, name)).clamp(min=1e-35).log().float()
    records = measure(panel, law)
    assert records["kl", name].value == pytest.approx(0, abs=1e-5)
    assert records["excess", name].value == pytest.approx(0, abs=1e-5)
    assert RUNGS[int(records["rung", None].value)] == name


def test_distances_equal_dense_sums(panel):
    rng = torch.Generator().manual_seed(0)
    log_q = torch.randn(len(panel.predictions), len(panel.tokenizer), generator=rng).log_softmax(1)
    records = measure(panel, log_q)
    for name in RUNGS:
        p = everything(panel, name)
        terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - log_q.double().numpy()), 0)
        assert records["kl", name].value == pytest.approx(terms.sum(1).mean(), abs=1e-5)
        loss = -log_q[torch.arange(len(p)), torch.as_tensor(panel.predictions.target)].double().numpy()
        assert records["excess", name].value == pytest.approx(
            loss.mean() - panel.references[0][name].surprisal.mean(), abs=1e-6
        )
        assert records["excess", name].stderr > 0


def test_impossible_tokens_count_with_the_least_log_probability(panel):
    log_q = torch.randn(len(panel.predictions), len(panel.tokenizer), generator=torch.Generator().manual_seed(1))
    log_q[:, int(panel.predictions.target[0])] = -math.inf
    log_q = log_q.log_softmax(1)
    records = measure(panel, log_q)
    raised = log_q.double().clamp(min=-1e4).numpy()
    for name in RUNGS:
        p = everything(panel, name)
        terms = p * (np.log(np.where(p > 0, p, 1)) - raised)
        assert records["kl", name].value == pytest.approx(terms.sum(1).mean(), rel=1e-5)


def test_the_null_is_the_uniform_model(panel):
    records = measure(panel, torch.zeros(len(panel.predictions), len(panel.tokenizer)).log_softmax(1))
    for record in records.values():
        if record.null is not None:
            assert record.value == pytest.approx(record.null, abs=1e-5)
    assert records["reference_loss", "uniform"].value == pytest.approx(math.log(len(panel.tokenizer)))


def test_rungs_that_cannot_be_had_give_reasons():
    plain = Panel.from_annotated(english(), WordTokenizer.from_corpus(english()))
    records = measure(plain, torch.zeros(len(plain.predictions), len(plain.tokenizer)).log_softmax(1))
    assert "without training=" in records["kl", "bigram"].missing
    assert records["kl", "oracle"].missing == "the corpus has no oracle"
    assert "fewer than two" in records["rung", None].missing
    masked = plain.with_objective("masked")
    assert "left to right" in measure(masked, None)["kl", "uniform"].missing
    split = Panel.from_annotated(english(), fast_tokenizer("gpt2"), training=english())
    records = measure(split, torch.zeros(len(split.predictions), len(split.tokenizer)).log_softmax(1))
    assert "splits words" in records["kl", "construction"].missing
    assert records["kl", "trigram"].value > 0
    with pytest.raises(ConfigError, match="unknown rungs"):
        Ladder(rungs=("quadgram",))


@pytest.mark.slow
def test_the_construction_rung_reaches_the_known_floor_of_the_published_corpus(data_dir):
    corpus = read(data_dir / "next_token_corpus_3.json")
    order = np.random.default_rng(0).permutation(len(corpus))
    train, test = ([corpus[i] for i in rows] for rows in (order[:22_000], order[22_000:]))
    panel = Panel.from_annotated(test, WordTokenizer.from_corpus(corpus), size=3000, training=train)
    surprisal = panel.references[0]["construction"].surprisal
    loss = clustered_mean(surprisal, panel.predictions.sentence)
    # 5.282 nats: template law and uniform words. The rest is the price of estimating 6,450 words from the training part.
    assert 5.282 - 3 * loss.stderr < loss.value < 5.282 + 0.08


def test_a_columnar_corpus_is_counted_as_its_sentences_are():
    absynth = pytest.importorskip("absynth")
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), n=600, seed=0)
    tokenizer = WordTokenizer.from_corpus(corpus)
    laws = []
    for training in (corpus, list(corpus)):
        panel = Panel.from_annotated(corpus[:20], tokenizer, training=training)
        laws.append({name: panel.references[0][name].surprisal for name in RUNGS})
    for name in RUNGS:
        assert laws[0][name] == pytest.approx(laws[1][name], abs=1e-12)
    means = [laws[0][name].mean() for name in RUNGS]
    assert means[0] > means[1] > means[2] > means[5]
    assert means[4] > means[5]
