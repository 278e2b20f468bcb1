from types import SimpleNamespace

import numpy as np
import pytest

from lmtrace.errors import DataError
from lmtrace.text.sentences import AnnotatedSentence, as_annotated, locate, tree_problem


def test_objects_with_tokens_and_labels_become_sentences():
    obj = SimpleNamespace(
        tokens=["dogs", "bark"],
        labels={"role": ["Agent", None], "topic": "animals", "empty": ["", "x"]},
        heads=[2, 0],
        deprels=["nsubj", "root"],
        logical_form="bark(dogs)",
        construction="intransitive",
        complexity="simple",
    )
    sentence = as_annotated(obj)
    assert sentence.labels == {"role": ("Agent", None), "empty": (None, "x")}
    assert sentence.info == {"construction": "intransitive", "complexity": "simple", "topic": "animals"}
    assert sentence.heads == (2, 0)
    assert sentence.target == "bark(dogs)"
    assert sentence.text == "dogs bark"
    assert as_annotated(sentence) is sentence


def test_text_gives_the_spans_and_a_text_of_other_words_is_not_used():
    assert AnnotatedSentence(tokens=("do", "n't", "go"), text="don't  go").spans == ((0, 2), (2, 5), (7, 9))
    assert AnnotatedSentence(tokens=("of", "le"), text="du").text == "of le"
    assert locate(["a", "c"], "a b c") is None


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tokens": ("a", "b"), "labels": {"upos": ("X",)}}, "'upos' has 1 values for 2 words"),
        ({"tokens": ("a", "b"), "heads": (2, 1)}, r"cycle \(1 -> 2 -> 1\)"),
        ({"tokens": ("a", "b"), "heads": (0, 5)}, "word 2 has head 5"),
        ({"tokens": ("a",), "heads": (1,)}, "cycle"),
    ],
)
def test_wrong_annotation_is_an_error(kwargs, message):
    with pytest.raises(DataError, match=message):
        AnnotatedSentence(**kwargs)


def test_other_objects_are_an_error():
    with pytest.raises(DataError, match=r"type str has no \.tokens"):
        as_annotated("the dog")


def test_trees_of_any_order_have_no_problem():
    assert tree_problem((2, 0, 2, 3)) is None
    assert tree_problem(()) is None
    assert tree_problem((0, 3, 4, 2)) == (1, "the dependency heads form a cycle (2 -> 3 -> 4 -> 2)")


@pytest.mark.parametrize("heads", [[1.5, 0], [float("inf"), 0], ["2", 0], [None, 0], 3])
def test_heads_that_are_no_whole_numbers_are_an_error(heads):
    sentence = SimpleNamespace(tokens=["a", "b"], labels={}, heads=heads)
    with pytest.raises(DataError, match="heads must be whole numbers"):
        as_annotated(sentence)


def test_heads_may_be_numpy_integers():
    sentence = as_annotated(
        SimpleNamespace(tokens=["a", "b"], labels={}, heads=np.array([2, 0]), deprels=["det", "root"])
    )
    assert sentence.heads == (2, 0)


def test_no_heads_are_no_tree():
    bare = as_annotated(SimpleNamespace(tokens=["a", "b"], labels={}, heads=(), deprels=[]))
    assert (bare.heads, bare.deprels) == (None, None)
    with pytest.raises(DataError, match="layer 'heads' has 1 values for 2 words"):
        as_annotated(SimpleNamespace(tokens=["a", "b"], labels={}, heads=[0]))
