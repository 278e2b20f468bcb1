"""Next-token distributions and how good they are: rank of the right token, entropy, calibration, BLEU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.sparse_rows import SparseRows


def target_rank(log_probs: Tensor, targets: Tensor, limit: int | None = None) -> Tensor:
    """Return [n] int64: how many tokens are ahead of the right one; 0 is a correct prediction.

    Ties go to the smaller token id, so a constant predictor gets one token right and not all.

    Parameters
    ----------
    log_probs : [n, vocabulary]
        float32 or float64.
    targets : [n]
    limit
        Ties are only broken for ranks below it (a rank at or above it stays there); None breaks all.
    """
    gold = log_probs.gather(1, targets[:, None])
    # Compared into floats, because torch vectorises that and not the comparison into bools.
    rank = torch.gt(log_probs, gold, out=torch.empty_like(log_probs)).sum(1).long()
    ahead = torch.arange(len(rank), device=rank.device) if limit is None else (rank < limit).nonzero()[:, 0]
    tied = ahead[log_probs.index_select(0, ahead).eq_(gold[ahead]).sum(1) > 1]
    if len(tied):
        ids = torch.arange(log_probs.shape[1], device=log_probs.device)
        rank[tied] += ((log_probs[tied] == gold[tied]) & (ids < targets[tied, None])).sum(1)
    return rank


LEAST_POWER = -87.0
"""Below it e^x is denormal in float32, and all that touches it ten times slower."""


@dataclass(frozen=True, slots=True, eq=False)
class Laws:
    """Next-token distributions, and what many signals read of them.

    Attributes
    ----------
    log_probs : [n, vocabulary]
        float32, nats.
    entropy : [n]
        -sum p log p, nats.
    confidence : [n]
        Largest probability.
    mass : [n, groups] or None
        Sum of probabilities over each group of tokens.
    """

    log_probs: Tensor
    entropy: Tensor
    confidence: Tensor
    mass: Tensor | None = None

    @classmethod
    def of(
        cls, logits: Tensor, groups: Tensor | None = None, rows: Tensor | None = None, room: Tensor | None = None
    ) -> Laws:
        """Return the laws of logits: [positions, vocabulary], and their mass on groups: [vocabulary, groups] of tokens.

        All from one exponential, in blocks that stay in a processor's cache: with x = logit and s = sum e^x,
        log p = x - log s, the largest p is e^max / s, and the entropy is log s - sum x e^x / s. Where float32 would not
        hold e^x, x is the logit less the largest.

        Parameters
        ----------
        rows : [n]
            Positions that are read; all by default.
        room : [at least n, vocabulary] float32
            Where log_probs may lie, the logits themselves if they may be overwritten; fresh memory costs a quarter of the whole.
        """
        n, width = len(logits) if rows is None else len(rows), logits.shape[1]
        log_probs = logits.new_empty(n, width, dtype=torch.float32) if room is None else room[:n]
        entropy, confidence = logits.new_empty(2, n, dtype=torch.float32)
        mass = None if groups is None else logits.new_empty(n, groups.shape[1], dtype=torch.float32)
        chunks = row_chunks(log_probs)
        scratch = torch.empty_like(log_probs[chunks[0]]) if chunks else log_probs
        for block in chunks:
            x = log_probs[block]
            if room is logits:
                pass
            elif rows is not None and logits.dtype == x.dtype:
                torch.index_select(logits, 0, rows[block], out=x)
            else:
                x.copy_(logits[block] if rows is None else logits.index_select(0, rows[block]))
            largest, power = x.amax(1), x
            if not bool(largest.abs().max() < 60):
                x -= largest[:, None]
                largest = torch.zeros_like(largest)
                power = x.clamp(min=LEAST_POWER)
            exponential = torch.exp(power, out=scratch[: len(x)])
            total = exponential.sum(1)
            if mass is not None and groups is not None:
                torch.div(exponential @ groups, total[:, None], out=mass[block])
            spread = exponential.mul_(power).sum(1) / total
            if spread.isnan().any():
                # exp(-1e4) is zero: the clamp only keeps 0 * inf from becoming NaN.
                spread = x.exp().mul_(x.clamp(min=-1e4)).sum(1) / total
            x -= total.log()[:, None]
            entropy[block], confidence[block] = total.log() - spread, largest.exp() / total
        return cls(log_probs, entropy, confidence, mass)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Where the entries of sparse rows are in a dense matrix: the same for every model with these logits.

    Attributes
    ----------
    index : [entries]
        int64, in the matrix as one vector.
    values : [entries]
        float64: what the rows hold there.
    offsets : [rows + 1]
        int64.
    """

    index: Tensor
    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, rows: SparseRows, width: int, device: torch.device) -> Cells:
        """Return the cells of rows: [n] in a matrix [n, width]."""
        index = np.repeat(np.arange(len(rows)) * width, np.diff(rows.offsets)) + rows.tokens
        return cls(*(torch.as_tensor(a, device=device) for a in (index, rows.values, rows.offsets)))


