"""Which rows a probe learns from and which it is judged on, and the control task: all drawn from a seed only."""

from __future__ import annotations

import numpy as np

TEST_SHARE = 0.25


def sentence_split(groups: np.ndarray, seed: int = 0, test_share: float = TEST_SHARE) -> np.ndarray:
    """Return [n] bool, True in the test part: whole sentences, about `test_share` of them.

    Parameters
    ----------
    groups : [n]
        Sentence of every row.
    seed
        The same seed and the same set of sentences give the same split.
    """
    names, index = np.unique(groups, return_inverse=True)
    num_test = min(max(1, round(test_share * len(names))), len(names) - 1)
    test = np.zeros(len(names), bool)
    test[np.random.default_rng([seed, 1]).permutation(len(names))[:num_test]] = True
    return test[index]


def lexical_split(types: np.ndarray, seed: int = 0, test_share: float = TEST_SHARE) -> np.ndarray:
    """Return [n] bool, True in the test part: word types of the test part never occur in the training part.

    Types are taken in random order while their tokens fit into `test_share` of all tokens: first those that are at most a
    tenth of that share, and more frequent ones only while it is less than half full. So a few frequent types rule the
    test part only where there is nothing else.

    Parameters
    ----------
    types : [n]
        Word type of every row.
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
