"""Minimal pairs and suites that a command names as files."""

from __future__ import annotations

from collections.abc import Sequence

from lmtrace.observe.interface import Signal
from lmtrace.signals import resolve
from lmtrace.signals.pairs import Pairs
from lmtrace.signals.suites import Suites
from lmtrace.text.pairs import as_pairs
from lmtrace.text.suites import as_suites


def with_files(
    signals: str | Sequence[str | Signal], pairs: str | None, suites: str | None
) -> str | Sequence[str | Signal]:
    """Return the signals with `pairs` and `suites` reading these files, added where they were not asked for.

    The files are read at once, so that what is wrong with them is said before a model is loaded.

    Raises
    ------
    DataError
        Where a file holds no pairs, or no suite.
    """
    if pairs is None and suites is None:
        return signals
    chosen = resolve(signals)
    if pairs is not None:
        as_pairs(pairs)
        chosen = [signal for signal in chosen if not isinstance(signal, Pairs)] + [Pairs(pairs=pairs)]
    if suites is not None:
        as_suites(suites)
        chosen = [signal for signal in chosen if not isinstance(signal, Suites)] + [Suites(suites=suites)]
    return chosen
