"""Corpora on disk: Parquet (default) and JSONL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from absynth.corpus import Corpus
from absynth.errors import AbsynthError
from absynth.grammar import Grammar

FORMAT = "absynth/1"


def save(corpus: Corpus, path: str | Path) -> None:
    """Write a corpus; `.parquet` or `.jsonl` decides the format."""
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise AbsynthError("path", str(path), f"a name that ends in {' or '.join(_WRITERS)}")
    partial = path.with_name(path.name + ".part")
    try:
        _WRITERS[path.suffix](corpus, partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True) if partial.parent.is_dir() else None
        raise AbsynthError("path", str(path), f"a path that can be written ({error.strerror})") from error


def load(path: str | Path) -> Corpus:
    """Read a corpus that `save` wrote."""
    path = Path(path)
    if path.suffix not in _READERS:
        raise AbsynthError("path", str(path), f"a name that ends in {' or '.join(_READERS)}")
    if not path.is_file():
        raise AbsynthError("path", str(path), "a file that exists")
    return _READERS[path.suffix](path)


def _header(corpus: Corpus) -> dict[str, Any]:
    if corpus.grammar is None:
        raise AbsynthError("corpus", "imported", "a generated corpus")
    return {
        "format": FORMAT,
        "sentences": len(corpus),
        "grammar": corpus.grammar.to_dict(),
        "provenance": corpus.provenance,
    }


def _write_parquet(corpus: Corpus, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    smallest = np.uint16 if len(corpus.vocabulary) < 2**16 else np.int32
    tokens = pa.ListArray.from_arrays(pa.array(corpus.offsets.astype(np.int32)), pa.array(corpus.ids.astype(smallest)))
    table = pa.table({"tokens": tokens, "template": pa.array(corpus.templates)})
    table = table.replace_schema_metadata({"absynth": json.dumps(_header(corpus), sort_keys=True)})
    pq.write_table(table, path, compression="zstd")


def _read_parquet(path: Path) -> Corpus:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise AbsynthError(str(path), str(error).splitlines()[0], "a complete Parquet file") from error
    meta = (table.schema.metadata or {}).get(b"absynth")
    if meta is None:
        raise AbsynthError(str(path), "no absynth header", "a Parquet file that absynth wrote")
    header = json.loads(meta)
    tokens = table.column("tokens").combine_chunks()
    offsets = tokens.offsets.to_numpy().astype(np.int64)
    ids = tokens.values.to_numpy()
    grammar = Grammar.from_dict(header["grammar"])
    templates = table.column("template").to_numpy()
    return Corpus.generated(
        grammar, ids[offsets[0] : offsets[-1]], offsets - offsets[0], templates, header["provenance"]
    )


def _write_jsonl(corpus: Corpus, path: Path) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.write(json.dumps(_header(corpus), sort_keys=True) + "\n")
        for sentence in corpus:
            out.write(json.dumps({
                "tokens": sentence.tokens, "labels": sentence.labels, "heads": sentence.heads, "tree": sentence.tree,
                "logical_form": sentence.logical_form, "complexity": sentence.complexity, "construction": sentence.construction,
                "frame": sentence.frame, "template": sentence.template,
            }, ensure_ascii=False) + "\n")  # fmt: skip


def _read_jsonl(path: Path) -> Corpus:
    with path.open(encoding="utf-8") as lines:
        header = json.loads(next(lines))
        grammar = Grammar.from_dict(header["grammar"])
        index = {token: i for i, token in enumerate(grammar.vocabulary)}
        templates = {template.name: i for i, template in enumerate(grammar.templates)}
        ids: list[int] = []
        offsets, rows = [0], []
        for line in lines:
            record = json.loads(line)
            ids += [index[token] for token in record["tokens"]]
            offsets.append(len(ids))
            rows.append(templates[record["template"]])
    return Corpus.generated(grammar, np.array(ids), np.array(offsets), np.array(rows), header["provenance"])


_WRITERS = {".parquet": _write_parquet, ".jsonl": _write_jsonl}
_READERS = {".parquet": _read_parquet, ".jsonl": _read_jsonl}
