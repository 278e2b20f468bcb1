"""Files of minimal pairs: JSON lines, JSON, CSV, TSV, parquet and labelled lines, compressed or not; folders of them."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmtrace.errors import DataError
from lmtrace.text.minimal_pair import MinimalPair
from lmtrace.text.readers import tables
from lmtrace.text.readers.lines import numbered, suffixes, whole
from lmtrace.text.readers.source import Source

GOOD_BAD = (
    ("sentence_good", "sentence_bad"), ("good_sentence", "bad_sentence"), ("sen", "wrong_sen"), ("good", "bad"),
    ("grammatical", "ungrammatical"), ("grammatical_sentence", "ungrammatical_sentence"),
    ("acceptable", "unacceptable"), ("correct", "incorrect"), ("source_sentence", "target_sentence"),
)  # fmt: skip
"""Names of the columns of the right and of the wrong sentence, in lower case: BLiMP and SLING, JBLiMP, MultiBLiMP, RuBLiMP."""
KINDS = ("uid", "pid", "paradigm", "phenomenon", "category", "linguistics_term", "domain")
"""Names of the column that says what a pair tests; the first that a row fills."""
SENTENCES = ("sentence", "text")
LABELS = ("grammaticality", "label", "acceptability", "acceptable", "gold")
ITEMS = ("item", "pair_id", "pairid")
RIGHT = ("true", "1", "grammatical", "good", "acceptable", "correct")
WRONG = ("false", "0", "ungrammatical", "bad", "unacceptable", "incorrect")
EWOK = ("context1", "context2", "target1", "target2")
CHOICE = ("input_prefix", "options")
FILES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".json", ".txt")
_NAME_THEM = "Name the columns: read_pairs(path, columns={'good': ..., 'bad': ...}), and pass Pairs(pairs=tuple(...))"

logger = logging.getLogger(__name__)

Row = tuple[str, Mapping[str, Any]]
"""Where it stands ("line 3"), and its cells by column."""
Read = Callable[[Sequence[Row]], list[MinimalPair]]


def read_pairs(
    path: str | Path, *, columns: Mapping[str, str] | None = None, first: str | None = None
) -> list[MinimalPair]:
    """Read minimal pairs from a file, or from every file of a folder and of the folders in it.

    Parameters
    ----------
    columns
        Column of "good" and of "bad", and where there is one of "kind", where their names do not tell.
    first
        "good" or "bad": which sentence of two lines comes first, in plain lines without labels (Zorro).

    Raises
    ------
    DataError
        With file and line, where a row holds no pair, and for a folder without pairs; nothing half-read is returned.
    """
    path = Path(path)
    if path.is_dir():
        return [pair for file in _files(path) for pair in read_pairs(file, columns=columns, first=first)]
    suffix = suffixes(path)[0]
    if suffix not in FILES:
        raise DataError(
            f"{path}: cannot tell by its name how pairs are written",
            f"Readable: {', '.join(FILES)}, each also compressed",
        )
    rows = list(_ROWS[suffix](path))
    if not rows:
        raise DataError(f"{path} holds no pairs", "Expected one pair a row")
    if suffix == ".txt" and rows[0][1].keys() == {"0"}:
        return _alternating(path, rows, first)
    return _layout(path, rows, columns)(rows)


def _files(folder: Path) -> list[Path]:
    """Return the files of pairs below a folder: of the first kind of `FILES` that there is, so that notes are left out."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    tables_of = [p for p in found if suffixes(p)[0] in FILES[:5]]
    files = tables_of or [
        p for p in found if suffixes(p)[0] == ".txt" and not p.stem.lower().startswith(("readme", "license"))
    ]
    if not files:
        raise DataError(
            f"{folder}: no file of minimal pairs in it", f"Expected files {', '.join(FILES)}, each also compressed"
        )
    return files


# ---- rows ----
def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in numbered(path):
        if line.strip():
            yield f"line {number}", _object(path, f"line {number}", line)


def _object(path: Path, where: str, text: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, {where}: expected a JSON object with two sentences ({str(error)[:60]})") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, {where}: expected a JSON object with two sentences, got {str(row)[:40]!r}")
    return row


