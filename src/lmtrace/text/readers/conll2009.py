"""CoNLL-2009: a tree and semantic roles, 14 columns between tabs and one more for each predicate of the sentence."""

from __future__ import annotations

from collections.abc import Iterator

from lmtrace.text.readers.conllx import features
from lmtrace.text.readers.lines import Line, blocks
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.readers.spans import Edge, role_layers
from lmtrace.text.sentences import AnnotatedSentence

COLUMNS = (
    "ID", "FORM", "LEMMA", "PLEMMA", "POS", "PPOS", "FEAT", "PFEAT", "HEAD", "PHEAD", "DEPREL", "PDEPREL", "FILLPRED",
    "PRED",
)  # fmt: skip


def units(source: Source) -> Iterator[list[Line]]:
    """Yield the lines of every sentence."""
    return blocks(source.path)


def sentence(source: Source, block: list[Line]) -> AnnotatedSentence:
    """Return a sentence: the annotators' tree, "lemma", "xpos", "deprel", features, and roles (`role_layers`).

    The columns that begin with P are those of parsers, and are left out.
    """
    rows = [(number, content.split("\t")) for number, content in block]
    predicates = [i for i, (_, cells) in enumerate(rows) if len(cells) > 13 and cells[13] != "_"]
    expected = len(COLUMNS) + len(predicates)
    layers: dict[str, list[str | None]] = {}
    edges: list[Edge] = []
    for i, (number, cells) in enumerate(rows):
        if len(cells) != expected:
            raise source.broken(
                number,
                f"{len(cells)} columns, expected {expected} separated by tabs: {len(COLUMNS)}, and one for each of the "
                f"sentence's {len(predicates)} predicates",
                "The file is truncated or not CoNLL-2009",
            )
        if source.integer(number, cells[0], "ID") != i + 1:
            raise source.broken(number, f"word {cells[0]}, expected word {i + 1}")
        if not cells[1]:
            raise source.broken(number, "the word has no form, expected text in column 2 (FORM)")
        for name, value in {"lemma": cells[2], "xpos": cells[4], **features(cells[6])}.items():
            if value not in ("_", ""):
                layers.setdefault(name, [None] * len(rows))[i] = value
        edges += [(p, i, role) for p, role in zip(predicates, cells[14:], strict=True) if role != "_"]
    labels = {name: tuple(values) for name, values in layers.items()}
    labels |= role_layers(len(rows), {i: rows[i][1][13] for i in predicates}, edges)
    return AnnotatedSentence(
        tokens=tuple(cells[1] for _, cells in rows),
        labels=labels,
        heads=source.heads([number for number, _ in rows], [cells[8] for _, cells in rows]),
        deprels=tuple(None if cells[10] == "_" else cells[10] for _, cells in rows),
    )


READER = Reader("CoNLL-2009", units, sentence)
