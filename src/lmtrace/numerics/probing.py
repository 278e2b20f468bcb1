"""Linear probes: whether a label can be read off a representation, and whether that is more than knowing the word.

`fit` is shared by `linear_probe` and the probe signal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError, DataError
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.moments import ClassMeans, Moments, centre, standardise
from lmtrace.numerics.ridge import Basis, Linear, lda
from lmtrace.numerics.scores import MIN_SUPPORT, Bootstrap, Tally, bootstrap_weights
from lmtrace.numerics.softmax import Perceptron, softmax_regressions, whitener
from lmtrace.numerics.splits import TEST_SHARE, control_labels, lexical_split, sentence_split

Kind = Literal["ridge", "lda", "logistic", "mlp"]
SplitName = Literal["sentence", "lexical"]
KINDS: tuple[Kind, ...] = ("ridge", "lda", "logistic", "mlp")
SPLITS: tuple[SplitName, ...] = ("sentence", "lexical")
PENALTY, STEPS = {"ridge": 0.1, "logistic": 1.0}, {"ridge": 4, "logistic": 200}
"""Of softmax regression: penalty on the weights of standardised features (not per row), and L-BFGS steps."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe scores on its test part.

    Attributes
    ----------
    accuracy, stderr, interval
        Share of test rows predicted right, its bootstrap standard error and 95 % interval over the units of the split:
        sentences, or word types.
    macro_f1, f1
        Estimates: mean over classes, and per class with its support as n; missing below 10 test rows.
    confidence
        Mean probability of the gold class.
    majority
        Accuracy of the training part's most frequent class on the test part: the null of `accuracy`.
    control_accuracy, selectivity
        Accuracy on the control task, and accuracy minus it; None without word types.
    selectivity_stderr
        From the paired bootstrap.
    n_train, n_test
        Rows.
    classes
        Names, sorted; strings.
    regularisation
        Penalty per training row on standardised features, or None for the perceptron.
    missing
        Why there are no numbers; empty where there are.
    note
        A caveat.
    """

    accuracy: float | None = None
    stderr: float | None = None
    interval: tuple[float, float] | None = None
    macro_f1: Estimate = field(default_factory=lambda: Estimate(None))
    f1: dict[str, Estimate] = field(default_factory=dict)
    confidence: float | None = None
    majority: float | None = None
    control_accuracy: float | None = None
    selectivity: float | None = None
    selectivity_stderr: float | None = None
    n_train: int = 0
    n_test: int = 0
    classes: tuple[str, ...] = ()
    regularisation: float | None = None
    kind: str = "ridge"
    split: str = "sentence"
    missing: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted probe and what it says about the test rows.

    Attributes
    ----------
    linear
        Its weights; None for the perceptron.
    predicted : [test rows]
        int64 class.
    probability : [test rows]
        Probability given to the gold class.
    regularisation
        Penalty per training row.
    """

    linear: Linear | None
    predicted: np.ndarray
    probability: np.ndarray
    regularisation: float | None


def as_rows(x: Any) -> Tensor:
    """Return x: [n, d] as a float32 or float64 tensor.

    Raises
    ------
    DataError
        Where it is not a matrix, or holds a number that is not finite.
    """
    rows = x.detach() if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    if rows.ndim != 2:
        raise DataError(f"probe: x must be [n, d], got {rows.ndim} dimensions", "Pass one row per word or token")
    rows = rows if rows.dtype == torch.float64 else rows.float()
    if not bool(torch.isfinite(rows).all()):
        raise DataError("probe: x holds numbers that are not finite", "Look at the model's activations first")
    return rows


