"""Texts with planted violations, and the slow truth about them: every kind of one change that would mend a string.

The kinds are those that the parser can name. A string may be explained in more than one way ("the dog sees" lacks an argument, is
unfinished, or has the wrong kind of verb); its kind is *determined* where one kind alone explains it.
"""

import itertools

import numpy as np

import absynth
from absynth.rules.categories import CATEGORIES
from absynth.rules.template import FIXED_PLURAL

UNKNOWN, CATEGORY, AGREEMENT, SELECTION, MISSING, EXTRA, UNFINISHED = KINDS = (
    "unknown word",
    "category impossible here",
    "agreement violation",
    "selectional violation",
    "missing argument",
    "extra argument",
    "unfinished sentence",
)


def leaves(tree):
    return [tree] if isinstance(tree, int) else [slot for child in tree[2:] for slot in leaves(child)]


def arguments(tree):
    """Slots of every phrase that has a role."""
    if isinstance(tree, int):
        return []
    own = [leaves(tree)] if tree[1] is not None else []
    return own + [slots for child in tree[2:] for slots in arguments(child)]


class Truth:
    """By definition, from the grammar's templates and words and the oracle's probabilities; no line of the parser."""

    def __init__(self, grammar):
        self.grammar, self.oracle, self.lexicon = grammar, absynth.Oracle(grammar), grammar.lexicon
        lexicon = self.lexicon
        self.entries_of = {}  # token -> its entries
        for entry, token in enumerate(lexicon.entry_token.tolist()):
            self.entries_of.setdefault(lexicon.vocabulary[token], []).append(entry)
        seen = {}
        for entry in range(len(lexicon.entry_token)):
            seen.setdefault((self.category(entry), int(lexicon.entry_cell[entry]), self.cluster(entry)), entry)
        self.one_of_each = list(seen.values())  # (category, cell, cluster): words of one such class behave alike
        self.templates = [t for t in grammar.templates if t.probability > 0]
        self.patterns = {t.signature() for t in self.templates}
        self.phrases = {tuple(t.signature()[i] for i in slots) for t in self.templates for slots in arguments(t.tree)}

    def category(self, entry):
        return self.lexicon.categories[self.lexicon.entry_category[entry]]

    def cluster(self, entry):
        return int(self.lexicon.word_cluster[self.lexicon.entry_word[entry]])

    def cell(self, entry):
        return CATEGORIES[self.category(entry)].cells[int(self.lexicon.entry_cell[entry])]

    def symbol(self, entry):
        return self.category(entry), self.cell(entry).group

    def form(self, entry):
        return self.lexicon.vocabulary[self.lexicon.entry_token[entry]]

    def legal(self, strings):
        strings = list(strings)
        return np.isfinite(self.oracle.log2_probability(strings)) if strings else np.zeros(0, bool)

    def explanations(self, tokens):
        """Return {kind: positions}: every kind of one change that makes the string a sentence, and where."""
        tokens = list(tokens)
        unknown = [i for i, token in enumerate(tokens) if token not in self.entries_of]
        if unknown:
            return {UNKNOWN: {unknown[0]}}
        found = {}
        changed, labels = [], []
        # Where the categories are those of a sentence, no category is impossible.
        kinds = (AGREEMENT, SELECTION) if self.is_pattern(tokens) else (CATEGORY,)
        for i, token in enumerate(tokens):
            for mine in self.entries_of[token]:
                for other in self.replacements(mine):
                    kind = self.kind_of_change(mine, other)
                    if kind in kinds:
                        changed.append([*tokens[:i], self.form(other), *tokens[i + 1 :]])
                        labels.append((kind, i, other))
        for (kind, i, other), string, fine in zip(labels, changed, self.legal(changed), strict=True):
            if fine and self.read_as(string, i, other):
                found.setdefault(kind, set()).add(i)
        spans = [
            (i, j)
            for i in range(len(tokens))
            for j in range(i + 1, len(tokens) + 1)
            if any(
                tuple(map(self.symbol, reading)) in self.phrases
                for reading in itertools.product(*(self.entries_of[t] for t in tokens[i:j]))
            )
        ]
        for (i, _), fine in zip(spans, self.legal([*tokens[:i], *tokens[j:]] for i, j in spans), strict=True):
            if fine:
                found.setdefault(EXTRA, set()).add(i)
        missing = {
            slots[0]
            for template in self.templates
            for slots in arguments(template.tree)
            if self.fills(template, slots, tokens)
        }
        if missing:
            found[MISSING] = missing
        if self.is_prefix(tokens):
            found[UNFINISHED] = {len(tokens)}
        return found

    def replacements(self, mine):
        word = int(self.lexicon.entry_word[mine])
        own = [e for e in range(len(self.lexicon.entry_token)) if int(self.lexicon.entry_word[e]) == word and e != mine]
        return own + [e for e in self.one_of_each if int(self.lexicon.entry_word[e]) != word]

    def kind_of_change(self, mine, other):
        if self.symbol(mine) != self.symbol(other):
            return CATEGORY
        if self.lexicon.entry_word[mine] == self.lexicon.entry_word[other]:
            return AGREEMENT
        if self.lexicon.entry_cell[mine] == self.lexicon.entry_cell[other]:
            return SELECTION
        return None  # two changes

    def read_as(self, string, at, entry):
        """Whether a derivation has this very word there, not another of the same form."""
        if len(self.entries_of[self.form(entry)]) == 1:
            return True
        label, feats = CATEGORIES[self.category(entry)].label, self.cell(entry).feats
        sentences = [derivation.sentence for derivation in self.oracle.parse(string).derivations]
        return any((s.labels["category"][at], s.labels["feats"][at] or "_") == (label, feats) for s in sentences)

    def is_pattern(self, tokens):
        readings = itertools.product(*(self.entries_of[token] for token in tokens))
        return any(tuple(map(self.symbol, reading)) in self.patterns for reading in readings)

    def is_prefix(self, tokens):
        try:
            self.oracle.after(tokens)
        except absynth.AbsynthError:
            return False
        return True

    def fills(self, template, gone, tokens):
        """Whether words in the slots `gone` would make `tokens` a sentence of this template."""
        kept = [i for i in range(len(template.slots)) if i not in gone]
        if len(kept) != len(tokens):
            return False
        readings = [
            [e for e in self.entries_of[t] if self.symbol(e) == (template.slots[i].category, template.slots[i].group)]
            for i, t in zip(kept, tokens, strict=True)
        ]
        return any(
            self.agree(template, dict(zip(kept, reading, strict=True)))
            and self.select(template, dict(zip(kept, reading, strict=True)), gone)
            for reading in itertools.product(*readings)
        )

    def agree(self, template, words):
        for feature, prior in (("number", self.grammar.plural), ("tense", self.grammar.past)):
            values = {FIXED_PLURAL: {1}}
            for i, entry in words.items():
                variable, value = getattr(template.slots[i], feature), getattr(self.cell(entry), feature)
                if variable != -1 and value >= 0:
                    values.setdefault(variable, set()).add(value)
                    if variable != FIXED_PLURAL and (prior if value else 1 - prior) == 0:
                        return False
            if any(len(seen) > 1 for seen in values.values()):
                return False
        return True

    def select(self, template, words, gone):
        program = self.grammar.program
        joints = {name: program.joints[k] for k, name in enumerate(program.joint_names)}
        tied = [(i, s) for i, s in enumerate(template.slots) if s.select in joints and (joints[s.select] <= 0).any()]
        open_slots = sorted({x for i, s in tied for x in (i, s.head) if x in gone})
        choices = [
            range(int(self.lexicon.num_clusters[self.lexicon.categories.index(template.slots[i].category)]))
            for i in open_slots
        ]
        for choice in itertools.product(*choices):
            cluster = dict(zip(open_slots, choice, strict=True)) | {i: self.cluster(e) for i, e in words.items()}
            pairs = [
                (s.select, (cluster[i], cluster[s.head]) if s.select_up else (cluster[s.head], cluster[i]))
                for i, s in tied
            ]
            if all(joints[name][a, b] > 0 for name, (a, b) in pairs):
                return True
        return False


