"""Which reader a file is for: by its suffix where that says enough, else by its first lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from lmtrace.errors import DataError
from lmtrace.text.readers import columns, scan
from lmtrace.text.readers.lines import COMPRESSED, head, suffixes

BY_SUFFIX = {
    ".conllup": "conllu", ".cupt": "conllu", ".conllulex": "conllu", ".conllx": "conllx", ".jsonl": "json-lines",
    ".ndjson": "json-lines", ".json": "json", ".parquet": "parquet", ".gold_conll": "conll2012",
    ".v4_gold_conll": "conll2012", ".gold_skel": "conll2012", ".mrg": "brackets", ".trees": "brackets",
    ".ptb": "brackets",
}  # fmt: skip
"""Suffixes of one format."""
BY_CONTENT = (
    ".conllu", ".conll", ".tsv", ".txt", ".text", ".train", ".dev", ".test", ".valid", ".iob", ".iob2", ".bio", ".ner",
    ".pos", ".tags", ".dat", ".data",
)  # fmt: skip
"""Suffixes under which several formats are found."""


def format_of(path: Path) -> str:
    """Return the name of the format of a file, or raise `DataError` where neither name nor content tells it."""
    suffix = suffixes(path)[0]
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    if suffix not in BY_CONTENT:
        known = ", ".join((*BY_SUFFIX, *BY_CONTENT))
        packed = ", ".join(COMPRESSED)
        raise DataError(
            f"{path}: cannot tell the format by its name",
            f"Readable: {known}, each also with {packed}; or name the format: read(..., format=)",
        )
    lines = [line for line in head(path) if line.strip()]
    if suffix == ".conllu":
        return "conllu"
    for name, is_so in _CONTENTS:
        if is_so(lines):
            return name
    if suffix == ".tsv" or _is_table(lines):
        shown = (lines or [""])[0][:60]
        raise DataError(
            f"{path}, line 1: a table that no reader knows ({shown!r})",
            "Name the format, read(..., format='columns') for a word and its tags a line, 'plain' for text; "
            "pairs of sentences are for Pairs(pairs=...)",
        )
    return "plain"


def _is_conllu(lines: Sequence[str]) -> bool:
    """Ten columns whose features have names, or CoNLL-U's own comments."""
    if any(line.startswith(("# global.columns", "# sent_id", "# newdoc")) for line in lines[:20]):
        return any(line.count("\t") >= 2 for line in lines)
    return False


def _is_conllx(lines: Sequence[str]) -> bool:
    return _counted(lines, lambda cells: len(cells) in (8, 10))


def _is_conll2009(lines: Sequence[str]) -> bool:
    return _counted(lines, lambda cells: len(cells) >= 14)


def _counted(lines: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> bool:
    """Return whether the lines are words between tabs that are counted from 1."""
    rows = [line.split("\t") for line in lines[:5] if not line.startswith("#")]
    return bool(rows) and rows[0][0] == "1" and fits(rows[0]) and all(row[0].isdigit() for row in rows)


def _is_conll2012(lines: Sequence[str]) -> bool:
    if any(line.startswith("#begin document") for line in lines[:5]):
        return True
    rows = [line.split() for line in lines[:5] if not line.startswith("#")]
    return bool(rows) and all(len(row) >= 8 and row[2].isdigit() and "*" in row[5] for row in rows)


def _is_brackets(lines: Sequence[str]) -> bool:
    """A bracket within a bracket at once, with a label between them at most: nobody begins a text so."""
    return re.match(r"\*x\*|\(\s*[^\s()]*\s*\(", "\n".join(lines[:4]).lstrip()) is not None


def _is_scan(lines: Sequence[str]) -> bool:
    return bool(lines) and all(scan.LINE.fullmatch(line) for line in lines[:20])


def _is_columns(lines: Sequence[str]) -> bool:
    return columns.names(columns.cells_of(lines)) is not None


def _is_form(lines: Sequence[str]) -> bool:
    """Two or three columns, of which the first is a sentence and the second says as much in other words."""
    rows = [line.split("\t") for line in lines[:50]]
    whole = [row for row in rows if len(row) in (2, 3)]
    if 5 * len(whole) < 4 * len(rows) or not whole:
        return False
    rows = whole
    spaced = sum(" " in row[0].strip() for row in rows)
    truth = all(row[0].strip().lower() in ("true", "false", "0", "1") for row in rows)
    return not truth and 2 * spaced >= len(rows)


def _is_table(lines: Sequence[str]) -> bool:
    """Return whether nearly every line has as many tabs, and at least one: nobody writes text so."""
    return columns.usual([line.count("\t") for line in lines]) > 0


_CONTENTS = (
    ("conllu", _is_conllu), ("conll2009", _is_conll2009), ("conllx", _is_conllx), ("conll2012", _is_conll2012),
    ("scan", _is_scan), ("brackets", _is_brackets), ("columns", _is_columns), ("forms", _is_form),
)  # fmt: skip
"""In this order: what is told by more marks comes first."""
