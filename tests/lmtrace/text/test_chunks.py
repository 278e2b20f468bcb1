"""Every chunk coding is read as the same chunks; mixtures of two are refused."""

import numpy as np
import pytest

import lmtrace
from lmtrace.errors import DataError
from lmtrace.probing.spans import find_spans
from lmtrace.text.chunks import as_bio, is_chunked
from lmtrace.text.sentences import AnnotatedSentence

GOLD = [("LOC", 0, 1), ("ORG", 1, 4), ("ORG", 4, 5), ("ORG", 5, 7), ("LOC", 8, 10)]
"""Label, first word, word after the last; three of one label stand next to each other."""
LENGTH = 11


def coded(coding):
    """Return the chunks of GOLD in a coding."""
    tags = ["O"] * LENGTH
    marks = {"BIO": "BIBI", "BIOES": "BIES", "BILOU": "BILU"}.get(coding, "")
    previous = ("", -1)
    for label, start, end in GOLD:
        if coding == "IOB1":
            tags[start:end] = [f"I-{label}"] * (end - start)
            if previous == (label, start):
                tags[start] = f"B-{label}"
            previous = (label, end)
            continue
        begin, inside, last, single = marks if coding != "BIO" else "BIIB"
        middle = [f"{inside}-{label}"] * (end - start - 2)
        tags[start:end] = (
            [f"{single}-{label}"] if end - start == 1 else [f"{begin}-{label}", *middle, f"{last}-{label}"]
        )
    return tags


def spans_of(tags, heads=None):
    sentence = AnnotatedSentence(
        tokens=tuple(f"w{i}" for i in range(len(tags))), labels={"ner": tuple(tags)}, heads=heads
    )
    panel = lmtrace.Panel.from_annotated([sentence], lmtrace.WordTokenizer(sentence.tokens))
    found = find_spans(panel, panel.labels("ner"))
    ends = zip(found.codes, found.offsets[:-1], found.offsets[1:], strict=True)
    return [(found.names[c], int(found.member[a]), int(found.member[b - 1]) + 1) for c, a, b in ends], panel


@pytest.mark.parametrize("coding", ["BIO", "IOB1", "BIOES", "BILOU"])
@pytest.mark.parametrize("heads", [None, (2, 0, *(2,) * (LENGTH - 2))])
def test_every_coding_gives_the_same_chunks_with_and_without_a_tree(coding, heads):
    spans, panel = spans_of(coded(coding), heads)
    assert sorted(spans, key=lambda s: s[1]) == GOLD
    layer = panel.labels("ner")
    assert [layer.names[c] for c in layer.codes] == coded("BIO")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["S-PER", "O", "S-PER"], ["B-PER", "O", "B-PER"]),  # nothing but words of their own
        (
            ["E-PER", "I-PER", "I-LOC"],
            ["B-PER", "B-PER", "B-LOC"],
        ),  # an end that continues nothing; after an end begins a chunk
        (["B-PER", None, "I-PER"], ["B-PER", None, "B-PER"]),  # no annotation is outside
        (["B-PER-x", "I-PER-x"], ["B-PER-x", "I-PER-x"]),  # a label with a hyphen
    ],
)
def test_odd_sequences(tags, expected):
    assert as_bio("ner", tags, np.array([0, len(tags)])) == expected


def test_chunks_do_not_reach_over_sentences():
    tags = ["B-PER", "I-PER", "I-PER", "E-PER"]
    assert as_bio("ner", tags, np.array([0, 2, 4])) == ["B-PER", "I-PER", "B-PER", "I-PER"]


@pytest.mark.parametrize("values", [["NOUN", "O"], ["B-PER", "PER", "O"], ["S-", "B-"], ["S-bar", "E-bar"]])
def test_other_layers_stay_as_they_are(values):
    assert not is_chunked(values)
    assert as_bio("upos", values, np.array([0, len(values)])) == values


@pytest.mark.parametrize("tags", [["S-PER", "L-PER", "O"], ["B-PER", "E-PER", "U-LOC", "O"]])
def test_mixtures_are_refused(tags):
    with pytest.raises(DataError, match=r"layer 'ner' mixes the chunk codings BILOU and BIOES: it has") as error:
        spans_of(tags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["NER", "ner", "Ner"])
def test_the_key_of_misc_is_read_in_any_case(key, tmp_path):
    from lmtrace.text.readers import read

    rows = [("Bo", "B-PERSON"), ("Ek", "E-PERSON"), ("ate", "O")]
    lines = (f"{i + 1}\t{w}\t_\tX\t_\t_\t_\t_\t_\tstart_char=0|{key}={t}\n" for i, (w, t) in enumerate(rows))
    path = tmp_path / "x.conllu"
    path.write_text("".join(lines) + "\n")
    [sentence] = read(path)
    assert sentence.labels["ner"] == ("B-PERSON", "E-PERSON", "O")
