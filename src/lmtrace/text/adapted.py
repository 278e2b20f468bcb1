"""Any tokenizer that tells where its tokens stand, under the one interface that panels, probes and pairs read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from lmtrace.errors import DataError
from lmtrace.text.tokenizer import WordTokenizer

ACCEPTED = (
    "a fast Hugging Face tokenizer, ByT5's or CANINE's, a tokenizers.Tokenizer, a tiktoken encoding, an object with "
    "encode and decode, a callable that returns ids and offsets, or lmtrace.WordTokenizer"
)
SPECIAL = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "[BOS]", "<|startoftext|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "[EOS]", "<|endoftext|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
}
"""Spellings of the special tokens that a vocabulary without names for them is searched for."""

Offsets = list[tuple[int, int]]


class Placed(NamedTuple):
    """The tokens of one text: ids, and the characters where each begins and ends."""

    ids: list[int]
    offsets: Offsets


class Adapted:
    """A tokenizer without Hugging Face's interface, under it.

    Parameters
    ----------
    place
        Text -> its tokens, without special tokens.
    size
        Number of ids.
    decode
        Ids -> text; None where the tokenizer cannot.
    special
        "bos", "eos", "pad", "unk", "mask", "cls", "sep" -> id, for those that there are.
    source
        What is adapted; errors name its type.
    """

    is_fast = True
    padding_side = "right"

    def __init__(
        self, place: Callable[[str], Placed], size: int, decode: Callable[[list[int]], str] | None,
        special: dict[str, int], source: Any,
    ) -> None:  # fmt: skip
        self._place, self._size, self._decode, self._special, self.source = place, size, decode, special, source

    def __getattr__(self, name: str) -> Any:
        kind, underscore, _ = name.partition("_token_id")
        if underscore and kind in SPECIAL:
            return self._special.get(kind)
        raise AttributeError(name)

    def __len__(self) -> int:
        return self._size

    @property
    def all_special_ids(self) -> list[int]:
        """Return the ids of the special tokens."""
        return sorted(set(self._special.values()))

    def __call__(self, text: str | Sequence[str], **_: Any) -> dict[str, Any]:
        """Return `input_ids` and `offset_mapping` of one text, or of several; special tokens are never added."""
        if isinstance(text, str):
            placed = self._place(text)
            return {"input_ids": placed.ids, "offset_mapping": placed.offsets}
        every = [self._place(one) for one in text]
        return {"input_ids": [p.ids for p in every], "offset_mapping": [p.offsets for p in every]}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return self._place(text).ids

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids; ids as text ("#5") where the tokenizer cannot decode."""
        wanted = [int(ids)] if isinstance(ids, int) else [int(i) for i in ids]
        if skip_special_tokens:
            wanted = [i for i in wanted if i not in self._special.values()]
        return " ".join(f"#{i}" for i in wanted) if self._decode is None else self._decode(wanted)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Return the text of an id, or the texts of several."""
        if isinstance(ids, int) or not hasattr(ids, "__iter__"):
            return self.decode(int(ids))
        return [self.decode(int(i)) for i in ids]


def adapted(tokenizer: Any) -> Any:
    """Return a tokenizer under the interface of Hugging Face's fast ones; those are returned as they are.

    Raises
    ------
    DataError
        For an object that tells neither ids nor where they stand, or no size of its vocabulary.
    """
    if isinstance(tokenizer, (WordTokenizer, Adapted)) or getattr(tokenizer, "is_fast", False):
        return tokenizer
    for is_one, adapt in _KINDS:
        if is_one(tokenizer):
            return adapt(tokenizer)
    raise DataError(
        f"the tokenizer {type(tokenizer).__name__} gives no character offsets, which align words with its tokens",
        f"Pass {ACCEPTED}",
    )


# ---- tokenizers.Tokenizer ----
def _of_tokenizers(tokenizer: Any) -> Adapted:
    def place(text: str) -> Placed:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return Placed(list(encoding.ids), list(encoding.offsets))

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False)

    return Adapted(place, tokenizer.get_vocab_size(), decode, _special(tokenizer.token_to_id), tokenizer)


# ---- tiktoken ----
def _of_tiktoken(encoding: Any) -> Adapted:
    def place(text: str) -> Placed:
        ids = list(encoding.encode_ordinary(text))
        return Placed(ids, spelt(text, [len(encoding.decode_single_token_bytes(i)) for i in ids], encoding))

    special = {"eos": int(encoding.eot_token)} if getattr(encoding, "eot_token", None) is not None else {}
    return Adapted(place, int(encoding.n_vocab), encoding.decode, special, encoding)


def spelt(text: str, lengths: Sequence[int], tokenizer: Any) -> Offsets:
    """Return the characters of tokens that spell a text byte by byte, from their lengths in bytes.

    A token that begins or ends within a character has that character.

    Raises
    ------
    DataError
        Where the lengths are not those of the text.
    """
    owner = [i for i, character in enumerate(text) for _ in character.encode("utf-8", "surrogatepass")]
    if sum(lengths) != len(owner):
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} spells {sum(lengths)} bytes where {text[:40]!r} has {len(owner)}, "
            "so its tokens have no place in the text",
            "Pass a callable that returns ids and offsets",
        )
    offsets: Offsets = []
    at = 0
    for length in lengths:
        start = owner[at] if length else 0
        offsets.append((start, owner[at + length - 1] + 1 if length else 0))
        at += length
    return offsets


# ---- encode and decode: bytes, characters, pieces that spell the text ----
def _of_codec(tokenizer: Any) -> Adapted:
    options = _without_specials(tokenizer)

    def place(text: str) -> Placed:
        ids = [int(i) for i in tokenizer.encode(text, **options)]
        return Placed(ids, _codec_offsets(text, ids, tokenizer))

    known = {kind: getattr(tokenizer, f"{kind}_token_id", None) for kind in SPECIAL}
    special = {kind: int(value) for kind, value in known.items() if isinstance(value, int)}
    return Adapted(place, _size(tokenizer), lambda ids: str(tokenizer.decode(ids)), special, tokenizer)


def _without_specials(tokenizer: Any) -> dict[str, Any]:
    """Return what keeps an `encode` from adding special tokens, where it has such a switch."""
    try:
        tokenizer.encode("a", add_special_tokens=False)
    except TypeError:
        return {}
    return {"add_special_tokens": False}


def _codec_offsets(text: str, ids: list[int], tokenizer: Any) -> Offsets:
    size = len(text.encode("utf-8", "surrogatepass"))
    if len(ids) == size:  # a byte each
        return spelt(text, [1] * size, tokenizer)
    if len(ids) == len(text):  # a character each
        return [(i, i + 1) for i in range(len(text))]
    pieces = [str(tokenizer.decode([i])) for i in ids]
    if "".join(pieces) == text:
        return spelt(text, [len(piece.encode("utf-8", "surrogatepass")) for piece in pieces], tokenizer)
    raise DataError(
        f"the tokenizer {type(tokenizer).__name__} gives no character offsets, and its {len(ids)} tokens do not spell "
        f"{text[:40]!r} one after the other",
        f"Pass {ACCEPTED}",
    )


# ---- callables ----
def _of_callable(tokenizer: Any) -> Adapted:
    def place(text: str) -> Placed:
        return _answer(tokenizer, text)

    try:
        place("a b")
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} gives no character offsets: {type(error).__name__} for a text",
            f"Pass {ACCEPTED}",
        ) from error
    decode: Any = getattr(tokenizer, "decode", None)
    known = {kind: getattr(tokenizer, f"{kind}_token_id", None) for kind in SPECIAL}
    special = {kind: int(value) for kind, value in known.items() if isinstance(value, int)}
    return Adapted(
        place, _size(tokenizer), (lambda ids: str(decode(ids))) if callable(decode) else None, special, tokenizer
    )


def _answer(tokenizer: Any, text: str) -> Placed:
    """Return the ids and offsets that a callable gave, whether as a pair or under Hugging Face's keys."""
    answer = tokenizer(text)
    found: Any = None
    if isinstance(answer, dict) and {"input_ids", "offset_mapping"} <= set(answer):
        found = answer["input_ids"], answer["offset_mapping"]
    elif isinstance(answer, tuple) and len(answer) == 2:
        found = answer
    try:
        ids = [int(i) for i in found[0]]
        offsets = [(int(start), int(end)) for start, end in found[1]]
    except (TypeError, ValueError):
        raise DataError(
            f"the callable {getattr(tokenizer, '__name__', type(tokenizer).__name__)} gave {str(answer)[:60]!r}, "
            "expected ids and as many (start, end) of characters",
            "Return (ids, offsets)",
        ) from None
    bad = next((o for o in offsets if not 0 <= o[0] <= o[1] <= len(text)), None)
    if len(ids) != len(offsets) or bad is not None:
        what = f"an offset {bad}" if bad is not None else f"{len(offsets)} offsets"
        raise DataError(
            f"the tokenizer gave {len(ids)} ids and {what} for a text of {len(text)} characters",
            "Return one (start, end) of characters for each id",
        )
    return Placed(ids, offsets)


