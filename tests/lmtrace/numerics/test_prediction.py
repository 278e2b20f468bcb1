import math

import numpy as np
import pytest
import torch

from lmtrace.numerics.prediction import (
    Cells,
    Entries,
    Laws,
    calibrated_ece,
    calibration_terms,
    corpus_bleu,
    target_rank,
)
from lmtrace.numerics.sparse_rows import SparseRows


def test_rank_breaks_ties_by_the_smaller_id():
    law = torch.tensor([[0.2, 0.3, 0.3, 0.2]]).log().expand(4, 4)
    assert target_rank(law, torch.arange(4)).tolist() == [2, 0, 1, 3]
    assert target_rank(law, torch.arange(4), limit=1).tolist()[1:3] == [0, 1]


def test_laws_of_uniform_and_certain_logits():
    law = Laws.of(torch.tensor([[7.0] * 4, [0.0, -math.inf, -math.inf, -math.inf]]), torch.eye(4)[:, :2])
    assert law.entropy.tolist() == pytest.approx([math.log(4), 0.0])
    assert law.confidence.tolist() == [0.25, 1.0]
    assert law.mass.tolist() == [[0.25, 0.25], [1.0, 0.0]]
    assert law.log_probs[1].tolist() == [0.0, -math.inf, -math.inf, -math.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_laws_equal_the_softmax_in_float64(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (30 * torch.randn(700, 900, generator=generator) + 1e3).to(dtype)  # more rows than a block has
    groups = torch.rand(900, 5, generator=generator)
    law, exact = Laws.of(logits, groups), logits.double().log_softmax(1)
    assert torch.allclose(law.log_probs.double(), exact, atol=1e-4, rtol=1e-6)
    assert torch.allclose(law.entropy.double(), -(exact.exp() * exact).sum(1), atol=1e-5)
    assert torch.allclose(law.confidence.double(), exact.exp().amax(1), rtol=1e-5)
    assert torch.allclose(law.mass.double(), exact.exp() @ groups.double(), rtol=1e-5)
    assert law.log_probs.dtype == torch.float32


def test_laws_of_some_positions_are_those_rows_of_all():
    logits = torch.randn(700, 900, generator=torch.Generator().manual_seed(1))
    rows, groups = torch.tensor([5, 699, 5, 0] * 100), torch.eye(900)[:, :3]
    some, every = Laws.of(logits, groups, rows), Laws.of(logits, groups)
    for name in ("log_probs", "entropy", "confidence", "mass"):
        assert torch.allclose(getattr(some, name), getattr(every, name)[rows], atol=1e-6)


def test_entropy_is_exact_beside_a_row_with_impossible_tokens():
    logits = torch.tensor([[1.0, -math.inf, 2.0, 0.5], [0.1, 0.7, 3.0, -1.0], [math.nan, 0.0, 0.0, 0.0]])
    law = Laws.of(logits)
    for row in range(2):
        p = logits[row].double().softmax(0)
        assert law.entropy[row].item() == pytest.approx(-torch.special.xlogy(p, p).sum().item(), abs=1e-6)
    assert law.entropy[2].isnan()


def test_rank_equals_a_count_over_sorted_pairs():
    rng = torch.Generator().manual_seed(2)
    law = torch.randint(0, 6, (300, 40), generator=rng).float()  # full of ties
    targets = torch.randint(0, 40, (300,), generator=rng)
    expected = [
        sorted(range(40), key=lambda token, row=row: (-row[token], token)).index(target)
        for row, target in zip(law.tolist(), targets.tolist(), strict=True)
    ]
    assert target_rank(law, targets).tolist() == expected
    assert (target_rank(law, targets, limit=5) < 5).tolist() == [rank < 5 for rank in expected]


def test_entries_are_those_of_the_dense_rows():
    log_probs = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)).log_softmax(1)
    rows = SparseRows(np.array([0, 2, 2, 4]), np.array([1, 3, 0, 3]), np.array([0.5, 0.25, 0.125, 1.0]))
    entries = Entries.of(log_probs, Cells.of(rows, log_probs.shape[1], log_probs.device))
    assert entries.log_probs.tolist() == log_probs[[0, 0, 2, 2], [1, 3, 0, 3]].double().tolist()
    dense = (torch.as_tensor(rows.dense(4)) * log_probs.double()).sum(1)
    assert torch.allclose(entries.expected, dense, atol=1e-12)


