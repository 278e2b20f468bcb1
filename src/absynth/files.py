"""Corpora on disk: what `save`, `load` and `generate_to` do whatever the format.

A file is written under a temporary name and renamed when it is complete. A file is read whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from absynth.corpus import Corpus
from absynth.errors import AbsynthError
from absynth.formats.header import Header, empty
from absynth.grammar import Grammar
from absynth.sample import stream
from absynth.version import VERSION

FORMATS: dict[str, tuple[str, str, str]] = {
    ".parquet": ("parquet", "read", "write"),
    ".jsonl": ("jsonl", "read", "write"),
    ".conllu": ("conllu", "read", "write"),
    ".txt": ("text", "read_plain", "write_plain"),
    ".tsv": ("text", "read_logical", "write_logical"),
    ".json": ("published", "read", "write"),
}
"""Suffix -> (module, reader, writer)."""


def save(corpus: Corpus, path: str | Path, **options: str) -> None:
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
    _write([corpus], Header.of(corpus), path, options)


def load(path: str | Path) -> Corpus:
    """Read a corpus; the suffix tells the format.

    Files of generated corpora (.parquet, .jsonl, .conllu, .json in object form) give a corpus with its grammar and
    oracle; all others give an imported corpus, whose grammar and oracle are None.

    Raises
    ------
    AbsynthError
        For a file that is missing, truncated, damaged or not of its format; it names file, line and what was expected.
    """
    path = Path(path)
    module, reader, _ = _format(path)
    if not path.is_file():
        raise AbsynthError("path", str(path), "a file that exists")
    return getattr(import_module(f"absynth.formats.{module}"), reader)(path)


def scan(path: str | Path) -> Iterator[Corpus]:
    """Yield a .parquet or .jsonl file of a generated corpus in parts, in constant memory; other files are one part.

    Raises
    ------
    AbsynthError
        As `load`; what is wrong further down in the file shows only when that part is asked for.
    """
    path = Path(path)
    module, _, _ = _format(path)
    if module not in ("parquet", "jsonl"):
        yield load(path)
        return
    if not path.is_file():
        raise AbsynthError("path", str(path), "a file that exists")
    yield from import_module(f"absynth.formats.{module}").read_parts(path)


def generate_to(
    path: str | Path,
    grammar: Grammar,
    n: int,
    seed: int = 0,
    workers: int = 1,
    exact: bool = False,
    chunk: int = 65_536,
    progress: Callable[[int], None] | None = None,
    **options: str,
) -> None:
    """Draw n sentences straight to a file, in constant memory.

    The file is the one that ``generate(grammar, n, seed).save(path)`` writes, byte for byte, for any `workers` and
    `chunk`.

    Parameters
    ----------
    path, options
        As in `save`.
    grammar, n, seed, workers, exact
        As in `generate`.
    chunk
        Sentences in memory at a time, per worker.
    progress
        Called with the number of sentences written so far.

    Raises
    ------
    AbsynthError
        As `save` and `generate`.
    """

    def watched() -> Iterator[Corpus]:
        done = 0
        for part in stream(grammar, n, seed=seed, workers=workers, exact=exact, chunk=chunk):
            yield part
            done += len(part)
            if progress is not None:
                progress(done)

    provenance = {
        "grammar": grammar.name,
        "grammar_fingerprint": grammar.fingerprint,
        "version": VERSION,
        "seed": seed,
        "exact": exact,
    }
    _write(watched(), Header(n, grammar, provenance), path, options)


def _format(path: Path) -> tuple[str, str, str]:
    if path.suffix not in FORMATS:
        raise AbsynthError("suffix", path.name, f"a name that ends in {', '.join(FORMATS)}")
    return FORMATS[path.suffix]


def _write(parts: Iterable[Corpus], header: Header, path: str | Path, options: dict[str, Any]) -> None:
    path = Path(path)
    module, _, writer = _format(path)
    if options and module != "published":
        raise AbsynthError(min(options), options[min(options)], "no options: only .json has form and dialect")
    unknown = set(options) - {"form", "dialect"}
    if unknown:
        raise AbsynthError(min(unknown), options[min(unknown)], "one of the options form and dialect")
    write = getattr(import_module(f"absynth.formats.{module}"), writer)
    with whole_file(path) as partial:
        write(_never_none(parts, header), header, partial, **options)


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


def _never_none(parts: Iterable[Corpus], header: Header) -> Iterator[Corpus]:
    some = False
    for part in parts:
        some = True
        yield part
    if not some:
        yield empty(header)
