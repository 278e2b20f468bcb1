"""A run as people hold it: its records, what they say, how they look. Stands above `records`, `analysis` and `show`.

`show` is imported where something is shown: importing rich, which it uses, draws from Python's global random generator, and a
tracer, which opens runs, must not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lmtrace.analysis.findings import findings
from lmtrace.analysis.findings.finding import Finding
from lmtrace.errors import ConfigError
from lmtrace.records.export import SCALAR_COLUMNS, tables
from lmtrace.records.reader import RunReader, open_database

if TYPE_CHECKING:
    import pandas


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run to read it; works while it is being written, and on read-only media.

    Parameters
    ----------
    path
        The run's folder, or its `run.sqlite`.

    Raises
    ------
    RunError
        Where there is no run, or it cannot be read.

    Examples
    --------
    >>> run = open_run("runs/first")                                         # doctest: +SKIP
    >>> run.series(signal="probe", metric="accuracy", label="role").values   # doctest: +SKIP
    """
    return Run(open_database(path))


class Findings(list[Finding]):
    """The findings of a run, verdicts first; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        from lmtrace.show.notebook import findings_html

        return findings_html(self)


class Run(RunReader):
    """A run, read only. Made by `open_run`. Safe to share between threads.

    Every question is answered from one consistent state of the database, as of the question.
    """

    def frame(self) -> pandas.DataFrame:
        """Return the records without arrays as a pandas data frame, one row each (columns: `export.SCALAR_COLUMNS`)."""
        try:
            import pandas  # an extra: not needed to read a run
        except ImportError as error:
            raise ConfigError("Run.frame needs pandas, which is not installed", "pip install pandas") from error
        parts = list(tables(self, arrays=False))
        joined = {name: [value for part in parts for value in part[name]] for name in SCALAR_COLUMNS}
        return pandas.DataFrame(joined)

    def findings(self) -> Findings:
        """Return what emerged, when, and how sure it is; see `lmtrace.analysis.findings`."""
        return Findings(findings(self))

    def plot(self, signal: str, metric: str | None = None, **options: Any) -> Any:
        """Draw one series with Matplotlib and return its axes; see `lmtrace.show.notebook.plot`."""
        from lmtrace.show.notebook import plot

        return plot(self, signal, metric, **options)

    def _repr_html_(self) -> str:
        from lmtrace.show.notebook import run_html

        return run_html(self)
