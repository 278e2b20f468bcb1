import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmtrace.errors import DataError
from lmtrace.text.alignment import align, coverage, encode
from lmtrace.text.tokenizer import WordTokenizer
from reference.alignment import overlap, owners
from text_corpora import english, fast_tokenizer


@st.composite
def tilings(draw):
    """Words with gaps, and tokens that cut the same text anywhere, some of them empty."""
    words, at = [], 0
    for _ in range(draw(st.integers(0, 6))):
        at += draw(st.integers(0, 2))
        length = draw(st.integers(1, 6))
        words.append((at, at + length))
        at += length
    tokens, at = [], 0
    for _ in range(draw(st.integers(0, 12))):
        length = draw(st.integers(0, 4))
        tokens.append((at, at + length))
        at += length + draw(st.integers(0, 1))
    return words, tokens


@given(tilings())
def test_alignment_equals_the_character_by_character_reference(case):
    words, tokens = case
    first, last, owner = align(words, tokens)
    assert (first.tolist(), last.tolist()) == overlap(words, tokens)
    assert owner.tolist() == owners(words, tokens)


def test_words_of_a_fused_form_share_its_tokens():
    first, last, owner = align([(0, 2), (0, 2), (3, 5)], [(0, 1), (1, 2), (2, 5)])
    assert first.tolist() == [0, 0, 2]
    assert last.tolist() == [1, 1, 2]
    assert owner.tolist() == [0, 0, 2]


@pytest.mark.parametrize("kind", ["gpt2", "bert", "t5"])
def test_every_kind_of_tokenizer_reaches_every_word(kind):
    tokenizer, sentences = fast_tokenizer(kind), english()
    encodings = encode(sentences, tokenizer)
    assert coverage(encodings) == 1.0
    for sentence, e in zip(sentences, encodings, strict=True):
        for word, first, last in zip(sentence.tokens, e.first, e.last, strict=True):
            text = tokenizer.decode(e.ids[first : last + 1]).replace(" ", "").strip("▁ ")
            if tokenizer.unk_token_id not in e.ids[first : last + 1] and kind != "bert":
                assert text == word
        assert np.all(np.diff(e.first) >= 0)
        assert e.opens_word.sum() == len(sentence)


def test_a_word_of_ten_subwords_keeps_all_of_them():
    tokenizer = fast_tokenizer("gpt2")
    (e,) = encode([english()[0].__class__(tokens=("qqwwzzxxvv", "dog"))], tokenizer)
    assert (e.first[0], e.last[0]) == (0, 9)
    assert e.opens_word.tolist() == [True] + [False] * 9 + [True]


def test_words_need_offsets():
    class Slow:
        is_fast = False

        def __call__(self, *args, **kwargs):
            raise NotImplementedError

    with pytest.raises(DataError, match="Slow gives no character offsets"):
        encode(english(), Slow())


def test_word_tokenizer_gives_one_token_a_word():
    sentences = english()
    tokenizer = WordTokenizer.from_corpus(sentences)
    for sentence, e in zip(sentences, encode(sentences, tokenizer), strict=True):
        assert [tokenizer.words[i] for i in e.ids] == list(sentence.tokens)
        assert e.first.tolist() == e.last.tolist() == e.owner.tolist() == list(range(len(sentence)))
