"""A number with its error."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error.

    Attributes
    ----------
    value
        The estimate, or None where it cannot be computed; `note` then says why.
    stderr
        Its standard error in the same unit, or None where none is defined.
    n
        Number of independent units that it rests on.
    note
        Empty, a caveat ("lower bound: ..."), or the reason why `value` is None.
    """

    value: float | None
    stderr: float | None = None
    n: int = 0
    note: str = ""
