"""Which format a suffix means, and how a file is written: under a temporary name, renamed when it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from absynth.errors import AbsynthError
from absynth.formats.header import Header, empty
from absynth.sentences.columns import Columns

FORMATS: dict[str, tuple[str, str, str]] = {
    ".parquet": ("parquet", "read", "write"),
    ".jsonl": ("jsonl", "read", "write"),
    ".conllu": ("conllu", "read", "write"),
    ".txt": ("text", "read_plain", "write_plain"),
    ".tsv": ("text", "read_logical", "write_logical"),
    ".json": ("published", "read", "write"),
}
"""Suffix -> (module, reader, writer)."""


def save(corpus: Columns, path: str | Path, **options: str) -> None:
    """Write a corpus; the suffix decides the format.

    Parameters
    ----------
    path
        .parquet, .jsonl, .conllu, .txt (words only), .tsv (logical forms) or .json (the published format).
    options
        ``form`` ("object" or "list") and ``dialect`` ("roles" or "events") of the published format.

    Raises
    ------
    AbsynthError
        For an unknown suffix, a path that cannot be written, or a corpus that the format cannot hold.
    """
    write([corpus], Header.of(corpus), path, options)


def format_of(path: Path) -> tuple[str, str, str]:
    """Return (module, reader, writer) of a path's suffix; raise for an unknown one."""
    if path.suffix not in FORMATS:
        raise AbsynthError("suffix", path.name, f"a name that ends in {', '.join(FORMATS)}")
    return FORMATS[path.suffix]


def write(parts: Iterable[Columns], header: Header, path: str | Path, options: dict[str, Any]) -> None:
    """Write sentences that come in parts; see `save`."""
    path = Path(path)
    module, _, writer = format_of(path)
    if options and module != "published":
        raise AbsynthError(min(options), options[min(options)], "no options: only .json has form and dialect")
    unknown = set(options) - {"form", "dialect"}
    if unknown:
        raise AbsynthError(min(unknown), options[min(unknown)], "one of the options form and dialect")
    write_parts = getattr(import_module(f"absynth.formats.{module}"), writer)
    with whole_file(path) as partial:
        write_parts(_never_none(parts, header), header, partial, **options)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what is written there takes its place at the end, and is removed on an error.

    Raises
    ------
    AbsynthError
        Where the path cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise AbsynthError("path", str(path), f"a path that can be written ({error.strerror or error})") from error
    finally:
        if partial.is_file():
            partial.unlink()


def _never_none(parts: Iterable[Columns], header: Header) -> Iterator[Columns]:
    some = False
    for part in parts:
        some = True
        yield part
    if not some:
        yield empty(header)
