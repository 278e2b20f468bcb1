import numpy as np
import pytest

from lmtrace.errors import DataError
from lmtrace.text.tokenizer import WordTokenizer, logical_pieces
from text_corpora import ToyCorpus, toy


def test_ids_are_stable_and_special_tokens_come_first():
    tokenizer = WordTokenizer.from_corpus(toy(50))
    assert tokenizer.words == ("<pad>", "<unk>", "<s>", "</s>", "<mask>", "dog", "cat", "sees", "runs")
    assert len(tokenizer) == 9
    ids = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (0, 1, 2, 3)
    assert tokenizer.mask_token_id == 4


def test_counts_order_the_words_of_a_corpus_without_an_oracle():
    plain = list(toy(50))
    tokenizer = WordTokenizer.from_corpus(plain)
    counts = [sum(s.tokens.count(w) for s in plain) for w in tokenizer.words[5:]]
    assert counts == sorted(counts, reverse=True)
    assert len(WordTokenizer.from_corpus(plain, min_count=counts[-1] + 1)) == len(tokenizer) - 1


def test_targets_add_the_symbols_of_logical_forms():
    tokenizer = WordTokenizer.from_corpus(toy(50), targets=True)
    assert tokenizer.words[9:] == ("(", ")", ",", "e")
    assert logical_pieces("∃e (Agent(e, noun12))") == ["∃", "e", "(", "Agent", "(", "e", ",", "noun12", ")", ")"]


def test_save_and_load_and_every_broken_file(tmp_path):
    tokenizer = WordTokenizer(["a", "ñ", "</s>", "a"])
    path = tokenizer.save(tmp_path / "new")
    assert WordTokenizer.load(tmp_path / "new").words == tokenizer.words == WordTokenizer.load(path).words
    assert list(path.parent.iterdir()) == [path]
    path.write_text('{"words": ')
    with pytest.raises(DataError, match="not a word tokenizer"):
        WordTokenizer.load(path)
    with pytest.raises(DataError, match="no word tokenizer there"):
        WordTokenizer.load(tmp_path)
    with pytest.raises(DataError, match="at least one word"):
        WordTokenizer.from_corpus(ToyCorpus.__base__())


def test_calls_pad_and_decode():
    tokenizer = WordTokenizer(["a", "b"])
    batch = tokenizer(["a b a", "b"], padding=True)
    assert batch["input_ids"].tolist() == [[5, 6, 5], [6, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert tokenizer("a x") == {"input_ids": [5, 1], "attention_mask": [1, 1]}
    assert tokenizer([["a", "b"]], add_special_tokens=True)["input_ids"] == [[2, 5, 6, 3]]
    assert tokenizer.batch_decode(np.array([[2, 5, 3]]), skip_special_tokens=True) == ["a"]
    assert tokenizer.convert_ids_to_tokens([5, 0]) == ["a", "<pad>"]


def test_ids_of_a_vocabulary_that_was_rounded_up_are_unknown_words():
    tokenizer = WordTokenizer(["a", "b"])
    assert tokenizer.convert_ids_to_tokens([5, 63, -1]) == ["a", "<unk>", "<unk>"]
    assert tokenizer.convert_ids_to_tokens(64) == "<unk>"
    assert tokenizer.decode([2, 5, 63, 3], skip_special_tokens=True) == "a <unk>"