def as_codes(y: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return ([n] int64, names) of labels that are ints or strings; names are sorted (ints by value).

    Raises
    ------
    DataError
        Where a row has no label: None or NaN.
    """
    labels = as_vector(y, "y")
    if bool((labels != labels).any()) or any(label is None for label in labels if labels.dtype == object):
        raise DataError("probe: y holds rows without a label (None or NaN)", "Leave those rows out of x, y and groups")
    values, codes = np.unique(labels, return_inverse=True)
    return codes.astype(np.int64), tuple(str(v) for v in values)


def as_vector(values: Any, name: str) -> np.ndarray:
    """Return values: [n] as an array; `DataError` where they are None or have other dimensions."""
    if values is None:
        raise DataError(f"probe: {name} is None", "Pass one value per row; the sentence of every word for groups")
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"probe: {name} must have one dimension, got shape {array.shape}")
    return array


def obstacle(codes: np.ndarray, test: np.ndarray, groups: np.ndarray, names: Sequence[str], split: str) -> str:
    """Return why no probe can be fitted and judged on this split, or "" where nothing stands in the way."""
    if len(codes) == 0:
        return "no word has a label"
    present = np.unique(codes)
    if len(present) < 2:
        return f"only one class ({names[present[0]]}): nothing to tell apart"
    num_groups = len(np.unique(groups))
    if num_groups < 2:
        return f"{num_groups} sentence cannot be split into training and test part"
    num_test = int(test.sum())
    if num_test < MIN_SUPPORT:
        return f"the test part of the {split} split has {num_test} rows, fewer than {MIN_SUPPORT}"
    seen = np.unique(codes[~test])
    if len(seen) < 2:
        only = names[seen[0]] if len(seen) else "none"
        return f"the training part of the {split} split has fewer than two classes ({only})"
    return ""


class Design:
    """Rows, split into training and test part, with what all probes on them share; fitted lazily.

    Parameters
    ----------
    x : [words, d]
        Where the rows are taken from.
    test : [n]
        bool, the part of each row.
    rows : [n] or None
        int64, which of x they are; None is all.
    cells : [training rows] or None
        From `one_per_type`: the training part is their means.
    """

    def __init__(
        self, x: Tensor, test: np.ndarray, rows: np.ndarray | None = None, cells: np.ndarray | None = None
    ) -> None:
        rows = np.arange(len(x)) if rows is None else rows
        self.train, self.test = (
            x.index_select(0, torch.as_tensor(rows[part], device=x.device)) for part in (~test, test)
        )
        if cells is not None:
            cell, shift = torch.as_tensor(cells, device=x.device), self.train[:1].clone()
            sums = x.new_zeros(int(cells.max()) + 1, x.shape[1]).index_add_(0, cell, self.train - shift)
            self.train = sums.div_(torch.bincount(cell)[:, None]).add_(shift)

    @cached_property
    def _trained(self) -> tuple[Moments, Tensor]:
        return standardise(self.train)

    @property
    def moments(self) -> Moments:
        """Return the moments of the training rows."""
        return self._trained[0]

    @cached_property
    def basis(self) -> Basis:
        """Return the eigenbasis of the training rows."""
        return Basis.of(self.moments)

    @cached_property
    def white(self) -> Tensor:
        """Return what whitens the standardised training rows."""
        return whitener(self.moments, PENALTY["ridge"])

    @cached_property
    def standardised(self) -> tuple[Tensor, Tensor]:
        """Return (training rows, test rows) with mean 0 and deviation 1 over the training rows, float32."""
        moments, train = self._trained
        test = centre(self.test, moments.mean).div_(moments.scale.to(self.test.dtype)).float()
        return train, test

    def class_means(self, targets: Targets) -> list[ClassMeans]:
        """Return the class means of the training rows under every labelling, in which every row has a label."""
        offsets = torch.tensor([0, *targets.sizes[:-1]], device=self.train.device).cumsum(0)
        onehot = torch.zeros(sum(targets.sizes), len(self.train), device=self.train.device)
        onehot.scatter_(0, targets.train + offsets[:, None], 1.0)
        counts = onehot.sum(1, dtype=torch.float64)
        means = (onehot @ self.standardised[0]).double() / counts.clamp(min=1)[:, None]
        means = torch.where(counts[:, None] > 0, means * self.moments.scale + self.moments.mean, 0.0)
        parts = zip(counts.split(targets.sizes), means.split(targets.sizes), strict=True)
        return [ClassMeans(c, m) for c, m in parts]

    def scores(self, linears: Sequence[Linear], test: bool = True) -> list[Tensor]:
        """Return [rows, classes] float32 scores of the test rows, or of the training rows, for every probe."""
        weight = torch.cat([linear.weight for linear in linears], 1)
        bias = torch.cat([linear.bias for linear in linears]) + self.moments.mean @ weight
        scores = torch.addmm(bias.float(), self.standardised[int(test)], (weight * self.moments.scale[:, None]).float())
        return list(scores.split([linear.weight.shape[1] for linear in linears], 1))


def shared_design(
    cache: dict[Any, Any], x: Tensor, rows: np.ndarray, test: np.ndarray, cells: np.ndarray | None = None
) -> Design:
    """Return the design of some rows of x, made once per cache, which all signals of a measurement share.

    Parameters
    ----------
    x : [words, d]
        All words of a site.
    rows : [n]
        int64, those that are used.
    test : [n]
        bool, the part of each.
    cells
        As in `Design`.
    """
    parts = rows.tobytes() + test.tobytes() + (b"" if cells is None else cells.tobytes())
    key = ("numerics.probing", id(x), hashlib.blake2b(parts).digest())
    if key not in cache:
        # x is kept beside the design, so that its id is not given to another tensor meanwhile.
        cache.setdefault(key, (x, Design(x, test, rows, cells)))
    return cache[key][1]


class Targets:
    """Several labellings of the same rows, in the forms that fits read: the same at every site.

    Parameters
    ----------
    tasks
        (Class of every row, [n] int64, -1 where it has no label; number of classes) of each.
    test : [n]
        bool, the split of the rows.
    device
        Where the rows lie.
    cells
        As in `Design`.

    Attributes
    ----------
    sizes
        Classes of each.
    train, test
        Codes of both parts: [tasks, rows of the part] int64.
    one_per_type
        Whether the training part is cells.
    """

    def __init__(
        self,
        tasks: Sequence[tuple[np.ndarray, int]],
        test: np.ndarray,
        device: torch.device | str = "cpu",
        cells: np.ndarray | None = None,
    ) -> None:
        self.sizes, self.one_per_type = [size for _, size in tasks], cells is not None
        codes = np.stack([codes for codes, _ in tasks]).astype(np.int64)
        train = codes[:, ~test]
        if cells is not None:
            train = train[:, np.unique(cells, return_index=True)[1]]
        self.train, self.test = torch.as_tensor(train, device=device), torch.as_tensor(codes[:, test], device=device)


def one_per_type(types: np.ndarray, labels: Sequence[np.ndarray]) -> np.ndarray:
    """Return [n] int64 from 0 on: which rows are of the same word type and have the same labels.

    Where words of types that were not seen are to be judged, words of one type are not independent rows: counted one by
    one they make cross-validation choose too small a penalty, and frequent types decide. Each cell counts once.

    Parameters
    ----------
    types : [n]
        Word type of every row.
    labels : [n] each
        int64.
    """
    return np.unique(np.stack([types, *labels], 1), axis=0, return_inverse=True)[1].reshape(-1)


def fit(design: Design, targets: Targets, kind: Kind, seed: int = 0) -> list[Fit]:
    """Return one probe per labelling, fitted on the training rows with a label, with its predictions on the test rows with one.

    "ridge" and "logistic" are `softmax_regressions`, the first of few steps and a small penalty; on one row per type
    "ridge" is LDA, which was nearest to converged regression there. LDA and the perceptron need a label on every row.

    Parameters
    ----------
    design
        The rows.
    targets
        Labellings of the same rows with the same split.
    """
    train = list(zip(targets.train, targets.sizes, strict=True))
    linears: list[Linear] | None = None
    if kind == "mlp":
        x, held_out = design.train.float(), design.test.float()
        scores = [Perceptron(x, codes, size, seed=seed).scores(held_out) for codes, size in train]
    else:
        if kind == "lda" or (kind == "ridge" and targets.one_per_type):
            linears = [lda(design.basis, classes) for classes in design.class_means(targets)]
        else:
            z = design.standardised[0]
            how = (targets.sizes, PENALTY[kind], STEPS[kind])
            linears = softmax_regressions(design.moments, z, design.white, targets.train, *how)
        scores = design.scores(linears)
    found = []
    for i, codes in enumerate(targets.test):
        linear = linears[i] if linears is not None else None
        rows_last = scores[i].T.contiguous()  # torch reduces a short last axis slowly
        chosen = torch.log_softmax(rows_last, 0).gather(0, codes.clamp(min=0)[None])[0].exp()
        known = (codes >= 0).cpu().numpy()
        penalty = None if linear is None else linear.penalty
        predicted = rows_last.max(0).indices.cpu().numpy()[known]
        found.append(Fit(linear, predicted, chosen.double().cpu().numpy()[known], penalty))
    return found


def linear_probe(
    x: Any, y: Any, groups: Any, types: Any = None, split: SplitName = "sentence", kind: Kind = "ridge", seed: int = 0,
    *, test_share: float = TEST_SHARE,
) -> ProbeResult:  # fmt: skip
    """Return how well a probe reads the labels y off the rows x, on rows that it has not seen.

    Parameters
    ----------
    x : [n, d]
        Representations, one row per word.
    y : [n]
        Labels: ints or strings.
    groups : [n]
        Sentence of every row; never split between training and test part under `split="sentence"`, and there the unit of
        the bootstrap.
    types : [n] or None
        Word type of every row; needed for the control task and for `split="lexical"`, where it is the unit of the bootstrap.
    split
        "sentence", or "lexical": word types of the test part never occur in the training part.
    kind
        "ridge" (closed form, penalty by generalised cross-validation), "lda", "logistic" (L-BFGS), "mlp".
    seed
        Of split, control task, bootstrap and perceptron.
    test_share
        Share of sentences (tokens, for the lexical split) in the test part.

    Returns
    -------
    ProbeResult
        `missing` says why where there is nothing to measure: one class, one sentence, fewer than 10 test rows.

    Raises
    ------
    ConfigError, DataError
        For an unknown kind or split, lengths that differ, rows that are not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 8))
    >>> sentences = np.arange(1000) // 5
    >>> result = linear_probe(x, x[:, 0] > 0, groups=sentences)
    >>> result.accuracy > 0.9, 0.4 < result.majority < 0.6
    (True, True)
    """
    if kind not in KINDS:
        raise ConfigError(f"linear_probe: kind is {kind!r}", f"Choose one of {', '.join(KINDS)}")
    if split not in SPLITS:
        raise ConfigError(f"linear_probe: split is {split!r}", f"Choose one of {', '.join(SPLITS)}")
    if split == "lexical" and types is None:
        raise ConfigError("linear_probe: the lexical split needs the word type of every row", "Pass types=")
    if not 0 < test_share < 1:
        raise ConfigError(f"linear_probe: test_share is {test_share}", "It must lie between 0 and 1")
    rows, (codes, names), group = as_rows(x), as_codes(y), as_vector(groups, "groups")
    kinds = None if types is None else as_vector(types, "types")
    for name, values in (("y", codes), ("groups", group), ("types", kinds)):
        if values is not None and len(values) != len(rows):
            raise DataError(f"linear_probe: x has {len(rows)} rows and {name} has {len(values)}")
    if split == "lexical" and kinds is not None:
        test = lexical_split(kinds, seed, test_share) if len(rows) else np.zeros(0, bool)
    else:
        test = sentence_split(group, seed, test_share) if len(rows) else np.zeros(0, bool)
    reason = obstacle(codes, test, group, names, split)
    counts = {"n_train": int((~test).sum()), "n_test": int(test.sum()), "classes": names, "kind": kind, "split": split}
    if reason:
        return ProbeResult(missing=reason, **counts)
    tasks = [(codes, len(names))]
    if kinds is not None:
        tasks.append((control_labels(codes, kinds, len(names), seed), len(names)))
    cells = None
    if split == "lexical" and kinds is not None and kind == "ridge":
        cells = one_per_type(np.unique(kinds, return_inverse=True)[1][~test], [codes[~test]])
    design = Design(rows, test, cells=cells)
    fitted, *others = fit(design, Targets(tasks, test, rows.device, cells), kind, seed)
    # Words of a type that was not seen succeed or fail together, as words of a sentence do otherwise.
    unit = kinds if split == "lexical" and kinds is not None else group
    index = np.unique(unit[test], return_inverse=True)[1]
    tally = Tally.of(codes[test], fitted.predicted, fitted.probability, index, len(names))
    bootstrap = Bootstrap(tally.total, bootstrap_weights(len(tally.total), seed))
    accuracy, interval = bootstrap.share(tally.correct), bootstrap.interval(tally.correct)
    f1, macro = bootstrap.f1_scores(tally, names)
    control = selectivity = None
    if others:
        right = others[0].predicted == tasks[1][0][test]
        correct = np.bincount(index, weights=right)
        control = float(right.mean())
        selectivity, _ = bootstrap.gain(tally.correct, correct)
    return ProbeResult(
        accuracy=accuracy.value, stderr=accuracy.stderr, interval=interval, macro_f1=macro, f1=f1,
        confidence=float(fitted.probability.mean()), majority=majority(codes, test), control_accuracy=control,
        selectivity=None if selectivity is None else selectivity.value,
        selectivity_stderr=None if selectivity is None else selectivity.stderr,
        regularisation=fitted.regularisation, note=macro.note, **counts,
    )  # fmt: skip


def majority(codes: np.ndarray, test: np.ndarray) -> float:
    """Return the accuracy on the test rows of always naming the most frequent class of the training rows."""
    return float((codes[test] == np.bincount(codes[~test]).argmax()).mean())
