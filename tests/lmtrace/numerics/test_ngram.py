import numpy as np
import pytest

from lmtrace.numerics.ngram import fit
from lmtrace.numerics.sparse_rows import SparseRows
from reference.ngram import probability


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(0)
    return [[0, *(2 + rng.zipf(1.6, rng.integers(0, 7)) % 9).tolist(), 1] for _ in range(60)]


def dense(model, previous, before):
    rows, left = model.rows(np.array([previous]), np.array([before]))
    return (left[:, None] * model.base + rows.dense(len(model.base)))[0]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("context", [(None, 0), (0, 3), (3, 4), (3, 10), (9, 9), (5, 99)])
def test_laws_equal_the_textbook_formula(sequences, order, context):
    before, previous = context
    if previous == 99:  # a context that was never seen
        previous = 11
    law = dense(fit(sequences, 12, order), previous, -1 if before is None else before)
    expected = [probability(sequences, 12, order, (before, previous), w) for w in range(12)]
    assert law == pytest.approx(expected, abs=1e-12)
    assert law.sum() == pytest.approx(1.0, abs=1e-12)
    assert law.min() > 0


def test_higher_orders_find_the_order_of_the_source():
    rng, transition = np.random.default_rng(1), np.array([[0.9, 0.1, 0.0], [0.0, 0.2, 0.8], [0.5, 0.0, 0.5]])

    def draw(n):
        for _ in range(n):
            state, out = 0, [0]
            for _ in range(20):
                state = rng.choice(3, p=transition[state])
                out.append(int(state))
            yield out

    train, test = list(draw(300)), list(draw(50))
    losses = []
    for order in (1, 2, 3):
        model = fit(train, 3, order)
        losses.append(
            np.mean(
                [-np.log(dense(model, s[i - 1], s[i - 2] if i > 1 else -1)[s[i]]) for s in test for i in range(1, 21)]
            )
        )
    stationary = np.linalg.matrix_power(transition, 200)[0]
    rate = -sum(stationary[i] * p * np.log(p) for i, row in enumerate(transition) for p in row if p > 0)
    assert losses[0] > rate + 0.2
    assert losses[1] == pytest.approx(rate, abs=0.03)
    assert losses[2] == pytest.approx(losses[1], abs=0.02)


def test_sparse_rows_join_scale_take_and_look_up():
    a = SparseRows(np.array([0, 2, 2]), np.array([1, 3]), np.array([0.5, 0.25]))
    b = SparseRows(np.array([0, 1, 2]), np.array([1, 0]), np.array([1.0, 2.0]))
    joined = SparseRows.joined([a, b.scaled(np.array([2.0, 3.0]))])
    assert joined.take(np.array([1, 0, 1])).dense(4).tolist() == [[6, 0, 0, 0], [0, 2.5, 0, 0.25], [6, 0, 0, 0]]
    assert joined.at(np.array([1, 1])).tolist() == [2.5, 0]
    assert len(SparseRows.joined([SparseRows.empty(4)])) == 4
    assert SparseRows.empty(2).dense(3).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_taken_rows_are_the_rows_in_any_order_and_with_gaps():
    rng = np.random.default_rng(0)
    table = np.where(rng.random((12, 5)) < 0.5, rng.random((12, 5)), 0.0)
    table[4] = 0.0
    offsets, tokens = np.concatenate([[0], np.cumsum((table > 0).sum(1))]), np.nonzero(table)[1]
    rows = SparseRows(offsets, tokens, table[table > 0])
    for index in ([3, 4, 5, 0, 1, 11], [11, 10, 9], [4], list(range(12)), [2, 2, 3], []):
        taken = rows.take(np.array(index, np.int64))
        assert len(taken) == len(index)
        np.testing.assert_array_equal(taken.dense(5), table[index].reshape(-1, 5))
