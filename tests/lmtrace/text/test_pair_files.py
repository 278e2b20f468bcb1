"""Files of minimal pairs: every layout is read right, broken ones name file, line and cure."""

from __future__ import annotations

import gzip
import logging
import lzma
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmtrace.errors import DataError
from lmtrace.text.minimal_pair import MinimalPair
from lmtrace.text.pairs import as_pairs, read_pairs

FOLDER = Path(__file__).parents[2] / "data" / "formats"
EXPECTED = {
    "agreement.jsonl": [("boats sink", "boats sinks", "agreement"), ("she rows", "she row", "person")],
    "pairs_named.csv": [("boats, all, sink", "boats sinks", "number")],
    "pairs_labelled.csv": [("boats sink", "boats sinks", "number"), ("she saw herself", "she saw himself", "gender")],
    "pairs_unnamed.csv": [
        ("Ola saw herself", "Ola saw himself", "anaphor_gender"), ("Ola rows", "Ola row", "agreement_verb"),
    ],
    "pairs_true.txt": [("boats sink", "boats sinks", "pairs_true"), ("she rows", "she row", "pairs_true")],
    "pairs_which.jsonl": [("she rows", "she row", "verbs"), ("boats sink", "boats sinks", "verbs")],
    "pairs.tsv": [("boats sink", "boats sinks", "SV-#"), ('say "so', 'say "say', "SV-P")],
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("pack", [None, gzip.compress, lzma.compress])
def test_every_layout(tmp_path, name, pack):
    path = FOLDER / name
    if pack is not None:
        path = tmp_path / f"{name}{'.gz' if pack is gzip.compress else '.xz'}"
        path.write_bytes(pack(b"\xef\xbb\xbf" + (FOLDER / name).read_bytes()))
    assert [(p.good, p.bad, p.kind) for p in read_pairs(path)] == EXPECTED[name]


def test_what_is_guessed_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        read_pairs(FOLDER / "pairs_unnamed.csv")
    assert "guessed columns: sentence '2', label '3', kind '1'" in caplog.text


def test_parquet(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"sentence_good": ["a b"], "sentence_bad": ["a c"], "UID": ["k"]}), tmp_path / "p.parquet")
    assert read_pairs(tmp_path / "p.parquet") == [MinimalPair("a b", "a c", "k")]


def test_contexts_and_choices():
    one, two = read_pairs(FOLDER / "contexts.jsonl")
    assert (one.good, one.bad, one.context, one.kind) == (
        "It sinks.",
        "It floats.",
        "The boat is full of water.",
        "physics",
    )
    assert (two.good, two.bad, two.context) == ("It floats.", "It sinks.", "The boat is dry.")
    (choice,) = read_pairs(FOLDER / "boxes.jsonl")
    assert choice.wrong == ("the key.", "the map.")
    assert (choice.good, choice.kind) == ("the cup.", "boxes 2")
    assert choice.context.endswith("Box 1 holds")


@pytest.mark.parametrize("key", ["UID", "PID", "paradigm", "phenomenon", "category", "linguistics_term", "Domain"])
def test_kinds_by_every_key(tmp_path, key):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(f'{{"sentence_good": "a", "sentence_bad": "b", "{key}": "k{i}"}}\n' for i in range(3)))
    assert [p.kind for p in read_pairs(path)] == ["k0", "k1", "k2"]


def test_a_kind_that_is_empty_gives_way(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"good_sentence": "a", "bad_sentence": "b", "paradigm": null, "phenomenon": "ellipsis"}\n')
    assert read_pairs(path)[0].kind == "ellipsis"


