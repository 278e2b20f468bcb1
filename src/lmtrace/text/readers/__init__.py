"""Readers of annotated text: `read` a whole file or table, or `iterate` over it; docs/formats.md lists the formats."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from lmtrace.errors import ConfigError, DataError
from lmtrace.text.readers import (
    brackets,
    columns,
    conll2009,
    conll2012,
    conllu,
    conllx,
    forms,
    json_lines,
    plain,
    published,
    scan,
    synthetic,
    tables,
)
from lmtrace.text.readers.sniff import format_of
from lmtrace.text.readers.source import Reader, Source, Unit
from lmtrace.text.sentences import AnnotatedSentence

READERS: dict[str, Reader] = {
    "conllu": conllu.READER,
    "conllx": conllx.READER,
    "conll2009": conll2009.READER,
    "conll2012": conll2012.READER,
    "columns": columns.READER,
    "brackets": brackets.READER,
    "forms": forms.READER,
    "scan": scan.READER,
    "json-lines": json_lines.READER,
    "json": published.READER,
    "parquet": tables.READER,
    "plain": plain.READER,
}
"""Name of a format -> its reader; `format=` takes these names."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedCorpus(Sequence[AnnotatedSentence]):
    """The sentences of one file.

    Attributes
    ----------
    sentences
        In the order of the file.
    path
        Where they came from.
    notes
        What a reader of results must know of a layer ("role": "positional ..."), and which keys were passed over.
    skipped
        Broken sentences that were left out, on request.
    """

    sentences: tuple[AnnotatedSentence, ...]
    path: Path
    notes: dict[str, str] = field(default_factory=dict)
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.sentences)

    @overload
    def __getitem__(self, index: int) -> AnnotatedSentence: ...
    @overload
    def __getitem__(self, index: slice) -> AnnotatedCorpus: ...
    def __getitem__(self, index: int | slice) -> AnnotatedSentence | AnnotatedCorpus:
        if isinstance(index, slice):
            return AnnotatedCorpus(self.sentences[index], self.path, self.notes, self.skipped)
        return self.sentences[index]

    def select(self, rows: Sequence[int]) -> AnnotatedCorpus:
        """Return these sentences, in this order, with the notes of the file."""
        return AnnotatedCorpus(tuple(self.sentences[i] for i in rows), self.path, self.notes, self.skipped)


def is_readable(source: Any) -> bool:
    """Return whether `read` takes a source: a path, a data set, or a list of dictionaries."""
    tables.refuse_splits(source)
    return isinstance(source, (str, Path)) or tables.is_table(source)


def iterate(source: Any, *, format: str | None = None) -> Iterator[AnnotatedSentence]:
    """Yield the sentences of a file one by one, without holding the file; errors come when their line is met."""
    opened, reader, units = _open(source, format, ())
    for unit in units:
        found = reader.sentence(opened, unit)
        if found is not None:
            yield found


def read(
    source: Any, *, format: str | None = None, layers: Sequence[str] | None = None, skip_broken: bool = False
) -> Any:
    """Read a whole file or table of annotated sentences.

    Parameters
    ----------
    source
        A path, also of a compressed file; a `datasets.Dataset`; a list of dictionaries.
    format
        A name of `READERS`, where neither suffix nor content tells it.
    layers
        Layers that are wanted besides those that are always read: attributes of CoNLL-U's MISC by name, "*" for all.
    skip_broken
        Leave sentences out that break their format; they are counted in `skipped` and told.

    Returns
    -------
    AnnotatedCorpus, or `absynth.Corpus`
        The latter, with its grammar, of a file that ABSynth wrote with one.

    Raises
    ------
    DataError
        A missing, empty, truncated or malformed file, with the line and what was expected. Nothing half-read is
        returned.
    """
    if format is None and isinstance(source, (str, Path)) and _is_synthetic(Path(source)):
        return synthetic.load(Path(source))
    opened, reader, units = _open(source, format, tuple(layers or ()))
    sentences: list[AnnotatedSentence] = []
    broken: list[str] = []
    for unit in units:
        try:
            found = reader.sentence(opened, unit)
        except DataError as error:
            if not skip_broken:
                raise
            broken.append(str(error))
            continue
        if found is not None:
            sentences.append(found)
    if not sentences:
        told = f", {len(broken)} broken ones were skipped; the first: {broken[0]}" if broken else ""
        raise DataError(f"{opened.path}: the file holds no sentences{told}", "Check that it is the right file")
    notes = opened.told()
    if broken:
        notes["skipped"] = f"{len(broken)} broken sentences; the first: {broken[0]}"
        logger.warning("%s: %d broken sentences skipped; the first: %s", opened.path, len(broken), broken[0])
    _tell_unlabelled(opened, sentences, notes)
    return AnnotatedCorpus(tuple(sentences), opened.path, notes, len(broken))


def _open(source: Any, format: str | None, layers: tuple[str, ...]) -> tuple[Source, Reader, Iterator[Unit]]:
    if format is not None and format not in READERS:
        raise ConfigError(f"there is no format {format!r}", f"Known: {', '.join(READERS)}")
    tables.refuse_splits(source)
    if tables.is_table(source):
        return Source(tables.name_of(source), layers), tables.READER, tables.rows(source)
    path = Path(source)
    reader = READERS[format or format_of(path)]
    opened = Source(path, layers)
    return opened, reader, reader.units(opened)


def _is_synthetic(path: Path) -> bool:
    try:
        return path.is_file() and synthetic.is_synthetic(path)
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _tell_unlabelled(source: Source, sentences: Sequence[AnnotatedSentence], notes: dict[str, str]) -> None:
    """Say aloud where keys were passed over and no word has a label: the labels may be under them."""
    layers = Counter(layer for sentence in sentences for layer in sentence.labels)
    if "passed over" in notes and not layers and all(sentence.heads is None for sentence in sentences):
        logger.warning("%s: no word has a label; passed over: %s", source.path, notes["passed over"])
