"""One model behind three tokenizers: a word each, a byte-level BPE and a WordPiece that spell every word in one piece.

The model reads words; its `forward` turns pieces into words and back. So everything that is said of words must be the same, whatever
the tokenizer, the padding that it prefers, and the side on which batches are padded.
"""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch

import absynth
from lmtrace.integrations.absynth import minimal_pairs
from lmtrace.observe.forward import default_forward, logits_of
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.belief import Belief
from lmtrace.signals.ladder import Ladder
from lmtrace.signals.output import Output
from lmtrace.signals.pairs import Pairs
from lmtrace.signals.probe import Probe
from lmtrace.signals.tree_probe import TreeProbe
from lmtrace.signals.truth import Truth
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import tiny

BATCHES = Panel.batches


@functools.cache
def language():
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), 240, seed=0)
    return corpus, WordTokenizer.from_corpus(corpus)


@functools.cache
def tokenizer_of(kind, side):
    """A tokenizer that spells every word of the language in one piece, and can spell anything else."""
    corpus, words = language()
    if kind == "words":
        return words
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    forms = list(corpus.vocabulary)
    if kind == "byte-level BPE":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {symbol: i for i, symbol in enumerate(["<pad>", "<s>", "</s>", "<mask>", *alphabet])}
        merges = []
        for form in forms:  # "Ġ" + "d", "Ġd" + "o", "Ġdo" + "g": the space before it belongs to every word
            piece = "Ġ"
            for letter in form:
                if piece + letter not in vocabulary:
                    merges.append((piece, letter))
                    vocabulary[piece + letter] = len(vocabulary)
                piece += letter
        inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        inner.decoder = decoders.ByteLevel()
    else:
        letters = sorted({letter for form in forms for letter in form})
        pieces = ["<pad>", "<s>", "</s>", "<mask>", "<unk>", *letters, *(f"##{letter}" for letter in letters)]
        vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *reversed(forms)]))}
        inner = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="<unk>"))
        inner.normalizer = normalizers.BertNormalizer()
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "cls_token": "<s>",
        "sep_token": "</s>",
    }
    if kind == "WordPiece":
        names["unk_token"] = "<unk>"
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side=side, truncation_side=side, **names)


def lookup(tokenizer):
    """[pieces] the word id of every piece; 1 (unknown) for pieces that are no words."""
    _, words = language()
    if tokenizer is words:
        return torch.arange(len(words))
    table = torch.ones(len(tokenizer), dtype=torch.int64)
    for name in ("pad", "bos", "eos", "mask"):
        table[getattr(tokenizer, f"{name}_token_id")] = getattr(words, f"{name}_token_id")
    for form in language()[0].vocabulary:
        [piece] = tokenizer(form, add_special_tokens=False)["input_ids"]
        table[piece] = words.encode([form])[0]
    return table


def forward_through(tokenizer):
    table = lookup(tokenizer)
    known = table != 1

    def forward(model, inputs):
        read = {k: table[v] if k == "input_ids" else v for k, v in inputs.items()}
        logits = logits_of(default_forward(model, read), read)
        return torch.where(known, logits[..., table], -1e4)

    return forward


def measured(kind, objective, side, pad):
    corpus, _ = language()
    tokenizer = tokenizer_of(kind, side)
    panel = Panel.from_annotated(
        corpus, tokenizer, size=120, seed=0, objective=objective, training=corpus[120:], end=True
    )
    assert (panel.encoder.word_first == panel.encoder.word_last).all(), "every word is one piece"
    model = tiny("bert" if objective == "masked" else "gpt2", language()[1], "2x32").eval()
    model.config.vocab_size = len(tokenizer)  # as seen through `forward`
    # Far from the uniform law; what a word tokenizer cannot say has no probability under any.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    pairs = Pairs(pairs=minimal_pairs(corpus[:60], per_kind=20), per_kind=20)
    signals = [
        Probe(labels=("role", "upos")),
        TreeProbe(num_steps=5),
        Output(max_values=20, layers=("upos", "role", "position", "frequency")),
        pairs,
    ]
    if objective == "causal":
        signals += [Truth(), Belief(), Ladder(rungs=("oracle", "construction"))]
    words = language()[1]
    instrument = Instrument(model, panel, signals, on_error="raise", forward=forward_through(tokenizer))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Panel, "batches", functools.partialmethod(BATCHES, padding_side=pad))
        records = [r for r in instrument.measure(0) if r.signal != "cost"]
    return {(r.signal, r.metric, r.label, r.site, r.split): r for r in records}, panel, words


