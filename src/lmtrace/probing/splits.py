"""Which rows a probe learns from and which it is judged on, and the control task: all drawn from a seed only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lmtrace.probing.linear import SplitName
    from lmtrace.text.panel import Panel

TEST_SHARE = 0.25


def held_out(panel: Panel, split: SplitName, seed: int = 0) -> np.ndarray:
    """Return [words] bool, True in the test part of a split that is drawn over all words of a panel.

    All layers and signals are so judged on the same sentences or types. Sentences of equal tokens are on one side, and so are
    words of equal tokens under "lexical".
    """
    if split == "lexical":
        return lexical_split(panel.word_types, seed)
    return sentence_split(panel.word_sentence, seed, twins=panel.sentence_twins[panel.word_sentence])


def sentence_split(
    groups: np.ndarray, seed: int = 0, test_share: float = TEST_SHARE, twins: np.ndarray | None = None
) -> np.ndarray:
    """Return [n] bool, True in the test part: whole sentences, about `test_share` of them.

    Parameters
    ----------
    groups : [n]
        Sentence of every row.
    seed
        The same seed and the same set of sentences give the same split.
    twins : [n] or None
        A number that the rows of equal sentences share: these are on one side of the split. The test part then takes
        sentences in random order as long as all their twins fit into it.
    """
    names, first, index = np.unique(groups, return_index=True, return_inverse=True)
    num_test = min(max(1, round(test_share * len(names))), len(names) - 1)
    kind = np.arange(len(names))
    if twins is not None:
        kind = np.unique(twins[first], return_inverse=True)[1]
    size = np.bincount(kind, minlength=1)
    order = np.random.default_rng([seed, 1]).permutation(len(size))
    chosen = np.zeros(len(size), bool)
    room = num_test
    for one in order.tolist():
        if size[one] <= room:
            chosen[one] = True
            room -= int(size[one])
    if not chosen.any() and len(size) > 1:  # all are larger than the test part should be
        chosen[order[size[order].argmin()]] = True
    return chosen[kind][index]


def lexical_split(types: np.ndarray, seed: int = 0, test_share: float = TEST_SHARE) -> np.ndarray:
    """Return [n] bool, True in the test part: word types of the test part never occur in the training part.

    Types are taken in random order while their tokens fit into `test_share` of all tokens: first those that are at most a
    tenth of that share, and more frequent ones only while it is less than half full. So a few frequent types rule the
    test part only where there is nothing else.

    Parameters
    ----------
    types : [n]
        Word type of every row; of a panel's words `Panel.word_types`, which goes by their tokens.
    """
    _, index, counts = np.unique(types, return_inverse=True, return_counts=True)
    share, test = test_share * len(types), np.zeros(len(counts), bool)
    order = np.random.default_rng([seed, 2]).permutation(len(counts))
    frequent = counts[order] > share / 10
    left = share
    for kind, late in sorted(zip(order, frequent, strict=True), key=lambda pair: pair[1]):
        if counts[kind] <= left and not (late and left < share / 2):
            left -= counts[kind]
            test[kind] = True
    return test[index]


def control_labels(codes: np.ndarray, types: np.ndarray, num_classes: int, seed: int = 0) -> np.ndarray:
    """Return [n] int64 labels of the control task: a random class per word type, with the marginals of `codes`.

    Types are taken from the most frequent to the rarest. Each draws a class in proportion to the tokens that the class
    still has to receive, among the classes with room for all of the type's tokens. So the marginals agree to within a
    few tokens of rare types, which independent draws do not give on text, where few types hold most tokens.

    Source: control tasks, Hewitt and Liang 2019 (doi:10.18653/v1/D19-1275).

    Parameters
    ----------
    codes : [n]
        int64 class of every row.
    types : [n]
        Word type of every row.
    """
    rng = np.random.default_rng([seed, 3])
    _, index, counts = np.unique(types, return_inverse=True, return_counts=True)
    left = np.bincount(codes, minlength=num_classes).astype(np.float64)
    label = np.zeros(len(counts), np.int64)
    ties = rng.permutation(len(counts))
    for kind, u in zip(ties[np.argsort(-counts[ties], kind="stable")], rng.random(len(counts)), strict=True):
        fits = left >= counts[kind]
        room = np.cumsum(np.where(fits, left, 0.0) if fits.any() else np.maximum(left, 0.0))
        label[kind] = min(int(np.searchsorted(room, u * room[-1], side="right")), num_classes - 1)
        left[label[kind]] -= counts[kind]
    return label[index]
