"""Which tokens can only stand at the beginning of a word: what the probability of a whole word is made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmtrace.text.tokenizer import WordTokenizer

MARKS = ("\u2581", "\u0120", " ")
"""What a token begins with whose word has a space before it: SentencePiece, byte-level, plain text."""
CONTINUED = "##"
"""What a token begins with that continues a word: WordPiece."""


def word_begins(tokenizer: Any) -> np.ndarray | str:
    """Return [ids] bool: the token begins a word, or ends the text; or why the tokenizer does not tell."""
    size = len(tokenizer)
    if isinstance(tokenizer, WordTokenizer):
        return np.ones(size, bool)
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(list(range(size)))]
    special = list(getattr(tokenizer, "all_special_ids", ()))
    marked = [np.array([piece.startswith(mark) for piece in pieces]) for mark in MARKS]
    continued = np.array([piece.startswith(CONTINUED) for piece in pieces])
    begins = max(marked, key=np.sum)
    if not begins.any() and not continued.any():
        return f"the tokens of {type(tokenizer).__name__} do not show where a word begins"
    if continued.sum() > begins.sum():  # such a vocabulary may hold a space mark as a character
        return ~continued
    begins[special] = True
    return begins
