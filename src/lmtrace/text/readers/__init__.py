"""Readers of annotated text, chosen by the file's suffix: `read` a whole file, or `iterate` over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from lmtrace.errors import DataError
from lmtrace.text.readers import conllu, json_lines, plain, published
from lmtrace.text.readers.lines import COMPRESSED
from lmtrace.text.sentences import AnnotatedSentence

_READERS: dict[str, Callable[[Path], Iterator[AnnotatedSentence]]] = {
    ".conllu": conllu.sentences,
    ".jsonl": json_lines.sentences,
    ".json": published.sentences,
    ".txt": plain.sentences,
}
_NOTES = {".json": published.NOTES}


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
        What a reader of results must know of a layer ("role": "positional ...").
    """

    sentences: tuple[AnnotatedSentence, ...]
    path: Path
    notes: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sentences)

    @overload
    def __getitem__(self, index: int) -> AnnotatedSentence: ...
    @overload
    def __getitem__(self, index: slice) -> AnnotatedCorpus: ...
    def __getitem__(self, index: int | slice) -> AnnotatedSentence | AnnotatedCorpus:
        if isinstance(index, slice):
            return AnnotatedCorpus(self.sentences[index], self.path, self.notes)
        return self.sentences[index]


def kind_of(path: str | Path) -> str:
    """Return the suffix that decides how a path is read (".conllu" for "dev.conllu.xz"), or raise `DataError`."""
    suffixes = [s.lower() for s in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in _READERS:
        raise DataError(
            f"{path}: cannot tell the format by its name",
            f"Readable: {', '.join(_READERS)}, each also with .gz or .xz; as a corpus of ABSynth also .parquet",
        )
    return suffixes[-1]


def iterate(path: str | Path) -> Iterator[AnnotatedSentence]:
    """Yield the sentences of a file one by one, without holding the file; errors come when their line is met."""
    return _READERS[kind_of(path)](Path(path))


def read(path: str | Path) -> AnnotatedCorpus:
    """Read a whole file of annotated sentences.

    Formats: CoNLL-U (`.conllu`), JSON lines with `tokens` and `labels` (`.jsonl`), the JSON of the published ABSynth
    (`.json`), one sentence a line (`.txt`); each also compressed (`.gz`, `.xz`).

    Raises
    ------
    DataError
        A missing, empty, truncated or malformed file, with the line and what was expected. Nothing half-read is
        returned.
    """
    kind = kind_of(path)
    sentences = tuple(iterate(path))
    if not sentences:
        raise DataError(f"{path}: the file holds no sentences", "Check that it is the right file")
    return AnnotatedCorpus(sentences, Path(path), dict(_NOTES.get(kind, {})))
