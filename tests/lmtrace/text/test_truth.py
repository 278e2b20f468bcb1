import numpy as np
import pytest

from lmtrace.errors import DataError
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from text_corpora import ToyCorpus, ToyOracle, english, fast_tokenizer, toy


@pytest.fixture(scope="module")
def panel():
    corpus = toy(80)
    return Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus, targets=True), size=30)


def test_the_law_is_that_of_each_prediction_in_the_ids_of_the_tokenizer(panel):
    oracle, tokenizer = ToyOracle(), panel.tokenizer
    law = panel.truth.law(np.arange(len(panel.predictions)))
    assert law.shape == (len(panel.predictions), len(tokenizer))
    for row, (sentence, position) in enumerate(
        zip(panel.predictions.sentence, panel.predictions.position, strict=True)
    ):
        expected = np.zeros(len(tokenizer))
        p = oracle.next(panel.sentences[sentence].tokens[:position])
        for form, mass in zip((*oracle.vocabulary, "</s>"), p, strict=True):
            expected[tokenizer.convert_tokens_to_ids(form)] = mass
        assert np.array_equal(law[row], expected)
    assert np.abs(law.sum(1) - 1).max() < 1e-12
    rows = np.array([7, 3, 50, 3])
    assert np.array_equal(panel.truth.law(rows), law[rows])


def test_surprisal_and_entropy_are_those_of_the_law_in_nats(panel):
    law = panel.truth.law(np.arange(len(panel.predictions)))
    gold = law[np.arange(len(law)), panel.predictions.target]
    assert np.abs(panel.truth.surprisal + np.log(gold)).max() < 1e-12
    entropy = -np.sum(law * np.log(np.where(law > 0, law, 1)), axis=1)
    assert np.abs(panel.truth.entropy - entropy).max() < 1e-12
    floor = panel.truth.floor
    assert floor.value == pytest.approx(panel.truth.surprisal.mean())
    assert 0 < floor.stderr < 0.2


def test_the_sparse_law_is_the_dense_one(panel):
    rows = np.array([4, 0, 11, 4])
    dense = panel.truth.sparse.take(rows).dense(len(panel.tokenizer))
    assert np.array_equal(dense, panel.truth.law(rows))


def test_the_law_without_a_cache(panel, monkeypatch):
    import lmtrace.text.truth as module

    expected = panel.truth.law(np.arange(20))
    monkeypatch.setattr(module, "_CACHE_BYTES", 0)
    fresh = Panel(
        panel.sentences,
        panel.encodings,
        panel.tokenizer,
        panel.settings,
        panel.provenance,
        panel.sentences,
        ToyOracle(),
    )
    assert np.array_equal(fresh.truth.law(np.arange(20)), expected)
    assert not fresh.truth._laws


def test_cut_sentences_keep_their_rows():
    corpus = toy(40)
    tokenizer = WordTokenizer.from_corpus(corpus)
    cut = Panel.from_annotated(corpus, tokenizer, max_length=4)
    whole = Panel.from_annotated(corpus, tokenizer)
    lookup = {
        (s, p): v for s, p, v in zip(whole.predictions.sentence, whole.predictions.position, whole.truth.surprisal)
    }
    pairs = zip(cut.predictions.sentence, cut.predictions.position, strict=True)
    assert [lookup[pair] for pair in pairs] == cut.truth.surprisal.tolist()


def test_beliefs_ceilings_and_categories(panel):
    beliefs = panel.truth.beliefs()
    assert beliefs.shape == (panel.num_words, 2)
    assert np.allclose(beliefs[panel.word_position == 0], [0.6, 0.4])
    assert panel.truth.ceiling("role") == 0.9
    assert panel.truth.ceiling("other") is None
    codes, names = panel.truth.token_category
    assert names == ("</s>", "noun", "verb")
    named = {panel.tokenizer.words[i]: names[c] for i, c in enumerate(codes) if c >= 0}
    assert named == {"dog": "noun", "cat": "noun", "sees": "verb", "runs": "verb", "</s>": "</s>"}


def test_without_a_law_there_is_a_reason(panel):
    assert Panel.from_annotated(english(), panel.tokenizer).truth_reason == "the corpus has no oracle"
    masked = panel.with_objective("masked")
    assert (masked.truth, masked.truth_reason) == (None, "the exact law is of the next token; the objective is masked")
    assert "splits words" in Panel.from_annotated(toy(20), fast_tokenizer("gpt2")).truth_reason
    poor = Panel.from_annotated(toy(20), WordTokenizer(["dog", "sees"]))
    assert "does not know 2 of the grammar's 4 forms" in poor.truth_reason
    assert panel.truth_reason == ""


def test_an_oracle_of_another_corpus_is_an_error():
    class Wrong(ToyOracle):
        def score(self, sentences):
            return super().score(sentences[1:])

    corpus = ToyCorpus(toy(5))
    corpus.oracle = Wrong()
    with pytest.raises(DataError, match="one row per word"):
        _ = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus)).truth.surprisal
