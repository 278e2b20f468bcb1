"""Which sentences of a panel were trained on: what is measured on them may be memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from lmtrace.errors import ConfigError
from lmtrace.text.sentences import iterate_words

if TYPE_CHECKING:
    from lmtrace.text.panel import Panel

MAX_ROWS = 1_000_000
"""Training sentences that are looked at."""


def in_training(panel: Panel, training: Any) -> np.ndarray | None:
    """Return [sentences] bool: the panel's sentence is in the training data; None where that cannot be read without harm.

    Parameters
    ----------
    training
        Annotated sentences or a corpus of them, texts, rows of token ids, or mappings with `input_ids`. A row of token ids
        may hold several sentences with special tokens between them; sentences packed without any are not found. An
        iterator, which can be read once only, is left alone.
    """
    if isinstance(training, Iterator):
        return None
    if hasattr(training, "offsets") and hasattr(training, "vocabulary"):
        return _by_words(panel, iterate_words(training))
    if not hasattr(training, "__iter__") and not (hasattr(training, "__getitem__") and hasattr(training, "__len__")):
        raise ConfigError(
            f"training is {type(training).__name__}", "Pass sentences, texts or rows of token ids, or leave it out"
        )
    # A map-style data set need not say where it ends but by its length.
    rows = iter(training) if hasattr(training, "__iter__") else (training[i] for i in range(len(training)))
    first = next(rows, None)
    if first is None:
        return np.zeros(panel.num_sentences, bool)
    every = islice(chain([first], rows), MAX_ROWS)
    if hasattr(first, "tokens"):
        return _by_words(panel, (row.tokens for row in every))
    if isinstance(first, str):
        return _found((s.text for s in panel.sentences), every)
    if isinstance(first, Mapping):
        if "input_ids" not in first:
            return None
        every = (row["input_ids"] for row in every)
    elif not isinstance(first, Sequence | np.ndarray) and not hasattr(first, "tolist"):
        return None
    return _by_tokens(panel, every)


def share_by_chance(panel: Panel, training: Any) -> float | None:
    """Return the share of the panel that as many sentences, drawn from the corpus's own law, would hold too; None without a law.

    On a small language frequent sentences are everywhere: a sentence of probability p is among n draws with 1 - (1 - p)^n.
    """
    if panel.truth is None or not hasattr(training, "__len__"):
        return None
    surprisal = np.bincount(panel.predictions.sentence, panel.truth.surprisal, panel.num_sentences)
    probability = np.exp(-np.minimum(surprisal, 700.0))
    return float(-np.expm1(len(training) * np.log1p(-np.minimum(probability, 1 - 1e-12))).mean())


def _by_words(panel: Panel, sentences: Iterable[Sequence[str]]) -> np.ndarray:
    return _found((tuple(s.tokens) for s in panel.sentences), map(tuple, sentences))


def _by_tokens(panel: Panel, rows: Iterable[Any]) -> np.ndarray:
    unknown = getattr(panel.tokenizer, "unk_token_id", None)
    special: set[int] = {i for i in getattr(panel.tokenizer, "all_special_ids", ()) if i != unknown}
    return _found((tuple(e.ids.tolist()) for e in panel.encodings), _pieces(rows, special))


def _pieces(rows: Iterable[Any], special: set[int]) -> Iterator[tuple[int, ...]]:
    """Yield what stands between special tokens (beginning, end, padding)."""
    for row in rows:
        piece: list[int] = []
        for token in row.tolist() if hasattr(row, "tolist") else row:
            if token not in special:
                piece.append(token)
            elif piece:
                yield tuple(piece)
                piece = []
        if piece:
            yield tuple(piece)


def _found(mine: Iterable[Any], theirs: Iterable[Any]) -> np.ndarray:
    """Return [mine] bool: it is among theirs, of which no more is kept than that."""
    wanted = list(mine)
    known = set(wanted)
    seen = {item for item in theirs if item in known}
    return np.array([item in seen for item in wanted], bool)