def _json(path: Path) -> Iterator[Row]:
    try:
        content = json.loads(whole(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({str(error)[:60]})", "The file is truncated or damaged") from error
    if isinstance(content, dict) and "predictions" in content:
        raise DataError(f"{path}: a suite of SyntaxGym, whose regions are compared", "Pass it to Suites(suites=...)")
    lists = [v for v in content.values() if isinstance(v, list)] if isinstance(content, dict) else [content]
    if len(lists) != 1 or not isinstance(lists[0], list) or not all(isinstance(row, dict) for row in lists[0]):
        raise DataError(f"{path}: expected a list of JSON objects with two sentences")
    for number, row in enumerate(lists[0], 1):
        yield f"record {number}", row


def _table(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file under the names of its first line; numbers where that is no line of names."""
    text = whole(path)
    start = text.partition("\n")[0]
    delimiter = max("\t,;", key=start.count)
    reader = csv.reader(
        io.StringIO(text), delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    )
    names: list[str] = []
    try:
        for cells in reader:
            if not names and _is_header(cells):
                names = cells
                continue
            names = names or [str(i) for i in range(len(cells))]
            if len(cells) != len(names) and any(cells):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} columns, expected {len(names)} as in line 1",
                    "Correct the line, or quote its sentences",
                )
            if any(cells):
                yield f"line {reader.line_num}", dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a table ({error})", "Correct the line") from error


def _is_header(cells: Sequence[str]) -> bool:
    """Return whether a first line names columns: it holds no sentence and no label."""
    words = {cell.strip().lower() for cell in cells}
    known = {name for pair in GOOD_BAD for name in pair} | {*KINDS, *SENTENCES, *LABELS, *EWOK, *CHOICE}
    if words & (known - set(RIGHT) - set(WRONG)) or {"good", "bad"} <= words:
        return True
    return len(words) > 1 and all(len(cell.split()) < 2 for cell in cells) and not words & {"true", "false"}


def _lines(path: Path) -> Iterator[Row]:
    """Yield the lines of a text file: label and sentence between tabs (CLAMS), or a sentence alone."""
    for number, line in numbered(path):
        cells = line.rstrip("\r\n").split("\t")
        if line.strip():
            yield f"line {number}", {str(i): cell for i, cell in enumerate(cells)}


def _parquet(path: Path) -> Iterator[Row]:
    for number, row, _ in tables.units(Source(path)):
        yield f"row {number}", row


_ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _table, ".tsv": _table, ".parquet": _parquet, ".json": _json,
    ".txt": _lines,
}  # fmt: skip


# ---- from rows to pairs ----
def _layout(path: Path, rows: Sequence[Row], columns: Mapping[str, str] | None) -> Read:
    """Return what makes pairs of the rows, by the names of the first row's columns."""
    names = {str(name).strip().lower(): name for name in rows[0][1]}
    if columns is not None:
        unknown = [name for name in columns.values() if name not in rows[0][1]]
        if unknown or not {"good", "bad"} <= set(columns):
            raise DataError(
                f"{path}: no column {', '.join(unknown) or 'for good and bad'}",
                f"It has: {', '.join(map(str, rows[0][1]))}",
            )
        return lambda rows: [_two(path, row, columns["good"], columns["bad"], columns.get("kind")) for row in rows]
    for good, bad in GOOD_BAD:
        if good in names and bad in names:
            return lambda rows: [_two(path, row, names[good], names[bad]) for row in rows]
    if all(name in names for name in EWOK):
        return lambda rows: [pair for row in rows for pair in _conditional(path, row, names)]
    if all(name in names for name in CHOICE):
        return lambda rows: [_choice(path, row, names) for row in rows]
    if {"sentence_a", "sentence_b", "label"} <= set(names):
        return lambda rows: [_labelled_two(path, row, names) for row in rows]
    sentence = next((names[name] for name in SENTENCES if name in names), None)
    label = next((names[name] for name in LABELS if name in names), None)
    if sentence is not None and label is not None:
        item = next((names[name] for name in ITEMS if name in names), None)
        return lambda rows: _labelled(path, rows, sentence, label, item, None)
    return _guessed(path, rows)


def _two(path: Path, row: Row, good: str, bad: str, kind: str | None = None) -> MinimalPair:
    severity = row[1].get("severity")
    try:
        exact = None if severity in (None, "") else float(severity)
    except (TypeError, ValueError):
        raise DataError(f"{path}, {row[0]}: severity is {severity!r}, expected a number") from None
    return MinimalPair(_text(path, row, good), _text(path, row, bad), _kind(path, row, kind), exact)


def _text(path: Path, row: Row, column: str) -> str:
    value = row[1].get(column)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{path}, {row[0]}: {column} is {str(value)[:40]!r}, expected an object with the text of a sentence there"
        )
    return value


def _kind(path: Path, row: Row, column: str | None = None) -> str:
    """Return what a row tests: by its column, else by the first of `KINDS` that it fills, else the file's name."""
    if column is not None:
        return str(row[1][column])
    cells = {str(name).strip().lower(): value for name, value in row[1].items()}
    found = next((cells[name] for name in KINDS if cells.get(name) not in (None, "")), None)
    return str(found) if found is not None else path.name.partition(".")[0]


def _conditional(path: Path, row: Row, names: Mapping[str, Any]) -> list[MinimalPair]:
    """Return EWoK's two comparisons: each target is the right one in its own context."""
    contexts = [_text(path, row, names[name]) for name in EWOK[:2]]
    targets = [_text(path, row, names[name]) for name in EWOK[2:]]
    kind = _kind(path, row)
    return [
        MinimalPair(targets[0], targets[1], kind, context=contexts[0]),
        MinimalPair(targets[1], targets[0], kind, context=contexts[1]),
    ]


def _choice(path: Path, row: Row, names: Mapping[str, Any]) -> MinimalPair:
    """Return a choice among several answers, of which the first is right."""
    options = row[1][names["options"]]
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(o, str) and o.strip() for o in options):
        raise DataError(f"{path}, {row[0]}: options is {str(options)[:40]!r}, expected a list of at least two texts")
    prefix = row[1][names["input_prefix"]]
    level = row[1].get(names.get("numops", ""))
    kind = _kind(path, row) if level is None else f"{path.name.partition('.')[0]} {level}"
    return MinimalPair(
        options[0].strip(),
        options[1].strip(),
        kind,
        context=str(prefix).strip(),
        further=tuple(o.strip() for o in options[2:]),
    )


def _labelled_two(path: Path, row: Row, names: Mapping[str, Any]) -> MinimalPair:
    """Return the pair of a row that says by 0 or 1 which of its two sentences is right (QFrBLiMP)."""
    label = str(row[1][names["label"]]).strip().lower()
    if label not in ("0", "1", "a", "b"):
        raise DataError(f"{path}, {row[0]}: label is {label!r}, expected 0 where sentence_a is right, or 1")
    a, b = (_text(path, row, names[name]) for name in ("sentence_a", "sentence_b"))
    good, bad = (a, b) if label in ("0", "a") else (b, a)
    return MinimalPair(good, bad, _kind(path, row))


def _labelled(
    path: Path, rows: Sequence[Row], sentence: str, label: str, item: str | None, kind: str | None
) -> list[MinimalPair]:
    """Return the pairs of rows that hold one sentence and its label: a good one with the bad ones of its item.

    Without items, every bad sentence belongs to the good one before it, or to the next where none came before.
    """
    pairs: list[MinimalPair] = []
    good: tuple[Any, str] | None = None
    waiting: list[tuple[Any, str, Row]] = []
    for row in rows:
        text, value = _text(path, row, sentence), str(row[1][label]).strip().lower()
        key = (_kind(path, row, kind), row[1].get(item) if item else None)
        if value not in (*RIGHT, *WRONG):
            raise DataError(f"{path}, {row[0]}: {label} is {value!r}, expected {RIGHT[0]} or {WRONG[0]}, 1 or 0")
        if value in WRONG and good is not None and good[0] == key:
            pairs.append(MinimalPair(good[1], text, key[0]))
        elif value in WRONG:
            waiting.append((key, text, row))
        else:
            mine = [bad for other, bad, _ in waiting if other == key]
            pairs += [MinimalPair(text, bad, key[0]) for bad in mine]
            waiting = [w for w in waiting if w[0] != key]
            good = None if mine and item is None else (key, text)
    if waiting:
        raise DataError(f"{path}, {waiting[0][2][0]}: no good sentence belongs to the bad one", "Sort the rows by pair")
    return pairs


def _guessed(path: Path, rows: Sequence[Row]) -> Read:
    """Guess which column labels and which holds the sentence (CLiMP, CLAMS), and say what was taken."""
    columns = list(rows[0][1])
    cells = {c: [str(row.get(c, "")).strip() for _, row in rows] for c in columns}
    truth = [
        c
        for c in columns
        if len({v.lower() for v in cells[c]}) == 2 and all(v.lower() in (*RIGHT, *WRONG) for v in cells[c])
    ]
    others = [c for c in columns if c not in truth]
    if len(truth) != 1 or not others:
        raise DataError(
            f"{path}, {rows[0][0]}: no pair under the columns {', '.join(map(str, columns))}, expected two such as sentence_good and sentence_bad",
            _NAME_THEM,
        )
    sentence = max(others, key=lambda c: len(set(cells[c])) * sum(map(len, cells[c])))
    few = [c for c in others if c != sentence and len(set(cells[c])) <= max(1, len(rows) // 2)]
    kind = max(few, key=lambda c: (len(set(cells[c])), columns.index(c)), default=None)  # the finer one, or the later
    logger.warning(
        "%s: guessed columns: sentence %r, label %r, kind %r",
        path,
        sentence,
        truth[0],
        "the file" if kind is None else kind,
    )
    return lambda rows: _labelled(path, rows, sentence, truth[0], None, kind)


def _alternating(path: Path, rows: Sequence[Row], first: str | None) -> list[MinimalPair]:
    """Return the pairs of lines in twos, where the caller says which comes first."""
    if first not in ("good", "bad"):
        raise DataError(
            f"{path}, line 1: nothing says which of two lines is the good one",
            "read_pairs(path, first='bad') for Zorro, or first='good', and pass Pairs(pairs=tuple(...))",
        )
    if len(rows) % 2:
        raise DataError(f"{path}, {rows[-1][0]}: a sentence without a partner, expected an even number of lines")
    texts = [_text(path, row, "0") for row in rows]
    kind = path.name.partition(".")[0]
    halves = texts[0::2], texts[1::2]
    good, bad = halves if first == "good" else halves[::-1]
    return [MinimalPair(g, b, kind) for g, b in zip(good, bad, strict=True)]
