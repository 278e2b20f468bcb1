import gzip
import json
import lzma
from collections import Counter

import numpy as np
import pytest

from lmtrace.errors import DataError
from lmtrace.text.panel import Panel
from lmtrace.text.readers import iterate, read
from lmtrace.text.readers.published import category
from lmtrace.text.tokenizer import WordTokenizer

CONLLU = """\
# sent_id = one
# text = Don't go to l'aéroport du nord.
# complexity = simple
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\tMood=Imp|VerbForm=Fin\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\tVerbForm=Inf\t0\troot\t_\t_
3.1\tghost\t_\t_\t_\t_\t_\t_\t_\t_
4\tto\tto\tADP\tIN\t_\t6\tcase\t_\t_
5\tl'\tle\tDET\tDT\t_\t6\tdet\t_\tSpaceAfter=No
6\taéroport\taéroport\tNOUN\tNN\tNumber=Sing\t3\tobl\t_\t_
7-8\tdu\t_\t_\t_\t_\t_\t_\t_\t_
7\tde\tde\tADP\tIN\t_\t9\tcase\t_\t_
8\tle\tle\tDET\tDT\t_\t9\tdet\t_\t_
9\tnord\tnord\tNOUN\tNN\tNumber=Sing\t6\tnmod\t_\tSpaceAfter=No
10\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_

1\t_\t_\tSYM\tNFP\t_\t0\troot\t_\t_

"""


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_conllu_gives_words_text_layers_and_tree(write):
    corpus = read(write("a.conllu", CONLLU))
    first, second = corpus
    assert first.tokens == ("Do", "n't", "go", "to", "l'", "aéroport", "de", "le", "nord", ".")
    assert first.text == "Don't go to l'aéroport du nord."
    spelt = [first.text[a:b] for a, b in first.spans]
    assert spelt == ["Do", "n't", "go", "to", "l'", "aéroport", "du", "du", "nord", "."]
    assert first.heads == (3, 3, 0, 6, 6, 3, 9, 9, 6, 3)
    assert first.deprels[:3] == ("aux", "advmod", "root")
    assert first.labels["VerbForm"] == ("Fin", None, "Inf", *[None] * 7)
    assert first.labels["upos"][0] == "AUX"
    assert first.info == {"complexity": "simple"}
    assert first.sent_id == "one"
    assert second.tokens == ("_",)
    assert second.labels["lemma"] == ("_",)
    assert corpus[0:1].sentences == (first,)


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_compressed_files_and_truncated_ones(write, suffix, pack):
    packed = pack(CONLLU.encode() * 200)
    assert len(read(write(f"a.conllu.{suffix}", packed))) == 400
    with pytest.raises(DataError, match=r"b\.conllu.*after line \d+: the compressed file is truncated or damaged"):
        read(write(f"b.conllu.{suffix}", packed[:-20]))
    with pytest.raises(DataError, match="truncated or damaged"):
        read(write(f"c.conllu.{suffix}", b"not compressed at all"))


def change(line, column, value):
    lines = CONLLU.split("\n")
    columns = lines[line - 1].split("\t")
    columns[column - 1] = value
    lines[line - 1] = "\t".join(columns)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no sentences"),
        ("# only = a comment\n\n", "holds no sentences"),
        (change(7, 7, "1"), r"line 5: the dependency heads form a cycle \(1 -> 3 -> 1\), expected a tree"),
        (change(7, 7, "77"), "line 7: word 3 has head 77, but the sentence has 10 words, expected a tree"),
        (change(7, 7, "x"), "line 7: HEAD is 'x', expected a whole number"),
        (change(7, 1, "4"), "line 7: word 4, expected word 3"),
        (change(7, 1, "?"), r"line 7: ID is '\?', expected a whole number"),
        (change(4, 1, "2-3"), "line 4: range 2-3, expected one that begins at 1"),
        (change(7, 2, ""), "line 7: the word has no form"),
        (change(7, 6, "Number"), "line 7: feature 'Number', expected Name=Value"),
        (CONLLU.replace("\tVERB\t", " VERB\t"), "line 7: 9 columns, expected 10 separated by tabs"),
        (CONLLU[: CONLLU.index("nord\tnord") + 6], r"line 15: 3 columns, expected 10"),
        (CONLLU.rstrip("\n"), "line 18: the file ends within a sentence, expected an empty line"),
        ("1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\t_\t_\t_\t_\t0\t_\t_\t_\n\n", "ends at word 1, expected word 2"),
        ("1.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n\n", "line 1: a sentence without words"),
        (CONLLU.replace("nord.", "nörd.").encode("latin-1"), r"line 2: not UTF-8 \(byte 0xe9\)"),
    ],
)  # fmt: skip
def test_broken_conllu_names_file_line_and_what_was_expected(write, content, message):
    with pytest.raises(DataError, match=message) as error:
        read(write("bad.conllu", content))
    assert "bad.conllu" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_tree_is_no_error(write):
    rows = "".join(f"{i}\tw\t_\tX\t_\t_\t_\t_\t_\t_\n" for i in (1, 2))
    (sentence,) = read(write("a.conllu", rows + "\n"))
    assert sentence.heads is None
    assert sentence.labels == {"upos": ("X", "X")}


