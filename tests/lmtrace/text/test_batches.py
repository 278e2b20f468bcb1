"""How a panel's sequences are put into batches, and what is made once of a panel."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest

from lmtrace.text.panel import Panel
from lmtrace.text.streams import cuts
from lmtrace.text.tokenizer import WordTokenizer
from text_corpora import toy


@pytest.fixture(scope="module")
def word_panel():
    corpus = toy(60)
    return Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus, targets=True), size=20)


@pytest.mark.parametrize(("size", "price"), [(2, 0), (3, 4), (5, 1), (5, 1000)])
def test_cuts_have_the_fewest_tokens(size, price):
    """Against all ways to cut eleven sequences."""
    lengths = np.sort(np.random.default_rng(size).integers(1, 30, 11))

    def tokens(at):
        parts = np.split(lengths, at)
        return sum(price + len(part) * part[-1] for part in parts) if max(map(len, parts)) <= size else np.inf

    every = [tokens([i + 1 for i in range(10) if code >> i & 1]) for code in range(2**10)]
    assert tokens(cuts(lengths, size, price)) == min(every)


def test_batches_with_a_price_hold_every_sequence_once_and_pad_less(word_panel):
    def rows_and_tokens(**settings):
        batches = list(word_panel.batches(8, **settings))
        assert max(len(b.sequences) for b in batches) <= 8
        return np.concatenate([b.sequences for b in batches]), sum(b.input_ids.size for b in batches)

    rows, plain = rows_and_tokens()
    again, fewer = rows_and_tokens(price=4)
    assert np.array_equal(rows, again)
    assert word_panel.num_tokens <= fewer < plain
    assert rows_and_tokens(price=0)[1] == word_panel.num_tokens
    some = [b.sequences for b in word_panel.batches(8, indices=[5, 1], price=3)]
    assert sorted(np.concatenate(some)) == [1, 5]
    assert not list(word_panel.batches(8, indices=[], price=3))


def test_what_is_made_once_is_one_thing_for_those_who_ask_side_by_side(word_panel):
    wait = Barrier(2)

    def make():
        with contextlib.suppress(BrokenBarrierError):
            wait.wait(timeout=5)
        return object()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: word_panel.once("test.side", make), range(2))
    assert first is second
