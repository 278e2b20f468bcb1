"""From a realised pattern to a template: heads, relations, roles, agreement, selection and the logical form.

Heads and relations follow Universal Dependencies; they are read off the bracketing by a small table of head rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from absynth.errors import AbsynthError
from absynth.rules.categories import CATEGORIES
from absynth.rules.pattern import Phrase, Word
from absynth.rules.template import FIXED_PLURAL, Atom, Slot, Template, Tree


@dataclass(slots=True)
class _Clause:
    frame: str
    predicate: int
    passive: bool
    gap: str | None
    filler: int  # slot of the noun that a relative clause modifies, -1 for none
    subject: int = -1
    roles: list[str] = field(default_factory=list)


class _Builder:
    """Walks a realised pattern once to lay out the slots, once more to tie them together."""

    def __init__(self, where: str, verbs: Mapping[str, str]) -> None:
        self.where = where
        self.verbs = verbs
        self.slots: list[Slot] = []
        self.leaf: dict[int, int] = {}  # id of a pattern word -> slot
        self.atoms: list[Atom] = []
        self.clauses: list[_Clause] = []
        self.plural_heads: set[int] = set()

    def fail(self, value: object, allowed: str) -> AbsynthError:
        return AbsynthError(f"{self.where}.pattern", value, allowed)

    # ---- first walk: slots ----
    def lay_out(self, node: Phrase | Word, frame: str) -> Tree | int:
        if isinstance(node, Word):
            category = self.verbs[frame] if node.category == "verb" else node.category
            group = node.group
            if CATEGORIES[category].is_verb:
                group = group or "finite"
                if category == "copula" and group != "finite":
                    raise self.fail(f"copula.{group}", "a finite copula")
            self.leaf[id(node)] = len(self.slots)
            self.slots.append(Slot(category, group, frame=frame))
            return len(self.slots) - 1
        if node.frame is not None:
            if node.frame not in self.verbs:
                raise self.fail(node.frame, f"a frame of this grammar: {', '.join(self.verbs)}")
            if node.label != "S":
                raise self.fail(f"{node.label}@{node.frame}", "a frame on S only")
            frame = node.frame
        return (node.label, node.role, *(self.lay_out(child, frame) for child in node.children))

    # ---- heads ----
    def head_child(self, node: Phrase) -> Phrase | Word:
        def labels(*names: str) -> Phrase | Word | None:
            return next((c for c in node.children if isinstance(c, Phrase) and c.label in names), None)

        def words(test: str) -> Phrase | Word | None:
            found = (c for c in node.children if isinstance(c, Word))
            if test == "nominal":
                return next((c for c in found if CATEGORIES[self.category(c)].is_nominal), None)
            if test == "verb":
                return next((c for c in found if self.category(c).endswith("_verb")), None)
            return next((c for c in found if self.category(c) == test), None)

        rules = {
            "NP": lambda: labels("NP") or words("nominal"),
            "PP": lambda: labels("NP") or words("nominal"),
            "ADVP": lambda: words("adverb"),
            "VP": lambda: words("verb") or labels("VP") or labels("PP", "NP"),
            "S": lambda: labels("VP") or labels("S"),
            "SBAR": lambda: labels("S"),
        }
        # `or` on the results is safe: phrases and words are always true.
        head = rules[node.label]()
        if node.label == "NP" and (noun := words("nominal")) is not None:
            head = noun
        if head is None:
            raise self.fail(
                node.label, f"a phrase {node.label} with a head (a noun in NP and PP, a verb in VP, a VP or S in S)"
            )
        return head

    def category(self, word: Word) -> str:
        return self.slots[self.leaf[id(word)]].category

    def head(self, node: Phrase | Word) -> int:
        while isinstance(node, Phrase):
            node = self.head_child(node)
        return self.leaf[id(node)]

    # ---- second walk ----
    def tie(self, node: Phrase, clause: _Clause | None, parent: Phrase | None, noun: int) -> None:
        """Set heads, relations, roles and agreement below `node`; `noun`: head noun around a relative clause."""
        if node.label == "S" and any(isinstance(c, Phrase) and c.label == "VP" for c in node.children):
            clause = self.open_clause(node, parent, noun)
        head_child, head = self.head_child(node), self.head(node)
        waiting: Word | None = None  # a conjunction attaches to the conjunct that follows it
        seen_head = False
        for child in node.children:
            if child is head_child:
                seen_head = True
            elif isinstance(child, Word) and self.category(child) == "conjunction":
                waiting = child
                continue
            else:
                self.attach(child, node, head, clause, seen_head, waiting is not None)
            if waiting is not None:
                if isinstance(child, Word):
                    raise self.fail("conjunction", "a phrase after a conjunction")
                self.slots[self.leaf[id(waiting)]].head = self.head(child)
                self.slots[self.leaf[id(waiting)]].deprel = "cc"
                self.slots[self.leaf[id(waiting)]].predicate = clause.predicate if clause else self.head(child)
                name = ("lemma", self.leaf[id(waiting)])
                self.atoms.append((name, self.variable(head), self.variable(self.head(child))))
                if node.label == "NP":
                    self.plural_heads.add(head)
                waiting = None
            if isinstance(child, Phrase):
                inside = head if node.label == "NP" and child.label == "SBAR" else -1
                if clause is not None and child.role is not None:
                    self.give_role(child, clause, node)
                self.tie(child, clause, node, inside if inside >= 0 else (noun if node.label == "SBAR" else -1))
        if waiting is not None:
            raise self.fail("conjunction", "a phrase after a conjunction")

    def open_clause(self, node: Phrase, parent: Phrase | None, noun: int) -> _Clause:
        vp = next(c for c in node.children if isinstance(c, Phrase) and c.label == "VP")
        verb = next((c for c in vp.children if isinstance(c, Word) and CATEGORIES[self.category(c)].is_verb), None)
        if verb is None:
            raise self.fail("VP", "a VP that starts with verb or copula")
        slot = self.leaf[id(verb)]
        gap = None
        relativizer = -1
        if parent is not None and parent.label == "SBAR":
            for child in parent.children:
                if isinstance(child, Word) and self.category(child) == "relativizer":
                    if child.role is None or noun < 0:
                        raise self.fail("relativizer", "relativizer:Role inside an SBAR inside an NP")
                    gap, relativizer = child.role, self.leaf[id(child)]
        passive = verb.group == "passive"
        clause = _Clause(self.slots[slot].frame, slot, passive, gap, noun if gap else -1)
        self.clauses.append(clause)
        subject = next(
            (c for c in node.children if isinstance(c, Phrase) and c.label == "NP" and not self.is_time(c)), None
        )
        clause.subject = self.head(subject) if subject is not None else (clause.filler if gap else -1)
        predicate = self.slots[slot]
        if predicate.role is None:
            predicate.predicate = slot
        event = self.variable(slot)
        self.atoms.append((("lemma", slot), event))
        if verb.group != "inf":
            if clause.subject < 0:
                raise self.fail(clause.frame, "a subject in every finite clause (a bare NP under S, or a relativizer)")
            predicate.tense = slot
            predicate.number = clause.subject
            self.atoms.append(("Tense", event, ("tense", slot)))
        if gap is not None:
            mark = self.slots[relativizer]
            mark.role, mark.predicate, mark.head, mark.frame = gap, slot, self.head(node), clause.frame
            voice = "nsubj:pass" if passive else "nsubj"
            mark.deprel = voice if subject is None else "obj"
            clause.roles.append(gap)
            self.atoms.append((gap, event, self.variable(noun)))
        return clause

    def is_time(self, node: Phrase) -> bool:
        return self.slots[self.head(node)].category == "temporal"

    def variable(self, slot: int) -> str:
        return f"{'e' if CATEGORIES[self.slots[slot].category].is_verb else 'x'}{slot + 1}"

    def give_role(self, child: Phrase, clause: _Clause, parent: Phrase) -> None:
        slot = self.head(child)
        heads = [slot]
        for inner in child.children:  # both conjuncts of a coordination carry the role
            if child.label == "NP" and isinstance(inner, Phrase) and inner.label == "NP" and self.head(inner) != slot:
                heads.append(self.head(inner))
        clause.roles.append(child.role or "")
        for one in heads:
            if self.slots[one].role is not None:
                raise self.fail(child.role, "one role for each noun")
            self.slots[one].role, self.slots[one].predicate = child.role, clause.predicate
            self.atoms.append((child.role, self.variable(clause.predicate), self.variable(one)))

    def attach(
        self, child: Phrase | Word, parent: Phrase, head: int, clause: _Clause | None, after: bool, conj: bool
    ) -> None:
        slot = self.slots[self.head(child)]
        if slot.head >= 0:  # a relativizer, tied when its clause was opened
            return
        slot.head = head
        slot.predicate = slot.predicate if slot.predicate >= 0 else (clause.predicate if clause else head)
        slot.deprel = self.relation(child, parent, slot, head, clause, after, conj)
        me = self.head(child)
        variable, other = self.variable(head), self.variable(me)
        category = slot.category
        if isinstance(child, Word):
            if slot.deprel in ("amod", "det"):
                self.atoms.append((("lemma", me), variable))
        elif category == "adverb":
            self.atoms.append((("lemma", me), other if child.role is not None else variable))
        elif slot.deprel == "nmod":
            self.atoms.append(("nmod", variable, other))

    def relation(
        self,
        child: Phrase | Word,
        parent: Phrase,
        slot: Slot,
        head: int,
        clause: _Clause | None,
        after: bool,
        conj: bool,
    ) -> str:
        if isinstance(child, Word):
            words = {
                "determiner": "det",
                "adjective": "amod",
                "preposition": "case",
                "complementizer": "mark",
                "copula": "cop",
                "adverb": "advmod",
                "relativizer": "mark",
            }
            if slot.category in words:
                return words[slot.category]
            if slot.category.startswith("marker."):
                return "case" if parent.label in ("PP", "NP") else "mark"
            raise self.fail(
                slot.category, f"a head or a function word inside {parent.label}; wrap other words in a phrase"
            )
        if conj:
            return "conj"
        if child.label == "NP":
            if parent.label in ("NP", "PP"):
                return "nmod"
            if self.is_time(child):
                return "obl:tmod"
            if parent.label == "S":
                return "nsubj:pass" if clause and clause.passive else "nsubj"
            others = [
                c
                for c in parent.children
                if isinstance(c, Phrase) and c.label == "NP" and c is not child and not self.is_time(c)
            ]
            return "iobj" if child.role == "Recipient" and others else "obj"
        if child.label == "PP":
            if parent.label == "NP":
                return "nmod"
            return (
                "obl:agent" if clause and clause.passive and child.role in ("Agent", "Experiencer", "Cause") else "obl"
            )
        if child.label == "ADVP":
            return "advmod"
        if child.label == "SBAR":
            if parent.label == "NP":
                return "acl:relcl"
            first = child.children[0]
            return "ccomp" if isinstance(first, Word) and self.category(first) == "complementizer" else "advcl"
        return "parataxis" if child.label == "S" else "dep"


def build_template(
    root: Phrase, frame: str, verbs: Mapping[str, str], where: str
) -> tuple[Template, list[tuple[str, list[str], bool]]]:
    """Lay out one realised pattern.

    Returns
    -------
    The template, and for each clause (frame, roles that it realises, whether it is an infinitive) for the grammar
    to check.
    """
    builder = _Builder(where, verbs)
    tree = builder.lay_out(root, frame)
    builder.tie(root, None, None, -1)
    slots = builder.slots
    top = builder.head(root)
    for index, slot in enumerate(slots):
        if index != top and (slot.head < 0 or slot.head == index):
            raise builder.fail(slot.category, "a word that belongs to a phrase with a head")
    if slots[top].predicate < 0:
        slots[top].predicate = top
    _number_variables(builder)
    for index in range(len(slots)):
        _selection(slots, index)
    nouns = [
        (("lemma", i), builder.variable(i)) for i, slot in enumerate(slots) if CATEGORIES[slot.category].is_nominal
    ]
    numbers = [
        ("Number", builder.variable(i), ("number", i))
        for i, s in enumerate(slots)
        if s.number == i and CATEGORIES[s.category].is_nominal
    ]
    cases = [
        (
            ("lemma", i),
            builder.variable(slots[slot.head].predicate)
            if slots[slot.head].deprel != "nmod"
            else builder.variable(slots[slot.head].head),
            builder.variable(slot.head),
        )
        for i, slot in enumerate(slots)
        if slot.deprel == "case" and slot.category == "preposition"
    ]
    atoms = [atom for atom in builder.atoms if atom[0] != "nmod"] + nouns + numbers + cases
    template = Template("", frame, "", "", slots, tree, atoms, num_clauses=len(builder.clauses))  # type: ignore[arg-type]
    return template, [
        (clause.frame, clause.roles, slots[clause.predicate].group == "inf") for clause in builder.clauses
    ]


def _number_variables(builder: _Builder) -> None:
    """Nouns own a number; a verb shares its subject's, or is plural where the subject is coordinated."""
    slots = builder.slots
    for index, slot in enumerate(slots):
        if CATEGORIES[slot.category].is_nominal and CATEGORIES[slot.category].cells[0].number >= 0:
            slot.number = index
    for slot in slots:
        if CATEGORIES[slot.category].is_verb and slot.number >= 0 and slot.group != "inf":
            subject = slot.number
            if subject in builder.plural_heads:
                slot.number = FIXED_PLURAL
            elif slots[subject].number < 0:
                slot.number = slot.predicate if slot.predicate >= 0 else subject


def _selection(slots: list[Slot], index: int) -> None:
    """Tie the cluster of a slot to its head's where both are open-class and the relation carries meaning."""
    slot = slots[index]
    if slot.head < 0:
        return
    head = slots[slot.head]
    mine, other = CATEGORIES[slot.category], CATEGORIES[head.category]
    if not (mine.open_class and other.open_class):
        return
    if slot.deprel == "acl:relcl":
        gap = next((s.role for s in slots if s.category == "relativizer" and s.head == index), None)
        if gap is not None:
            slot.select, slot.select_up = (slot.category, head.category, gap), True
    elif mine.is_verb:
        return
    else:
        relation = slot.role if slot.role is not None else slot.deprel
        if slot.deprel == "conj":
            relation = "conj"
        slot.select = (head.category, slot.category, relation)
