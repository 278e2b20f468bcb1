"""`Sentence`: one annotated sentence. `Derivation`: a template with its words, from which sentences are rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from absynth.rules.lexicon import Lexicon
from absynth.rules.template import Template, Tree

LAYERS = (
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
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence with its annotations.

    Attributes
    ----------
    tokens
        The words.
    labels
        Layer -> one value per word, None where the layer says nothing. Layers: category, upos, xpos, lemma, feats,
        number,
        tense, role (on the head word of the phrase), predicate (1-based position of the governing predicate, as text),
        frame (of the word's clause), cluster ("c0", ...; open classes only), deprel.
    heads
        1-based position of each word's syntactic head, 0 for the root; empty when unknown.
    deprels
        Universal Dependencies relations; empty when unknown.
    tree
        Constituency bracketing, "" when unknown.
    logical_form
        Neo-Davidsonian form with one event per clause, "" when unknown.
    complexity, construction, frame
        Level, construction ("frame/name") and frame of the sentence; "" when unknown.
    template
        Name of the template; "" when unknown.
    """

    tokens: tuple[str, ...]
    labels: dict[str, list[str | None]]
    heads: list[int] = field(default_factory=list)
    deprels: list[str] = field(default_factory=list)
    tree: str = ""
    logical_form: str = ""
    complexity: str = ""
    construction: str = ""
    frame: str = ""
    template: str = ""

    def __len__(self) -> int:
        return len(self.tokens)

    def __str__(self) -> str:
        return " ".join(self.tokens)

    @property
    def root(self) -> int:
        """Return the position of the root word, counted from 0; -1 when unknown."""
        return self.heads.index(0) if 0 in self.heads else -1


@dataclass(frozen=True, slots=True)
class Derivation:
    """A template with one entry (word form) per slot. Interventions change it, then render it again."""

    template: Template
    entries: tuple[int, ...]
    lexicon: Lexicon

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return the surface forms."""
        lexicon = self.lexicon
        return tuple(lexicon.vocabulary[lexicon.entry_token[entry]] for entry in self.entries)

    def render(self) -> Sentence:
        """Return the sentence with all annotations."""
        template = self.template
        table = self.lexicon.entry_labels
        tokens, tags, feats, numbers, tenses, lemmas, clusters = zip(*[table[entry] for entry in self.entries])
        fixed = template.labels
        labels: dict[str, list[str | None]] = {
            "category": list(fixed["category"]),
            "upos": list(fixed["upos"]),
            "xpos": list(tags),
            "lemma": list(lemmas),
            "feats": list(feats),
            "number": list(numbers),
            "tense": list(tenses),
            "role": list(fixed["role"]),
            "predicate": list(fixed["predicate"]),
            "frame": list(fixed["frame"]),
            "cluster": list(clusters),
            "deprel": list(fixed["deprel"]),
        }
        return Sentence(
            tokens=tokens,
            labels=labels,
            heads=[slot.head + 1 for slot in template.slots],
            deprels=[slot.deprel for slot in template.slots],
            tree=bracket(template.tree, tokens, tags),
            logical_form=self.logical_form(lemmas, labels),
            complexity=template.level,
            construction=template.construction,
            frame=template.frame,
            template=template.name,
        )

    def logical_form(self, lemmas: Sequence[str], labels: dict[str, list[str | None]]) -> str:
        """Fill the words into the template's logical form."""

        def fill(part: str | tuple[str, int]) -> str:
            if isinstance(part, str):
                return part
            what, slot = part
            return lemmas[slot] if what == "lemma" else str(labels[what][slot])

        return " & ".join(
            f"{fill(functor)}({', '.join(fill(argument) for argument in arguments)})"
            for functor, *arguments in self.template.atoms
        )


def bracket(tree: Tree | int, tokens: Sequence[str], tags: Sequence[str]) -> str:
    """Return the bracketing of a tree over slots with the words filled in: "(S (NP (NN dog)) (VP (VBZ sees)))"."""
    if isinstance(tree, int):
        return f"({tags[tree]} {tokens[tree]})"
    label, _, *children = tree
    return f"({label} {' '.join(bracket(child, tokens, tags) for child in children)})"
