"""`WordTokenizer`: one id per word, for languages whose words are the units of their law."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmtrace.errors import DataError

FILE = "word_tokenizer.json"
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
_PIECES = re.compile(r"\w+|[^\w\s]")


def logical_pieces(form: str) -> list[str]:
    """Return the symbols of a logical form: names, numbers, brackets, operators."""
    return _PIECES.findall(form)


class WordTokenizer:
    """One id per word; ids 0 to 4 are `<pad> <unk> <s> </s> <mask>`, words follow in the order given.

    It offers what training and generation read of a Hugging Face tokenizer (`pad_token_id`, ..., `__call__`, `decode`,
    `save_pretrained`), without being one.

    Parameters
    ----------
    words
        The vocabulary without special tokens; duplicates are dropped.

    Examples
    --------
    >>> tokenizer = WordTokenizer(["the", "dog", "sees"])
    >>> len(tokenizer), tokenizer.encode("the dog barks")
    (8, [5, 6, 1])
    >>> tokenizer.decode([2, 5, 6, 3], skip_special_tokens=True)
    'the dog'
    """

    pad_token, unk_token, bos_token, eos_token, mask_token = SPECIALS
    pad_token_id, unk_token_id, bos_token_id, eos_token_id, mask_token_id = range(5)
    cls_token, sep_token = bos_token, eos_token
    cls_token_id, sep_token_id = bos_token_id, eos_token_id
    padding_side = "right"
    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, words: Iterable[str]) -> None:
        self.words: tuple[str, ...] = tuple(dict.fromkeys((*SPECIALS, *(str(word) for word in words))))
        if len(self.words) == len(SPECIALS):
            raise DataError("a word tokenizer needs at least one word, got none", "Pass the words of a corpus")
        self._ids = {word: i for i, word in enumerate(self.words)}

    @classmethod
    def from_words(cls, words: Iterable[str]) -> WordTokenizer:
        """Return a tokenizer of exactly these words."""
        return cls(words)

    @classmethod
    def from_corpus(cls, corpus: Any, min_count: int = 1, targets: bool = False) -> WordTokenizer:
        """Return a tokenizer of a corpus' words.

        A corpus that knows its whole vocabulary (an `oracle` with a `vocabulary`) gives all of it, so that rare words
        which the sample misses have an id too. Other words are sorted by falling count, then by form.

        Parameters
        ----------
        corpus
            An iterable of objects with `.tokens`.
        min_count
            Words seen less often become `<unk>`; not applied to a known vocabulary.
        targets
            Also take the symbols of the sentences' logical forms.
        """
        known = getattr(getattr(corpus, "oracle", None), "vocabulary", None)
        words: list[str] = [] if known is None else [str(word) for word in known]
        counts: Counter[str] = Counter()
        symbols: Counter[str] = Counter()
        if known is None or targets:
            for sentence in corpus:
                if known is None:
                    counts.update(sentence.tokens)
                target = getattr(sentence, "target", None) or getattr(sentence, "logical_form", None)
                if targets and target:
                    symbols.update(logical_pieces(target))
        words += sorted((w for w, c in counts.items() if c >= min_count), key=lambda w: (-counts[w], w))
        words += sorted(symbols, key=lambda w: (-symbols[w], w))
        return cls(words)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    @property
    def vocab_size(self) -> int:
        """Return the number of ids, special tokens included."""
        return len(self.words)

    @property
    def all_special_ids(self) -> list[int]:
        """Return the ids of the special tokens."""
        return list(range(len(SPECIALS)))

    def get_vocab(self) -> dict[str, int]:
        """Return word -> id."""
        return dict(self._ids)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Return the id of a word, or the ids of several; unknown words get `unk_token_id`."""
        if isinstance(tokens, str):
            return self._ids.get(tokens, self.unk_token_id)
        return [self._ids.get(token, self.unk_token_id) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Return the word of an id, or the words of several; `<unk>` for ids beyond the vocabulary.

        Such ids come from models whose vocabulary has been rounded up, for speed.
        """
        if isinstance(ids, (int, np.integer)):
            return self.words[ids] if 0 <= ids < len(self.words) else self.unk_token
        return [self.convert_ids_to_tokens(int(i)) for i in ids]

    def encode(self, text: str | Sequence[str], add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a sentence, given as words or as text with spaces between words."""
        words = text.split() if isinstance(text, str) else text
        ids = [self._ids.get(word, self.unk_token_id) for word in words]
        return [self.bos_token_id, *ids, self.eos_token_id] if add_special_tokens else ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the words of the ids, joined by spaces; `<unk>`, never skipped, for ids beyond the vocabulary."""
        known = (int(i) for i in ids)
        return " ".join(
            self.convert_ids_to_tokens(i) for i in known if not (skip_special_tokens and 0 <= i < len(SPECIALS))
        )

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """Return one decoded text per sequence."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[Sequence[str]],
        add_special_tokens: bool = False,
        padding: bool = False,
        max_length: int | None = None,
    ) -> dict[str, Any]:
        """Return `input_ids` and `attention_mask` of one text (a string), or of several (strings or lists of words).

        Lists are Python lists; with `padding` they are int64 arrays `[texts, length]`, padded on the right.
        """
        single = isinstance(text, str)
        rows = [self.encode(t, add_special_tokens)[:max_length] for t in ([text] if single else text)]
        masks = [[1] * len(row) for row in rows]
        if not padding:
            return {"input_ids": rows[0] if single else rows, "attention_mask": masks[0] if single else masks}
        shape = (len(rows), max(map(len, rows), default=0))
        ids, mask = np.full(shape, self.pad_token_id, np.int64), np.zeros(shape, np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    def save(self, folder: str | Path) -> Path:
        """Write the vocabulary to `folder/word_tokenizer.json` and return that path."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        content = {"type": "lmtrace.WordTokenizer", "version": 1, "words": self.words[len(SPECIALS) :]}
        temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        temporary.replace(path)
        return path

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> tuple[str]:
        """Do what `save` does, under the name by which a trainer calls it."""
        return (str(self.save(save_directory)),)

    @classmethod
    def load(cls, folder: str | Path) -> WordTokenizer:
        """Read what `save` wrote; `folder` may also be the file itself."""
        path = Path(folder)
        path = path / FILE if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            words = content["words"]
        except FileNotFoundError:
            raise DataError(f"{path}: no word tokenizer there", f"Expected a folder with {FILE}") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: not a word tokenizer ({error})", "Expected JSON with a list 'words'") from error
        return cls(words)
