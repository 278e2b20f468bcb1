"""CoNLL-2011 and CoNLL-2012 (OntoNotes, `*_gold_conll`) and PropBank's `.gold_skel`: columns between spaces."""

from __future__ import annotations

from collections.abc import Iterator

from lmtrace.text.readers.brackets import phrase_layers
from lmtrace.text.readers.lines import Line, blocks, suffixes
from lmtrace.text.readers.source import Reader, Source
from lmtrace.text.readers.spans import Span, bracketed, flat, mentions, role_span_layers
from lmtrace.text.sentences import AnnotatedSentence

FIRST = 11
"""Columns before the arguments: document, part, number, word, tag, parse, lemma, roleset, sense, speaker, names."""
SKELETON = 8
"""The same of `.gold_skel`, which has no sense, speaker and names."""
_MERGE = "Merge the words in first, with the script that comes with the release"


def units(source: Source) -> Iterator[list[Line]]:
    """Yield the lines of every sentence."""
    return blocks(source.path)


def sentence(source: Source, block: list[Line]) -> AnnotatedSentence | None:
    """Return a sentence: "xpos", "phrase", "chunk" of its parse, "ner", "mention" (coreference), and roles of phrases.

    Names, mentions and roles are in B-, I-, O form; roles as `role_span_layers` says.
    """
    rows = [(number, content.split()) for number, content in block if not content.startswith(("#begin", "#end"))]
    if not rows:
        return None
    skeleton = suffixes(source.path)[0] == ".gold_skel"
    first = SKELETON if skeleton else FIRST
    width = len(rows[0][1])
    place = -1
    for number, cells in rows:
        if len(cells) != width or width < first + (not skeleton):
            raise source.broken(
                number,
                f"{len(cells)} columns, expected {max(width, first + (not skeleton))}",
                "The file is truncated or not CoNLL-2012",
            )
        before, place = place, source.integer(number, cells[2], "the word's number")
        if place <= before:  # words that speakers took back are left out, so numbers may be missing
            raise source.broken(number, f"word {place} after word {before}, expected a rising number")
    if len(rows) > 1 and all(cells[3] == "[WORD]" for _, cells in rows):
        raise source.broken(rows[0][0], "the text is withheld: every word of the sentence is [WORD]", _MERGE)
    column = list(zip(*(cells for _, cells in rows), strict=True))
    try:
        return _sentence(source, column, first, skeleton)
    except ValueError as error:
        raise source.broken(rows[0][0], f"{error}, in the sentence that begins here") from error


def _sentence(source: Source, column: list[tuple[str, ...]], first: int, skeleton: bool) -> AnnotatedSentence:
    size = len(column[0])
    arguments = column[first:] if skeleton else column[first:-1]
    senses = _senses(column, skeleton)
    labels = {"xpos": column[4], **phrase_layers(column[4], bracketed(column[5]))}
    if not skeleton:
        labels["ner"], _ = flat(size, bracketed(column[10]), longest=True)
        found = [("mention", a, b) for _, a, b in mentions(column[-1])]
        labels["mention"], kept = flat(size, found, longest=True)
        source.left_out["mention"] += len(found) - len(kept)
    roles: list[tuple[int, Span]] = []
    for cells in arguments:
        spans = bracketed(cells)
        predicate = next((a for label, a, _ in spans if label == "V"), None)
        if predicate is None:
            raise ValueError("a column of arguments has no predicate (V*)")
        roles += [(predicate, span) for span in spans if span[0] != "V"]
    layers, left_out = role_span_layers(size, senses, roles)
    source.left_out["role"] += left_out
    # The release marks the ends of spoken sentences with a slash of its own.
    tokens = tuple(word.removeprefix("/") if word in ("/.", "/?") else word for word in column[3])
    return AnnotatedSentence(tokens=tokens, labels={**labels, **layers})


def _senses(column: list[tuple[str, ...]], skeleton: bool) -> dict[int, str]:
    if skeleton:
        return {i: sense for i, sense in enumerate(column[7]) if sense != "-"}
    pairs = enumerate(zip(column[6], column[7], strict=True))
    return {i: f"{lemma}.{number}" for i, (lemma, number) in pairs if number != "-"}


READER = Reader("CoNLL-2012 (OntoNotes) and PropBank skeletons", units, sentence)
