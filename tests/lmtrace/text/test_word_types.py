"""Types, twins and places go by what the model reads: token ids."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lmtrace.jobs.data import train_bpe
from lmtrace.probing.splits import control_labels, held_out
from lmtrace.text.alignment import Encoding
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace.text.word_types import best_accuracy, sentence_twins, shared_share, word_types

STEMS = [a + b for a in ("per", "lun", "tas", "gom") for b in ("ax", "el", "id", "oz", "ún")]


def accented(seed=0, num=120):
    """Sentences whose first word is a capital, and now and then one in capitals throughout."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        words = [str(w) for w in rng.choice(STEMS, 6)]
        words[0] = words[0].capitalize()
        words[-1] = words[-1].upper()
        found.append(
            AnnotatedSentence(tokens=tuple(words), labels={"upos": tuple("NV"[w.lower()[0] in "pl"] for w in words)})
        )
    return found


def uncased(sentences):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(
        [s.text for s in sentences],
        trainers.WordPieceTrainer(vocab_size=400, special_tokens=specials, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=t,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def readings(panel):
    return [tuple(e.ids[a : b + 1].tolist()) for e in panel.encodings for a, b in zip(e.first, e.last, strict=True)]


def test_the_lexical_split_of_an_uncased_tokenizer_holds_out_what_the_model_reads():
    sentences = accented()
    panel = Panel.from_annotated(sentences, uncased(sentences), size=120)
    test = held_out(panel, "lexical", seed=1)
    seen = {reading for reading, out in zip(readings(panel), test, strict=True) if not out}
    assert 0.1 < test.mean() < 0.4
    assert not [r for r, out in zip(readings(panel), test, strict=True) if out and r in seen]
    # accents are stripped too: "lunún", "Lunún" and "LUNÚN" are one type
    assert len(panel.type_names) == len(STEMS)


def test_control_labels_give_equal_tokens_equal_classes():
    sentences = accented(3)
    panel = Panel.from_annotated(sentences, uncased(sentences), size=120)
    control = control_labels(panel.labels("upos").codes, panel.word_types, 2, seed=2)
    given = {}
    for reading, label in zip(readings(panel), control.tolist(), strict=True):
        assert given.setdefault(reading, label) == label


def test_a_cased_tokenizer_tells_spellings_apart_and_a_space_before_a_word_makes_no_new_type():
    sentences = accented(1)
    panel = Panel.from_annotated(sentences, train_bpe([s.text for s in sentences], 600), size=120)
    forms = [w for s in panel.sentences for w in s.tokens]
    assert sorted(set(forms)) == list(panel.type_names)
    assert [panel.type_names[t] for t in panel.word_types] == forms
    # the first word of a sentence has no space before it, and other tokens than the same word elsewhere
    twice = [AnnotatedSentence(tokens=("lunel", "perax")), AnnotatedSentence(tokens=("perax", "lunel"))]
    other = Panel.from_annotated(twice, panel.tokenizer)
    assert len(set(readings(other))) == 4
    assert other.word_types.tolist() == [0, 1, 1, 0]


def test_unknown_words_are_one_type():
    sentences = [AnnotatedSentence(tokens=("a", "x", "b")), AnnotatedSentence(tokens=("y", "a", "z"))]
    panel = Panel.from_annotated(sentences, WordTokenizer(["a", "b"]))
    assert panel.word_types.tolist() == [0, 2, 1, 2, 0, 2]
    assert panel.type_names == ("a", "b", "x")


def test_parts_of_a_fused_form_do_not_tie_their_spellings_together():
    """ "de" and "el" share the tokens of "del"; alone they are two words, which must not become one type."""
    fused = Encoding(np.array([7]), np.array([0, 0]), np.array([0, 0]), np.array([0]))
    alone = Encoding(np.array([8, 9]), np.array([0, 1]), np.array([0, 1]), np.array([0, 1]))
    sentences = [
        AnnotatedSentence(tokens=("de", "el"), text="del", spans=((0, 3), (0, 3))),
        AnnotatedSentence(tokens=("de", "el")),
    ]
    types, names = word_types(sentences, [fused, alone])
    assert types[0] == types[1]
    assert len(set(types.tolist())) == 3 == len(names)


def test_twins_are_told_by_their_tokens():
    rows = [np.array(x, np.int64) for x in ([1, 2], [1, 2, 3], [1, 2], [4], [1, 2, 3])]
    assert sentence_twins(rows).tolist() == [0, 1, 0, 3, 1]


@pytest.mark.parametrize(("policy", "expected"), [("last", 0.75), ("first", 0.5), ("mean", 0.5)])
def test_the_share_of_words_without_a_vector_of_their_own(policy, expected):
    """Four words over three tokens: two of them are the token 1; a third ends in it, and has token 0 besides."""
    from lmtrace.text.panel_parts import Side
    from lmtrace.text.word_types import word_places

    side = Side((np.arange(3),), np.array([0, 3]), np.array([0, 1, 1, 2, -1]), np.array([1, 1, 1, 2, -1]))
    places = word_places(side, policy)
    assert shared_share(places) == expected
    assert (places >= 0).tolist() == [True, True, True, True, False]


def test_the_best_accuracy_is_the_majority_at_every_place():
    places = np.array([5, 5, 5, 9, 9, 2])
    codes = np.array([0, 0, 1, 1, 2, 2])
    assert best_accuracy(places, codes) == pytest.approx(4 / 6)
    assert best_accuracy(np.arange(6), codes) == 1.0
