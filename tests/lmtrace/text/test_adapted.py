"""Tokenizers of every make: where their tokens stand, against what they spell."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, ByT5Tokenizer, CanineTokenizer, PreTrainedTokenizerFast

from lmtrace.errors import DataError
from lmtrace.jobs.data import train_bpe
from lmtrace.text.adapted import Adapted, adapted, spelt
from lmtrace.text.alignment import coverage, encode
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence

SENTENCE = AnnotatedSentence(tokens=("naïve", "日本", "x"), labels={"upos": ("A", "B", "C")})
TEXT = SENTENCE.text


class Tiktoken:
    """A byte-level encoding with tiktoken's interface: two bytes a token, whatever character they cut."""

    n_vocab, eot_token = 65537, 65536

    def encode_ordinary(self, text):
        data = text.encode()
        return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]

    def decode_single_token_bytes(self, token):
        return token.to_bytes(2 if token > 255 else 1, "big")

    def decode(self, ids):
        return b"".join(map(self.decode_single_token_bytes, ids)).decode(errors="replace")


class Characters:
    """nanoGPT's character-level codec."""

    def __init__(self, text):
        self.characters = sorted(set(text))

    def __len__(self):
        return len(self.characters)

    def encode(self, text):
        return [self.characters.index(c) for c in text]

    def decode(self, ids):
        return "".join(self.characters[i] for i in ids)


class Pieces(Characters):
    """A codec whose tokens are pieces of three characters."""

    def encode(self, text):
        self.pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
        return list(range(len(self.pieces)))

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)


def words(text):
    """Return ids and offsets of the words of a text."""
    offsets = []
    at = 0
    for word in text.split():
        start = text.index(word, at)
        at = start + len(word)
        offsets.append((start, at))
    return [7] * len(offsets), offsets


words.vocab_size = 9


@pytest.mark.parametrize(
    "make", [ByT5Tokenizer, CanineTokenizer, Tiktoken, lambda: Characters(TEXT), lambda: Pieces(TEXT)]
)
def test_every_word_is_spelt_by_its_tokens(make):
    tokenizer = adapted(make())
    (e,) = encode([SENTENCE], tokenizer)
    (offsets,) = tokenizer([TEXT])["offset_mapping"]
    assert coverage([e]) == 1.0
    for k, (start, end) in enumerate(SENTENCE.spans):
        tokens = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
        assert (e.first[k], e.last[k]) == (tokens[0], tokens[-1])
    assert (
        "".join(
            TEXT[max(a, before) : b] for (a, b), before in zip(offsets, [0, *[b for _, b in offsets]], strict=False)
        )
        == TEXT
    )


def test_bytes_and_characters_by_hand():
    assert spelt("aé", [1, 1, 1], None) == [(0, 1), (1, 2), (1, 2)]
    assert spelt("aé日", [2, 4], None) == [(0, 2), (1, 3)]
    with pytest.raises(DataError, match=r"spells 2 bytes where 'aé' has 3.*callable"):
        spelt("aé", [1, 1], None)
    ids = adapted(ByT5Tokenizer()).encode("aé")
    assert ids == [ord("a") + 3, 0xC3 + 3, 0xA9 + 3]


def test_a_bare_tokenizer_is_as_good_as_its_wrapper():
    fast = train_bpe([TEXT] * 3, 300)
    bare = adapted(fast.backend_tokenizer)
    assert (bare.bos_token_id, bare.mask_token_id, bare.cls_token_id) == (fast.bos_token_id, fast.mask_token_id, None)
    panels = [Panel.from_annotated([SENTENCE] * 3, t) for t in (fast, fast.backend_tokenizer)]
    assert panels[0].hash == panels[1].hash
    assert len(bare) == len(fast)
    assert bare.decode(bare.encode("x")) == "x"


def test_a_callable_that_returns_ids_and_offsets():
    panel = Panel.from_annotated([SENTENCE], words)
    assert panel.encodings[0].first.tolist() == [0, 1, 2]
    assert panel.describe()["tokenizer"] == {"class": "Adapted", "size": 9}
    keyed = lambda text: dict(zip(("input_ids", "offset_mapping"), words(text), strict=True))  # noqa: E731
    keyed.vocab_size = 9
    assert Panel.from_annotated([SENTENCE], keyed).hash == panel.hash


def nothing(text):
    return None


def outside(text):
    return [1], [(0, len(text) + 1)]


def unequal(text):
    return [1, 2], [(0, 1)]


def unsized(text):
    return words(text)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (object(), "object gives no character offsets.*Pass a fast Hugging Face tokenizer, ByT5's"),
        (nothing, "the callable nothing gave 'None', expected ids and as many"),
        (outside, r"1 ids and an offset \(0, 4\) for a text of 3 characters"),
        (unequal, "2 ids and 1 offsets"),
        (unsized, "unsized does not say how many ids it has. Give it an attribute vocab_size"),
        (
            type("Broken", (), {"__call__": lambda self, text: 1 / 0})(),
            "Broken gives no character offsets: ZeroDivisionError",
        ),
    ],
)
def test_what_is_refused_says_what_is_accepted(tokenizer, message):
    with pytest.raises(DataError, match=message):
        adapted(tokenizer)


def test_a_slow_tokenizer_that_changes_the_text_is_refused(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nna\n##ive\nx\n")

    class Slow:
        """The Python tokenizer behind a face without offsets."""

        vocab_size = 8
        inner = BertTokenizer(str(vocabulary))

        def encode(self, text, add_special_tokens=False):
            return self.inner.encode(text, add_special_tokens=add_special_tokens)

        def decode(self, ids):
            return self.inner.decode(ids)

    with pytest.raises(DataError, match=r"Slow gives no character offsets, and its \d+ tokens do not spell"):
        encode([SENTENCE], Slow())


def test_adapting_twice_is_adapting_once():
    tokenizer = adapted(ByT5Tokenizer())
    assert adapted(tokenizer) is tokenizer
    assert isinstance(tokenizer, Adapted)
    with pytest.raises(AttributeError):
        tokenizer.no_such_thing()


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])},
        {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="always")},
        {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])},
        {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="never")},
    ],
)
def test_a_lone_space_mark_is_no_words_token(parts):
    vocabulary = [("<unk>", -9.0), ("▁", -3.0), ("▁go", -1.0), ("山", -2.0), ("川", -2.0), ("«", -2.0)]
    inner = Tokenizer(models.Unigram(vocabulary, 0))
    for name, part in parts.items():
        setattr(inner, name, part)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    sentence = AnnotatedSentence(tokens=("«", "山川", "go", "山"))
    (e,) = encode([sentence], tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(e.ids.tolist())
    assert [pieces[i] for i in e.first] == ["«", "山", "▁go", "山"]
    assert all(owner == -1 for piece, owner in zip(pieces, e.owner, strict=True) if piece == "▁")
    assert e.opens_word.sum() == 4


def test_a_space_mark_that_the_text_holds_is_its_words():
    inner = Tokenizer(models.Unigram([("<unk>", -9.0), ("▁", -3.0), ("a", -1.0)], 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    (e,) = encode([AnnotatedSentence(tokens=("▁", "a"), text="▁a")], tokenizer)
    assert e.owner.tolist() == [0, 1]
