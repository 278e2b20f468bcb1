"""Linear probes: whether a label can be read off a representation, and whether that is more than knowing the word.

`fit` is shared by `linear_probe` and the probe signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError, DataError
from lmtrace.numerics.estimate import Estimate
from lmtrace.numerics.moments import ClassMeans
from lmtrace.probing.closed_form import Linear, lda
from lmtrace.probing.discriminant import discriminants
from lmtrace.probing.rows import OF_TYPES, WAYS, Design, Targets
from lmtrace.probing.scores import MIN_SUPPORT, Bootstrap, Tally, bootstrap_weights
from lmtrace.probing.softmax import Perceptron, softmax_regressions
from lmtrace.probing.splits import TEST_SHARE, control_labels, lexical_split, sentence_split

Kind = Literal["ridge", "discriminant", "lda", "logistic", "mlp"]
SplitName = Literal["sentence", "lexical"]
KINDS: tuple[Kind, ...] = ("ridge", "discriminant", "lda", "logistic", "mlp")
SPLITS: tuple[SplitName, ...] = ("sentence", "lexical")


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
        Penalty (see `Linear`), or None for the perceptron.
    iterated
        Whether a discriminant was refuted and went on as softmax regression.
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
    iterated: bool = False
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
        Its penalty (see `Linear`).
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


def fit(design: Design, targets: Targets, kind: str, seed: int = 0) -> list[Fit]:
    """Return one probe per labelling, fitted on the training rows with a label, with its predictions on the test rows with one.

    The ways of `softmax_regressions` pass over rows without a label; the other kinds need one on every row.

    Parameters
    ----------
    design
        The rows.
    targets
        Labellings of the same rows with the same split, in the same arrangement.
    kind
        One of `WAYS`, "discriminant", "lda" or "mlp".
    """
    train = list(zip(targets.train, targets.sizes, strict=True))
    linears: list[Linear] | None = None
    if kind == "mlp":
        x, held_out = design.training.rows.float(), design.held_out.float()
        scores = [Perceptron(x, codes, size, seed=seed).scores(held_out) for codes, size in train]
    else:
        linears = _linears(design, targets, kind)
        scores = design.scores(linears)
    found = []
    for i, codes in enumerate(targets.test):
        linear = linears[i] if linears is not None else None
        rows_last = scores[i].T.contiguous()  # torch reduces a short last axis slowly
        chosen = torch.log_softmax(rows_last, 0).gather(0, codes.clamp(min=0)[None])[0].exp()
        known = (codes >= 0).cpu().numpy()
        predicted = rows_last.max(0).indices.cpu().numpy()[known]
        confidence = chosen.double().cpu().numpy()[known]
        found.append(Fit(linear, predicted, confidence, None if linear is None else linear.penalty))
    return found


def _linears(design: Design, targets: Targets, kind: str) -> list[Linear]:
    """Return a linear probe per labelling."""
    if kind == "lda":
        x = design.training.rows + design.training.origin
        train = zip(targets.train, targets.sizes, strict=True)
        return [lda(design.basis, ClassMeans.of(x, codes, size)) for codes, size in train]
    if kind == "discriminant":
        return discriminants(
            design.training,
            design.spectrum,
            targets.labellings,
            targets.train,
            targets.units,
            design.once,
        )
    penalty, steps = WAYS[kind]
    sample, labels = design.training, targets.labellings
    if kind in OF_TYPES:
        sample, labels = design.once(labels)
    return softmax_regressions(sample, design.white(penalty), labels, penalty, steps)


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
        "ridge" (softmax regression of four steps that begin along the ridge), "discriminant" (penalised discriminant analysis,
        softmax regression where its likelihood is refuted: `lmtrace.probing.discriminant`), "lda" (penalty by generalised
        cross-validation), "logistic" (converged, penalty 1), "mlp". Four steps are not enough for unseen words of rows that
        are alike for all words of a type (embeddings): take "logistic".
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
    # Words of a type that was not seen succeed or fail together, as words of a sentence do otherwise.
    unit = kinds if split == "lexical" and kinds is not None else group
    fitted, *others = fit(Design.of(rows, test), Targets.of(tasks, test, rows.device, unit), kind, seed)
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
        regularisation=fitted.regularisation, iterated=fitted.linear is not None and fitted.linear.iterated,
        note=macro.note, **counts,
    )  # fmt: skip


def majority(codes: np.ndarray, test: np.ndarray) -> float:
    """Return the accuracy on the test rows of always naming the most frequent class of the training rows."""
    return float((codes[test] == np.bincount(codes[~test]).argmax()).mean())
