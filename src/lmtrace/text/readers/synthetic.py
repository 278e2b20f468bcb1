"""Files that ABSynth wrote, with their grammar: the one corpus, whatever the suffix and compression."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lmtrace.errors import DataError
from lmtrace.text.readers.lines import head, open_binary, suffixes

_HEADER = re.compile(r'\ufeff?\s*(# absynth = )?\{\s*"absynth"\s*:')


def is_synthetic(path: Path) -> bool:
    """Return whether a file is a corpus of ABSynth that keeps its grammar: it says so at its beginning."""
    suffix = suffixes(path)[0]
    if suffix == ".parquet":
        return _parquet_header(path)
    if suffix not in (".jsonl", ".conllu", ".json"):
        return False
    first = head(path, 2)
    return _HEADER.match("".join(first)) is not None


def load(path: Path) -> Any:
    """Return the `absynth.Corpus` of a file; a compressed one is unpacked first.

    Raises
    ------
    DataError
        For a file that is damaged.
    """
    import absynth

    suffix, packed = suffixes(path)
    try:
        if not packed:
            return absynth.load(path)
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / f"{path.name.split('.')[0]}{suffix}"
            with open_binary(path) as file, plain.open("wb") as out:
                shutil.copyfileobj(file, out)
            return absynth.load(plain)
    except absynth.AbsynthError as error:
        raise DataError(f"{path}: {error}") from error
    except (EOFError, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error})", "Get it again") from error


def _parquet_header(path: Path) -> bool:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        return False
    try:
        with open_binary(path) as file:
            return b"absynth" in (pq.read_schema(file).metadata or {})
    except (OSError, ValueError, EOFError):
        return False
