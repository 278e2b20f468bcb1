"""Lines of a plain or compressed UTF-8 file, numbered, with errors that name file and line."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from lmtrace.errors import DataError

COMPRESSED = (".gz", ".xz")


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, decompressing `.gz` and `.xz`."""
    try:
        if path.suffix.lower() == ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        return cast(BinaryIO, lzma.open(path, "rb")) if path.suffix.lower() == ".xz" else open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})", "Check the path") from error


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its line end).

    Raises
    ------
    DataError
        A file that is not UTF-8, or whose compressed stream is truncated or damaged.
    """
    number = 0
    with open_binary(path) as file:
        try:
            for raw in file:
                number += 1
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not UTF-8 (byte {error.object[error.start]:#04x})", "Convert the file to UTF-8"
            ) from error
        except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{path}, after line {number}: the compressed file is truncated or damaged ({error})", "Get it again"
            ) from error
        except OSError as error:
            raise DataError(
                f"{path}, after line {number}: cannot be read ({error.strerror})", "Check the path"
            ) from error


def whole(path: Path) -> str:
    """Return the text of a whole file."""
    return "".join(line for _, line in numbered(path))
