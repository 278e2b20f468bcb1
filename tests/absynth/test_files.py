"""Every format: what goes in comes out."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import absynth
from absynth.files import FORMATS, load, save
from absynth.formats import conllu, jsonl
from absynth.formats.rendering import render_all
from reference.conllu_rules import faults
from reference.toys import TOYS

WHOLE = (".parquet", ".jsonl", ".conllu", ".json")  # formats that keep grammar and annotations


@st.composite
def corpora(draw):
    toy = TOYS[draw(st.sampled_from(sorted(TOYS)))]
    grammar = toy(
        seed=draw(st.integers(0, 50)),
        surface=draw(st.sampled_from(["pseudoword", "opaque", "labelled"])),
        strength=draw(st.floats(0, 1)),
        clusters=draw(st.integers(1, 3)),
        plural=draw(st.floats(0, 1)),
        past=draw(st.floats(0, 1)),
        name=draw(st.text(max_size=8)),
    )
    corpus = absynth.generate(
        grammar, n=draw(st.integers(0, 20)), seed=draw(st.integers(0, 9)), exact=draw(st.booleans())
    )
    return corpus[draw(st.integers(0, 3)) :]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    assert list(found) == list(expected)


@pytest.fixture(scope="module")
def corpus():
    return absynth.generate(absynth.Grammar.preset("tiny"), n=400, seed=3)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpus=corpora())
def test_round_trips_are_equal(tmp_path, corpus):
    for suffix in WHOLE:
        if suffix == ".conllu" and len(corpus) == 0:
            continue  # no sentence, no comment that could say the grammar
        path = tmp_path / f"c{suffix}"
        corpus.save(path)
        found = absynth.load(path)
        assert_equal(found, corpus)
        assert found.fingerprint == corpus.fingerprint
        assert found.grammar == corpus.grammar
        assert found.provenance == corpus.provenance
        again = tmp_path / f"d{suffix}"
        found.save(again)
        assert again.read_bytes() == path.read_bytes()
    for suffix in (".txt", ".tsv"):
        path = tmp_path / f"c{suffix}"
        corpus.save(path)
        found = absynth.load(path)
        assert [s.tokens for s in found] == [s.tokens for s in corpus]
        if suffix == ".tsv":
            assert [(s.logical_form, s.construction) for s in found] == [
                (s.logical_form, s.construction) for s in corpus
            ]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpus=corpora())
def test_conllu_obeys_the_format_rules(tmp_path, corpus):
    path = tmp_path / "c.conllu"
    corpus.save(path)
    text = path.read_text(encoding="utf-8")
    assert len(corpus) == 0 or faults(text) == []


def test_conllu_of_every_construction_obeys_the_format_rules(tmp_path):
    corpus = absynth.generate(absynth.Grammar.preset("small"), n=2000, seed=0)
    path = tmp_path / "c.conllu"
    corpus.save(path)
    assert faults(path.read_text(encoding="utf-8")) == []
    first = path.read_text(encoding="utf-8").split("\n\n")[0]
    sentence = corpus[0]
    rows = [line.split("\t") for line in first.splitlines() if not line.startswith("#")]
    for i, cells in enumerate(rows):
        misc = dict(pair.split("=") for pair in cells[9].split("|"))
        assert cells[1] == sentence.tokens[i]
        assert cells[2] == sentence.labels["lemma"][i]
        assert cells[5] == (sentence.labels["feats"][i] or "_")
        assert misc.get("Role") == sentence.labels["role"][i]
        assert misc["Predicate"] == sentence.labels["predicate"][i]
        assert misc["Frame"] == sentence.labels["frame"][i]
        assert misc.get("Cluster") == sentence.labels["cluster"][i]


def test_the_rules_notice_faults():
    good = (
        "# sent_id = 1\n# text = a b\n1\ta\ta\tNOUN\t_\t_\t2\tnsubj\t_\t_\n2\tb\tb\tVERB\t_\tA=B|C=D\t0\troot\t_\t_\n\n"
    )
    assert faults(good) == []
    for old, new in (
        ("2\tb", "3\tb"),
        ("\t0\troot", "\t1\tdep"),
        ("A=B|C=D", "C=D|A=B"),
        ("a b\n", "a  b\n"),
        ("NOUN", "NOWN"),
        ("\t2\tnsubj", "\t0\tnsubj"),
        ("\n\n", "\n"),
    ):
        assert faults(good.replace(old, new, 1)) != [], (old, new)


def test_fast_rendering_equals_rendering_each_sentence(corpus):
    for layout, quoted in ((jsonl.layout, True), (conllu.layout_generated, False)):
        assert list(render_all(corpus, layout, quoted)) == [layout(sentence) for sentence in corpus]


def test_jsonl_says_absynth_early_and_each_line_is_a_sentence(corpus, tmp_path):
    path = tmp_path / "c.jsonl"
    corpus.save(path)
    assert b'"absynth"' in path.read_bytes()[:4096]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(corpus) + 1
    header = json.loads(lines[0])["absynth"]
    assert header["provenance"]["grammar_fingerprint"] == corpus.grammar.fingerprint
    record = json.loads(lines[8])
    assert tuple(record["tokens"]) == corpus[7].tokens
    assert record["labels"] == corpus[7].labels
    assert record["tree"] == corpus[7].tree


def test_parquet_is_readable_by_others(corpus, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "c.parquet"
    corpus.save(path)
    rows = pq.read_table(path).to_pylist()
    for i in (0, 17, len(corpus) - 1):
        sentence, row = corpus[i], rows[i]
        assert tuple(row["tokens"]) == sentence.tokens
        for layer, values in sentence.labels.items():
            assert row[layer] == values, layer
        assert row["head"] == sentence.heads
        assert (row["construction"], row["complexity"], row["sentence_frame"], row["template"]) == (
            sentence.construction,
            sentence.complexity,
            sentence.frame,
            sentence.template,
        )


def test_parquet_is_small(tmp_path):
    corpus = absynth.generate(absynth.Grammar.preset("small"), n=60_000, seed=0)
    path = tmp_path / "c.parquet"
    corpus.save(path)
    assert path.stat().st_size / len(corpus) < 60
    assert absynth.load(path).fingerprint == corpus.fingerprint


def test_a_loaded_corpus_has_its_oracle(corpus, tmp_path):
    corpus.save(tmp_path / "c.parquet")
    found = absynth.load(tmp_path / "c.parquet")
    np.testing.assert_array_equal(found.oracle.score(found[:20]).surprisal, corpus.oracle.score(corpus[:20]).surprisal)
    part = found.split(train=0.5, dev=0.25, test=0.25, seed=1)[2]
    part.save(tmp_path / "test.jsonl")
    again = absynth.load(tmp_path / "test.jsonl")
    assert_equal(again, part)
    assert again.provenance["split"]["part"] == "test"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".conllu"])
def test_imported_corpora_round_trip(tmp_path, suffix):
    text = """# text = Dogs don't bark.