@dataclass(frozen=True, eq=False)
class Entries:
    """Log-probabilities at the entries of sparse rows, one row per distribution.

    Attributes
    ----------
    log_probs : [entries]
        float64.
    values : [entries]
        float64: what the rows hold there.
    offsets : [rows + 1]
    """

    log_probs: Tensor
    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, log_probs: Tensor, cells: Cells) -> Entries:
        """Return the entries of log_probs: [n, vocabulary] in these cells."""
        return cls(log_probs.reshape(-1).index_select(0, cells.index).double(), cells.values, cells.offsets)

    @cached_property
    def expected(self) -> Tensor:
        """Return [rows]: sum of values times log-probabilities."""
        return segment_sum(self.values * self.log_probs, self.offsets)


def calibration_terms(correct: np.ndarray, confidence: np.ndarray, codes: np.ndarray, bins: int = 15) -> np.ndarray:
    """Return [n] terms whose mean over a group is its expected calibration error (Naeini et al. 2015; Guo et al. 2017).

    ECE = sum_b n_b/n |accuracy_b - confidence_b| over bins of equal width; term i is sign_b (correct_i - confidence_i).

    Parameters
    ----------
    correct, confidence : [n]
        Whether the most probable token was right, and its probability.
    codes : [n]
        Group of each row, not negative; bins are formed within groups.
    """
    gap = correct - confidence
    cell = codes * bins + _bins(confidence, bins)
    return np.sign(np.bincount(cell, gap))[cell] * gap


def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """Return [rows]: sums of consecutive segments, always in the same order, so that results repeat to the bit.

    Parameters
    ----------
    values : [entries]
    offsets : [rows + 1]
    """
    return torch.segment_reduce(values, "sum", offsets=offsets, initial=0.0)


def row_chunks(log_probs: Tensor, numbers: int = 2**17) -> list[slice]:
    """Return slices of rows that fit into a processor's cache: several passes over one cost little more than one."""
    step = max(1, numbers // max(1, log_probs.shape[1])) if log_probs.device.type == "cpu" else len(log_probs)
    return [slice(at, at + step) for at in range(0, len(log_probs), max(1, step))]


def _bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return [n] bin numbers; a confidence that is not a number goes to bin 0, where it makes the term NaN as it should."""
    return np.clip((np.nan_to_num(confidence) * bins).astype(np.int64), 0, bins - 1)


def calibrated_ece(confidence: np.ndarray, codes: np.ndarray, num_groups: int, bins: int = 15) -> np.ndarray:
    """Return [groups]: the ECE that a perfectly calibrated model would show there, for want of more predictions.

    E|sum of (Bernoulli(c_i) - c_i)| in each bin by its normal limit: sqrt(2/pi sum c (1 - c)); NaN for an empty group.

    Parameters
    ----------
    confidence, codes : [n]
        As in `calibration_terms`.
    """
    cell = codes * bins + _bins(confidence, bins)
    variance = np.bincount(cell, confidence * (1 - confidence), num_groups * bins).reshape(num_groups, bins)
    with np.errstate(invalid="ignore"):
        return np.sqrt(2 / np.pi * np.maximum(variance, 0)).sum(1) / np.bincount(codes, minlength=num_groups)


def corpus_bleu(
    hypotheses: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Hashable]], order: int = 4
) -> Estimate:
    """Return corpus BLEU in [0, 1] as sacrebleu has it (Post 2018), one reference each, standard error by jackknife over sentences.

    Modified n-gram precisions up to `order`, their geometric mean, times the brevity penalty (Papineni et al. 2002). An order
    without a match has the precision 1 / (2^i total), i counting such orders; no match at all gives zero, and so does a corpus
    whose hypotheses are all shorter than `order`. In percent, it is `sacrebleu.BLEU(tokenize="none")` of the same tokens.
    """
    if not references:
        return Estimate(None, None, 0, "no sentences")
    if not any(map(len, references)):
        return Estimate(None, None, len(references), "empty references")
    matches, totals = np.zeros((2, len(references), order))
    lengths = np.array([[len(h), len(r)] for h, r in zip(hypotheses, references, strict=True)], np.float64)
    for i, (hypothesis, reference) in enumerate(zip(hypotheses, references, strict=True)):
        for n in range(1, order + 1):
            mine, theirs = _ngrams(hypothesis, n), _ngrams(reference, n)
            matches[i, n - 1] = sum((mine & theirs).values())
            totals[i, n - 1] = sum(mine.values())
    value = float(_bleu(matches.sum(0), totals.sum(0), lengths.sum(0)))
    n = len(references)
    if n < 2:
        return Estimate(value, None, n, "one sentence: no standard error")
    without = _bleu(matches.sum(0) - matches, totals.sum(0) - totals, lengths.sum(0) - lengths)
    return Estimate(value, float(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))), n)


def _ngrams(tokens: Sequence[Hashable], n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _bleu(matches: np.ndarray, totals: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return [...], BLEU of matches and totals [..., order] and lengths [..., hypothesis and reference]."""
    unmatched = matches == 0
    smoothed = np.where(unmatched, 0.5 ** np.cumsum(unmatched, axis=-1), matches)
    precision = smoothed / np.maximum(totals, 1)
    mean = np.exp(np.log(precision).mean(-1))
    hypothesis, reference = lengths[..., 0], lengths[..., 1]
    penalty = np.exp(np.minimum(0.0, 1.0 - reference / np.maximum(hypothesis, 1e-300)))
    defined = (totals > 0).all(-1) & (matches > 0).any(-1)
    return np.where(defined, mean * penalty, 0.0)