@pytest.mark.parametrize("objective", ["causal", "masked"])
@pytest.mark.parametrize(("kind", "side", "pad"), [
    ("words", "right", "left"), ("byte-level BPE", "right", "right"), ("byte-level BPE", "left", "left"),
    ("WordPiece", "left", "right"), ("WordPiece", "right", "left"),
])  # fmt: skip
def test_what_is_said_of_words_does_not_depend_on_the_tokenizer(objective, kind, side, pad):
    expected, panel, _ = measured("words", objective, "right", "right")
    found, other, _ = measured(kind, objective, side, pad)
    assert panel.type_names == other.type_names
    assert (panel.predictions.word == other.predictions.word).all()
    for layer in panel.layers:
        assert (panel.labels(layer).codes == other.labels(layer).codes).all(), layer
    assert found.keys() == expected.keys()
    for key, record in found.items():
        signal = key[0]
        reference = expected[key]
        assert record.missing == reference.missing, key
        assert record.n == reference.n, key
        if record.missing is not None or record.split == "construction":
            continue  # the smoothing of that reference spreads over the vocabulary
        slack = 1.5 / record.n if signal == "probe" else 1e-2 if signal == "tree_probe" else 1e-4
        assert record.value == pytest.approx(reference.value, abs=slack, rel=1e-4), key
        if record.null is not None and signal not in ("output", "truth", "ladder"):
            # Those of the others are of the vocabulary: its size, and the smaller id of two frequent words.
            assert record.null == pytest.approx(reference.null, abs=1.5 / max(record.n or 1, 1) + 1e-3, rel=1e-3), key
    for name in ("pairs", *(("truth", "belief", "ladder") if objective == "causal" else ())):
        assert any(k[0] == name and r.value is not None for k, r in found.items()), name


def test_a_tokenizer_that_spells_one_word_in_two_ways_has_no_law_of_words():
    """Without a space before the first word, a byte-level tokenizer gives it another token: that is a reason, not a wrong law."""
    from tokenizers import pre_tokenizers

    corpus, _ = language()
    kind = copy.deepcopy(tokenizer_of("byte-level BPE", "right"))
    kind.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Its letters are pieces, so that the first word is spelt in several.
    panel = Panel.from_annotated(corpus, kind, size=60, training=corpus[60:])
    assert "splits words" in panel.truth_reason
    assert "splits words" in panel.references[1]["construction"]
    # Now every form is a piece with and without the space.
    both = two_spellings()
    panel = Panel.from_annotated(corpus, both, size=60, training=corpus[60:])
    assert (panel.encoder.word_first == panel.encoder.word_last).all()
    assert "in several ways" in panel.truth_reason
    assert "in several ways" in panel.references[1]["construction"]


def test_training_words_that_the_tokenizer_splits_are_a_reason():
    corpus, _ = language()
    from lmtrace.text.sentences import AnnotatedSentence

    odd = [AnnotatedSentence(tokens=("qzqz", "xyx"), labels={"category": ("noun", "verb")})] * 5
    for kind in ("byte-level BPE", "WordPiece"):
        panel = Panel.from_annotated(corpus, tokenizer_of(kind, "right"), size=60, training=odd)
        assert "splits words of the training corpus" in panel.references[1]["construction"]


def two_spellings():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    forms = list(language()[0].vocabulary)
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "</s>", *forms, *(f"Ġ{form}" for form in forms)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("kind", ["byte-level BPE", "WordPiece"])
def test_words_that_are_spelt_in_pieces_are_counted_as_words(kind):
    """Words that the tokenizer does not know as a whole: as many rows, labels and heads as with a word each."""
    corpus, _ = language()
    renamed = []
    from lmtrace.text.sentences import as_annotated

    for sentence in corpus[:40]:
        plain = as_annotated(sentence)
        tokens = tuple(word + word[::-1] if i % 2 else word for i, word in enumerate(plain.tokens))
        renamed.append(type(plain)(tokens=tokens, labels=plain.labels, heads=plain.heads, deprels=plain.deprels))
    pieces = Panel.from_annotated(renamed, tokenizer_of(kind, "left"), size=40, policy="mean")
    whole = Panel.from_annotated(renamed, WordTokenizer.from_corpus(renamed), size=40)
    assert (pieces.encoder.word_last > pieces.encoder.word_first).any()
    assert (pieces.encoder.word_last == pieces.encoder.word_first).any()
    assert (pieces.heads == whole.heads).all()
    assert (pieces.word_types == whole.word_types).all()
    for layer in whole.layers:
        assert (pieces.labels(layer).codes == whole.labels(layer).codes).all()
    # Every piece of a word is predicted once, and belongs to it.
    counts = np.bincount(pieces.predictions.word[pieces.predictions.word >= 0], minlength=pieces.num_words)
    assert (counts == pieces.encoder.word_last - pieces.encoder.word_first + 1).all()
    assert (pieces.predictions.word < 0).sum() == (whole.predictions.word < 0).sum() == 40
