"""Damaged files: our one error, never another exception, never a part of a corpus."""

import json
import random

import pytest

import absynth
from absynth.formats.header import Header

# What is in the file is checked against the grammar, or has checksums: a change is an error, or changes nothing.
GUARDED = (".parquet", ".jsonl", ".conllu", ".json")
SUFFIXES = (*GUARDED, ".txt", ".tsv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), n=25, seed=0)
    for suffix in SUFFIXES:
        corpus.save(folder / f"whole{suffix}")
    imported = absynth.load(folder / "whole.tsv")
    imported.save(folder / "imported.jsonl")
    imported.save(folder / "imported.parquet")
    return folder


def mutations(data, rng, number):
    for _ in range(number):
        changed = bytearray(data)
        at = rng.randrange(len(changed))
        kind = rng.choice(("cut", "flip", "insert", "delete", "copy"))
        if kind == "cut":
            del changed[at:]
        elif kind == "flip":
            for _ in range(rng.choice((1, 1, 3))):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        elif kind == "insert":
            changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        elif kind == "delete":
            del changed[at : at + rng.randrange(1, 60)]
        else:
            other = rng.randrange(len(changed))
            changed[at : at + 20] = changed[other : other + 20]
        yield kind, bytes(changed)


@pytest.mark.parametrize("name", [*(f"whole{suffix}" for suffix in SUFFIXES), "imported.jsonl", "imported.parquet"])
def test_damaged_files(folder, tmp_path, name):
    whole = (folder / name).read_bytes()
    expected = list(absynth.load(folder / name))
    path = tmp_path / name
    guarded = path.suffix in GUARDED
    rng = random.Random(name)
    messages = []
    for kind, data in mutations(whole, rng, 80):
        path.write_bytes(data)
        try:
            found = absynth.load(path)
        except absynth.AbsynthError as error:
            messages.append(str(error))
            continue
        if guarded:
            assert list(found) == expected, kind
        elif kind == "cut":  # a cut between two lines of plain text leaves no trace
            assert [s.tokens for s in found] == [s.tokens for s in expected][: len(found)]
    assert len(messages) > (60 if guarded else 20)
    for message in messages:
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < 600


@pytest.mark.parametrize("suffix", GUARDED)
def test_every_truncation_is_an_error(folder, tmp_path, suffix):
    data = (folder / f"whole{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    lines = [i + 1 for i, byte in enumerate(data[:-1]) if byte == 10]
    rng = random.Random(0)
    for at in [0, 1, 4, *rng.sample(lines, min(25, len(lines))), *rng.sample(range(len(data) - 1), 25)]:
        path.write_bytes(data[:at])
        if suffix == ".conllu" and at == 0:
            continue  # an empty file is a CoNLL-U file of no sentences
        if suffix == ".json" and data[at:].strip() == b"":
            continue
        with pytest.raises(absynth.AbsynthError):
            absynth.load(path)


def rewrite(folder, tmp_path, line, change):
    lines = (folder / "whole.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[line])
    change(record)
    lines[line] = json.dumps(record)
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(tokens="the dog"), "a list"),
        (lambda r: r.update(tokens=[1, 2]), "words of the grammar"),
        (lambda r: r.update(tokens=[["a"]]), "words of the grammar"),
        (lambda r: r.update(tokens=["x" * 10_000_000]), "words of the grammar"),
        (lambda r: r.update(labels=[]), "an object"),
        (lambda r: r["labels"].update(role=5), "a list"),
        (lambda r: r["labels"]["role"].append("Agent"), "as the grammar says"),
        (lambda r: r["labels"].pop("role"), "as the grammar says"),
        (lambda r: r["labels"].update(role=["Agent"] * len(r["tokens"])), "as the grammar says"),
        (lambda r: r.update(heads=None), "a list"),
        (lambda r: r["heads"].reverse(), "as the grammar says"),
        (lambda r: r.update(template="none/none"), "a template"),
        (lambda r: r.update(template=["x"]), "a template"),
        (lambda r: r["tokens"].pop(), "words, as in"),
        (lambda r: r.update(tree="(S)"), "as the grammar says"),
        (lambda r: r.update(extra=1), "one of tokens"),
    ],
)
def test_wrong_types_and_values_are_named(folder, tmp_path, change, message):
    with pytest.raises(absynth.AbsynthError, match=message) as error:
        absynth.load(rewrite(folder, tmp_path, 7, change))
    assert "c.jsonl" in str(error.value)
    assert "c.jsonl:8" in str(error.value) or "sentence 7" in str(error.value)
    assert len(str(error.value)) < 400


