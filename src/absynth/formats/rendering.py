"""Text of generated sentences, fast: a layout is run once per template on placeholders, then filled by table look-up.

Filling gives exactly ``layout(corpus[i])``; only the placeholders differ between sentences of one template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from absynth.rules.categories import CATEGORIES, NUMBERS, TENSES
from absynth.rules.specification import Specification
from absynth.rules.template import Template
from absynth.sentences.columns import Columns
from absynth.sentences.sentence import Derivation, Sentence, bracket

Layout = Callable[[Sentence], str]

_OPEN, _CLOSE = "\ue000", "\ue001"  # private use: no word has them
_MARK = re.compile(f'("?){_OPEN}([a-z]+):([0-9]+){_CLOSE}("?)')
_BY_ENTRY = ("token", "xpos", "lemma", "feats", "number", "tense", "cluster")


class Renderer:
    """Applies one layout to the sentences of one grammar.

    Parameters
    ----------
    grammar
        The language.
    layout
        Sentence -> text. It may place values, also inside longer text, but not compute with them.
    quoted
        Whether the text is JSON: a placeholder in quotes then stands for a whole value, which may be null.
    """

    def __init__(self, grammar: Specification, layout: Layout, quoted: bool) -> None:
        self.grammar, self.layout, self.quoted = grammar, layout, quoted
        self.tables = _tables(grammar, quoted)
        self.compiled: dict[int, tuple[str, list[tuple[list[str], int]]]] = {}

    def render(self, template: int, entries: list[int]) -> str:
        """Return the text of one sentence."""
        if template not in self.compiled:
            self.compiled[template] = self._compile(self.grammar.program.templates[template])
        text, holes = self.compiled[template]
        return text % tuple([table[entries[slot]] for table, slot in holes])

    def _compile(self, template: Template) -> tuple[str, list[tuple[list[str], int]]]:
        holes: list[tuple[list[str], int]] = []

        def hole(match: re.Match[str]) -> str:
            before, kind, slot, after = match.groups()
            whole = self.quoted and before == '"' and after == '"'
            holes.append((self.tables[kind, whole], int(slot)))
            return "%s" if whole else f"{before}%s{after}"

        text = self.layout(_outline(template, self.grammar)).replace("%", "%%")
        return _MARK.sub(hole, text), holes


def _tables(grammar: Specification, quoted: bool) -> dict[tuple[str, bool], list[str]]:
    """Return (kind, whole value) -> text of every lexicon entry."""
    lexicon = grammar.lexicon
    columns: dict[str, list[str | None]] = {kind: [] for kind in _BY_ENTRY}
    for category, word, cell, token in zip(
        lexicon.entry_category.tolist(),
        lexicon.entry_word.tolist(),
        lexicon.entry_cell.tolist(),
        lexicon.entry_token.tolist(),
    ):
        form = CATEGORIES[lexicon.categories[category]].cells[cell]
        columns["token"].append(lexicon.vocabulary[token])
        columns["lemma"].append(lexicon.lemmas[word])
        columns["xpos"].append(form.xpos)
        columns["feats"].append(None if form.feats == "_" else form.feats)
        columns["number"].append(NUMBERS[form.number] if form.number >= 0 else None)
        columns["tense"].append(TENSES[form.tense] if form.tense >= 0 else None)
        clustered = lexicon.num_clusters[category] > 1
        columns["cluster"].append(f"c{lexicon.word_cluster[word]}" if clustered else None)
    tables = {}
    for kind, values in columns.items():
        plain = ["_" if value is None else value for value in values]
        tables[kind, False] = [json.dumps(value, ensure_ascii=False)[1:-1] for value in plain] if quoted else plain
        tables[kind, True] = [json.dumps(value, ensure_ascii=False) for value in values]
    return tables


def _outline(template: Template, grammar: Specification) -> Sentence:
    """Return a sentence of placeholders."""
    n = len(template.slots)
    marks = {kind: [f"{_OPEN}{kind}:{slot}{_CLOSE}" for slot in range(n)] for kind in _BY_ENTRY}
    labels: dict[str, list[str | None]] = {}
    for layer in (
        "category",
        "upos",
        "xpos",
        "lemma",
        "feats",
        "number",
        "tense",
        "role",
        "predicate",
        "frame",
        "cluster",
        "deprel",
    ):
        labels[layer] = list(marks[layer]) if layer in marks else list(template.labels[layer])
    clusters = dict(zip(grammar.lexicon.categories, grammar.lexicon.num_clusters))
    labels["cluster"] = [
        mark if clusters[slot.category] > 1 else None for slot, mark in zip(template.slots, marks["cluster"])
    ]
    return Sentence(
        tokens=tuple(marks["token"]),
        labels=labels,
        heads=[slot.head + 1 for slot in template.slots],
        deprels=[slot.deprel for slot in template.slots],
        tree=bracket(template.tree, marks["token"], marks["xpos"]),
        logical_form=Derivation(template, (), grammar.lexicon).logical_form(marks["lemma"], labels),
        complexity=template.level,
        construction=template.construction,
        frame=template.frame,
        template=template.name,
    )


def render_all(corpus: Columns, layout: Layout, quoted: bool, renderer: Renderer | None = None) -> Iterator[str]:
    """Yield the text of every sentence of a corpus, generated or imported."""
    if corpus.grammar is None or corpus.templates is None:
        yield from (layout(sentence) for sentence in corpus)
        return
    renderer = renderer or Renderer(corpus.grammar, layout, quoted)
    entries, ends = corpus.entries.tolist(), corpus.offsets.tolist()
    for i, template in enumerate(corpus.templates.tolist()):
        yield renderer.render(template, entries[ends[i] : ends[i + 1]])
