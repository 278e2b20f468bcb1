"""Corpora on disk: what `save`, `load` and `generate_to` do whatever the format.

A file is written under a temporary name and renamed when it is complete. A file is read whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from absynth.corpus import Corpus
from absynth.errors import AbsynthError
from absynth.formats.by_suffix import FORMATS, format_of, save, whole_file, write
from absynth.formats.header import Header
from absynth.grammar import Grammar
from absynth.sample import stream
from absynth.version import VERSION

__all__ = ["FORMATS", "generate_to", "load", "save", "scan", "whole_file"]


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
    module, reader, _ = format_of(path)
    if not path.is_file():
        raise AbsynthError("path", str(path), "a file that exists")
    return Corpus.of(getattr(import_module(f"absynth.formats.{module}"), reader)(path))


def scan(path: str | Path) -> Iterator[Corpus]:
    """Yield a .parquet or .jsonl file of a generated corpus in parts, in constant memory; other files are one part.

    Raises
    ------
    AbsynthError
        As `load`; what is wrong further down in the file shows only when that part is asked for.
    """
    path = Path(path)
    module, _, _ = format_of(path)
    if module not in ("parquet", "jsonl"):
        yield load(path)
        return
    if not path.is_file():
        raise AbsynthError("path", str(path), "a file that exists")
    yield from map(Corpus.of, import_module(f"absynth.formats.{module}").read_parts(path))


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
    write(watched(), Header(n, grammar, provenance), path, options)
