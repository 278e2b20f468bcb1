"""`Columns`: sentences as columns. Labels of generated sentences are gathered from the grammar's tables when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self, overload

import numpy as np

from absynth.errors import AbsynthError
from absynth.rules.categories import CATEGORIES, LEVELS, NUMBERS, TENSES
from absynth.rules.program import Program
from absynth.rules.specification import Specification
from absynth.sentences.sentence import LAYERS, Derivation, Sentence
from absynth.version import VERSION

Column = tuple[np.ndarray, tuple[str, ...]]


class Columns:
    """Annotated sentences as columns; `absynth.Corpus` says what each of them is."""

    def __init__(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        vocabulary: Sequence[str],
        *,
        grammar: Specification | None = None,
        templates: np.ndarray | None = None,
        layers: Mapping[str, Column] | None = None,
        heads: np.ndarray | None = None,
        sentence_layers: Mapping[str, Sequence[str]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.ids = np.asarray(ids, np.int32)
        self.offsets = np.asarray(offsets, np.int64)
        self.vocabulary = tuple(vocabulary)
        self.grammar = grammar
        self.templates = None if templates is None else np.asarray(templates, np.int32)
        self.layers = dict(layers or {})
        self.heads = None if heads is None else np.asarray(heads, np.int32)
        self.sentence_layers = {name: list(values) for name, values in (sentence_layers or {}).items()}
        self.provenance = dict(provenance or {})

    # ---- making ----
    @classmethod
    def generated(
        cls,
        grammar: Specification,
        ids: np.ndarray,
        offsets: np.ndarray,
        templates: np.ndarray,
        provenance: Mapping[str, Any],
    ) -> Self:
        """Wrap the columns of a generated corpus."""
        source = {"grammar": grammar.name, "grammar_fingerprint": grammar.fingerprint, "version": VERSION}
        return cls(
            ids, offsets, grammar.vocabulary, grammar=grammar, templates=templates, provenance={**source, **provenance}
        )

    @classmethod
    def empty(cls, grammar: Specification, seed: int = 0) -> Self:
        """Return a corpus of no sentences."""
        return cls.generated(grammar, np.zeros(0), np.zeros(1), np.zeros(0), {"seed": seed})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the sentences of all parts in order; all must have one grammar and vocabulary."""
        first = parts[0]
        if len(parts) == 1:
            return first
        for part in parts:
            if (
                part.grammar != first.grammar
                or part.vocabulary != first.vocabulary
                or part.layers.keys() != first.layers.keys()
            ):
                raise AbsynthError(
                    "parts", part.provenance, "corpora of one grammar, with one vocabulary and the same layers"
                )
        starts = np.cumsum([0, *(len(part.ids) for part in parts)])
        offsets = np.concatenate(
            [np.zeros(1, np.int64), *(part.offsets[1:] + start for part, start in zip(parts, starts))]
        )
        layers = {}
        for name, (_, names) in first.layers.items():
            if any(part.layers[name][1] != names for part in parts):
                raise AbsynthError("parts", name, "layers with the same values in the same order")
            layers[name] = (np.concatenate([part.layers[name][0] for part in parts]), names)
        join = np.concatenate
        return cls(
            join([part.ids for part in parts]),
            offsets,
            first.vocabulary,
            grammar=first.grammar,
            templates=None
            if first.templates is None
            else join([p.templates for p in parts if p.templates is not None]),
            layers=layers,
            heads=None if first.heads is None else join([p.heads for p in parts if p.heads is not None]),
            sentence_layers={
                name: [v for p in parts for v in p.sentence_layers[name]] for name in first.sentence_layers
            },
            provenance=first.provenance,
        )

    def select(self, rows: np.ndarray | Sequence[int]) -> Self:
        """Return the sentences with these indices, in this order."""
        rows = np.asarray(rows, np.int64)
        length = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(length)])
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], length)
        return type(self)(
            self.ids[at],
            offsets,
            self.vocabulary,
            grammar=self.grammar,
            templates=None if self.templates is None else self.templates[rows],
            layers={name: (codes[at], names) for name, (codes, names) in self.layers.items()},
            heads=None if self.heads is None else self.heads[at],
            sentence_layers={name: [values[i] for i in rows] for name, values in self.sentence_layers.items()},
            provenance=self.provenance,
        )

    # ---- sequence of sentences ----
    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Sentence]:
        for i in range(len(self)):
            yield self[i]

    @overload
    def __getitem__(self, key: int) -> Sentence: ...
    @overload
    def __getitem__(self, key: slice) -> Self: ...
    def __getitem__(self, key: int | slice) -> Sentence | Self:
        if isinstance(key, slice):
            return self.select(np.arange(len(self))[key])
        index = int(key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"sentence {index} of a corpus of {len(self)}")
        index %= len(self)
        if self.grammar is not None:
            return self.derivation(index).render()
        a, b = int(self.offsets[index]), int(self.offsets[index + 1])
        labels = {
            name: [names[code] if code >= 0 else None for code in codes[a:b]]
            for name, (codes, names) in self.layers.items()
        }
        whole = {name: values[index] for name, values in self.sentence_layers.items()}
        return Sentence(
            tokens=tuple(self.vocabulary[i] for i in self.ids[a:b]),
            labels=labels,
            heads=[] if self.heads is None else self.heads[a:b].tolist(),
            deprels=[value or "_" for value in labels["deprel"]] if "deprel" in labels else [],
            **whole,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} sentences, {len(self.ids)} tokens, {self.provenance})"

    def derivation(self, index: int) -> Derivation:
        """Return the derivation of a generated sentence."""
        program, templates = self._program()
        a, b = int(self.offsets[index]), int(self.offsets[index + 1])
        template = int(templates[index])
        start = program.start[template]
        entries = program.lexicon.entry_of[program.category[start : start + b - a], self.ids[a:b]]
        return Derivation(program.templates[template], tuple(entries.tolist()), program.lexicon)

    def _program(self) -> tuple[Program, np.ndarray]:
        if self.grammar is None or self.templates is None:
            raise AbsynthError("corpus.grammar", None, "a generated corpus; this one was imported")
        return self.grammar.program, self.templates

    # ---- columns ----
    @property
    def lengths(self) -> np.ndarray:
        """Return [sentences] int64: number of words."""
        return np.diff(self.offsets)

    @cached_property
    def slots(self) -> np.ndarray:
        """Return [tokens] int64: the grammar's flat slot of every token."""
        program, templates = self._program()
        shift = program.start[templates] - self.offsets[:-1]
        return np.arange(len(self.ids)) + np.repeat(shift, self.lengths)

    @cached_property
    def entries(self) -> np.ndarray:
        """Return [tokens] int32: the lexicon entry of every token."""
        program, _ = self._program()
        return program.lexicon.entry_of[program.category[self.slots], self.ids]

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Return the label layers that `column` knows."""
        return LAYERS if self.grammar is not None else tuple(self.layers)

    def column(self, layer: str) -> Column:
        """Return one label layer as (codes [tokens] int32, names); code -1 is "no label".

        Raises
        ------
        AbsynthError
            For a layer that the corpus does not have.
        """
        if layer not in self.layer_names:
            raise AbsynthError("layer", layer, f"one of {', '.join(self.layer_names)}")
        if self.grammar is None:
            return self.layers[layer]
        tables = _label_tables(self.grammar)
        table, names, by_slot = tables[layer]
        return table[self.slots if by_slot else self.entries], names

    def head_column(self) -> np.ndarray | None:
        """Return [tokens] int32 heads, 0 for the root; None when unknown."""
        if self.grammar is None:
            return self.heads
        return _label_tables(self.grammar)["head"][0][self.slots]

    def sentence_column(self, name: str) -> Column:
        """Return "construction", "complexity", "frame" or "template" as (codes [sentences], names)."""
        if self.grammar is None:
            if name not in self.sentence_layers:
                raise AbsynthError(
                    "layer", name, f"one of {', '.join(self.sentence_layers) or 'none: nothing was imported'}"
                )
            names = tuple(sorted(set(self.sentence_layers[name])))
            index = {value: i for i, value in enumerate(names)}
            return np.array([index[value] for value in self.sentence_layers[name]], np.int32), names
        program, templates = self._program()
        attribute = {"construction": "construction", "complexity": "level", "frame": "frame", "template": "name"}
        if name not in attribute:
            raise AbsynthError("layer", name, f"one of {', '.join(attribute)}")
        values = [getattr(template, attribute[name]) for template in program.templates]
        names = LEVELS if name == "complexity" else tuple(dict.fromkeys(values))
        return np.array([names.index(value) for value in values], np.int32)[templates], names

    # ---- whole ----
    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of the content: words, annotations, order."""
        digest = hashlib.sha256()
        digest.update("\n".join(self.vocabulary).encode())
        digest.update(self.offsets.astype("<i8").tobytes())
        digest.update(self.ids.astype("<i4").tobytes())
        if self.grammar is not None and self.templates is not None:
            digest.update(self.grammar.fingerprint.encode())
            digest.update(self.templates.astype("<i4").tobytes())
        for name in sorted(self.layers):
            codes, names = self.layers[name]
            digest.update("\n".join([name, *names]).encode())
            digest.update(codes.astype("<i4").tobytes())
        if self.heads is not None:
            digest.update(self.heads.astype("<i4").tobytes())
        for name in sorted(self.sentence_layers):
            digest.update("\n".join([name, *self.sentence_layers[name]]).encode())
        return digest.hexdigest()[:16]

    def filter(self, keep: Callable[[Sentence], bool]) -> Self:
        """Return the sentences for which `keep` is true."""
        return self.select(np.array([i for i, sentence in enumerate(self) if keep(sentence)], np.int64))


