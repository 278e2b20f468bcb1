"""The command line: what it prints, its exit codes, its speed."""

import json
import os
import resource
import subprocess
import sys
import time

import pytest

import absynth
from absynth.cli import main
from absynth.rules.grammar_text import to_toml
from reference.toys import TOYS


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def ok(capsys, *arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "c.parquet"
    absynth.generate(absynth.Grammar.preset("tiny"), n=300, seed=4).save(path)
    return path


def test_generate_writes_the_same_as_python(capsys, tmp_path, corpus_file):
    out = tmp_path / "d.parquet"
    facts = json.loads(ok(capsys, "generate", "-n", 300, "--seed", 4, "--preset", "tiny", "-o", out, "--json"))
    assert out.read_bytes() == corpus_file.read_bytes()
    assert facts["sentences"] == 300
    assert facts["bytes"] == out.stat().st_size
    assert "300 sentences" in ok(
        capsys, "generate", "-n", 300, "--preset", "tiny", "--workers", 2, "-o", tmp_path / "e.jsonl"
    )


def test_generate_to_an_entropy(capsys, tmp_path):
    out = tmp_path / "e.parquet"
    ok(capsys, "generate", "-n", 50, "--preset", "tiny", "--entropy", 2.5, "-o", out)
    rate = absynth.Oracle(absynth.load(out).grammar).entropy_rate(unit="bits", samples=100)
    assert float(rate) == pytest.approx(2.5, abs=0.02)
    code, _, err = run(capsys, "generate", "-n", 50, "--preset", "tiny", "--entropy", 99, "-o", out)
    assert code == 2
    assert "a value from" in err


def test_describe(capsys, corpus_file):
    assert "Frame shares: chi-square" in ok(capsys, "describe", corpus_file, "--scored", 50)
    facts = json.loads(ok(capsys, "describe", corpus_file, "--json", "--scored", 50))
    assert facts["sentences"] == 300
    assert facts["entropy"]["sentences"] == 50


def test_plot(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "c.tsv"
    absynth.generate(TOYS["agreement"](), n=20).save(path)
    figures = json.loads(ok(capsys, "plot", path, "-o", tmp_path / "figures", "--json"))["figures"]
    assert len(figures) == 2
    assert all(os.path.exists(figure) for figure in figures)


def test_pairs(capsys, corpus_file, tmp_path):
    out = tmp_path / "p.jsonl"
    counts = json.loads(ok(capsys, "pairs", corpus_file, "--kind", "role_swap", "--limit", 50, "-o", out, "--json"))
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert counts["attempted"] == 50
    assert counts["impossible"] == sum(counts["reasons"].values())
    assert counts["made"] == len(records) > 0
    assert counts["made"] + counts["impossible"] == 50
    assert {"sentence_good", "sentence_bad", "UID"} <= set(records[0])
    assert "\n  * " in ok(capsys, "pairs", corpus_file, "--kind", "role_swap", "--limit", 50)
    assert run(capsys, "pairs", corpus_file, "--kind", "nonsense")[0] == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".conllu", ".json"])
def test_convert_there_and_back(capsys, corpus_file, tmp_path, suffix):
    ok(capsys, "convert", corpus_file, tmp_path / f"c{suffix}")
    ok(capsys, "convert", tmp_path / f"c{suffix}", tmp_path / "back.parquet")
    assert (tmp_path / "back.parquet").read_bytes() == corpus_file.read_bytes()


def test_convert_to_the_published_list(capsys, corpus_file, tmp_path):
    out = tmp_path / "c.json"
    ok(capsys, "convert", corpus_file, out, "--form", "list", "--dialect", "events")
    assert set(json.loads(out.read_text(encoding="utf-8"))[0]) == {"sentence", "semantics"}
    assert run(capsys, "convert", corpus_file, out, "--form", "tree")[0] == 2


def test_score(capsys, corpus_file, tmp_path):
    corpus = absynth.load(corpus_file)
    expected = corpus.oracle.score(corpus)
    out = tmp_path / "s.jsonl"
    facts = json.loads(ok(capsys, "score", corpus_file, "-o", out, "--json"))
    assert facts["surprisal"] == pytest.approx(expected.surprisal.mean())
    assert facts["outside"] == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines[3]["surprisal"] == pytest.approx(
        expected.surprisal[expected.offsets[3] : expected.offsets[4]].tolist()
    )
    text = tmp_path / "t.txt"
    text.write_text(" ".join(corpus[0].tokens) + "\nfoo bar\n", encoding="utf-8")
    assert run(capsys, "score", text)[0] == 2
    facts = json.loads(ok(capsys, "score", text, "--preset", "tiny", "--json"))
    assert (facts["sentences"], facts["outside"]) == (2, 1)
    assert facts["surprisal"] == pytest.approx(expected.surprisal[: expected.offsets[1]].mean())


