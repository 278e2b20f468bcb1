"""Selection: joint laws of the clusters of a head and its dependent, with fixed marginals."""

from __future__ import annotations

import numpy as np

from absynth.rules.categories import ROLES

_OTHER = ("amod", "case", "conj", "nmod")


def shift_of(relation: str) -> int:
    """Return by how many places the plan of a relation is turned: subjects and objects prefer different clusters."""
    if relation in ROLES:
        return ROLES.index(relation)
    return _OTHER.index(relation) if relation in _OTHER else 0


def transport_plan(head: np.ndarray, dependent: np.ndarray, shift: int) -> np.ndarray:
    """Return a coupling of two cluster laws that is as concentrated as they allow.

    First cluster i of the head meets cluster i + shift of the dependent with the smaller of the two masses; what is
    left is matched largest to largest. Every step uses up a row or a column, so the plan is an extreme point of the
    couplings (at most rows + columns - 1 cells), and nearly a permutation when the masses are nearly equal.

    Parameters
    ----------
    head : [rows]
        Masses of the head's clusters, sum 1.
    dependent : [columns]
        Masses of the dependent's clusters, sum 1.
    shift
        Turns the plan.

    Returns
    -------
    [rows, columns] float64 with these marginals.
    """
    rows, columns = head.astype(float).copy(), dependent.astype(float).copy()
    plan = np.zeros((len(rows), len(columns)))
    for i in range(min(len(rows), len(columns))):
        j = (i + shift) % len(columns)
        moved = min(rows[i], columns[j])
        plan[i, j] += moved
        rows[i] -= moved
        columns[j] -= moved
    for _ in range(len(rows) + len(columns)):
        i, j = int(np.argmax(rows)), int(np.argmax(columns))
        moved = min(rows[i], columns[j])
        if moved <= 1e-15:
            break
        plan[i, j] += moved
        rows[i] -= moved
        columns[j] -= moved
    return plan


def joint_law(head: np.ndarray, dependent: np.ndarray, strength: float, shift: int) -> np.ndarray:
    """Return (1 - strength) * outer product + strength * transport plan: [rows, columns], marginals as given."""
    plan = transport_plan(head, dependent, shift)
    return (1.0 - strength) * np.outer(head, dependent) + strength * plan


def mutual_information(joint: np.ndarray) -> float:
    """Return the mutual information of a joint law in bits."""
    outer = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log2(joint[seen] / outer[seen])))
