"""Parquet: one row a sentence, label layers as lists of strings that any reader of Parquet shows.

Columns: `tokens`, one list per label layer, `head` (1-based, 0 for the root), then `construction`, `complexity`,
`sentence_frame` and `template` of the sentence. All are dictionary-encoded, so a label costs a few bits. Trees and
logical forms follow from grammar and template; they are stored for imported corpora only. The header is the file's
metadata "absynth".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from absynth.errors import AbsynthError
from absynth.formats.builder import WHOLE, Builder
from absynth.formats.header import Header, check_count, empty, generated, short
from absynth.rules.specification import Specification
from absynth.sentences.columns import Column, Columns

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 131_072
"""Sentences of a row group, whatever the size of the parts: the same sentences give the same bytes."""

_WHOLE = {"sentence_frame" if name == "frame" else name: name for name in WHOLE}
_NOT_LAYERS = {"tokens", "head", *_WHOLE}


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise AbsynthError(
            "format", "parquet", 'another format, or an installed pyarrow: pip install "lmtrace[parquet]"'
        ) from error
    return pyarrow


def write(parts: Iterable[Columns], header: Header, path: Path) -> None:
    """Write the sentences in row groups of `ROWS`."""
    pa = _arrow()
    groups = (to_table(corpus) for corpus in _regroup(parts, ROWS))
    first = next(groups)
    header = replace(header, content=_columns(first.column_names))
    with pa.parquet.ParquetWriter(
        path,
        first.schema,
        compression="zstd",
        compression_level=6,
        dictionary_pagesize_limit=2**28,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        for table in chain([first], groups):
            writer.write_table(table, row_group_size=ROWS)
        writer.add_key_value_metadata({"absynth": header.dump()})


def _columns(names: Sequence[str]) -> str:
    """Return a hash of the columns' names: pages have checksums, names have not."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _regroup(parts: Iterable[Columns], rows: int) -> Iterator[Columns]:
    """Yield the same sentences, `rows` at a time; there is at least one part, which may have no sentences."""
    waiting: Columns | None = None
    for part in parts:
        waiting = Columns.concatenate([waiting, part]) if waiting is not None and len(waiting) else part
        while len(waiting) > rows:
            yield waiting[:rows]
            waiting = waiting[rows:]
    if waiting is not None:
        yield waiting


def to_table(corpus: Columns) -> pa.Table:
    """Return a corpus as an Arrow table, columns as in the file."""
    pa = _arrow()
    offsets = pa.array(corpus.offsets.astype(np.int32))
    columns: dict[str, Any] = {"tokens": pa.ListArray.from_arrays(offsets, _dictionary(corpus.ids, corpus.vocabulary))}
    for layer in corpus.layer_names:
        if layer in _NOT_LAYERS:
            raise AbsynthError(
                f"layers.{layer}", layer, f"another name; these mean something else: {', '.join(sorted(_NOT_LAYERS))}"
            )
        columns[layer] = pa.ListArray.from_arrays(offsets, _dictionary(*corpus.column(layer)))
    heads = corpus.head_column()
    if heads is not None:
        columns["head"] = pa.ListArray.from_arrays(offsets, pa.array(heads, pa.int16()))
    names = (
        ("complexity", "construction", "frame", "template")
        if corpus.grammar is not None
        else tuple(corpus.sentence_layers)
    )
    for name in names:
        column = "sentence_frame" if name == "frame" else name
        columns[column] = _dictionary(*corpus.sentence_column(name))
    return pa.table(columns)


def _dictionary(codes: np.ndarray, names: Sequence[str]) -> Any:
    pa = _arrow()
    kind = np.int16 if len(names) < 2**15 else np.int32
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(kind), mask=codes < 0), pa.array(list(names), pa.string())
    )


def read(path: Path) -> Columns:
    """Read a whole file.

    Raises
    ------
    AbsynthError
        For a damaged file (every page has a checksum), or one that absynth did not write.
    """
    return Columns.concatenate(list(read_parts(path)))


def read_parts(path: Path) -> Iterator[Columns]:
    """Yield the sentences of a generated corpus a row group at a time; an imported one is one part."""
    pa = _arrow()
    try:
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            header, coded = _header(file, path)
        with pa.parquet.ParquetFile(path, page_checksum_verification=True, read_dictionary=coded) as file:
            if header.grammar is None:
                yield _imported(file, header, str(path))
                return
            first = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["tokens", "template"])
                yield _generated(table, header, header.grammar, str(path), first)
                first += table.num_rows
        check_count(header, first, str(path))
        if first == 0:
            yield empty(header)
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError, KeyError) as error:
        if isinstance(error, AbsynthError):
            raise
        raise AbsynthError(str(path), short(str(error)), "a complete, undamaged Parquet file") from error