def test_other_spacing_and_order_of_keys_are_the_same_record(folder, tmp_path):
    path = rewrite(folder, tmp_path, 7, lambda r: r.update(tokens=r.pop("tokens")))
    assert list(absynth.load(path)) == list(absynth.load(folder / "whole.jsonl"))


def test_a_changed_header_is_noticed(folder, tmp_path):
    def change(record):
        record["absynth"]["provenance"]["seed"] = 1

    with pytest.raises(absynth.AbsynthError, match="changed"):
        absynth.load(rewrite(folder, tmp_path, 0, change))
    for text in ("", "{}", "[1]", '{"absynth": 1}', '{"absynth": {"format": 99}}', "[" * 100_000, "9" * 5000):
        with pytest.raises(absynth.AbsynthError):
            Header.parse(text, "x")


@pytest.mark.parametrize("suffix", [".jsonl", ".conllu", ".txt", ".tsv", ".json"])
def test_not_utf8_is_named_with_its_line(folder, tmp_path, suffix):
    lines = (folder / f"whole{suffix}").read_bytes().split(b"\n")
    lines[2] = b"\xff" + lines[2]
    path = tmp_path / f"c{suffix}"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(absynth.AbsynthError, match="UTF-8") as error:
        absynth.load(path)
    assert f"c{suffix}:3" in str(error.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".conllu", ".txt", ".tsv", ".json", ".parquet"])
def test_huge_fields_and_binary_noise(tmp_path, suffix):
    path = tmp_path / f"c{suffix}"
    for data in (b"x" * 20_000_000, b"a\tb\n" * 3 + b"y" * 2_000_000 + b"\n", bytes(range(256)) * 100, b"\x00" * 1000):
        path.write_bytes(data)
        with pytest.raises(absynth.AbsynthError) as error:
            absynth.load(path)
        assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1\tdog\n", "ten columns"),
        ("2\tdog\tdog\tNOUN\t_\t_\t0\troot\t_\t_\n\n", "ID 1"),
        ("1\tdog\tdog\tNOUN\t_\t_\t9\troot\t_\t_\n\n", "another word"),
        ("1\tdog\tdog\tNOUN\t_\t_\tx\troot\t_\t_\n\n", "a head"),
        ("x\tdog\tdog\tNOUN\t_\t_\t0\troot\t_\t_\n\n", "an ID"),
        ("1\ta\ta\tX\t_\t_\t2\tdep\t_\t_\n2\tb\tb\tX\t_\t_\t1\tdep\t_\t_\n\n", "0 roots"),
        (
            "1\ta\ta\tX\t_\t_\t2\tdep\t_\t_\n2\tb\tb\tX\t_\t_\t1\tdep\t_\t_\n3\tc\tc\tX\t_\t_\t0\troot\t_\t_\n\n",
            "cycle",
        ),
        ("1\ta\ta\tX\t_\t_\t0\troot\t_\t_\n\n1\tb\tb\tX\t_\t_\t_\t_\t_\t_\n\n", "for every sentence"),
        ("1\ta\ta\tX\t_\t_\t0\troot\t_\t_\n", "truncated"),
        ("\n", "words before"),
    ],
)
def test_wrong_conllu(tmp_path, row, message):
    path = tmp_path / "c.conllu"
    path.write_text("# sent_id = 1\n" + row if row.strip() else row, encoding="utf-8")
    with pytest.raises(absynth.AbsynthError, match=message) as error:
        absynth.load(path)
    assert "c.conllu:" in str(error.value)


def test_parquet_with_other_columns(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "c.parquet"
    for table in (pa.table({"a": [1]}), pa.table({"tokens": [["a"]]})):
        pq.write_table(table, path)
        with pytest.raises(absynth.AbsynthError, match="absynth"):
            absynth.load(path)
