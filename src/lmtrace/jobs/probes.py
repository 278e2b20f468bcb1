"""The probes that a run has kept (`Probe(keep_at=...)`), to be saved and applied elsewhere."""

from __future__ import annotations

from pathlib import Path

from lmtrace.errors import DataError
from lmtrace.probing.closed_form import Linear
from lmtrace.probing.kept import kept_in
from lmtrace.run import Run, open_run


def kept_probes(run: Run | str | Path) -> dict[str, Linear]:
    """Return the linear probes of the steps in `keep_at`: "block.0|role|sentence|100" (site, label, split, step) -> probe.

    `functional.save_probes` writes them to a file, and `Probe(apply=file)` measures them, unchanged, at other steps and on other
    checkpoints. Penalty and degrees of freedom are not kept and are NaN.

    Parameters
    ----------
    run
        A run or its folder.

    Raises
    ------
    DataError
        Where the run has kept none.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    found: dict[str, Linear] = {}
    for memory in opened.read_memory().values():
        found.update({key.name: probe for key, probe in kept_in(memory).items()})
    if not found:
        raise DataError(
            f"{opened.folder} has kept no probes", "Measure with Probe(keep_at=(step, ...)) at one of these steps"
        )
    return dict(sorted(found.items()))