def _label_tables(grammar: Specification) -> dict[str, tuple[np.ndarray, tuple[str, ...], bool]]:
    """Return layer -> (codes, names, indexed by slot rather than by entry)."""
    found = grammar.__dict__.get("_label_tables")
    if found is not None:
        return found
    program, lexicon = grammar.program, grammar.lexicon
    tables: dict[str, tuple[np.ndarray, tuple[str, ...], bool]] = {}
    for layer in ("category", "upos", "role", "predicate", "frame", "deprel"):
        values = [value for template in program.templates for value in template.labels[layer]]
        tables[layer] = (*_encode(values), True)
    tables["head"] = (np.array([s.head + 1 for t in program.templates for s in t.slots], np.int32), (), True)
    cells = [
        CATEGORIES[lexicon.categories[c]].cells[cell] for c, cell in zip(lexicon.entry_category, lexicon.entry_cell)
    ]
    tables["xpos"] = (*_encode([cell.xpos for cell in cells]), False)
    tables["feats"] = (*_encode([None if cell.feats == "_" else cell.feats for cell in cells]), False)
    tables["number"] = (np.array([cell.number for cell in cells], np.int32), NUMBERS, False)
    tables["tense"] = (np.array([cell.tense for cell in cells], np.int32), TENSES, False)
    tables["lemma"] = (lexicon.entry_word.astype(np.int32), lexicon.lemmas, False)
    cluster = lexicon.word_cluster[lexicon.entry_word].astype(np.int32)
    cluster[lexicon.num_clusters[lexicon.entry_category] < 2] = -1
    tables["cluster"] = (cluster, tuple(f"c{k}" for k in range(int(lexicon.num_clusters.max()))), False)
    grammar.__dict__["_label_tables"] = tables
    return tables


def _encode(values: Sequence[str | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    names = tuple(sorted({value for value in values if value is not None}))
    index: dict[str | None, int] = {name: i for i, name in enumerate(names)} | {None: -1}
    return np.array([index[value] for value in values], np.int32), names
