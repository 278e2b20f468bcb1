"""Hugging Face `datasets`, if installed."""

from __future__ import annotations

from typing import Any

from absynth.errors import AbsynthError
from absynth.formats.parquet import to_table
from absynth.sentences.columns import Columns


def to_dataset(corpus: Columns) -> Any:
    """Return a `datasets.Dataset`: one row a sentence, columns as in the Parquet format.

    Raises
    ------
    AbsynthError
        When `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise AbsynthError("format", "datasets", "an installed datasets: pip install datasets") from error
    import pyarrow as pa

    table = to_table(corpus)
    plain = pa.schema([pa.field(field.name, _plain(field.type)) for field in table.schema])
    return datasets.Dataset(datasets.table.InMemoryTable(table.cast(plain)))


def _plain(kind: Any) -> Any:
    """Return the type without dictionaries, which `datasets` does not know."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind.value_type if pa.types.is_dictionary(kind) else kind
