"""Every annotation of every template and of sampled sentences."""

import re

import numpy as np
import pytest

import absynth
from absynth import Grammar
from absynth.rules.categories import CATEGORIES, ROLES
from reference.toys import TOYS
from reference.trees import check_tree


@pytest.fixture(scope="module")
def small():
    grammar = Grammar.preset("small")
    return grammar, absynth.generate(grammar, 1500, seed=3)


@pytest.mark.parametrize("grammar", [Grammar.preset("small"), *(toy() for toy in TOYS.values())], ids=lambda g: g.name)
def test_dependency_trees_are_trees_and_projective(grammar):
    for template in grammar.templates:
        check_tree([slot.head + 1 for slot in template.slots])
        assert all(slot.deprel != "dep" for slot in template.slots)
        assert [slot.deprel for slot in template.slots if slot.head < 0] == ["root"]


def test_roles_of_default_frames():
    grammar = Grammar.preset("small")
    frames = {frame.name: frame for frame in grammar.frames}
    for template in grammar.templates:
        mains = [s.role for s in template.slots if s.role and template.slots[s.predicate].frame == template.frame]
        assert set(frames[template.frame].core) <= set(mains)
        for slot in template.slots:
            assert slot.role is None or slot.role in ROLES
            assert CATEGORIES[template.slots[slot.predicate].category].is_verb
    # The spread of roles that the grammar promises.
    assert {s.role for t in grammar.templates for s in t.slots} - {None} == set(ROLES)


def test_a_known_sentence():
    grammar = Grammar.preset("tiny", surface="labelled")
    parse = absynth.Oracle(grammar).parse(
        "determiner0 noun1s relativizer0 transitive_verb0 noun2 transitive_verb1ed determiner0 noun3"
    )
    assert parse.diagnosis.kind == "agreement violation"
    assert parse.diagnosis.position == 5
    parse = absynth.Oracle(grammar).parse(
        "determiner0 noun1s relativizer0 transitive_verb0 noun2 transitive_verb1eden determiner0 noun3"
    )
    [only] = parse.derivations
    sentence = only.sentence
    assert only.probability == pytest.approx(1.0)
    assert sentence.construction == "transitive_action/subject_relative"
    assert sentence.labels["role"] == [None, "Agent", "Agent", None, "Patient", None, None, "Patient"]
    assert sentence.labels["predicate"] == ["6", "6", "4", "4", "4", "6", "6", "6"]
    assert sentence.heads == [2, 6, 4, 2, 4, 0, 8, 6]
    assert sentence.deprels == ["det", "nsubj", "nsubj", "acl:relcl", "obj", "root", "det", "obj"]
    assert sentence.labels["number"] == [None, "Plur", None, "Plur", "Sing", "Plur", None, "Sing"]
    assert sentence.tree == (
        "(S (NP (NP (DT determiner0) (NNS noun1s))"
        " (SBAR (WP relativizer0) (S (VP (VBP transitive_verb0) (NP (NN noun2))))))"
        " (VP (VBD transitive_verb1eden) (NP (DT determiner0) (NN noun3))))"
    )
    atoms = set(sentence.logical_form.split(" & "))
    assert {
        "Agent(e4, x2)",
        "Patient(e4, x5)",
        "Agent(e6, x2)",
        "Patient(e6, x8)",
        "noun1(x2)",
        "Number(x2, Plur)",
    } <= atoms
    assert {
        "transitive_verb0(e4)",
        "Tense(e4, Pres)",
        "transitive_verb1(e6)",
        "Tense(e6, Past)",
        "determiner0(x8)",
    } <= atoms


def test_verbs_agree_with_their_subjects(small):
    _, corpus = small
    checked = 0
    for sentence in corpus:
        for i, deprel in enumerate(sentence.deprels):
            if not deprel.startswith("nsubj") or sentence.labels["category"][i] == "relativizer":
                continue
            verb = sentence.heads[i] - 1
            cop = [j for j, d in enumerate(sentence.deprels) if d == "cop" and sentence.heads[j] - 1 == verb]
            verb = cop[0] if cop else verb
            joined = any(d == "conj" and sentence.heads[j] - 1 == i for j, d in enumerate(sentence.deprels))
            assert sentence.labels["number"][verb] == ("Plur" if joined else sentence.labels["number"][i])
            checked += 1
    assert checked > 1500


def test_layers_columns_and_sentences_say_the_same(small):
    _, corpus = small
    sentences = list(corpus)
    for layer in corpus.layer_names:
        codes, names = corpus.column(layer)
        flat = [names[code] if code >= 0 else None for code in codes]
        assert flat == [value for sentence in sentences for value in sentence.labels[layer]], layer
    assert corpus.head_column().tolist() == [head for sentence in sentences for head in sentence.heads]
    for name in ("construction", "complexity", "frame", "template"):
        codes, names = corpus.sentence_column(name)
        assert [names[code] for code in codes] == [getattr(sentence, name) for sentence in sentences]
    text = [token for sentence in sentences for token in sentence.tokens]
    assert text == [corpus.vocabulary[i] for i in corpus.ids]


def test_complexity_grows():
    grammar = Grammar.preset("small")
    means = {}
    for level in ("simple", "medium", "complex"):
        some = [t for t in grammar.templates if t.level == level]
        p = np.array([t.probability for t in some])
        lengths = np.array([len(t.slots) for t in some])
        clauses = np.array([t.num_clauses for t in some])
        distance = np.array(
            [np.mean([abs(s.head - i) for i, s in enumerate(t.slots) if s.head >= 0] or [0]) for t in some]
        )
        means[level] = [p @ x / p.sum() for x in (lengths, clauses, distance)]
    for i in (0, 2):
        assert means["simple"][i] < means["medium"][i] < means["complex"][i]
    assert means["medium"][1] < means["complex"][1]


def test_brackets_and_logical_forms_are_complete(small):
    _, corpus = small
    for sentence in corpus[:300]:
        assert sentence.tree.count("(") == sentence.tree.count(")")
        leaves = re.findall(r"\((\S+) ([^()]+)\)", sentence.tree)
        assert tuple(word for _, word in leaves) == sentence.tokens
        assert [tag for tag, _ in leaves] == sentence.labels["xpos"]
        atoms = sentence.logical_form.split(" & ")
        events = {a for a in atoms if re.fullmatch(r"Tense\(e\d+, (Pres|Past)\)", a)}
        finite = sum(t is not None for t in sentence.labels["tense"])
        assert len(events) == finite
        for role, i in (
            (r, i)
            for i, r in enumerate(sentence.labels["role"])
            if r and sentence.labels["category"][i] != "relativizer"
        ):
            kind = "e" if sentence.labels["upos"][i] in ("VERB", "AUX") else "x"
            if kind == "x":
                assert f"{sentence.labels['lemma'][i]}(x{i + 1})" in atoms
            predicate = sentence.labels["predicate"][i]
            assert f"{role}(e{predicate}, {kind}{i + 1})" in atoms
