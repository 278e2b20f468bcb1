"""Small corpora, tokenizers and an oracle for the tests of the text room."""

from collections import namedtuple

import numpy as np

from lmtrace.text.sentences import AnnotatedSentence

ENGLISH = [
    "the dog sees a cat .",
    "unbelievably big dogs don't bark at naïve cats 😀 today .",
    "it is raining .",
    "Zürich lies in Switzerland , they say .",
    "stop !",
]


def english():
    out = []
    for i, text in enumerate(ENGLISH):
        tokens = tuple(text.split())
        out.append(
            AnnotatedSentence(
                tokens=tokens,
                labels={"upos": tuple("PUNCT" if t in ".,!" else "WORD" for t in tokens)},
                heads=tuple(range(len(tokens))),
                sent_id=str(i),
                info={"complexity": "simple" if len(tokens) < 5 else "medium"},
            )
        )
    return out


def fast_tokenizer(kind, extra=()):
    """Train a small subword tokenizer of one of the three common kinds on the English sentences."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if kind == "gpt2":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=290,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        names = {"eos_token": "<|endoftext|>"}
    elif kind == "bert":
        inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        inner.normalizer = normalizers.BertNormalizer()
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=specials, show_progress=False)
        names = {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }
    elif kind == "t5":
        inner = Tokenizer(models.Unigram())
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        inner.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=70, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        )
        names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        raise ValueError(kind)
    inner.train_from_iterator([*ENGLISH * 3, *extra], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


Score = namedtuple("Score", "surprisal entropy offsets")


class ToyOracle:
    """The exact law of sentences noun verb [noun]: two constructions, the second noun depends on the verb."""

    vocabulary = ("dog", "cat", "sees", "runs")
    categories = ("noun", "noun", "verb", "verb")

    def next(self, prefix):
        p = dict.fromkeys((*self.vocabulary, "</s>"), 0.0)
        if len(prefix) == 0:
            p.update(dog=0.75, cat=0.25)
        elif len(prefix) == 1:
            p.update(sees=0.6, runs=0.4)
        elif len(prefix) == 2 and prefix[1] == "sees":
            p.update(dog=0.5, cat=0.5)
        else:
            p["</s>"] = 1.0
        return np.array([*p.values()])

    def laws(self, sentences):
        for s in sentences:
            yield np.stack([self.next(s.tokens[:i]) for i in range(len(s.tokens) + 1)])

    def score(self, sentences):
        surprisal, entropy, offsets = [], [], [0]
        for s, law in zip(sentences, self.laws(sentences), strict=True):
            columns = [self.vocabulary.index(t) for t in s.tokens] + [4]
            surprisal += [-np.log2(row[c]) for row, c in zip(law, columns, strict=True)]
            entropy += [-sum(p * np.log2(p) for p in row if p > 0) for row in law]
            offsets.append(len(surprisal))
        return Score(np.array(surprisal), np.array(entropy), np.array(offsets))

    def ceiling(self, layer, sentences):
        return {"role": 0.9}.get(layer)

    def construction_beliefs(self, sentences):
        return np.array(
            [[0.6, 0.4] if i == 0 else [t != "runs", t == "runs"] for s in sentences for i, t in enumerate(s.tokens)],
            float,
        )


class ToyCorpus(list):
    """Sentences of the toy language, with their oracle."""

    oracle = ToyOracle()


def toy(n=40, seed=0):
    rng, corpus, oracle = np.random.default_rng(seed), ToyCorpus(), ToyOracle()
    for _ in range(n):
        words = []
        while True:
            drawn = rng.choice(5, p=oracle.next(words))
            if drawn == 4:
                break
            words.append(oracle.vocabulary[drawn])
        category = tuple("verb" if w in ("sees", "runs") else "noun" for w in words)
        corpus.append(
            AnnotatedSentence(
                tokens=tuple(words),
                labels={"category": category},
                target=f"e({words[1]}, {words[0]})",
                info={"construction": str(len(words))},
            )
        )
    return corpus
