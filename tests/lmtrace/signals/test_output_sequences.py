"""Whole targets of sequence-to-sequence models: exact match against the model's own greedy decoding, BLEU against its definition."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch

import absynth
import lmtrace
from fake_view import FakeView
from lmtrace.numerics.prediction import corpus_bleu
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.output import Output
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import tiny
from text_corpora import fast_tokenizer, toy


def plain_bleu(hypotheses, references, order=4):
    """BLEU by its definition with sacrebleu's smoothing: clipped counts over the corpus, brevity penalty."""
    precisions, halvings, matched = [], 0, False
    for n in range(1, order + 1):
        clipped = total = 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            mine = [tuple(hypothesis[i : i + n]) for i in range(len(hypothesis) - n + 1)]
            theirs = [tuple(reference[i : i + n]) for i in range(len(reference) - n + 1)]
            total += len(mine)
            for gram, count in Counter(mine).items():
                clipped += min(count, theirs.count(gram))
        if not total:
            return 0.0
        matched = matched or clipped > 0
        halvings += not clipped
        precisions.append(Fraction(clipped, total) if clipped else Fraction(1, 2**halvings * total))
    c, r = sum(map(len, hypotheses)), sum(map(len, references))
    penalty = 1.0 if c > r else math.exp(1 - r / c)
    return matched * penalty * math.exp(sum(math.log(p) for p in precisions) / order)


KNOWN = (
    # hypotheses, references, what sacrebleu 2.6.0 says with tokenize="none"
    ((("a b c d e f", "a x c d"), ("a b c d e g", "a b c d")), 59.4603558),
    ((("a b c", "d e"), ("a b c", "d e")), 0.0),
    ((("a b c d", "q r"), ("a b d c", "r q s")), 29.9276484),
    ((("a q b r c s d",), ("a b c d e f g h",)), 8.0511536),
    ((("x y z w v",), ("a b c d e",)), 0.0),
)


@pytest.mark.parametrize(("texts", "expected"), KNOWN)
def test_bleu_is_that_of_sacrebleu(texts, expected):
    hypotheses, references = ([text.split() for text in side] for side in texts)
    assert 100 * corpus_bleu(hypotheses, references).value == pytest.approx(expected, abs=1e-6)


def test_bleu_of_random_corpora_is_that_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = np.random.default_rng(3)
    for longest in (3, 5, 9, 25):
        for share in (0.1, 0.5, 0.95):
            references = [rng.integers(0, 9, rng.integers(1, longest + 1)).tolist() for _ in range(9)]
            hypotheses = [[w if rng.random() < share else 17 for w in r][: rng.integers(1, 30)] for r in references]
            texts = [[" ".join(map(str, row)) for row in side] for side in (hypotheses, references)]
            expected = sacrebleu.BLEU(tokenize="none", force=True).corpus_score(texts[0], [texts[1]]).score
            assert 100 * corpus_bleu(hypotheses, references).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_bleu_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    references = [rng.integers(0, 6, rng.integers(1, 12)).tolist() for _ in range(30)]
    kinds = {
        "some words wrong": [[w if rng.random() < 0.7 else 7 for w in r] for r in references],
        "too short": [r[: len(r) - int(rng.integers(0, 3))] for r in references],
        "too long": [r + rng.integers(0, 6, rng.integers(0, 5)).tolist() for r in references],
        "one word repeated": [[r[0]] * len(r) for r in references],
        "some empty": [[] if rng.random() < 0.3 else r for r in references],
        "all empty": [[] for _ in references],
        "right": references,
    }
    for name, hypotheses in kinds.items():
        assert corpus_bleu(hypotheses, references).value == pytest.approx(
            plain_bleu(hypotheses, references), abs=1e-12
        ), name
    assert corpus_bleu(kinds["all empty"], references).value == 0
    assert corpus_bleu(references, references).value == pytest.approx(1.0)
    # The order of sentences does not matter, and padding them with nothing neither.
    turned = rng.permutation(30)
    a, b = kinds["too long"], references
    assert corpus_bleu([a[i] for i in turned], [b[i] for i in turned]).value == pytest.approx(
        corpus_bleu(a, b).value, abs=1e-12
    )


def law_saying(panel, said):
    """Log-probabilities whose argmax at each prediction is `said`."""
    law = torch.full((len(panel.predictions), len(panel.tokenizer)), -20.0)
    law[torch.arange(len(law)), torch.as_tensor(said)] = 0.0
    return law.log_softmax(1)


def whole(panel, said):
    records = list(Output().measure(FakeView(panel, Output(), law_saying(panel, said))))
    return {r.metric: r for r in records if r.metric in ("exact_match", "bleu")}


@pytest.fixture(scope="module")
def panel():
    corpus = toy(60)
    return Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus, targets=True), size=40, objective="seq2seq")


def sequences(panel, tokens):
    return [tokens[panel.predictions.sentence == i].tolist() for i in range(panel.num_sentences)]


def until(tokens, end):
    return tokens[: tokens.index(end)] if end in tokens else tokens


