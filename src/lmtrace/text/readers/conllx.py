"""CoNLL-X (2006, 2007): ID FORM LEMMA CPOSTAG POSTAG FEATS HEAD DEPREL PHEAD PDEPREL, between tabs."""

from __future__ import annotations

from collections.abc import Iterator

from lmtrace.text.readers.lines import Line, blocks
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.sentences import AnnotatedSentence

COLUMNS = ("ID", "FORM", "LEMMA", "CPOSTAG", "POSTAG", "FEATS", "HEAD", "DEPREL", "PHEAD", "PDEPREL")


def units(source: Source) -> Iterator[list[Line]]:
    """Yield the lines of every sentence."""
    return blocks(source.path)


def sentence(source: Source, block: list[Line]) -> AnnotatedSentence | None:
    """Return a sentence with its tree: layers "lemma", "upos" (coarse tag), "xpos" (fine tag), "deprel", features.

    Features without a name, which the shared tasks allow, are one layer "feats".
    """
    rows = [(number, content.split("\t")) for number, content in block if not content.startswith("#")]
    if not rows:
        return None
    layers: dict[str, list[str | None]] = {}
    for i, (number, cells) in enumerate(rows):
        if len(cells) not in (8, 10):
            raise source.broken(
                number, f"{len(cells)} columns, expected 10 (or the first 8) separated by tabs ({' '.join(COLUMNS)})"
            )
        if source.integer(number, cells[0], "ID") != i + 1:
            raise source.broken(number, f"word {cells[0]}, expected word {i + 1}")
        if not cells[1]:
            raise source.broken(number, "the word has no form, expected text in column 2 (FORM)")
        values = {"lemma": cells[2], "upos": cells[3], "xpos": cells[4], **features(cells[5])}
        for name, value in values.items():
            if value not in ("_", ""):
                layers.setdefault(name, [None] * len(rows))[i] = value
    return AnnotatedSentence(
        tokens=tuple(cells[1] for _, cells in rows),
        labels={name: tuple(values) for name, values in layers.items()},
        heads=source.heads([number for number, _ in rows], [cells[6] for _, cells in rows]),
        deprels=tuple(None if cells[7] == "_" else cells[7] for _, cells in rows),
    )


READER = Reader("CoNLL-X (2006, 2007)", units, sentence)


def features(text: str) -> dict[str, str]:
    """Return the features of a word: by name where they have one ("g=m|n="), else together as "feats" ("sg|masc")."""
    if text == "_":
        return {}
    parts = [part.partition("=") for part in text.split("|")]
    if all(name and sign for name, sign, _ in parts):
        return {name: value for name, _, value in parts}
    return {"feats": text}