def _header(file: Any, path: Path) -> tuple[Header, list[str]]:
    """Return the header and the paths of the text columns."""
    meta = (file.metadata.metadata or {}).get(b"absynth")
    if meta is None:
        raise AbsynthError(str(path), "no header", 'a Parquet file that absynth wrote, with "absynth" in its metadata')
    header = Header.parse(meta, f"{path}: header")
    check_count(header, file.metadata.num_rows, str(path))
    names = file.schema_arrow.names
    if header.content != _columns(names):
        raise AbsynthError(f"{path}: columns", short(", ".join(names)), "the columns that were written")
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    return header, [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def _one_chunk(table: pa.Table, name: str) -> Any:
    column = table.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    return (
        _arrow().concat_arrays(column.unify_dictionaries().chunks)
        if column.num_chunks
        else _arrow().array([], column.type)
    )


def _words(table: pa.Table, name: str, where: str) -> tuple[np.ndarray, Column]:
    """Return (offsets, (codes, values)) of a column of lists of strings; code -1 is null."""
    pa = _arrow()
    column = _one_chunk(table, name)
    if (
        not pa.types.is_list(column.type)
        or not pa.types.is_dictionary(column.type.value_type)
        or not pa.types.is_string(column.type.value_type.value_type)
    ):
        raise AbsynthError(f"{where}: {name}", str(table.schema.field(name).type), "a column of lists of strings")
    if column.null_count:
        raise AbsynthError(f"{where}: {name}", "null", "a list for every sentence")
    offsets = column.offsets.to_numpy().astype(np.int64)
    values = column.values[offsets[0] : offsets[-1]]
    return offsets - offsets[0], _codes(values)


def _codes(values: pa.DictionaryArray) -> Column:
    codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return codes, tuple(values.dictionary.to_pylist())


def _whole(table: pa.Table, name: str, where: str) -> Column:
    pa = _arrow()
    column = _one_chunk(table, name)
    if not pa.types.is_dictionary(column.type) or not pa.types.is_string(column.type.value_type) or column.null_count:
        raise AbsynthError(f"{where}: {name}", str(table.schema.field(name).type), "a column of strings without gaps")
    return _codes(column)


def _generated(table: pa.Table, header: Header, grammar: Specification, where: str, first: int) -> Columns:
    offsets, (codes, tokens) = _words(table, "tokens", where)
    rows, names = _whole(table, "template", where)
    ids = _translate(codes, tokens, grammar.vocabulary, f"{where}: tokens", "words of the grammar")
    known = [template.name for template in grammar.templates]
    templates = _translate(rows, names, known, f"{where}: template", "templates of the grammar")
    return generated(header, ids, offsets, templates, where, first)


def _translate(codes: np.ndarray, found: Sequence[str], known: Sequence[str], where: str, allowed: str) -> np.ndarray:
    index = {value: i for i, value in enumerate(known)}
    table = np.array([index.get(value, -1) for value in found] or [0], np.int32)
    used = np.unique(codes)
    for code in used:
        if code < 0 or table[code] < 0:
            raise AbsynthError(where, None if code < 0 else short(found[code]), allowed)
    return table[codes] if len(codes) else codes


def _imported(file: Any, header: Header, where: str) -> Columns:
    builder = Builder()
    for group in range(file.num_row_groups):
        _add(builder, file.read_row_group(group), where)
    check_count(header, len(builder), where)
    return builder.corpus(header.provenance)


def _add(builder: Builder, table: pa.Table, where: str) -> None:
    offsets, tokens = _words(table, "tokens", where)
    layers = {name: _words(table, name, where) for name in table.column_names if name not in _NOT_LAYERS}
    whole = {name: _whole(table, column, where) for column, name in _WHOLE.items() if column in table.column_names}
    heads = table.column("head").to_pylist() if "head" in table.column_names else None
    for name, (other, _) in layers.items():
        if not np.array_equal(other, offsets):
            raise AbsynthError(f"{where}: {name}", "other lengths", "one label per word")

    def texts(column: Column, a: int, b: int) -> list[Any]:
        codes, names = column
        return [names[code] if code >= 0 else None for code in codes[a:b].tolist()]

    for i, (a, b) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist())):
        builder.add(
            f"{where}: sentence {len(builder) + 1}",
            texts(tokens, a, b),
            {name: texts(column, a, b) for name, (_, column) in layers.items()},
            [] if heads is None else heads[i],
            {name: texts(column, i, i + 1)[0] for name, column in whole.items()},
        )
