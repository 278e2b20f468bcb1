"""Words to subword tokens, through the character offsets of the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmtrace.text.adapted import adapted
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer


@dataclass(frozen=True, slots=True)
class Encoding:
    """The token ids of one sentence, without special tokens, and how words reach them.

    Attributes
    ----------
    ids : [tokens]
        int64.
    first, last : [words]
        First and last token that shares a character with the word; -1 where none does.
    owner : [tokens]
        The word in which the token begins (leading spaces aside); -1 for tokens outside of all words.
    """

    ids: np.ndarray
    first: np.ndarray
    last: np.ndarray
    owner: np.ndarray

    @property
    def opens_word(self) -> np.ndarray:
        """Return [tokens] bool: the token is the first one that its word owns."""
        opens = self.owner >= 0
        opens[1:] &= self.owner[1:] != self.owner[:-1]
        return opens


def align(spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> tuple[np.ndarray, ...]:
    """Return (first [words], last [words], owner [tokens]) from character spans of words and of tokens.

    Both must be in reading order. A token without characters (an added space mark) belongs to no word.

    Examples
    --------
    >>> first, last, owner = align([(0, 3), (4, 7)], [(0, 2), (2, 3), (3, 7)])
    >>> first.tolist(), last.tolist(), owner.tolist()
    ([0, 2], [1, 2], [0, 0, 1])
    """
    words = np.asarray(spans, np.int64).reshape(-1, 2)
    tokens = np.asarray(offsets, np.int64).reshape(-1, 2)
    owner = np.full(len(tokens), -1, np.int64)
    real = np.flatnonzero(tokens[:, 1] > tokens[:, 0])
    if not len(real) or not len(words):
        none = np.full(len(words), -1, np.int64)
        return none, none.copy(), owner
    start, end = tokens[real].T
    first = np.searchsorted(end, words[:, 0], side="right")
    last = np.searchsorted(start, words[:, 1], side="left") - 1
    found = first <= last
    word = np.searchsorted(words[:, 1], start, side="right")
    inside = word < len(words)
    inside[inside] &= words[word[inside], 0] < end[inside]
    # Words of a fused form share a span: searchsorted gives the first of them.
    owner[real[inside]] = word[inside]
    safe_first, safe_last = np.minimum(first, len(real) - 1), np.clip(last, 0, None)
    return np.where(found, real[safe_first], -1), np.where(found, real[safe_last], -1), owner


def encode(sentences: Sequence[AnnotatedSentence], tokenizer: Any, chunk: int = 1024) -> list[Encoding]:
    """Return the encoding of every sentence, without special tokens.

    Parameters
    ----------
    tokenizer
        A `WordTokenizer` (one token per word), or any that `lmtrace.text.adapted` takes (it reads `sentence.text`).

    Raises
    ------
    DataError
        Where the tokenizer has no character offsets.
    """
    if isinstance(tokenizer, WordTokenizer):
        return [_word_encoding(np.asarray(tokenizer.encode(s.tokens), np.int64)) for s in sentences]
    tokenizer = adapted(tokenizer)
    marks = space_marks(tokenizer)
    result = []
    for at in range(0, len(sentences), chunk):
        part = sentences[at : at + chunk]
        encoded: Any = tokenizer(
            [s.text for s in part],
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for sentence, ids, offsets in zip(part, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            placed = _without_marks(ids, offsets, marks, sentence.text)
            first, last, owner = align(sentence.spans, placed)
            result.append(Encoding(np.asarray(ids, np.int64).reshape(-1), first, last, owner))
    return result


SPACE_MARK = "\u2581"
"""What stands for a space in SentencePiece's tokens; byte-level tokens hold the space itself."""


def space_marks(tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokens that are nothing but a space mark."""
    vocabulary = getattr(tokenizer, "get_vocab", dict)()
    return frozenset(i for piece, i in vocabulary.items() if piece and not str(piece).strip(SPACE_MARK))


def _without_marks(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], marks: frozenset[int], text: str
) -> Sequence[tuple[int, int]]:
    """Return the offsets, empty for a lone space mark: a tokenizer gives one that it adds those of the word's beginning.

    A mark that the text itself holds keeps its place.
    """
    if marks.isdisjoint(ids):
        return offsets
    return [
        (0, 0) if i in marks and SPACE_MARK not in text[start:end] else (start, end)
        for i, (start, end) in zip(ids, offsets, strict=True)
    ]


def _word_encoding(ids: np.ndarray) -> Encoding:
    rows = np.arange(len(ids))
    return Encoding(ids, rows, rows, rows)


def whole_word_ids(
    forms: Sequence[str], tokenizer: Any, sentences: Sequence[AnnotatedSentence], encodings: Sequence[Encoding]
) -> np.ndarray | str:
    """Return [forms] the one token of every form, or why forms cannot be told by tokens.

    -1 where a form is not one token, or unknown. Byte-level tokenizers may spell a word without a space before it differently, so the
    tokens are compared with those that the words have in the sentences.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    if isinstance(tokenizer, WordTokenizer):
        ids = np.asarray(tokenizer.encode(list(forms)), np.int64)
    else:
        spelt = tokenizer(list(forms), add_special_tokens=False)["input_ids"] if len(forms) else []
        ids = np.array([row[0] if len(row) == 1 else -1 for row in spelt], np.int64)
    if unknown is not None:
        ids[ids == unknown] = -1
    of = dict(zip(forms, ids.tolist(), strict=True))
    for sentence, e in zip(sentences, encodings, strict=True):
        for word, first in zip(sentence.tokens, e.first.tolist(), strict=True):
            if of.get(word, -1) >= 0 and first >= 0 and e.ids[first] != of[word]:
                return f"the tokenizer spells {word!r} in several ways, so that one word is several tokens"
    return ids


def coverage(encodings: Sequence[Encoding]) -> float:
    """Return the share of words that reach at least one token; 1.0 for no words at all."""
    words = sum(len(e.first) for e in encodings)
    return sum(int((e.first >= 0).sum()) for e in encodings) / words if words else 1.0


def unknown_share(encodings: Sequence[Encoding], tokenizer: Any) -> float:
    """Return the share of tokens that are the tokenizer's "unknown"; 0.0 for one that knows everything."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    tokens = sum(len(e.ids) for e in encodings)
    if unknown is None or not tokens:
        return 0.0
    return sum(int((e.ids == unknown).sum()) for e in encodings) / tokens