def test_iterating_yields_before_the_error(write):
    sentences = iterate(write("a.conllu", CONLLU + "broken\n"))
    assert len(next(sentences)) == 10
    next(sentences)
    with pytest.raises(DataError, match="line 20: 1 columns"):
        next(sentences)


def test_json_lines(write):
    rows = [
        {"format": "somebody's header"},
        {
            "tokens": ["a", "b"],
            "labels": {"upos": ["X", None]},
            "heads": [0, 1],
            "frame": "motion",
            "logical_form": "b(a)",
        },
        {"tokens": [], "labels": {}},
        {"tokens": ["c"]},
    ]
    corpus = read(write("a.jsonl", "\n".join(map(json.dumps, rows)) + "\n"))
    assert [len(s) for s in corpus] == [2, 0, 1]
    assert corpus[0].labels["upos"] == ("X", None)
    assert corpus[0].info == {"frame": "motion"}
    assert corpus[0].target == "b(a)"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"tokens": ["a"', "line 2: not JSON"),
        ('{"lexemes": ["a"]}', "line 2: expected an object with a list 'tokens'"),
        ('{"tokens": ["a", 3]}', "line 2: 'tokens' must hold words"),
        ('{"tokens": ["a"], "labels": {"upos": ["X", "Y"]}}', "line 2: .*'upos' has 2 values for 1 words"),
        ('{"tokens": ["a"], "labels": ["X"]}', "line 2: 'labels' is a list"),
        ('{"tokens": ["a", "b"], "heads": [2, 1]}', "line 2: .*cycle"),
    ],
)
def test_broken_json_lines(write, line, message):
    with pytest.raises(DataError, match=message):
        read(write("a.jsonl", '{"tokens": ["ok"]}\n' + line + "\n"))


RECORD = {
    "sentence": "noun1 TRANSITIVE_VERB8 adjective2 noun1 TEMPORAL3",
    "semantics": "∃e (Agent(e, noun1) ∧ Patient(e, noun1))",
}


@pytest.mark.parametrize("content", [[RECORD], {"metadata": {"n": 1}, "other": [1], "corpus": [RECORD]}])
def test_published_json_in_both_forms(write, content):
    corpus = read(write("a.json", json.dumps(content)))
    (sentence,) = corpus
    assert sentence.labels["category"] == ("noun", "transitive_verb", "adjective", "noun", "temporal")
    assert sentence.labels["upos"] == ("NOUN", "VERB", "ADJ", "NOUN", "ADV")
    assert sentence.labels["role"] == ("Agent", None, None, "Patient", None)
    assert sentence.target == RECORD["semantics"]
    assert corpus.notes["role"].startswith("positional")
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus))
    assert panel.describe()["notes"]["role"].startswith("positional")


def test_categories_are_read_from_the_words():
    words = ["noun12", "TRANSITIVE_VERB8", "transitive_verb8s", "TEMPORAL1", "house", "nounish3", "noun"]
    expected = ["noun", "transitive_verb", "transitive_verb", "temporal", None, None, None]
    assert [category(word) for word in words] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"sentence": "noun1', "line 1: not JSON"),
        ('{"a": 1}', "expected a list of records"),
        ('[{"semantics": ""}]', "record 1: expected an object with a text 'sentence'"),
        ('[{"sentence": "noun1", "semantics": "Agent(e, noun2)"}]', "record 1: the semantics name 'noun2'"),
        ("[]", "holds no sentences"),
    ],
)
def test_broken_published_json(write, content, message):
    with pytest.raises(DataError, match=message):
        read(write("a.json", content))


def test_plain_text_and_unknown_names(write, tmp_path):
    corpus = read(write("a.txt", "\ufeffthe dog\n\n sees it \n"))
    assert [s.tokens for s in corpus] == [("the", "dog"), ("sees", "it")]
    with pytest.raises(
        DataError, match=r"cannot tell the format by its name. Readable: .conllup, .cupt, .* or name the format"
    ):
        read(tmp_path / "a.csv")
    with pytest.raises(DataError, match="cannot be opened"):
        read(tmp_path / "missing.conllu")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        read(tmp_path / "folder.txt")


def test_the_real_treebank(data_dir):
    corpus = read(data_dir / "en_ewt-ud-dev.conllu")
    assert len(corpus) == 2001
    lines = (data_dir / "en_ewt-ud-dev.conllu").read_text(encoding="utf-8").split("\n")
    texts = [line[9:].replace(" ", "") for line in lines if line.startswith("# text = ")]
    assert [s.text.replace(" ", "") for s in corpus] == texts
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus))
    assert {"NOUN", "VERB"} <= set(panel.labels("upos").names)
    roots = panel.heads < 0
    assert np.array_equal(np.bincount(panel.word_sentence[roots]), np.ones(panel.num_sentences))


def test_the_real_published_corpus(data_dir):
    corpus = read(data_dir / "next_token_corpus_3.json")
    assert len(corpus) == 25000
    assert sum(map(len, corpus)) == 122_200
    assert len({s.labels["category"] for s in corpus}) == 19
    assert len({token for s in corpus for token in s.tokens}) == 6450
    roles = Counter(r for s in corpus for r in s.labels["role"])
    assert (roles["Agent"], roles["Patient"]) == (25000, 15873)
    assert None not in {c for s in corpus for c in s.labels["category"]}