def test_what_is_said_is_compared_up_to_its_end(panel):
    """The end of sentence is no word: it ends what is compared, early or never, and counts in no n-gram."""
    end, rng = panel.tokenizer.eos_token_id, np.random.default_rng(0)
    target = panel.predictions.target
    words = np.array(sorted(set(target.tolist()) - {end}))
    cases = {
        "right": target.copy(),
        "some wrong": np.where(rng.random(len(target)) < 0.2, rng.choice(words, len(target)), target),
        "never ends": np.where(target == end, words[0], target),
        "ends early": np.where((panel.predictions.position == 4), end, target),
        "says nothing": np.where(panel.predictions.position == 0, end, target),
    }
    for name, said in cases.items():
        found = whole(panel, said)
        mine, theirs = sequences(panel, said), sequences(panel, target)
        assert found["exact_match"].value == np.mean([a == b for a, b in zip(mine, theirs, strict=True)]), name
        expected = plain_bleu([until(s, end) for s in mine], [until(s, end) for s in theirs])
        assert found["bleu"].value == pytest.approx(expected, abs=1e-12), name
    assert whole(panel, cases["never ends"])["exact_match"].value == 0
    assert 0.8 < whole(panel, cases["never ends"])["bleu"].value < 1
    assert whole(panel, cases["says nothing"])["bleu"].value == 0
    assert whole(panel, cases["right"])["bleu"].value == pytest.approx(1)


def test_targets_that_were_cut_are_not_matched():
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), 60, seed=0)
    tokenizer = WordTokenizer.from_corpus(corpus, targets=True)
    full = Panel.from_annotated(corpus, tokenizer, size=60, objective="seq2seq")
    lengths = np.bincount(full.predictions.sentence)
    limit = int(np.median(lengths))
    cut = Panel.from_annotated(corpus, tokenizer, size=60, objective="seq2seq", max_length=limit)
    found = whole(cut, cut.predictions.target)
    assert found["exact_match"].n == int((lengths <= limit).sum()) < 60
    assert found["exact_match"].value == found["bleu"].value == pytest.approx(1)
    none = Panel.from_annotated(corpus, tokenizer, size=60, objective="seq2seq", max_length=4)
    found = whole(none, none.predictions.target)
    assert found["exact_match"].missing == found["bleu"].missing == "every target was cut at max_length"


def test_a_diverged_model_is_never_right(panel):
    for other in (panel, panel.with_objective("causal")):
        law = torch.full((len(other.predictions), len(other.tokenizer)), math.nan)
        for record in Output().measure(FakeView(other, Output(), law)):
            assert record.missing is not None, record


def trained(panel, steps):
    """A tiny T5 that has half learned the panel's own targets."""
    model = tiny("t5", panel.tokenizer, "2x32")
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        for batch in panel.with_objective("seq2seq", model.config.decoder_start_token_id).batches(40):
            logits = model(
                input_ids=torch.as_tensor(batch.input_ids),
                attention_mask=torch.as_tensor(batch.attention_mask),
                decoder_input_ids=torch.as_tensor(batch.decoder_input_ids),
            ).logits[batch.predict_row, batch.predict_column]
            loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(batch.targets))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def test_exact_match_is_that_of_greedy_decoding(panel):
    """Sentence by sentence: the model's own `generate`, without padding, says the target just where exact match says so."""
    model = trained(panel, 20)
    instrument = Instrument(model, panel, [Output()], on_error="raise")
    by = {(r.metric, r.label): r for r in instrument.measure(0) if r.signal == "output"}
    end = panel.tokenizer.eos_token_id
    instrument_panel = instrument.panel
    hits = []
    for ids, target in zip(
        instrument_panel.encoder.ids, sequences(instrument_panel, instrument_panel.predictions.target), strict=True
    ):
        said = model.generate(
            torch.as_tensor(ids)[None], do_sample=False, num_beams=1, max_new_tokens=len(target), eos_token_id=end,
            decoder_start_token_id=int(instrument_panel.decoder.ids[0][0]),
        )[0, 1:].tolist()  # fmt: skip
        hits.append(said == target)
    assert 0 < np.mean(hits) < 1, "the test needs right and wrong answers"
    assert by["exact_match", None].value == np.mean(hits)
    assert by["exact_match", None].n == panel.num_sentences


def test_batches_and_their_padding_change_nothing(panel):
    model = trained(panel, 5)
    found = []
    for max_logits in (1, 2000, 10**8):
        instrument = Instrument(model, panel, [Output()], on_error="raise", max_logits=max_logits)
        found.append([(r.metric, r.label, r.value) for r in instrument.measure(0) if r.signal == "output"])
    for other in found[1:]:
        assert [row[:2] for row in other] == [row[:2] for row in found[0]]
        np.testing.assert_allclose([row[2] for row in other], [row[2] for row in found[0]], atol=2e-5)


def test_logical_forms_of_a_subword_tokenizer(tmp_path):
    """T5 style, through the public way in: a Unigram tokenizer that spells the logical forms."""
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), 40, seed=0)
    forms = [s.logical_form for s in corpus]
    tokenizer = fast_tokenizer("t5", extra=[*forms, *(" ".join(s.tokens) for s in corpus)])
    panel = Panel.from_annotated(corpus, tokenizer, size=40, objective="seq2seq")
    assert panel.target == "logical form"
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=2, d_kv=16,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    run = lmtrace.analyze(T5ForConditionalGeneration(config), panel, run=tmp_path / "run", signals=["output"])
    assert run.series(signal="output", metric="exact_match").values[0][0] == 0
    assert 0 <= run.series(signal="output", metric="bleu").values[0][0] < 0.5
