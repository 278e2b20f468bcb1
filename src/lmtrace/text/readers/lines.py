"""Lines of a plain or compressed UTF-8 file, numbered, with errors that name file and line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from lmtrace.errors import DataError

Line = tuple[int, str]
"""Number from 1, and text without its line end."""


def _open_zst(path: Path, _: str) -> Any:
    """Return the decompressed file in memory; EOFError for one that is truncated or damaged."""
    try:
        zstandard: Any = import_module("zstandard")
    except ImportError:
        raise DataError(f"{path}: nothing here reads .zst", "pip install zstandard, or decompress the file") from None
    packed, text = path.read_bytes(), io.BytesIO()
    while packed:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            text.write(frame.decompress(packed))
        except zstandard.ZstdError as error:
            raise EOFError(error) from error
        if not frame.eof:
            raise EOFError("it ends within a frame")
        packed = frame.unused_data
    text.seek(0)
    return text


_OPEN: dict[str, Callable[[Path, str], Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
    ".zst": _open_zst,
}
COMPRESSED = tuple(_OPEN)


def suffixes(path: Path) -> tuple[str, str]:
    """Return (suffix of the format, suffix of the compression), in lower case: (".conllu", ".xz"); "" for none."""
    found = ["", *(suffix.lower() for suffix in path.suffixes)]
    packed = found.pop() if found[-1] in COMPRESSED else ""
    return found[-1], packed


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, decompressing `.gz`, `.xz`, `.bz2` and `.zst`."""
    try:
        return cast(BinaryIO, _OPEN.get(path.suffix.lower(), open)(path, "rb"))
    except EOFError as error:
        raise _damaged(path, 0, error) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})", "Check the path") from error


def numbered(path: Path) -> Iterator[Line]:
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
            raise _damaged(path, number, error) from error
        except OSError as error:
            if error.errno is None:  # bz2 says so of a damaged stream
                raise _damaged(path, number, error) from error
            raise DataError(
                f"{path}, after line {number}: cannot be read ({error.strerror})", "Check the path"
            ) from error


def _damaged(path: Path, number: int, error: Exception) -> DataError:
    return DataError(
        f"{path}, after line {number}: the compressed file is truncated or damaged ({error})", "Get it again"
    )


def whole(path: Path) -> str:
    """Return the text of a whole file."""
    return "".join(line for _, line in numbered(path))


def head(path: Path, lines: int = 400) -> list[str]:
    """Return the first lines of a file, without line ends."""
    return [line.rstrip("\r\n") for _, line in islice(numbered(path), lines)]


def blocks(path: Path, closed: bool = False) -> Iterator[list[Line]]:
    """Yield the lines between empty ones.

    Parameters
    ----------
    closed
        Whether a last line without a line end is an error: the file was cut.
    """
    block: list[Line] = []
    line = "\n"
    number = 0
    for number, line in numbered(path):
        content = line.rstrip("\r\n")
        if content.strip():
            block.append((number, content))
        elif block:
            yield block
            block = []
    if block:
        yield block
    if block and closed and not line.endswith("\n"):
        raise DataError(
            f"{path}, line {number}: the file ends within a sentence, expected an empty line after its last word",
            "The file is truncated, or lacks the empty line after its last sentence",
        )