def test_folders_of_folders(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    text = (FOLDER / "agreement.jsonl").read_bytes()
    (tmp_path / "deep" / "a.jsonl").write_bytes(text)
    (tmp_path / "deep" / "er" / "b.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "README.txt").write_text("about")
    assert len(as_pairs(tmp_path)) == 4
    assert as_pairs((MinimalPair("a", "b"), str(tmp_path))) == [MinimalPair("a", "b"), *as_pairs(tmp_path)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no file of minimal pairs in it. Expected files \.jsonl"):
        as_pairs(tmp_path / "empty")


def test_lines_in_twos_need_to_be_told():
    assert read_pairs(FOLDER / "pairs_lines.txt", first="bad") == [
        MinimalPair("boats sink", "boats sinks", "pairs_lines")
    ]
    assert read_pairs(FOLDER / "pairs_lines.txt", first="good")[0].good == "boats sinks"
    with pytest.raises(DataError, match=r"line 1: nothing says which .* first='bad'"):
        read_pairs(FOLDER / "pairs_lines.txt")


def test_columns_by_name(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("ok,ko,what\na b,a c,x\n")
    assert read_pairs(path, columns={"good": "ok", "bad": "ko", "kind": "what"}) == [MinimalPair("a b", "a c", "x")]
    with pytest.raises(DataError, match="no column yes. It has: ok, ko, what"):
        read_pairs(path, columns={"good": "yes", "bad": "ko"})
    with pytest.raises(
        DataError, match="line 2: no pair under the columns ok, ko, what, expected two .* Name the columns"
    ):
        read_pairs(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"sentence_good": "a", "sentence_bad": "b"}\n{"sentence_good": "a"}\n', "line 2: sentence_bad is 'None'"),
        ("p.jsonl", '{"sentence_good": "a", "sentence_bad": " "}\n', "line 1: sentence_bad is ' '"),
        ("p.jsonl", "[1]\n", "line 1: expected a JSON object"),
        ("p.jsonl", '{"sentence_good": "a", "sentence_bad": "b", "severity": "x"}\n', "line 1: severity is 'x'"),
        ("p.jsonl", "", "holds no pairs"),
        ("p.csv", "sentence_good,sentence_bad\na,b\na,b,c\n", "line 3: 3 columns, expected 2 as in line 1. Correct"),
        ("p.csv", "sentence,label\na,1\nb,maybe\n", "line 3: label is 'maybe', expected true or false, 1 or 0"),
        ("p.csv", "sentence,label\na,1\nb,0\nc,1\n", None),
        ("p.csv", "sentence,label,category\na,0,x\nb,1,y\n", "line 2: no good sentence belongs to the bad one. Sort"),
        ("p.jsonl", '{"sentence_a": "a", "sentence_b": "b", "label": 2}\n', "line 1: label is '2', expected 0 where"),
        ("p.jsonl", '{"input_prefix": "a", "options": ["b"]}\n', "line 1: options is .*at least two texts"),
        ("p.jsonl", '{"text_1": "a", "text_2": "b"}\n', "line 1: no pair under the columns text_1, text_2, expected"),
        ("p.json", "{", "not JSON"),
        ("p.json", '{"predictions": []}', r"a suite of SyntaxGym.*Suites\(suites="),
        ("p.xml", "", "cannot tell by its name how pairs are written. Readable: .jsonl"),
    ],
)  # fmt: skip
def test_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    if message is None:
        assert len(read_pairs(tmp_path / name)) == 1
        return
    with pytest.raises(DataError, match=message) as error:
        read_pairs(tmp_path / name)
    assert name in str(error.value)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([*EXPECTED, "contexts.jsonl", "boxes.jsonl", "suite.json"]), at=st.floats(0, 1),
    cut=st.integers(0, 30), put=st.binary(max_size=8) | st.sampled_from([b"\t", b"\n", b",", b'"', b"{", b"\xff", b"True"]),
)  # fmt: skip
def test_no_bytes_do_worse_than_an_error(tmp_path, name, at, cut, put):
    content = (FOLDER / name).read_bytes()
    place = int(at * len(content))
    (tmp_path / name).write_bytes(content[:place] + put + content[place + cut :])
    told = ""
    pairs = []
    try:
        pairs = read_pairs(tmp_path / name, first="bad")
    except DataError as error:
        told = str(error)
    assert not told or (name in told and "\n" not in told)
    assert all(p.good and p.bad for p in pairs)


def test_pairs_of_the_field(data_dir):
    folder = data_dir / "formats"
    if not folder.is_dir():
        pytest.skip(f"no samples: {folder} is not a folder")
    for name, n in {
        "blimpnl.csv": 59,
        "clams.txt": 60,
        "climp.csv": 59,
        "jblimp.jsonl": 120,
        "rublimp.csv": 119,
    }.items():
        assert len(read_pairs(folder / name)) == n
    assert read_pairs(folder / "qfrblimp.jsonl")[0].good.endswith(
        "afin de ne pas le voir confondu avec d'autres aliments."
    )
