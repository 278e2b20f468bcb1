"""Tables of records: `datasets.Dataset` objects, lists of dictionaries, and parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from lmtrace.errors import DataError
from lmtrace.text.readers import records
from lmtrace.text.readers.lines import open_binary
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.sentences import AnnotatedSentence

Unit = tuple[int, Mapping[str, Any], records.ClassNames]
"""Number of the row from 0, the row, and the names of the classes."""


def is_table(source: Any) -> bool:
    """Return whether an object is a `datasets.Dataset` (it has features and column names) or a list of dictionaries."""
    if hasattr(source, "column_names") and hasattr(source, "features"):
        return True
    return isinstance(source, (list, tuple)) and bool(source) and isinstance(source[0], Mapping)


def refuse_splits(source: Any) -> None:
    """Refuse a dictionary of data sets, of which one has to be chosen."""
    if isinstance(source, Mapping) and any(hasattr(part, "column_names") for part in source.values()):
        raise DataError(f"the data set has the parts {', '.join(map(str, source))}", "Pass one of them: data['train']")


def rows(table: Any) -> Iterator[Unit]:
    """Yield the rows of a table in memory."""
    classes = class_names(getattr(table, "features", None) or {})
    for number, row in enumerate(table):
        yield number, row, classes


def units(source: Source) -> Iterator[Unit]:
    """Yield the rows of a parquet file."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{source.path}: parquet needs pyarrow", "pip install 'lmtrace[parquet]'") from None
    with open_binary(source.path) as file:
        packed = file.read()
    try:
        table = pq.read_table(BytesIO(packed))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{source.path}: not a parquet file ({reason})", "The file is truncated or damaged") from error
    told = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        classes = class_names(json.loads(told).get("info", {}).get("features", {}))
    except (ValueError, AttributeError):
        classes = {}
    number = 0
    for batch in table.to_batches():
        for row in batch.to_pylist():
            yield number, row, classes
            number += 1


def sentence(source: Source, unit: Unit) -> AnnotatedSentence:
    """Return a row as a sentence, by the keys that `lmtrace.text.readers.records` knows."""
    number, row, classes = unit
    return records.sentence(source, row, f"{source.path}, row {number}", classes)


READER = Reader("parquet of records", units, sentence)


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return column -> names of its numbers, from features as objects or as `datasets` writes them down."""
    found = {}
    for column, feature in dict(features).items():
        names = _names(feature)
        if names:
            found[str(column)] = names
    return found


def _names(feature: Any) -> list[str]:
    """Return the names of a class label, also of one inside of a list."""
    if isinstance(feature, (list, tuple)):
        return _names(feature[0]) if feature else []
    get = feature.get if isinstance(feature, Mapping) else lambda key: getattr(feature, key, None)
    names = get("names")
    if isinstance(names, Iterable) and not isinstance(names, str):
        return [str(name) for name in names]
    inner = get("feature")
    return [] if inner is None else _names(inner)


def name_of(table: Any) -> Path:
    """Return what stands for a table where a file has its path."""
    return Path(getattr(getattr(table, "info", None), "dataset_name", None) or type(table).__name__)
