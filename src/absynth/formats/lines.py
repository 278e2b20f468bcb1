"""Text files, line by line: decoded strictly, with line numbers, never more than one line in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from absynth.errors import AbsynthError

LONGEST_LINE = 16 * 1024 * 1024


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line without its end). Every line must have an end, so that a cut file is noticed.

    Raises
    ------
    AbsynthError
        For a file that cannot be read, a line that is not UTF-8, one of more than 16 MiB, or a last line without end.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise AbsynthError(f"{path}:{number}", f"more than {LONGEST_LINE:,} bytes", "a shorter line")
                if not line.endswith(b"\n"):
                    raise AbsynthError(
                        f"{path}:{number}",
                        "the end of the file",
                        "a line end after the last line: the file is truncated",
                    )
                try:
                    yield number, line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise AbsynthError(
                        f"{path}:{number}", f"byte {error.start + 1} of the line", "text in UTF-8"
                    ) from error
    except OSError as error:
        raise AbsynthError(str(path), error.strerror, "a file that can be read") from error
