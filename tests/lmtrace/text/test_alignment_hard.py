"""Alignment on text that breaks naive aligners: many bytes a character, fused forms, marks that normalisers drop."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers.normalizers import BertNormalizer

from lmtrace.errors import DataError
from lmtrace.jobs.data import train_bpe
from lmtrace.text.alignment import coverage, encode
from lmtrace.text.panel import Panel
from lmtrace.text.readers import read
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer
from text_corpora import fast_tokenizer

WORDS = (
    "cafe\u0301", "👩\u200d👩\u200d👧", "東京は", "naïve", "ﬁne", "İSTANBUL", "Straße", "①", "…", "½", "don't",
    "a\u00adb", "antidisestablishmentarianism", "x",
)  # fmt: skip
SENTENCE = AnnotatedSentence(tokens=WORDS, labels={"upos": tuple(f"L{i}" for i in range(len(WORDS)))})


def tokenizer_of(kind):
    if kind == "byte-level":
        return train_bpe([SENTENCE.text] * 3, 300)
    if kind == "merged":  # bytes of several characters in one token
        return train_bpe([SENTENCE.text] * 50, 600)
    return fast_tokenizer(kind, [SENTENCE.text] * 3)


def spelt(tokenizer, kind, ids):
    """Return what tokens say, without looking at any offset."""
    if kind in ("byte-level", "merged"):
        return tokenizer.decode(ids).strip(" ")
    pieces = tokenizer.convert_ids_to_tokens(ids)
    return "".join(pieces).replace("##", "") if kind == "bert" else "".join(pieces).replace("▁", "")


@pytest.mark.parametrize("kind", ["byte-level", "merged", "bert", "t5"])
def test_the_tokens_of_a_word_spell_it(kind):
    tokenizer = tokenizer_of(kind)
    (e,) = encode([SENTENCE], tokenizer)
    assert coverage([e]) == 1.0
    for word, first, last in zip(WORDS, e.first.tolist(), e.last.tolist(), strict=True):
        expected = BertNormalizer().normalize_str(word).replace(" ", "") if kind == "bert" else word
        assert spelt(tokenizer, kind, e.ids[first : last + 1].tolist()) == expected
    assert e.owner[e.first].tolist() == list(range(len(WORDS))), "tokens belong to their own word"
    assert np.all(np.diff(e.owner[e.owner >= 0]) >= 0)
    assert e.opens_word.sum() == len(WORDS)


@pytest.mark.parametrize(("policy", "end"), [("first", 0), ("last", -1)])
def test_a_label_stands_at_the_first_or_last_token_of_its_word(policy, end):
    tokenizer = tokenizer_of("byte-level")
    panel = Panel.from_annotated([SENTENCE], tokenizer, policy=policy)
    ids = panel.encoder.ids[0]
    rows = panel.encoder.word_first if policy == "first" else panel.encoder.word_last
    for word, row in zip(WORDS, rows.tolist(), strict=True):
        alone = tokenizer(word if word == WORDS[0] else f" {word}", add_special_tokens=False)["input_ids"]
        spelling = [i for i in alone if tokenizer.decode([i]) != " "]
        assert ids[row] == spelling[end]
    assert [panel.labels("upos").names[c] for c in panel.labels("upos").codes] == list(SENTENCE.labels["upos"])


def test_marks_that_a_normaliser_drops_lower_the_coverage():
    words = ("dog", "\u200b", "cat", "\u00ad")
    sentences = [AnnotatedSentence(tokens=words)]
    tokenizer = fast_tokenizer("bert")
    with pytest.raises(DataError, match=r"only 50.0% of the panel's words reach a token of .*at least 90%"):
        Panel.from_annotated(sentences, tokenizer)
    panel = Panel.from_annotated(sentences, tokenizer, min_coverage=0.5)
    assert (panel.encoder.word_first >= 0).tolist() == [True, False, True, False]


CONLLU = """\
1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\t_\t_\t3\tcase\t_\t_
2\tle\tle\tDET\t_\t_\t3\tdet\t_\t_
3\tcafé\tcafé\tNOUN\t_\t_\t0\troot\t_\tSpaceAfter=No
3.1\tghost\t_\t_\t_\t_\t_\t_\t_\t_
4\t,\t,\tPUNCT\t_\t_\t3\tpunct\t_\t_
5-6\tdon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
5\tdo\tdo\tAUX\t_\t_\t3\taux\t_\t_
6\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
7\t東京\t東京\tPROPN\t_\t_\t3\tobl\t_\tSpaceAfter=No
8\tは\tは\tADP\t_\t_\t7\tcase\t_\t_
9\t😀\t😀\tSYM\t_\t_\t3\tdep\t_\t_

"""


@pytest.mark.parametrize("kind", ["byte-level", "bert", "t5"])
def test_a_treebank_with_fused_forms_and_empty_nodes(kind, tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text(CONLLU, encoding="utf-8")
    (sentence,) = read(path)
    assert sentence.text == "du café, don't東京は 😀"
    text = [sentence.text]
    tokenizer = train_bpe(text, 261) if kind == "byte-level" else fast_tokenizer(kind, text * 3)
    panel = Panel.from_annotated([sentence], tokenizer)
    upos = [panel.labels("upos").names[c] for c in panel.labels("upos").codes]
    assert upos == ["ADP", "DET", "NOUN", "PUNCT", "AUX", "PART", "PROPN", "ADP", "SYM"]
    first, last = panel.encoder.word_first.tolist(), panel.encoder.word_last.tolist()
    found = [spelt(tokenizer, kind, panel.encoder.ids[0][a : b + 1].tolist()) for a, b in zip(first, last, strict=True)]
    # Bytes alone never share; "don" or "don't" is one piece elsewhere, and both words that share it reach it.
    fused = {"byte-level": ["do", "n't"], "bert": ["don", "don't"], "t5": ["don't", "don't"]}[kind]
    plain = ["du", "du", "cafe" if kind == "bert" else "café", ",", *fused, "東京", "は", "😀"]
    assert found == plain
    assert panel.heads.tolist() == [2, 2, -1, 2, 2, 2, 2, 6, 2]


def test_a_subword_sentence_longer_than_the_context_keeps_whole_words_only():
    tokenizer = tokenizer_of("byte-level")
    whole = Panel.from_annotated([SENTENCE], tokenizer)
    for length in range(4, len(whole.encoder.ids[0])):
        panel = Panel.from_annotated([SENTENCE], tokenizer, max_length=length)
        ids = panel.encoder.ids[0]
        assert len(ids) == length
        assert np.array_equal(ids, whole.encoder.ids[0][:length]), "no end of sentence after half a sentence"
        kept = panel.encoder.word_last >= 0
        assert np.array_equal(kept, whole.encoder.word_last < length)
        assert np.array_equal(panel.labels("upos").codes >= 0, kept)


def test_a_panel_of_unknown_words_says_so(caplog):
    Panel.from_annotated([SENTENCE], WordTokenizer(["x", "cafe\u0301"]))
    assert "86% of the panel's tokens are unknown to WordTokenizer" in caplog.text
    caplog.clear()
    Panel.from_annotated([SENTENCE], WordTokenizer(WORDS[1:]))
    assert not caplog.records
