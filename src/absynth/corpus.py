"""`Corpus`: annotated sentences, with the oracle of their grammar, their splits and their files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from absynth.sentences.columns import Column, Columns

if TYPE_CHECKING:
    from absynth.grammar import Grammar
    from absynth.oracle import Oracle

__all__ = ["Column", "Corpus"]


# The oracle, the splits and the files are imported where they are asked for: a corpus starts without them.
class Corpus(Columns):
    """Annotated sentences, held as columns.

    A corpus is either *generated* (it has a grammar, and each sentence a template of it: every annotation follows) or
    *imported* (it has explicit layers and no grammar).

    Attributes
    ----------
    ids : [tokens] int32
        Token ids, sentences end to end.
    offsets : [sentences + 1] int64
        Where each sentence starts.
    vocabulary
        Surface forms by id.
    grammar, templates
        The grammar and [sentences] int32 template of each sentence; None for imported corpora.
    layers
        Explicit label layers of an imported corpus: name -> (codes [tokens], names); code -1 is "no label".
    heads : [tokens] int32
        Explicit heads of an imported corpus (0 root), None when unknown.
    sentence_layers
        Explicit per-sentence values of an imported corpus: construction, complexity, frame, tree, logical_form.
    provenance
        Grammar fingerprint, seed, version, or where it was imported from.
    """

    grammar: Grammar | None  # pyright: ignore[reportIncompatibleVariableOverride]

    @classmethod
    def of(cls, columns: Columns) -> Self:
        """Return some columns as a corpus; nothing is copied, and what they have gathered stays gathered."""
        corpus = cls.__new__(cls)
        corpus.__dict__.update(columns.__dict__)
        return corpus

    @cached_property
    def oracle(self) -> Oracle | None:
        """Return the oracle of the grammar; None for an imported corpus."""
        if self.grammar is None:
            return None
        from absynth.oracle import oracle_of

        return oracle_of(self.grammar)

    def split(
        self, train: float, dev: float, test: float, seed: int = 0, disjoint: str = "sentence"
    ) -> tuple[Self, Self, Self]:
        """Return (train, dev, test), see `absynth.sentences.split.split_corpus`."""
        from absynth.sentences.split import split_corpus

        return split_corpus(self, train, dev, test, seed, disjoint)

    def save(self, path: str | Path, **options: str) -> None:
        """Write the corpus; the suffix of `path` decides the format, see `absynth.files.save`."""
        from absynth.formats.by_suffix import save

        save(self, path, **options)