def test_laws_of_logits_that_are_no_numbers_stay_no_numbers():
    logits = torch.zeros(3, 4)
    logits[1, 2] = math.nan
    law = Laws.of(logits)
    assert law.log_probs.isnan().any(1).tolist() == law.entropy.isnan().tolist() == [False, True, False]
    assert Laws.of(torch.zeros(0, 4)).log_probs.shape == (0, 4)


def test_calibration_equals_the_textbook_sum_over_bins():
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(400), rng.integers(0, 2, 400).astype(float)
    codes = rng.integers(0, 3, 400)
    terms = calibration_terms(correct, confidence, codes, bins=10)
    for group in range(3):
        expected = 0.0
        rows = codes == group
        for b in range(10):
            inside = rows & (confidence >= b / 10) & (confidence < (b + 1) / 10)
            if inside.any():
                expected += inside.sum() / rows.sum() * abs(correct[inside].mean() - confidence[inside].mean())
        assert terms[rows].mean() == pytest.approx(expected, abs=1e-12)


@pytest.mark.statistical
def test_the_null_is_what_a_calibrated_model_shows():
    rng = np.random.default_rng(1)
    confidence = rng.beta(2, 3, 500)
    zeros = np.zeros(500, int)
    shown = [calibration_terms((rng.random(500) < confidence) * 1.0, confidence, zeros).mean() for _ in range(300)]
    assert np.mean(shown) == pytest.approx(calibrated_ece(confidence, zeros, 1)[0], rel=0.05)


def test_the_null_of_each_group_is_its_own():
    rng = np.random.default_rng(2)
    confidence, codes = rng.random(300), rng.choice([0, 2], 300)
    nulls = calibrated_ece(confidence, codes, 3, bins=10)
    assert np.isnan(nulls[1])
    for group in (0, 2):
        inside = confidence[codes == group]
        bins = [inside[(inside >= b / 10) & (inside < (b + 1) / 10)] for b in range(10)]
        expected = sum(np.sqrt(2 / np.pi * (c * (1 - c)).sum()) for c in bins) / len(inside)
        assert nulls[group] == pytest.approx(expected, abs=1e-12)


def test_bleu_of_known_sentences():
    assert corpus_bleu([[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5]]).value == pytest.approx(1.0)
    # Papineni's example: "the" seven times matches twice.
    assert corpus_bleu([["the"] * 7], [["the", "cat", "the", "mat"]], order=1).value == pytest.approx(2 / 7)
    # precisions 3/4 and 2/3, as long as the reference
    assert corpus_bleu([["a", "b", "c", "x"]], [["a", "b", "c", "d"]], order=2).value == pytest.approx(math.sqrt(1 / 2))
    assert corpus_bleu([["a", "b"]], [["a", "b", "c", "d"]], order=2).value == pytest.approx(math.exp(-1))
    assert corpus_bleu([["x"]], [["a"]]).value == 0
    assert corpus_bleu([["a", "b", "c"]], [["a", "b", "c"]]).value == 0  # no 4-gram: as sacrebleu
    assert corpus_bleu([], []).value is None


@pytest.mark.statistical
def test_the_standard_error_of_bleu_covers_its_spread():
    rng = np.random.default_rng(2)

    def draw():
        references = [rng.integers(0, 5, 8).tolist() for _ in range(60)]
        return corpus_bleu([[w if rng.random() < 0.8 else 9 for w in r] for r in references], references)

    many = [draw() for _ in range(60)]
    assert np.mean([e.stderr for e in many]) == pytest.approx(np.std([e.value for e in many]), rel=0.3)


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_laws_may_lie_where_the_logits_were(size):
    logits = size * torch.randn(700, 900, generator=torch.Generator().manual_seed(2))
    expected, room = Laws.of(logits), logits.clone()
    law = Laws.of(room, room=room)
    assert law.log_probs.data_ptr() == room.data_ptr()
    for name in ("log_probs", "entropy", "confidence"):
        assert torch.equal(getattr(law, name), getattr(expected, name))
    exact = logits.double().log_softmax(1)
    torch.testing.assert_close(law.log_probs.double(), exact, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(law.entropy.double(), -(exact.exp() * exact).sum(1), atol=1e-5, rtol=0)
