"""A run's records in long form, one row each, for other tools: Parquet or CSV."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from lmtrace.errors import ConfigError
from lmtrace.records.files import failing
from lmtrace.records.reader import RunReader
from lmtrace.records.schema import Record

SCALAR_COLUMNS = (
    "step", "tokens_seen", "wall_time", "signal", "metric", "site", "label", "split", "value", "stderr", "n", "null",
    "missing",
)  # fmt: skip
COLUMNS = (*SCALAR_COLUMNS, "array")
ROWS_AT_ONCE = 50_000

Table = dict[str, list[Any]]


def export(run: RunReader, path: str | os.PathLike[str], to: Literal["parquet", "csv"] | None = None) -> Path:
    """Write every record of a run to one file, one row per record.

    Columns: step, tokens_seen, wall_time, signal, metric, site, label, split, value, stderr, n, null, missing, and
    array (nested JSON lists, for records that are arrays). What a record does not have is null in Parquet and empty in
    CSV.

    Parameters
    ----------
    run
        The run.
    path
        The file; replaced where it exists, and never left half-written.
    to
        Its format; by default what the file's name ends in.

    Returns
    -------
    path

    Raises
    ------
    ConfigError
        Where the format is not known, or pyarrow is not installed for Parquet.
    RunError
        Where the file cannot be written.
    """
    path = Path(path)
    form = to or path.suffix.lstrip(".")
    if form not in ("parquet", "csv"):
        raise ConfigError(f"export to {path.name}: format {form!r} is not known", "Use parquet or csv")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with failing("export to", path):
        try:
            (_write_parquet if form == "parquet" else _write_csv)(temporary, tables(run))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def tables(run: RunReader, arrays: bool = True) -> Iterator[Table]:
    """Yield the run's records as columns, in pieces of 50,000 rows; a run without records is one empty piece."""
    times = {s: (t, w) for s, t, w in zip(run.steps.tolist(), run.tokens_seen.tolist(), run.wall_time.tolist())}
    rows: list[tuple[Any, ...]] = []
    for record in run.records(arrays=arrays):
        if record.step not in times:  # measured after the line above
            break
        rows.append(_row(record, *times[record.step]))
        if len(rows) >= ROWS_AT_ONCE:
            yield _columns(rows)
            rows = []
    yield _columns(rows)


def _row(r: Record, tokens_seen: float, wall_time: float) -> tuple[Any, ...]:
    return (
        r.step, None if tokens_seen != tokens_seen else int(tokens_seen), None if wall_time != wall_time else wall_time,
        r.signal, r.metric, r.site, r.label, r.split, r.value, r.stderr, r.n, r.null, r.missing,
        None if r.array is None else json.dumps(r.array.tolist()),
    )  # fmt: skip


def _columns(rows: list[tuple[Any, ...]]) -> Table:
    return {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}


def _write_csv(path: Path, pieces: Iterable[Table]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for piece in pieces:
            writer.writerows(zip(*piece.values()))  # floats are written so that they read back exactly


def _write_parquet(path: Path, pieces: Iterable[Table]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            "export to Parquet needs pyarrow, which is not installed", "pip install lmtrace[parquet]"
        ) from error
    types: dict[str, Any] = dict.fromkeys(COLUMNS, pa.string())
    types |= dict.fromkeys(("step", "tokens_seen", "n"), pa.int64())
    types |= dict.fromkeys(("wall_time", "value", "stderr", "null"), pa.float64())
    schema = pa.schema(list(types.items()))
    with pq.ParquetWriter(path, schema) as writer:
        for piece in pieces:
            writer.write_table(pa.table(piece, schema=schema))
