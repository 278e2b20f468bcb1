"""Head statistics: closed forms of hand-made heads, and one query at a time as the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lmtrace.signals.attention.maps import (
    STATISTICS,
    edge_statistics,
    head_statistics,
    induction,
    uniform_maps,
    visible_keys,
    word_maps,
)
from reference import attention as reference

LENGTH = 7


def lengths_to_valid(lengths: list[int], size: int) -> torch.Tensor:
    return torch.arange(size) < torch.tensor(lengths)[:, None]


def random_maps(visible: torch.Tensor, heads: int, seed: int = 0) -> torch.Tensor:
    scores = torch.randn(len(visible), heads, *visible.shape[1:], generator=torch.Generator().manual_seed(seed))
    maps = scores.masked_fill(~visible[:, None], -torch.inf).softmax(dim=3)
    return torch.nan_to_num(maps)


def means(maps: torch.Tensor, ids: torch.Tensor, visible: torch.Tensor) -> dict[str, torch.Tensor]:
    sums, counts = head_statistics(maps, ids, visible)
    return dict(zip(STATISTICS, (sums.sum(dim=0) / counts.sum(dim=0)).T))


@pytest.mark.parametrize("causal", [True, False])
def test_equal_one_query_at_a_time(causal):
    lengths = [7, 4, 1]
    ids = torch.randint(0, 3, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    visible = visible_keys(lengths_to_valid(lengths, LENGTH), causal)
    maps = random_maps(visible, heads=2)
    sums, counts = head_statistics(maps, ids, visible)
    for s, length in enumerate(lengths):
        for h in range(2):
            expected = reference.token_statistics(
                maps[s, h, :length, :length].numpy(), ids[s, :length].tolist(), causal
            )
            for i, name in enumerate(STATISTICS):
                assert counts[s, i] == len(expected[name]), name
                assert float(sums[s, h, i]) == pytest.approx(sum(expected[name]), abs=1e-5), name


def test_a_previous_token_head():
    visible = visible_keys(lengths_to_valid([LENGTH], LENGTH), causal=True)
    maps = torch.zeros(1, 1, LENGTH, LENGTH)
    maps[0, 0, 0, 0] = 1
    maps[0, 0, range(1, LENGTH), range(LENGTH - 1)] = 1
    ids = torch.tensor([[0, 1, 1, 2, 3, 0, 0]])
    found = means(maps, ids, visible)
    assert found["previous"] == 1
    assert found["entropy"] == 0
    assert found["distance"] == 1
    assert found["self"] == 0
    assert float(found["first"]) == pytest.approx(1 / 6)
    assert float(found["same_token"]) == pytest.approx(2 / 3)  # queries 2, 5, 6 have a twin before; 2 and 6 look at it


def test_a_uniform_head_is_its_own_null():
    visible = visible_keys(lengths_to_valid([LENGTH], LENGTH), causal=True)
    ids = torch.zeros(1, LENGTH, dtype=torch.int64)
    found = means(uniform_maps(visible), ids, visible)
    seen = np.arange(2, LENGTH + 1)
    assert float(found["entropy"]) == pytest.approx(np.log(seen).mean(), rel=1e-6)
    assert float(found["distance"]) == pytest.approx(((seen - 1) / 2).mean(), rel=1e-6)
    for name in ("previous", "first", "self"):
        assert float(found[name]) == pytest.approx((1 / seen).mean(), rel=1e-6)
    assert float(found["same_token"]) == pytest.approx((1 - 1 / seen).mean(), rel=1e-6)


def test_padding_and_the_future_change_nothing():
    ids = torch.tensor([[1, 2, 1, 3]])
    short = visible_keys(lengths_to_valid([4], 4), causal=True)
    maps = random_maps(short, heads=3)
    expected = means(maps, ids, short)
    padded = torch.nn.functional.pad(maps, (0, 3, 0, 3), value=0.25)
    padded[:, :, :4, 4:] = 0
    found = means(padded, torch.nn.functional.pad(ids, (0, 3), value=1), visible_keys(lengths_to_valid([4], 7), True))
    for name in STATISTICS:
        torch.testing.assert_close(found[name], expected[name])


def test_word_maps_equal_their_reference():
    visible = visible_keys(lengths_to_valid([LENGTH, LENGTH], LENGTH), causal=False)
    maps = random_maps(visible, heads=2)
    words = [[(1, 2), (3, 3), (4, 6)], [(0, 0), (2, 5), (-1, -1)]]
    first, last = (torch.tensor([[w[i] for w in row] for row in words]) for i in (0, 1))
    found = word_maps(maps, first, last)
    for s, row in enumerate(words):
        real = [w for w in row if w[0] >= 0]
        for h in range(2):
            expected = reference.word_weights(maps[s, h].numpy(), real)
            np.testing.assert_allclose(found[s, h, : len(real), : len(real)], expected, atol=1e-6)
    assert not found[1, :, 2].any()
    assert not found[1, :, :, 2].any()


@pytest.mark.parametrize("length", [31, 97, 300])
def test_words_that_get_the_same_weight_are_ties(length):
    """A cumulative sum in float32 would order them by its rounding, which is another on every processor."""
    maps = uniform_maps(visible_keys(torch.ones(1, length, dtype=torch.bool), causal=True))
    place = torch.arange(length)[None]
    found = word_maps(maps, place, place)
    assert torch.equal(found, maps)


def test_edges():
    weights = torch.tensor([[[0.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.2, 0.5, 0.3]]])[:, None]
    pairs = visible_keys(torch.ones(1, 3, dtype=torch.bool), causal=True) & ~torch.eye(3, dtype=torch.bool)
    query, key = torch.tensor([[1, 2, -1]]), torch.tensor([[0, 0, -1]])
    weight, right, edges = edge_statistics(weights, query, key, pairs)
    assert float(weight) == pytest.approx(0.9 + 0.2)
    assert float(right) == 1  # word 2 looks at word 1 most, its edge goes to word 0
    assert int(edges) == 2
    even = torch.full((1, 1, 3, 3), 1 / 3)
    assert float(edge_statistics(even, query, key, pairs)[1]) == pytest.approx(1 + 1 / 2)  # a tie finds a share


def test_an_induction_head():
    period, start = 4, 1
    length = start + 2 * period
    maps = torch.zeros(2, 3, length, length)
    for q in range(length):
        seen = q + 1
        maps[:, 0, q, :seen] = 1 / seen  # uniform
        maps[:, 1, q, max(0, q - 1)] = 1  # previous token
        maps[:, 2, q, q - period + 1 if q >= start + period else 0] = 1  # induction
    found = induction(maps, period, start)
    uniform = np.mean([1 / (q + 1) for q in range(start + period, length)])
    assert found[0].tolist() == pytest.approx([uniform, 0.0, 1.0])
    assert math.isclose(float(found[1, 2]), 1.0)
