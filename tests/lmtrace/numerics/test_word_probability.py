"""Probabilities of words against a sum over everything that a small model can say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lmtrace.numerics.word_probability import word_log_probabilities

BEGINS = np.array([True, True, False, False, True])
"""" a", " b", "a", "b", end."""


def law(context):
    """Return [vocabulary] the next token's law after the tokens of a context: any law will do."""
    weights = (np.random.default_rng([len(context), *context]).random(5) + 0.05) * np.where(BEGINS, 1.0, 3.0)
    return weights / weights.sum()


def scored(tokens, first):
    """Return what a model gives for a text: log p of its tokens, and the mass of what begins a word at every place."""
    contexts = [tuple(tokens[:i]) for i in range(len(tokens) + 1)]
    log_probs = np.log([law(context)[token] for context, token in zip(contexts[:-1], tokens, strict=True)])
    return log_probs, np.log([law(context)[BEGINS].sum() for context in contexts])


def spoken(context, word, at_start):
    """Return the probability that the next word is exactly this, summed over what may follow it."""
    allowed = 1.0 if at_start else law(context)[BEGINS].sum()
    probability = 1.0
    for i, token in enumerate(word):
        probability *= law((*context, *word[:i]))[token]
    followed = sum(law((*context, *word))[token] for token in range(5) if BEGINS[token])
    return probability * followed / allowed


def words(longest, at_start):
    first = (0, 1, 2, 3) if at_start else (0, 1)
    for length in range(1, longest + 1):
        for head, *rest in itertools.product(first, *[(2, 3)] * (length - 1)):
            yield (head, *rest)


@pytest.mark.parametrize("context", [(), (0,), (1, 2), (2, 3, 0)])
def test_words_are_what_a_brute_force_sum_says_and_sum_to_at_most_one(context):
    at_start = not context
    allowed = 1.0 if at_start else law(context)[BEGINS].sum()
    total = plain = longer = 0.0
    for word in words(7, at_start):
        tokens = (*context, *word)
        log_probs, boundary = scored(tokens, at_start)
        (found,) = word_log_probabilities(log_probs, boundary, [(len(context), len(tokens))])
        assert np.exp(found) == pytest.approx(spoken(context, word, at_start), rel=1e-12)
        total += np.exp(found)
        product = np.exp(log_probs[len(context) :].sum())
        plain += product
        if len(word) == 7:
            longer += product / allowed * law(tokens)[~BEGINS].sum()
    ends = law(context)[4] / allowed
    assert total + longer + ends == pytest.approx(1, rel=1e-12), (
        "a word, a longer one, or the end: nothing else can come"
    )
    assert plain / allowed > 1, "products of tokens alone are no probabilities of words"


def test_a_sentence_is_the_product_of_its_words():
    tokens = (2, 0, 3, 1)
    log_probs, boundary = scored(tokens, True)
    found = word_log_probabilities(log_probs, boundary, [(0, 1), (1, 3), (3, 4)])
    assert found.sum() == pytest.approx(log_probs.sum() + boundary[-1])