# ---- planting ----
def plant(truth, kind, corpus, count, seed=0):
    """Return `count` strings (tuple of words) outside the language, each a sentence with one violation of this kind."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    planted = []
    for i in itertools.cycle(range(len(corpus))):
        if len(planted) == count:
            return planted
        made = _PLANTERS[kind](truth, corpus.derivation(i), rng, corpus)
        if made is not None and not truth.legal([made])[0]:
            planted.append(tuple(made))


def _replace(tokens, at, word):
    return [*tokens[:at], word, *tokens[at + 1 :]]


def _pick(rng, items):
    return items[int(rng.integers(len(items)))] if len(items) else None


def _change(truth, d, rng, kind):
    """Another word, or another form of the word, at one place."""
    at = int(rng.integers(len(d.entries)))
    other = _pick(rng, [e for e in truth.replacements(d.entries[at]) if truth.kind_of_change(d.entries[at], e) == kind])
    return None if other is None else _replace(d.tokens, at, truth.form(other))


def _cut(truth, d, rng, corpus):
    return d.tokens[: int(rng.integers(1, len(d.tokens)))] if len(d.tokens) > 1 else None


def _remove(truth, d, rng, corpus):
    slots = _pick(rng, [s for s in arguments(d.template.tree) if len(s) < len(d.entries)])
    return None if slots is None else [t for i, t in enumerate(d.tokens) if i not in slots]


def _insert(truth, d, rng, corpus):
    donor = corpus.derivation(int(rng.integers(len(corpus))))
    slots = _pick(rng, [s for s in arguments(donor.template.tree) if len(s) < len(donor.entries)])
    if slots is None or slots != list(range(slots[0], slots[-1] + 1)):
        return None
    # After a phrase that is an argument itself, where another one may seem to belong.
    at = _pick(rng, [s[-1] + 1 for s in arguments(d.template.tree)])
    return [*d.tokens[:at], *(donor.tokens[i] for i in slots), *d.tokens[at:]]


_PLANTERS = {
    UNKNOWN: lambda truth, d, rng, corpus: _replace(d.tokens, int(rng.integers(len(d.tokens))), "zzz"),
    CATEGORY: lambda truth, d, rng, corpus: _change(truth, d, rng, CATEGORY),
    AGREEMENT: lambda truth, d, rng, corpus: _change(truth, d, rng, AGREEMENT),
    SELECTION: lambda truth, d, rng, corpus: _change(truth, d, rng, SELECTION),
    MISSING: _remove,
    EXTRA: _insert,
    UNFINISHED: _cut,
}