1 Dogs dog NOUN NNS Number=Plur 4 nsubj _ Role=Agent
2-3 don't _ _ _ _ _ _ _ _
2 do do AUX VBP Tense=Pres 4 aux _ _
3 n't not PART RB _ 4 advmod _ _
3.1 e _ _ _ _ _ _ _ _
4 bark bark VERB VB _ 0 root _ SpaceAfter=No
5 . . PUNCT . _ 4 punct _ _

# complexity = simple
1 Run run VERB VB _ 0 root _ Note=a%20b%7Cc

"""
    text = "\n".join(line if line.startswith("#") else line.replace(" ", "\t") for line in text.split("\n"))
    source = tmp_path / "source.conllu"
    source.write_text(text, encoding="utf-8")
    corpus = absynth.load(source)
    assert corpus.oracle is None
    assert corpus.grammar is None
    first, second = corpus
    assert first.tokens == ("Dogs", "do", "n't", "bark", ".")
    assert first.heads == [4, 4, 4, 0, 4]
    assert first.labels["role"] == ["Agent", None, None, None, None]
    assert first.labels["number"] == ["Plur", None, None, None, None]
    assert first.labels["space_after"] == [None, "No", None, "No", None]
    assert second.labels["note"] == ["a b|c"]
    assert (first.complexity, second.complexity) == ("", "simple")
    path = tmp_path / f"c{suffix}"
    corpus.save(path)
    if suffix == ".conllu":
        assert faults(path.read_text(encoding="utf-8")) == []
    assert_equal(absynth.load(path), corpus)


def test_real_treebank_keeps_words_and_trees(data_dir, tmp_path):
    path = data_dir / "en_ewt-ud-dev.conllu"
    corpus = absynth.load(path)
    lines = [line.split("\t")[:8] for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isdigit()]
    assert len(corpus) == 2001
    corpus.save(tmp_path / "c.conllu")
    written = [
        line.split("\t")[:8]
        for line in (tmp_path / "c.conllu").read_text(encoding="utf-8").splitlines()
        if line[:1].isdigit()
    ]
    assert written == [cells for cells in lines if cells[0].isdigit()]
    corpus[:300].save(tmp_path / "c.parquet")
    assert_equal(absynth.load(tmp_path / "c.parquet"), corpus[:300])


def test_saving_is_all_or_nothing(corpus, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text("before", encoding="utf-8")
    imported = absynth.Corpus(np.array([0]), np.array([0, 1]), ("a b",))
    with pytest.raises(absynth.AbsynthError, match="white space"):
        save(imported, tmp_path / "c.txt")
    with pytest.raises(absynth.AbsynthError, match="can be written"):
        save(corpus, tmp_path / "none" / "c.jsonl")
    with pytest.raises(absynth.AbsynthError, match="ends in"):
        save(corpus, tmp_path / "c.docx")
    with pytest.raises(absynth.AbsynthError, match=r"only \.json"):
        save(corpus, path, form="list")
    assert path.read_text(encoding="utf-8") == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.jsonl"]
    assert set(FORMATS) == {".parquet", ".jsonl", ".conllu", ".txt", ".tsv", ".json"}


def test_hugging_face_datasets(corpus):
    from absynth.formats.hub import to_dataset

    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(absynth.AbsynthError, match="datasets"):
            to_dataset(corpus)
        return
    rows = to_dataset(corpus)
    assert tuple(rows[5]["tokens"]) == corpus[5].tokens
    assert rows[5]["role"] == corpus[5].labels["role"]


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(absynth.AbsynthError, match="exists"):
        load(tmp_path / "none.parquet")
    with pytest.raises(absynth.AbsynthError, match="ends in"):
        load(tmp_path / "none.xyz")
