"""Every format: an invented file is read right, a broken one is refused with file, line and cure, and no bytes do worse."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import absynth
from lmtrace.errors import ConfigError, DataError
from lmtrace.jobs.data import DataConfig, load_sentences, load_tokenizer
from lmtrace.probing.edges import candidates
from lmtrace.probing.spans import find_spans
from lmtrace.text.panel import Panel
from lmtrace.text.readers import READERS, read
from lmtrace.text.readers.spans import bracketed, flat, mentions, role_layers, role_span_layers
from lmtrace.text.tokenizer import WordTokenizer

FOLDER = Path(__file__).parents[2] / "data" / "formats"
CORPORA = sorted(
    p.name for p in FOLDER.iterdir() if not p.stem.startswith(("pairs", "agreement", "contexts", "boxes", "suite"))
)


def first(name, **options):
    return read(FOLDER / name, **options)[0]


# ---- read right ----
def test_expressions_of_parseme():
    sentence = first("expressions.cupt")
    assert sentence.labels["mwe"] == ("O", "B-VPC.full", "O", "B-VPC.full", "O")
    assert sentence.heads == (2, 0, 2, 2, 2)
    assert sentence.labels["upos"][1] == "VERB"


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("roles.conllup", ("A0", None, None, "A1", "A1")),
        ("propbank1.conllu", ("ARG0", None, None, "ARG1", "ARG1")),
    ],
)
def test_semantic_roles_name_every_predicate_of_an_argument(name, roles):
    sentence = first(name)
    assert sentence.labels["sense"] == (None, "want.01", None, "sell.01", None)
    assert sentence.labels["role"] == roles
    assert sentence.labels["predicate"] == ("2,4", None, None, "2", "4")
    assert sentence.heads == (2, 0, 4, 2, 4)


def test_a_sentence_without_predicates_has_no_roles():
    second = read(FOLDER / "propbank1.conllu")[1]
    assert second.tokens == ("Well",)
    assert not {"role", "predicate", "sense"} & set(second.labels)


def test_columns_that_the_file_does_not_name():
    sentence = first("expressions.conllulex")
    assert sentence.labels["ss"] == ("v.perception", None)
    assert sentence.labels["lexlemma"] == ("look out", None)
    assert sentence.labels["lextag"] == ("B-V.VPC.full-v.perception", "I_")


def test_shared_task_of_2009():
    sentence = first("shared2009.conll")
    assert sentence.labels["role"] == ("A0", None, "AM-DIR")
    assert sentence.labels["predicate"] == ("2", None, "2")
    assert sentence.labels["sense"] == (None, "row.02", None)
    assert (sentence.labels["n"], sentence.labels["feats"]) == ((None, "s", None), (None, None, "sg"))
    assert (sentence.heads, sentence.deprels) == ((2, 0, 2), ("SBJ", "ROOT", "ADV"))


def test_shared_task_of_2006_allows_empty_and_bare_features():
    sentence = first("shared2006.conllx")
    assert (sentence.labels["g"], sentence.labels["feats"]) == (("f", None, None), (None, None, "sg|m"))
    assert "n" not in sentence.labels
    assert (sentence.heads, sentence.labels["xpos"]) == ((2, 0, 2), ("NNP", "VBZ", "NN"))


def test_ontonotes():
    corpus = read(FOLDER / "notes.gold_conll")
    labels = corpus[0].labels
    assert labels["phrase"] == ("NP", "VP", "VP", "VP", "NP", "NP", "S")
    assert labels["chunk"] == ("B-NP", "O", "O", "O", "B-NP", "I-NP", "O")
    assert labels["ner"] == ("B-PERSON", *"OOOOOO")
    assert labels["mention"] == ("B-mention", "O", "O", "O", "B-mention", "I-mention", "O")
    assert labels["role"] == ("B-ARG0", "O", "O", "O", "B-ARG1", "I-ARG1", "O")
    assert labels["predicate"] == ("2,4", None, None, None, "4", "4", None)
    assert "1 labels left out" in corpus.notes["role"], "the phrase 'to sell the boat' holds a shorter one"


@pytest.mark.parametrize("name", ["chunks.txt", "names.iob2", "tagged.txt"])
def test_columns_of_tags_are_no_prose(name):
    corpus = read(FOLDER / name)
    assert [len(s) for s in corpus] == {"chunks.txt": [6, 2], "names.iob2": [2, 1], "tagged.txt": [3, 4]}[name]
    layers = {"chunks.txt": {"xpos", "chunk", "ner"}, "names.iob2": {"ner"}, "tagged.txt": {"xpos"}}[name]
    assert set(corpus[0].labels) == layers
    assert "FORM" in corpus.notes["columns"]
    if "ner" in layers:
        assert corpus[0].labels["ner"][0] == "B-PER"


def test_trees_in_brackets():
    sentence = first("trees.mrg")
    assert sentence.tokens == ("Ola", "rows", "to", "the", "bay", "(", ".")
    assert sentence.labels["xpos"] == ("NNP", "VBZ", "TO", "DT", "NN", "-LRB-", ".")
    assert sentence.labels["phrase"] == ("NP", "VP", "PP", "NP", "NP", "S", "S")
    assert sentence.labels["chunk"] == ("B-NP", "O", "O", "B-NP", "I-NP", "O", "O")
    assert [s.tokens for s in read(FOLDER / "trees.txt")] == [("Boats", "sink"), ("Bay",)]


def test_entities_and_attributes_by_name():
    plain = read(FOLDER / "entities.conllu")
    assert plain[0].labels["entity"] == ("B-person", *["I-person"] * 4, "O")
    assert "MISC MSeg (1)" in plain.notes["passed over"]
    assert "1 labels left out" in plain.notes["entity"]
    for layers in (["MSeg"], ["*"]):
        named = read(FOLDER / "entities.conllu", layers=layers)
        assert named[0].labels["MSeg"] == (None, "crew", None, None, None, None)
    assert "SpaceAfter" not in named[0].labels
    tokenizer = WordTokenizer.from_corpus(plain)
    panel = Panel.from_annotated(FOLDER / "entities.conllu", tokenizer, layers=["MSeg"])
    assert panel.layers == ("MSeg",)


def test_sentences_and_forms():
    assert [(s.tokens[0], s.info["construction"]) for s in read(FOLDER / "forms.tsv")] == [
        ("Ola", "primitive"), ("A", "in_distribution"),
    ]  # fmt: skip
    assert first("forms.tsv").target == "sleep . agent ( x _ 1 , Ola )"
    assert [(s.tokens, s.target) for s in read(FOLDER / "commands.txt")] == [
        (("jump", "twice"), "I_JUMP I_JUMP"), (("turn", "left"), "I_TURN_LEFT"),
    ]  # fmt: skip


def test_records_with_other_keys():
    corpus = read(FOLDER / "tags.jsonl")
    assert corpus[0].labels == {"upos": ("PROPN", "VERB"), "ner": ("1", "0")}
    assert (corpus[0].heads, corpus[0].deprels) == ((2, 0), ("nsubj", "root"))
    assert "note (1)" in corpus.notes["passed over"]
    assert "do not say what they stand for" in corpus.notes["ner"]
    words, text = read(FOLDER / "words.json")
    assert words.labels["upos"] == ("PROPN", "VERB")
    assert (text.tokens, text.info) == (("Boats", "sink"), {"label": "1"})
    assert "role" not in read(FOLDER / "words.json").notes, "nothing here is the published ABSynth's"


def test_texts_and_lines():
    assert [s.tokens[-1] for s in read(FOLDER / "stories.txt")] == ["sang.", "sank."]
    assert first("stories.txt").text == "Ola rowed.\nShe sang."
    assert len(read(FOLDER / "child.train")) == 2


def test_the_text_is_that_of_the_corpus():
    told, spaced = read(FOLDER / "spaces.conllu")
    assert told.text == " a\u00a0b  c"
    assert [told.text[a:b] for a, b in told.spans] == ["a", "b", "c"]
    assert spaced.text == "a\tb"


def test_a_fused_form_gives_its_words_what_they_spell():
    sentence = first("fused.conllu")
    assert [sentence.text[a:b] for a, b in sentence.spans] == ["b", "a", "bait"]


def test_a_foreign_comment_is_no_text(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text("# text = something else\n1\ta\t_\tX\t_\t_\t0\troot\t_\t_\n2\tb\t_\tX\t_\t_\t1\tdep\t_\t_\n\n")
    assert read(path)[0].text == "a b"


def test_withheld_text_is_refused_with_the_cure(tmp_path):
    path = tmp_path / "w.conllu"
    words = "".join(f"{i}\t_\t_\t{tag}\t_\t_\t0\troot\t_\t_\n" for i, tag in ((1, "NOUN"), (2, "VERB")))
    path.write_text(words + "\n1\tyes\t_\tINTJ\t_\t_\t0\troot\t_\t_\n\n")
    with pytest.raises(DataError, match=r"w\.conllu, line 1: the text is withheld.*Merge the words in"):
        read(path)
    assert len(read(path, skip_broken=True)) == 1
    path.write_text("1\t_\t_\tSYM\t_\t_\t0\troot\t_\t_\n2\t_\t_\tPUNCT\t_\t_\t1\tpunct\t_\t_\n\n")
    assert read(path)[0].labels["lemma"] == ("_", "_"), "a line of underscores is text"


# ---- data sets ----
class ClassLabel:
    def __init__(self, *names):
        self.names = list(names)


class DataSet(list):
    def __init__(self, rows, features):
        super().__init__(rows)
        self.features, self.column_names = features, list(features)


def test_a_data_set_names_its_classes():
    features = {
        "tokens": SimpleNamespace(feature=None), "pos_tags": SimpleNamespace(feature=ClassLabel("NN", "VB")),
        "chunk_tags": [ClassLabel("O", "B-NP")], "label": ClassLabel("neg", "pos"), "embedding": None,
    }  # fmt: skip
    rows = [{"tokens": ["Ola", "rows"], "pos_tags": [0, 1], "chunk_tags": [1, -1], "label": 1, "embedding": [0.5, 1.5]}]
    corpus = read(DataSet(rows, features))
    assert corpus[0].labels == {"xpos": ("NN", "VB"), "chunk": ("B-NP", None)}
    assert corpus[0].info == {"label": "pos"}
    assert corpus.notes == {"passed over": "embedding (1)"}
    panel = Panel.from_annotated(DataSet(rows, features), WordTokenizer(["Ola", "rows"]))
    assert panel.labels("xpos").names == ("NN", "VB")
    with pytest.raises(DataError, match=r"row 0: 'pos_tags' holds 7, but names 2 classes"):
        read(DataSet([{"tokens": ["a"], "pos_tags": [7]}], features))
    with pytest.raises(DataError, match=r"the parts train, test. Pass one of them"):
        read({"train": DataSet(rows, features), "test": DataSet(rows, features)})


def test_parquet_of_a_data_set(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {
        "tokens": {"feature": {"dtype": "string"}},
        "ner_tags": {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}},
    }
    table = pa.table({"tokens": [["Ola", "rows"]], "ner_tags": [[1, 0]], "feats": [["Case=Nom", None]]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0].labels == {"ner": ("B-PER", "O"), "Case": ("Nom", None)}
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"b\.parquet: not a parquet file .*truncated or damaged"):
        read(tmp_path / "b.parquet")


# ---- one dispatcher ----
@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("xz", lzma.compress), ("bz2", bz2.compress)])
@pytest.mark.parametrize("name", CORPORA)
def test_compressed_or_not_panel_and_commands_read_the_same(tmp_path, name, suffix, pack):
    packed = tmp_path / f"{name}.{suffix}"
    packed.write_bytes(pack((FOLDER / name).read_bytes()))
    expected = [(s.tokens, s.labels, s.heads, s.text) for s in read(FOLDER / name)]
    assert [(s.tokens, s.labels, s.heads, s.text) for s in read(packed)] == expected
    assert [(s.tokens, s.labels, s.heads, s.text) for s in load_sentences(str(packed), DataConfig())] == expected
    tokenizer = WordTokenizer.from_corpus(read(FOLDER / name))
    hashes = {Panel.from_annotated(path, tokenizer).hash for path in (packed, FOLDER / name)}
    assert len(hashes) == 1


def test_zst_with_its_package_or_with_a_cure(tmp_path):
    path = tmp_path / "a.conllup.zst"
    path.write_bytes(b"not one frame")
    try:
        import zstandard
    except ImportError:
        with pytest.raises(DataError, match="nothing here reads .zst. pip install zstandard"):
            read(path)
        return
    with pytest.raises(DataError, match="truncated or damaged"):
        read(path)
    raw = (FOLDER / "roles.conllup").read_bytes()
    path.write_bytes(zstandard.compress(raw) + zstandard.compress(raw))
    assert len(read(path)) == 2
    path.write_bytes(zstandard.compress(raw)[:-9])
    with pytest.raises(DataError, match="truncated or damaged"):
        read(path)


def test_files_of_absynth_are_one_corpus(tmp_path):
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), n=40, seed=3)
    tokenizer = WordTokenizer.from_corpus(corpus)
    hashes = set()
    for suffix in (".parquet", ".jsonl", ".conllu", ".json"):
        path = tmp_path / f"c{suffix}"
        corpus.save(path)
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
            shutil.copyfileobj(plain, packed)
        for name in (str(path), f"{path}.gz"):
            found = load_sentences(name, DataConfig())
            assert found.oracle is not None
            assert isinstance(load_tokenizer(DataConfig(corpus=name), found, "causal"), WordTokenizer)
            panel = Panel.from_annotated(name, tokenizer)
            assert panel.truth is not None
            hashes.add(panel.hash)
    assert len(hashes) == 1
    damaged = tmp_path / "d.jsonl"
    damaged.write_bytes((tmp_path / "c.jsonl").read_bytes()[:-30])
    with pytest.raises(DataError, match=r"d\.jsonl"):
        read(damaged)


def test_one_broken_sentence_is_skipped_on_request_and_told(tmp_path, caplog):
    loop = "1\ta\t_\tX\t_\t_\t2\tdep\t_\t_\n2\tb\t_\tX\t_\t_\t1\tdep\t_\t_\n\n"
    good = "1\ta\t_\tX\t_\t_\t0\troot\t_\t_\n\n"
    path = tmp_path / "loop.conllu"
    path.write_text(good + loop + good + loop)
    with pytest.raises(DataError, match=r"line 3: .*cycle.*skip_broken=True"):
        read(path)
    with caplog.at_level(logging.WARNING):
        corpus = read(path, skip_broken=True)
    assert (len(corpus), corpus.skipped) == (2, 2)
    assert "2 broken sentences; the first: " in corpus.notes["skipped"]
    assert "line 3" in caplog.text
    panel = Panel.from_annotated(path, WordTokenizer(["a"]), skip_broken=True)
    assert panel.describe()["notes"]["skipped"].startswith("2 broken")
    assert len(load_sentences(str(path), DataConfig(skip_broken=True))) == 2
    path.write_text(loop)
    with pytest.raises(DataError, match="holds no sentences, 1 broken ones were skipped; the first"):
        read(path, skip_broken=True)


def test_a_format_can_be_named():
    assert len(read(FOLDER / "tagged.txt", format="plain")) == 7
    with pytest.raises(ConfigError, match=r"there is no format 'conll'. Known: conllu, "):
        read(FOLDER / "tagged.txt", format="conll")


# ---- refused ----
def replaced(name, old, new):
    return (FOLDER / name).read_text(encoding="utf-8").replace(old, new)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.cupt", replaced("expressions.cupt", "\t1:VPC.full", ""), "line 4: 10 columns, expected 11 separated by tabs"),
        ("a.conllup", "# global.columns = ID UP:PRED\n1\t_\n\n", "line 2: the columns ID UP:PRED hold no words .FORM.. Merge"),
        ("a.conllup", replaced("roles.conllup", "A1:5\t", "A1:9\t"), "line 5: argument 'A1:9', expected Role:word with a word from 1 to 5"),
        ("a.conllu", replaced("propbank1.conllu", "sell.01\tARG1\tV", "sell.01\tARG1"), "line 5: 12 columns, expected 13"),
        ("a.conll", replaced("shared2009.conll", "\tAM-DIR", ""), "line 3: 14 columns, expected 15"),
        ("a.conllx", replaced("shared2006.conllx", "3\thome", "4\thome"), "line 3: word 4, expected word 3"),
        ("a.conllx", replaced("shared2006.conllx", "\t2\tSBJ", "\t1\tSBJ"), "line 1: the dependency heads form a cycle.*expected a tree"),
        ("a.gold_conll", replaced("notes.gold_conll", "*)))))", "*))))"), "line 2: the bracket of 'TOP' does not close"),
        ("a.gold_conll", replaced("notes.gold_conll", "*       -\nnotes/01 0 2", "*\nnotes/01 0 2"), "line 3: 13 columns, expected 14"),
        ("a.gold_skel", "x 0 0 [WORD] NN (TOP* - -\nx 0 1 [WORD] NN *) - -\n\n", "line 1: the text is withheld.*Merge"),
        ("a.txt", replaced("chunks.txt", "sink VBP B-VP O", "sink VBP O"), "line 11: 3 columns, expected 4"),
        ("a.mrg", replaced("trees.mrg", ". .) ))", ". .) )"), "line 1: 1 brackets of the tree that begins here never close"),
        ("a.mrg", "(S (NN a)) stray\n", "line 1: 'stray' outside of all brackets"),
        ("a.mrg", "(S (NN a b))\n", "line 1: .* has no tag"),
        ("a.tsv", replaced("forms.tsv", "\tprimitive", "\tprimitive\tx\ty"), "line 1: a table that no reader knows"),
        ("a.tsv", "Ola slept .\tsleep\nA boat sank .\t \nOla sat .\tsit\n", "line 2: 2 columns between tabs"),
        ("a.txt", replaced("commands.txt", "left OUT:", "left"), "line 2: expected 'IN: command OUT: actions'"),
        ("a.txt", "True\tboats sink\nFalse\tboats sinks\n", "line 1: a table that no reader knows.*Name the format"),
        ("a.jsonl", '{"tokens": ["a", "b"], "ner_tags": ["O"]}\n', "line 1: 'ner_tags' has 1 values for 2 words. Give one"),
        ("a.jsonl", '{"tokens": ["a", "b"], "head": ["2", "1"]}\n', "line 1: the dependency heads form a cycle"),
        ("a.jsonl", '{"tokens": ["a"], "head": ["x"]}\n', "line 1: heads must be whole numbers"),
        ("a.json", '[{"words": ["a", ""]}]', "record 1: 'tokens' must hold words"),
        ("a.train", "\n\n", "holds no sentences. Check"),
    ],
)  # fmt: skip
def test_broken_files_name_file_line_and_cure(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as error:
        # What a damaged file looks like decides the format anew; named, it is the one it was.
        read(tmp_path / name, format="scan" if "IN:" in content else None)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(CORPORA), form=st.sampled_from([None, *READERS]), at=st.floats(0, 1), cut=st.integers(0, 40),
    put=st.binary(max_size=12) | st.sampled_from([b"\t", b"\n", b"\n\n", b"(", b"*)", b"#", b"{", b"\xff", b"1:", b"|", b"_"]),
)  # fmt: skip
def test_no_bytes_do_worse_than_an_error(tmp_path, name, form, at, cut, put):
    content = (FOLDER / name).read_bytes()
    place = int(at * len(content))
    path = tmp_path / name
    path.write_bytes(content[:place] + put + content[place + cut :])
    told = ""
    corpus = []
    try:
        corpus = read(path, format=form)
    except DataError as error:
        told = str(error)
    assert "\n" not in told
    assert not told or name in told
    for sentence in corpus:
        assert all(len(values) == len(sentence) for values in sentence.labels.values())
        assert len(sentence.spans) == len(sentence)
        assert all(0 <= a <= b <= len(sentence.text) for a, b in sentence.spans)


# ---- spans and edges ----
def test_flat_keeps_one_of_two_that_overlap():
    spans = [("A", 0, 3), ("B", 1, 1), ("C", 4, 4)]
    assert flat(5, spans, longest=True) == (("B-A", "I-A", "I-A", "I-A", "B-C"), [("A", 0, 3), ("C", 4, 4)])
    assert flat(5, spans, longest=False)[0] == ("O", "B-B", "O", "O", "B-C")


def test_brackets_of_columns():
    assert bracketed(["(S(NP*)", "(VP*", "*))"]) == [("S", 0, 2), ("NP", 0, 0), ("VP", 1, 2)]
    for cells in (["(S*"], ["*)"]):
        with pytest.raises(ValueError, match="close"):
            bracketed(cells)


def test_mentions_cross_and_stay_open():
    assert mentions(["(1(2", "1)", "2)", "(3", "4)"]) == [("1", 0, 1), ("2", 0, 2)]
    assert mentions(["(7-person(8-place)", "7)"]) == [("8-place", 0, 0), ("7-person", 0, 1)]


def test_roles_by_hand():
    layers = role_layers(4, {1: "go.01"}, [(1, 0, "A0"), (3, 0, "A1"), (1, 2, "AM")])
    assert layers["role"] == ("A0", None, "AM", None)
    assert layers["predicate"] == ("2,4", None, "2", None)
    layers, left = role_span_layers(4, {}, [(3, ("A1", 0, 2)), (1, ("A0", 0, 0)), (3, ("A0", 0, 0))])
    assert (layers["role"], layers["predicate"], left) == (("B-A0", "O", "O", "O"), ("2,4", None, None, None), 1)


def test_probes_take_the_edges_and_spans_of_real_roles():
    corpus = [*read(FOLDER / "propbank1.conllu"), *read(FOLDER / "roles.conllup")]
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus))
    argument, predicate, right = candidates(panel, panel.labels("predicate"))
    found = {
        (panel.sentences[panel.word_sentence[a]].tokens[panel.word_position[a]],
         panel.sentences[panel.word_sentence[p]].tokens[panel.word_position[p]]): bool(r)
        for a, p, r in zip(argument, predicate, right, strict=True)
    }  # fmt: skip
    # "Ola" is an argument of both; "boats" of one only.
    assert found == {("Ola", "wants"): True, ("Ola", "sell"): True, ("boats", "wants"): False, ("boats", "sell"): True}
    phrases = read(FOLDER / "notes.gold_conll")
    panel = Panel.from_annotated(phrases, WordTokenizer.from_corpus(phrases))
    spans = find_spans(panel, panel.labels("role"))
    assert not isinstance(spans, str)
    assert [spans.names[c] for c in spans.codes] == ["ARG0", "ARG1"]
    assert np.diff(spans.offsets).tolist() == [1, 2]


# ---- the field's own files ----
def test_samples_of_the_field(data_dir):
    folder = data_dir / "formats"
    if not folder.is_dir():
        pytest.skip(f"no samples: {folder} is not a folder")
    expected = {
        "FR.cupt": "mwe", "en_ewt-up-dev.conllu": "predicate", "streusle.ud_dev.conllulex": "lextag", "example.gold_conll": "role",
        "coref.gold_conll": "mention", "conll2000.txt": "chunk", "example_ptb.trees": "phrase", "cop_scriptorium-ud-dev.conllu": "entity",
    }  # fmt: skip
    for name, layer in expected.items():
        corpus = read(folder / name)
        assert any(layer in s.labels for s in corpus), name
    for name in ("cogs_dev.tsv", "slog_cogs_dev.tsv", "recogs_cogs_dev.tsv", "scan_test.txt"):
        assert all(s.target for s in read(folder / name)), name
