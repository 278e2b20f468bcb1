"""From a name or a path to corpora, tokenizers, panels and training rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from lmtrace.errors import ConfigError, DataError
from lmtrace.integrations import absynth as synthetic
from lmtrace.text.panel import Objective, Panel
from lmtrace.text.readers import read
from lmtrace.text.sentences import iterate_words
from lmtrace.text.sequences import bidirectional_affixes, causal_affixes, encode_causal, mask_id, target_ids
from lmtrace.text.tokenizer import FILE as WORD_TOKENIZER_FILE
from lmtrace.text.tokenizer import WordTokenizer

CARD = "lmtrace.json"
"""Written beside a checkpoint: which data and panel it was trained and measured with."""


class DataConfig(BaseModel):
    """Which corpus, which part of it is the panel, and how text becomes tokens.

    The panel's sentences are never trained on: they come from the test part of the split, or from their own file, of which the
    run's header then says how many are in the training corpus too (`panel_in_training`).

    `split_by` "sentence" keeps equal sentences on one side; "draw" takes every sentence on its own, so that on a small language
    panel and training part are samples of one law (see `absynth.split`). Corpora of before that choice were drawn.
    """

    model_config = ConfigDict(extra="forbid")

    corpus: str = "absynth:small"
    panel: str | None = None
    sentences: int = Field(default=50_000, ge=10)
    seed: int = 0
    panel_size: int = Field(default=512, ge=1)
    panel_share: float = Field(default=0.05, gt=0, lt=0.5)
    split_by: Literal["sentence", "draw"] = "sentence"
    tokenizer: str = "auto"
    vocabulary: int = Field(default=4000, ge=300)
    max_length: int = Field(default=128, ge=4)
    policy: Literal["last", "first", "mean"] = "last"


def load_sentences(source: str, config: DataConfig) -> Any:
    """Return a sequence of annotated sentences: an ABSynth corpus, or what a reader found in a file."""
    if synthetic.is_absynth(source):
        return synthetic.load_corpus(source, n=config.sentences, seed=config.seed)
    return list(read(source))


def split(config: DataConfig) -> tuple[Any, Any]:
    """Return (training sentences, panel sentences), which share none, unless the panel has its own file or is drawn.

    Raises
    ------
    DataError
        Where nothing is left to train on.
    """
    corpus = load_sentences(config.corpus, config)
    if config.panel is not None:
        return corpus, load_sentences(config.panel, config)
    if hasattr(corpus, "split"):
        share = config.panel_share
        train, _, test = corpus.split(
            train=1 - 2 * share, dev=share, test=share, seed=config.seed, disjoint=config.split_by
        )
        return train, test
    held_out = max(1, round(len(corpus) * config.panel_share))
    if held_out >= len(corpus):
        raise DataError(f"{config.corpus} has {len(corpus)} sentences: too few to split", "Pass --panel")
    order = np.random.default_rng(config.seed).permutation(len(corpus))
    in_panel = np.zeros(len(corpus), bool)
    in_panel[order[:held_out]] = True
    if config.split_by == "sentence":
        whole = _with_twins(corpus, order, held_out)
        # One sentence many times cannot be held out: it is drawn, and the run says that its panel was trained on.
        in_panel = in_panel if whole.all() else whole
    return [corpus[i] for i in order[~in_panel[order]]], [corpus[i] for i in order[in_panel[order]]]


def _with_twins(corpus: Sequence[Any], order: np.ndarray, held_out: int) -> np.ndarray:
    """Return [sentences] bool: about `held_out` of them, in this order, each with all sentences of its words.

    Words are compared whatever their case: an uncased tokenizer reads them alike.
    """
    first: dict[tuple[str, ...], int] = {}
    kind = np.array([first.setdefault(tuple(w.casefold() for w in s.tokens), len(first)) for s in corpus])
    size = np.bincount(kind)
    chosen = np.zeros(len(size), bool)
    for one in kind[order].tolist():
        if not chosen[one] and size[one] <= held_out:
            chosen[one] = True
            held_out -= int(size[one])
    if not chosen.any():
        chosen[size.argmin()] = True
    return chosen[kind]


def load_tokenizer(config: DataConfig, sentences: Any, objective: Objective) -> Any:
    """Return the tokenizer that `config.tokenizer` names.

    "word" is one id per word; "bpe" a byte-level BPE trained on the sentences; a path or Hub name loads one; "auto" takes words for
    synthetic corpora and BPE for real language.
    """
    kind = config.tokenizer
    if kind == "auto":
        words = synthetic.is_absynth(config.corpus) or config.corpus.endswith(".json")
        kind = "word" if words else "bpe"
    if kind == "word":
        return WordTokenizer.from_corpus(sentences, targets=objective == "seq2seq")
    if kind == "bpe":
        return train_bpe((_text(s) for s in sentences), config.vocabulary)
    return open_tokenizer(kind)


def open_tokenizer(folder: str | Path, revision: str | None = None) -> Any:
    """Return the tokenizer saved in a folder or on the Hub: ours, or any Hugging Face fast tokenizer."""
    if (Path(folder) / WORD_TOKENIZER_FILE).exists():
        return WordTokenizer.load(folder)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), revision=revision)
    except (OSError, ValueError) as error:
        if not Path(folder).is_dir():
            raise DataError(
                f"no tokenizer: {folder} is neither word, bpe nor a folder here, nor can it be had from the Hub"
            ) from error
        raise DataError(f"no tokenizer in {folder}: {str(error).splitlines()[0]}") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes an empty one up where there is no file
        raise DataError(f"no tokenizer in {folder}", "Save it beside the model: tokenizer.save_pretrained(folder)")
    return tokenizer


def train_bpe(texts: Iterable[str], vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer trained on the texts, as a Hugging Face fast tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    specials = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
    )


def _text(sentence: Any) -> str:
    return getattr(sentence, "text", None) or " ".join(sentence.tokens)


def build_panel(
    sentences: Any,
    tokenizer: Any,
    config: DataConfig,
    objective: Objective = "causal",
    training: Any = None,
    end: bool | None = None,
) -> Panel:
    """Return the panel that the configuration asks for; `training` gives it word frequencies and reference predictors.

    `end` as in `Panel.from_annotated`: True for a model of `lmtrace train`, whose every sentence has one.
    """
    return Panel.from_annotated(
        sentences,
        tokenizer,
        size=config.panel_size,
        seed=config.seed,
        policy=config.policy,
        max_length=config.max_length,
        objective=objective,
        training=training,
        end=end,
        frequencies=None if training is None else Counter(word for words in iterate_words(training) for word in words),
    )


class Rows(torch.utils.data.Dataset):
    """Token ids of the training sentences, one row each."""

    def __init__(self, rows: Sequence[Sequence[int]], targets: Sequence[Sequence[int]] | None = None) -> None:
        self.rows, self.targets = rows, targets

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Sequence[int]]:
        row = {"input_ids": self.rows[i]}
        return row if self.targets is None else {**row, "labels": self.targets[i]}


def training_rows(sentences: Any, tokenizer: Any, objective: Objective, max_length: int) -> Rows:
    """Tokenize the training sentences exactly as the panel is."""
    if objective == "causal":
        if isinstance(tokenizer, WordTokenizer):
            begin, end = causal_affixes(tokenizer)
            rows = [[*begin, *ids, *end][:max_length] for ids in map(tokenizer.encode, iterate_words(sentences)) if ids]
        else:
            rows = encode_causal(sentences, tokenizer, max_length)
        return _not_empty(rows)
    begin, end = bidirectional_affixes(tokenizer)
    kept = [s for s in sentences if len(s.tokens)]
    if isinstance(tokenizer, WordTokenizer):
        ids = [tokenizer.encode(s.tokens) for s in kept]
    else:
        ids = [tokenizer(_text(s), add_special_tokens=False)["input_ids"] for s in kept]
    rows = [[*begin, *row, *end][:max_length] for row in ids]
    if objective == "masked":
        return _not_empty(rows)
    forms = [getattr(s, "target", None) or getattr(s, "logical_form", None) for s in kept]
    found = target_ids(forms, tokenizer) if all(forms) else None  # pyright: ignore[reportArgumentType]
    targets = ids if found is None else [f.tolist() for f in found]
    return _not_empty(rows, [[*target, *end][:max_length] for target in targets])


def _not_empty(rows: list[list[int]], targets: list[list[int]] | None = None) -> Rows:
    if not rows:
        raise DataError("the training part has no sentence with a word in it")
    return Rows(rows, targets)


class Collator:
    """Pads rows to a batch and makes the labels of an objective.

    Masked language modelling selects 15 % of the real tokens; of those 80 % become the mask token, 10 % a random one, 10 % stay.
    """

    def __init__(self, tokenizer: Any, objective: Objective) -> None:
        self.objective, self.vocabulary = objective, len(tokenizer)
        self.pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
        self.mask = mask_id(tokenizer) if objective == "masked" else None
        self.special = torch.tensor(sorted(set(tokenizer.all_special_ids)))

    def __call__(self, rows: list[dict[str, Sequence[int]]]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask and labels (-100 where nothing is predicted)."""
        ids, mask = self._pad([row["input_ids"] for row in rows])
        if self.objective == "causal":
            labels = ids.masked_fill(mask == 0, -100)
        elif self.objective == "masked":
            ids, labels = self._masked(ids, mask)
        else:
            targets, target_mask = self._pad([row["labels"] for row in rows])
            labels = targets.masked_fill(target_mask == 0, -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def _pad(self, rows: list[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self.pad)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.as_tensor(row)
            mask[i, : len(row)] = 1
        return ids, mask

    def _masked(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        candidate = (mask == 1) & ~torch.isin(ids, self.special)
        chosen = candidate & (torch.rand(ids.shape) < 0.15)
        if not chosen.any():
            first = candidate.nonzero()[:1]
            chosen[first[:, 0], first[:, 1]] = True
        fate = torch.rand(ids.shape)
        changed = ids.clone()
        changed[chosen & (fate < 0.8)] = self.mask  # pyright: ignore[reportArgumentType]
        random = torch.randint(0, self.vocabulary, ids.shape)
        swap = chosen & (fate >= 0.8) & (fate < 0.9)
        changed[swap] = random[swap]
        return changed, ids.masked_fill(~chosen, -100)


def write_card(folder: Path, config: DataConfig, **more: Any) -> None:
    """Write which data a checkpoint belongs to."""
    content = {"data": config.model_dump(), **more}
    (folder / CARD).write_text(json.dumps(content, indent=2), encoding="utf-8")


def read_card(folder: str | Path) -> dict[str, Any] | None:
    """Return what `write_card` wrote beside a checkpoint, or None."""
    path = Path(folder) / CARD
    if not path.exists():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        card["data"].setdefault("split_by", "draw")  # cards of before there was a choice
        DataConfig(**card["data"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{path} is damaged ({type(error).__name__}: {reason})", "Delete it and pass --panel"
        ) from error
    return card
