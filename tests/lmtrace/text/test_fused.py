"""Fused forms: every word gets the part of the form that it spells, as far as beginning and end tell."""

import pytest

import lmtrace
from lmtrace.jobs.data import train_bpe
from lmtrace.jobs.models import build_model
from lmtrace.probing.tasks import probe_task
from lmtrace.signals.probe import Probe
from lmtrace.text.readers import read
from lmtrace.text.sentences import AnnotatedSentence


def fused(path, surface, words):
    """Return the sentence "x SURFACE y" whose middle is one form of several words."""
    n = len(words)
    rows = [("1", "xx"), (f"2-{n + 1}", surface), *((str(i + 2), w) for i, w in enumerate(words)), (str(n + 2), "yy")]
    path.write_text("".join(f"{i}\t{w}\t_\tX\t_\t_\t_\t_\t_\t_\n" for i, w in rows) + "\n")
    [sentence] = read(path)
    return sentence


@pytest.mark.parametrize(
    ("surface", "words", "parts"),
    [
        ("Del", ("de", "el"), ("De", "l")),
        ("nel", ("in", "il"), ("nel", "nel")),
        ("du", ("de", "le"), ("du", "du")),
        ("zum", ("zu", "dem"), ("zu", "m")),
        ("im", ("in", "dem"), ("i", "m")),
        ("pela", ("por", "a"), ("pel", "a")),
        ("au", ("à", "le"), ("au", "au")),
        ("mabait", ("m", "ha", "bait"), ("m", "a", "bait")),
        ("mbait", ("m", "ha", "bait"), ("m", "mbait", "bait")),
        ("dámelo", ("da", "me", "lo"), ("dá", "me", "lo")),
        ("wshlw", ("w", "shel", "hw"), ("w", "shl", "w")),
        ("xyz", ("ab", "cd", "ef"), ("xyz", "xyz", "xyz")),
        ("can't", ("ca", "n't"), ("ca", "n't")),
    ],
)
def test_words_get_what_they_spell(surface, words, parts, tmp_path):
    sentence = fused(tmp_path / "x.conllu", surface, words)
    assert sentence.text == f"xx {surface} yy"
    found = [sentence.text[a:b] for a, b in sentence.spans]
    assert found == ["xx", *parts, "yy"]
    ends = [b for _, b in sentence.spans]
    assert ends == sorted(ends)  # what alignment asks for
    assert [a for a, _ in sentence.spans] == sorted(a for a, _ in sentence.spans)


def test_a_panel_tells_how_many_words_have_no_vector_of_their_own(tmp_path, caplog):
    """Two of four words are one token: nothing reads one from the other, and the panel says so beside its coverage."""
    lines = []
    for noun in ("bal", "lac", "pré"):
        rows = [("1-2", "au"), ("1", "à"), ("2", "le"), ("3", noun), ("4", ".")]
        tags = {"1": "ADP", "2": "DET", "3": "NOUN", "4": "PUNCT"}
        lines += [f"{i}\t{w}\t_\t{tags.get(i, '_')}\t_\t_\t_\t_\t_\t_\n" for i, w in rows] + ["\n"]
    path = tmp_path / "x.conllu"
    path.write_text("".join(lines * 20))
    tokenizer = train_bpe([s.text for s in read(path)], 300)
    with caplog.at_level("WARNING"):
        panel = lmtrace.Panel.from_annotated(path, tokenizer)
    assert panel.coverage == 1.0
    assert panel.shared == panel.describe()["shared"] == 0.5
    assert "50% of the panel's words share their vector with another word" in caplog.text


def test_words_of_their_own_are_not_warned_of(caplog):
    with caplog.at_level("WARNING"):
        panel = lmtrace.Panel.from_annotated([AnnotatedSentence(tokens=("a", "b"))], lmtrace.WordTokenizer(["a", "b"]))
    assert panel.shared == 0.0
    assert not caplog.text


@pytest.mark.parametrize(("labels", "expected"), [("ADP DET NOUN PUNCT", 0.75), ("X X NOUN PUNCT", 1.0)])
def test_the_ceiling_of_a_probe_is_what_such_vectors_allow(labels, expected, tmp_path):
    """Of every sentence's four words two are one vector: with two classes there, one of them is wrong."""
    lines = []
    for noun in ("bal", "lac", "pré", "roi", "sud"):
        tags = dict(zip("1234", labels.split(), strict=True))
        rows = [("1-2", "au"), ("1", "à"), ("2", "le"), ("3", noun), ("4", f"{noun}er")]
        lines += [f"{i}\t{w}\t_\t{tags.get(i, '_')}\t_\t_\t_\t_\t_\t_\n" for i, w in rows] + ["\n"]
    path = tmp_path / "x.conllu"
    path.write_text("".join(lines * 12))
    tokenizer = train_bpe([s.text for s in read(path)], 300)
    panel = lmtrace.Panel.from_annotated(path, tokenizer)
    model = build_model("gpt2", "tiny", len(tokenizer), specials={"pad": 0, "bos": 2, "eos": 3}, max_length=32)
    run = lmtrace.analyze(model, panel, run=tmp_path / "run", signals=[Probe(labels="upos", split="sentence")])
    [ceiling] = [r for r in run.records() if r.metric == "token_ceiling"]
    assert (ceiling.value, ceiling.label, ceiling.split) == (pytest.approx(expected), "upos", "sentence")
    accuracy = run.series(signal="probe", metric="accuracy", label="upos").values[-1]
    assert (accuracy <= expected + 1e-9).all()
    assert accuracy.max() == pytest.approx(expected, abs=0.1)


def test_vectors_of_their_own_have_no_ceiling(panel):
    task = probe_task(panel, panel.labels("upos"), "upos", "sentence", 0, "", "")
    assert task.token_ceiling is None
