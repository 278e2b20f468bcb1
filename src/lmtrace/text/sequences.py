"""What a model reads: token ids with the special tokens of its objective. Training and panel both build it here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from lmtrace.errors import DataError
from lmtrace.text.alignment import encode
from lmtrace.text.sentences import as_annotated
from lmtrace.text.tokenizer import WordTokenizer, logical_pieces


def special_id(tokenizer: Any, *names: str) -> int | None:
    """Return the first of the tokenizer's special ids ("bos", "eos", "cls", ...) that it has, or None."""
    for name in names:
        value = getattr(tokenizer, f"{name}_token_id", None)
        if value is not None:
            return int(value)
    return None


def causal_affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return ([bos], [eos]); bos falls back to eos (GPT-2), each is empty where the tokenizer has none."""
    begin, end = special_id(tokenizer, "bos", "eos"), special_id(tokenizer, "eos")
    return [] if begin is None else [begin], [] if end is None else [end]


def ends_of_itself(tokenizer: Any) -> bool:
    """Return whether training text made with the tokenizer has an end after every sentence.

    A `WordTokenizer`'s has (`encode_causal`); a Hugging Face tokenizer's where it puts one there by itself. Most put none: their
    models are trained on packed text, and what they give an end of sentence after a sentence is of no meaning.
    """
    if isinstance(tokenizer, WordTokenizer):
        return True
    end = special_id(tokenizer, "eos")
    ids = list(tokenizer("a")["input_ids"])
    return end is not None and ids[-1:] == [end]


def bidirectional_affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return ([cls or bos], [sep or eos]), each empty where the tokenizer has none (T5 has no cls)."""
    begin, end = special_id(tokenizer, "cls", "bos"), special_id(tokenizer, "sep", "eos")
    return [] if begin is None else [begin], [] if end is None else [end]


def decoder_start(tokenizer: Any) -> int:
    """Return the id that starts a decoder: bos, else pad (T5), else eos."""
    start = special_id(tokenizer, "bos", "pad", "eos")
    if start is None:
        raise DataError(
            "the tokenizer has neither bos, pad nor eos, so a decoder cannot start", "Pass decoder_start_id"
        )
    return start


def mask_id(tokenizer: Any) -> int:
    """Return the id of the mask token, or raise `DataError`."""
    value = special_id(tokenizer, "mask")
    if value is None:
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} has no mask token, which the masked objective needs",
            "Use objective='causal', or add a mask token",
        )
    return value


def target_ids(targets: Iterable[str], tokenizer: Any) -> list[np.ndarray] | None:
    """Return the ids of logical forms, or None where the tokenizer would turn a part of one into `<unk>`."""
    unknown = special_id(tokenizer, "unk")
    result = []
    for target in targets:
        if isinstance(tokenizer, WordTokenizer):
            ids = tokenizer.encode(logical_pieces(target))
        else:
            ids = tokenizer(target, add_special_tokens=False)["input_ids"]
        if unknown is not None and unknown in ids:
            return None
        result.append(np.asarray(ids, np.int64))
    return result


def encode_causal(sentences: Iterable[Any], tokenizer: Any, max_length: int | None = None) -> list[list[int]]:
    """Return [bos] + ids + [eos] of every sentence, exactly as the panel feeds them to a causal model.

    A sentence that is cut at `max_length` has no end of sentence. Empty sentences are left out.
    """
    begin, end = causal_affixes(tokenizer)
    if isinstance(tokenizer, WordTokenizer):  # needs the words only, and corpora are large
        rows: Iterable[list[int]] = (tokenizer.encode([str(token) for token in s.tokens]) for s in sentences)
    else:
        rows = (e.ids.tolist() for e in encode([as_annotated(s) for s in sentences], tokenizer))
    return [[*begin, *row, *end][:max_length] for row in rows if row]