def test_parse(capsys, corpus_file):
    sentence = absynth.load(corpus_file)[0]
    text = " ".join(sentence.tokens)
    facts = json.loads(ok(capsys, "parse", text, "--corpus", corpus_file, "--json"))
    assert facts["accepted"]
    assert sentence.tree in [d["tree"] for d in facts["derivations"]]
    assert sentence.tree in ok(capsys, "parse", text, "--preset", "tiny")
    facts = json.loads(ok(capsys, "parse", text + " foo", "--preset", "tiny", "--json"))
    assert not facts["accepted"]
    assert facts["diagnosis"]["kind"] == "unknown word"
    assert "unknown word at word 1" in ok(capsys, "parse", "foo")


@pytest.mark.parametrize(
    "grammar",
    [
        absynth.Grammar.preset("tiny", strength={"": 0.3, "noun-adjective:amod": 1.0}, levels=None).replace(
            name='a "b"'
        ),
        *(toy() for toy in TOYS.values()),
    ],
)
def test_a_shown_grammar_can_be_read_back(tmp_path, grammar):
    path = tmp_path / "g.toml"
    path.write_text(to_toml(grammar), encoding="utf-8")
    found = absynth.Grammar.from_toml(path)
    assert found.fingerprint == grammar.fingerprint
    assert found.name == grammar.name


def test_grammar(capsys, tmp_path):
    text = ok(capsys, "grammar", "--show", "--preset", "tiny")
    (tmp_path / "g.toml").write_text(text, encoding="utf-8")
    facts = json.loads(ok(capsys, "grammar", "--grammar", tmp_path / "g.toml", "--json"))
    assert facts["fingerprint"] == absynth.Grammar.preset("tiny").fingerprint
    assert "bits per token" in ok(capsys, "grammar", "--preset", "tiny")
    assert json.loads(ok(capsys, "grammar", "--show", "--preset", "tiny", "--json"))["sizes"]["noun"] == 10


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate", "-n", -1, "-o", "x.parquet"], 2, "n: got -1"),
        (["generate", "-n", "many", "-o", "x.parquet"], 2, "-n"),
        (["generate", "-n", 3], 2, "--out"),
        (["generate", "-n", 3, "-o", "x.docx"], 2, ".parquet"),
        (["generate", "-n", 3, "--preset", "huge", "-o", "x.parquet"], 2, "tiny, small, paper"),
        (["generate", "-n", 3, "--preset", "tiny", "--grammar", "g.toml", "-o", "x.parquet"], 2, "one of"),
        (["generate", "-n", 3, "--grammar", "none.toml", "-o", "x.parquet"], 1, "none.toml"),
        (["generate", "-n", 3, "-o", "none/x.parquet"], 1, "can be written"),
        (["describe", "none.parquet"], 1, "exists"),
        (["describe", "broken.jsonl"], 1, "broken.jsonl:1"),
        (["nonsense"], 2, "nonsense"),
        (["parse"], 2, "SENTENCE"),
        (["describe", "--nonsense"], 2, "nonsense"),
    ],
)  # fmt: skip
def test_errors_are_one_line_with_the_right_code(capsys, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jsonl").write_text("{", encoding="utf-8")
    found, out, err = run(capsys, *arguments)
    assert found == code
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("absynth: ")
    assert message.lower() in err.lower()


def test_help_is_quick_and_importing_costs_little():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def seconds(*arguments):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True
            )
            times.append(time.perf_counter() - start)
        return min(times), done.stdout

    bare, _ = seconds("-c", "pass")
    spent, out = seconds("-m", "absynth.cli", "--help")
    assert "generate" in out
    assert spent - bare < 0.5
    heavy = "print([m for m in sys.modules if m in ('pyarrow', 'typer', 'matplotlib', 'torch', 'scipy')])"
    spent, out = seconds("-c", f"import sys, absynth; {heavy}")
    assert out.strip() == "[]"
    assert spent - bare < 0.3
    used = f"import sys, absynth; absynth.generate(absynth.Grammar.preset('tiny'), n=3); {heavy}"
    assert seconds("-c", used)[1].strip() == "[]"


@pytest.mark.parametrize("command", ["generate", "convert", "pairs", "score"])
def test_a_full_disk_is_one_line_and_leaves_no_file(capsys, tmp_path, corpus_file, command):
    out = tmp_path / "out.jsonl"
    arguments = {
        "generate": ("generate", "-n", 300, "--preset", "tiny", "-o", out),
        "convert": ("convert", corpus_file, out),
        "pairs": ("pairs", corpus_file, "--kind", "role_swap", "-o", out),
        "score": ("score", corpus_file, "-o", out),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        code, printed, err = run(capsys, *arguments[command])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, printed) == (1, "")
    assert err.count("\n") == 1
    assert "out.jsonl" in err
    assert "File too large" in err
    assert list(tmp_path.iterdir()) == []
