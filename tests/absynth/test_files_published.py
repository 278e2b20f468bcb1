"""The JSON of the published generator, in and out."""

import json
from collections import Counter

import numpy as np
import pytest

import absynth
from absynth.formats.published import _LEVELS_BY_SEQUENCE, semantics
from absynth.rules.categories import CATEGORIES


@pytest.fixture(scope="module")
def real(data_dir):
    path = data_dir / "next_token_corpus_3.json"
    return absynth.load(path), json.loads(path.read_text(encoding="utf-8"))


def test_the_real_file(real):
    corpus, records = real
    assert (len(corpus), len(corpus.ids), len(corpus.vocabulary)) == (25_000, 122_200, 6_450)
    codes, names = corpus.sentence_column("complexity")
    assert Counter(names[c] for c in codes) == {"simple": 12_500, "medium": 7_500, "complex": 5_000}
    codes, names = corpus.column("category")
    assert len({tuple(part) for part in np.split(codes, corpus.offsets[1:-1])}) == 19
    assert set(names) < set(CATEGORIES)
    assert corpus.provenance["roles"] == "positional"
    assert corpus.oracle is None
    for i in (0, 3, 24_999):
        assert " ".join(corpus[i].tokens) == records[i]["sentence"]
        assert semantics(corpus[i], "roles") == records[i]["semantics"]


def test_published_records_are_written_back_as_they_were(real, tmp_path):
    corpus, records = real
    corpus[::5].save(tmp_path / "c.json", form="list")
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == records[::5]


def test_level_table():
    assert [len(v) for v in _LEVELS_BY_SEQUENCE.values()] == [8, 7, 4]


RECORDS = [
    {"sentence": "noun1 TRANSITIVE_VERB8 noun2", "semantics": "∃e (Agent(e, noun1) ∧ Patient(e, noun2))"},
    {"sentence": "adjective3 noun4 INTRANSITIVE_VERB7", "semantics": "∃e (Agent(e, noun4))"},
]


def write(tmp_path, value):
    path = tmp_path / "c.json"
    path.write_text(
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize(
    "whole",
    [
        RECORDS,
        {"corpus": RECORDS},
        {"metadata": {"n": 2}, "sentences": RECORDS},
        {"sentence": [r["sentence"] for r in RECORDS], "semantics": [r["semantics"] for r in RECORDS]},
        {"0": RECORDS[0], "1": RECORDS[1]},
    ],
)
def test_list_and_object_forms(tmp_path, whole):
    corpus = absynth.load(write(tmp_path, whole))
    assert [s.tokens for s in corpus] == [
        ("noun1", "TRANSITIVE_VERB8", "noun2"),
        ("adjective3", "noun4", "INTRANSITIVE_VERB7"),
    ]
    assert corpus[0].labels["category"] == ["noun", "transitive_verb", "noun"]
    assert corpus[0].labels["upos"] == ["NOUN", "VERB", "NOUN"]
    assert corpus[0].labels["role"] == ["Agent", None, "Patient"]
    assert corpus[0].complexity == "simple"
    assert corpus[1].labels["role"] == [None, "Agent", None]


@pytest.mark.parametrize(
    ("text", "predicate"),
    [
        ("∃e (Agent(e, noun1) ∧ Patient(e, noun2))", None),
        ("∃e(TRANSITIVE_VERB8(e) ∧ Agent(e, noun1) ∧ Patient(e, noun2))", "2"),
        ("exists e. TRANSITIVE_VERB8(e) & Agent(e, noun1) & Patient(e, noun2)", "2"),
        ("AGENT(noun1) ∧ patient(noun2)", None),
        ({"Agent": "noun1", "Patient": "noun2"}, None),
        ({"frame": "x", "roles": {"agent": "noun1", "patient": "noun2"}}, None),
    ],
)
def test_dialects_of_semantics(tmp_path, text, predicate):
    corpus = absynth.load(write(tmp_path, [{"sentence": "noun1 TRANSITIVE_VERB8 noun2", "semantics": text}]))
    assert corpus[0].labels["role"] == ["Agent", None, "Patient"]
    assert corpus[0].labels.get("predicate", [None])[0] == predicate


def test_roles_that_are_not_positional_are_not_called_so(tmp_path):
    other = {"sentence": "noun1 TRANSITIVE_VERB8 noun2", "semantics": "∃e (Patient(e, noun1) ∧ Agent(e, noun2))"}
    assert absynth.load(write(tmp_path, [RECORDS[0], other])).provenance["roles"] == "annotated"


@pytest.mark.parametrize("dialect", ["roles", "events"])
@pytest.mark.parametrize("form", ["list", "object"])
def test_export_can_be_imported_and_exported_again(tmp_path, form, dialect):
    grammar = absynth.Grammar.preset("small", surface="labelled")
    corpus = absynth.generate(grammar, n=300, seed=1)
    path, again = tmp_path / "c.json", tmp_path / "d.json"
    corpus.save(path, form=form, dialect=dialect)
    found = absynth.load(path)
    assert [s.tokens for s in found] == [s.tokens for s in corpus]
    if form == "object":
        assert list(found) == list(corpus)
        found.save(again, form=form, dialect=dialect)
        assert again.read_bytes() == path.read_bytes()
    else:
        assert set(json.loads(path.read_text(encoding="utf-8"))[0]) == {"sentence", "semantics"}
        clear = [
            i for i, s in enumerate(corpus) if len(set(s.tokens)) == len(s)
        ]  # no word twice: its role has one place
        assert len(clear) > 200
        for i in clear:
            assert found[i].labels["role"] == corpus[i].labels["role"]
            if dialect == "events":
                roles = corpus[i].labels["role"]
                assert found[i].labels["predicate"] == [
                    p if role else None for p, role in zip(corpus[i].labels["predicate"], roles)
                ]


@pytest.mark.parametrize(
    ("record", "line", "message"),
    [
        ({"semantics": "∃e (Agent(e, noun1))"}, 6, "a sentence"),
        ({"sentence": "noun1 FOO_VERB8", "semantics": "∃e (Agent(e, noun1))"}, 6, "FOO_VERB8"),
        ({"sentence": "noun1 TRANSITIVE_VERB8", "semantics": "∃e (Agent(e, noun9))"}, 6, "word of the sentence"),
        ({"sentence": "noun1 TRANSITIVE_VERB8", "semantics": "∃e (Agent(e, noun1) ∧"}, 6, "parentheses"),
        ({"sentence": "noun1 TRANSITIVE_VERB8", "semantics": "∃e (Agent(e, noun1) Patient(e, noun1))"}, 6, "∧"),
        ({"sentence": "noun1 TRANSITIVE_VERB8", "semantics": 5}, 6, "logical form"),
        ({"sentence": "noun1 TRANSITIVE_VERB8", "complexity": "hard"}, 6, "simple"),
        ("noun1", 6, "object"),
    ],
)
def test_a_wrong_record_is_named_with_its_line(tmp_path, record, line, message):
    path = write(tmp_path, [RECORDS[0], record])
    with pytest.raises(absynth.AbsynthError, match=message) as error:
        absynth.load(path)
    assert f"c.json:{line}" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "5", '{"corpus": 3}', "[" * 100_000, '{"sentence": ["a"], "semantics": []}', "1" * 5000]
)
def test_files_that_are_something_else(tmp_path, text):
    with pytest.raises(absynth.AbsynthError):
        absynth.load(write(tmp_path, text))