def _size(tokenizer: Any) -> int:
    for name in ("vocab_size", "n_vocab", "get_vocab_size", "get_piece_size"):
        value = getattr(tokenizer, name, None)
        value = value() if callable(value) else value
        if isinstance(value, int) and value > 0:
            added = len(tokenizer) if name == "vocab_size" and hasattr(tokenizer, "__len__") else 0
            return max(value, added)
    if hasattr(tokenizer, "__len__"):
        return len(tokenizer)
    raise DataError(
        f"the tokenizer {getattr(tokenizer, '__name__', type(tokenizer).__name__)} does not say how many ids it has",
        "Give it an attribute vocab_size",
    )


def _special(id_of: Callable[[str], int | None]) -> dict[str, int]:
    """Return the special tokens that a vocabulary has under their usual spellings."""
    found = {}
    for kind, spellings in SPECIAL.items():
        known = [id_of(spelling) for spelling in spellings]
        first = next((i for i in known if i is not None), None)
        if first is not None:
            found[kind] = int(first)
    return found


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda tokenizer: all(hasattr(tokenizer, name) for name in names)


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Adapted]], ...] = (
    (_has("encode_batch", "token_to_id", "get_vocab_size"), _of_tokenizers),
    (_has("encode_ordinary", "decode_single_token_bytes", "n_vocab"), _of_tiktoken),
    (_has("encode", "decode"), _of_codec),
    (callable, _of_callable),
)
