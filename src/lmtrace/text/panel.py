"""The panel: a fixed, annotated, tokenized set of sentences that is never trained on."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np

from lmtrace.errors import ConfigError, DataError
from lmtrace.text import layers as label_layers
from lmtrace.text import lexicon, overlap, references, streams
from lmtrace.text.adapted import adapted
from lmtrace.text.alignment import Encoding, coverage, encode, unknown_share
from lmtrace.text.lexicon import Lexicon
from lmtrace.text.panel_parts import LabelLayer, Objective, PanelBatch, PanelSettings, Policy
from lmtrace.text.readers import is_readable, read
from lmtrace.text.references import Reference
from lmtrace.text.sentences import AnnotatedSentence, as_annotated, iterate_words, take
from lmtrace.text.sequences import ends_of_itself, special_id
from lmtrace.text.truth import find_truth
from lmtrace.text.word_types import sentence_twins, shared_share, word_places, word_types

T = TypeVar("T")

logger = logging.getLogger(__name__)

WITHOUT_MASKS = "of the sentences as they are, without masks; predictions are made at masks"
AS_PREDICTED = "of the sequences that the predictions are made on"
"""What a run's header says that activations and attention maps were read from."""

MANY_SHARED = 0.1
"""A larger share of words without a vector of their own is said aloud: it bounds what a probe can reach."""

MANY_UNKNOWN = 0.2
"""A larger share of unknown tokens is said aloud: that many words look the same to the model."""


class Panel:
    """A fixed set of annotated sentences, tokenized for one objective. Build it with `Panel.from_annotated`.

    Attributes
    ----------
    sentences
        The sampled sentences (`AnnotatedSentence`), in the order of their source.
    word_sentence, word_position, word_types : [words]
        int64: sentence, place in it, and index into `type_names` of every word, cut words included. Words that the model
        reads as the same tokens are of one type (see `lmtrace.text.word_types`).
    type_names
        The first spelling of every type, sorted.
    sentence_twins : [sentences]
        int64: the first sentence of the panel with the same token ids. Splits keep twins together.
    heads : [words] or None
        int64: row of the head word; -1 for a root or where there is no tree. None where no sentence has a tree.
    encoder
        The main stream: the only one of causal and masked models. It is the sentence as it is, without masks.
    decoder
        The second stream of encoder-decoder models, or None.
    predictions
        What is predicted.
    ends : [predictions]
        bool, ends of sentences that a causal model is asked to predict.
    averaged : [predictions]
        bool, what numbers of the whole panel are averaged over: all of it, or all but the ends where the model is not trained
        on them (see `end`).
    truth
        The exact law (`lmtrace.text.truth.Truth`), or None; `truth_reason` then says why.
    coverage
        Share of words that reach at least one token, before cutting.
    shared
        Share of words that are read as the very vector of another word: parts of a fused form, or of a token that reaches
        over several words.
    skipped
        Sentences met while sampling that had no words or no tokens.
    target
        "sentence" or "logical form" for sequence-to-sequence, else "".
    hash
        blake2b over token ids, alignment, labels, predictions, policy and objective.
    """

    def __init__(
        self,
        sentences: Sequence[AnnotatedSentence],
        encodings: Sequence[Encoding],
        tokenizer: Any,
        settings: PanelSettings,
        provenance: Mapping[str, Any],
        originals: Any = (),
        oracle: Any = None,
        training: Any = None,
    ) -> None:
        self.sentences, self.encodings, self.tokenizer = tuple(sentences), tuple(encodings), tokenizer
        self.settings, self.provenance = settings, dict(provenance)
        self._originals, self._oracle, self._training = originals, oracle, training
        self._made: dict[Hashable, Any] = {}
        lengths = np.array([len(s) for s in sentences], np.int64)
        self.word_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.word_sentence = np.repeat(np.arange(len(lengths)), lengths).astype(np.int64)
        self.word_position = np.arange(self.word_offsets[-1]) - self.word_offsets[self.word_sentence]
        self.word_types, self.type_names = word_types(self.sentences, self.encodings)
        self.heads = self._flat_heads()

        self._streams = built = streams.build(self.sentences, self.encodings, tokenizer, settings, self.word_offsets)
        self.encoder, self.decoder, self.predictions = built.encoder, built.decoder, built.predictions
        self.target = built.target
        self.sentence_twins = sentence_twins(self.encoder.ids)
        self.word_places = word_places(self.encoder, settings.policy)
        self.shared = shared_share(self.word_places)
        self.end = self._is_trained_on_ends() if settings.end is None else settings.end

        keep = self.encoder.word_first >= 0
        values = label_layers.layer_values(self.sentences)
        computed = {
            "position": lambda: label_layers.position_layer(self.word_position, keep),
            "frequency": lambda: label_layers.frequency_layer(
                [token for s in self.sentences for token in s.tokens], keep, settings.frequencies
            ),
        }  # fmt: skip
        available = [*values, *(name for name in computed if name not in values)]
        self._layers = {
            name: label_layers.encode_layer(name, values[name], keep) if name in values else computed[name]()
            for name in label_layers.select_layers(available, settings.layers)
        }
        self.truth, self.truth_reason = find_truth(self, oracle, self._originals)

    @classmethod
    def from_annotated(
        cls,
        source: str | Path | Iterable[Any],
        tokenizer: Any,
        size: int = 512,
        seed: int = 0,
        policy: Policy = "last",
        max_length: int | None = None,
        objective: Objective = "causal",
        layers: Sequence[str] | None = None,
        *,
        frequencies: Mapping[str, int] | None = None,
        decoder_start_id: int | None = None,
        min_coverage: float = 0.9,
        training: Iterable[Any] | None = None,
        skip_broken: bool = False,
        end: bool | None = None,
    ) -> Panel:
        """Sample a panel from annotated sentences.

        Parameters
        ----------
        source
            A path in any format of docs/formats.md, a `datasets.Dataset`, a corpus, or any iterable of objects with
            `.tokens` and `.labels`. A corpus with an `oracle` gives the panel its `truth`.
        tokenizer
            A `WordTokenizer`, or any that `lmtrace.text.adapted.adapted` takes: Hugging Face's, `tokenizers.Tokenizer`,
            tiktoken's encodings, objects with `encode` and `decode`, callables that return ids and offsets.
        size
            Sentences to sample; all of them where the source has fewer.
        seed
            Of the sample, and of the masks.
        policy
            Which of a word's tokens stands for it: "last", "first" or their "mean".
        max_length
            Longest sequence in tokens, special tokens included; longer ones are cut. A word that loses a token counts
            as cut and has no label.
        objective
            "causal", "masked" or "seq2seq".
        layers
            Label layers to keep; all of them by default. Attributes of CoNLL-U's MISC are read where they are named.
        frequencies
            Word -> count in the training corpus, for the layer "frequency"; by default the panel's own counts.
        decoder_start_id
            First input of the decoder (seq2seq); by default bos, else pad.
        min_coverage
            Least share of words that must reach a token.
        training
            The annotated training corpus, for the reference predictors of the signal `ladder` and for the share of the
            panel that was trained on (`in_training`); read when they are first asked for.
        skip_broken
            Leave sentences of a file out that break its format; they are counted and told in `describe()["notes"]`.
        end
            Whether the model is trained on an end after every sentence (causal models). Where it is not, as after training on
            packed text, ends are predicted but not averaged: loss and perplexity are those of the words, and those of the end
            stand apart, with the label "token=end". None: yes for a corpus with an oracle, for a `WordTokenizer` and for a
            tokenizer that puts an end itself; what a measurement of a trained model then shows (`lmtrace.observe.ends`) has the
            last word.

        Raises
        ------
        DataError
            An empty source, a tokenizer without offsets, low coverage, an unknown layer.
        """
        settings = PanelSettings(
            objective=objective, policy=policy, max_length=max_length, seed=seed, frequencies=frequencies,
            layers=None if layers is None else tuple(layers), decoder_start_id=decoder_start_id, end=end,
        )  # fmt: skip
        if size < 1:
            raise ConfigError(f"panel: size is {size}", "Ask for at least one sentence")
        corpus: Any = read(source, layers=layers, skip_broken=skip_broken) if is_readable(source) else source
        tokenizer = adapted(tokenizer)
        items: Any = corpus if hasattr(corpus, "__getitem__") and hasattr(corpus, "__len__") else list(corpus)
        chosen, skipped = [], 0
        for i in np.random.default_rng(seed).permutation(len(items)).tolist():
            if len(chosen) == size:
                break
            if len(items[i].tokens if hasattr(items[i], "tokens") else as_annotated(items[i]).tokens):
                chosen.append(i)
            else:
                skipped += 1
        chosen.sort()
        originals = take(items, chosen)
        sentences = [as_annotated(item) for item in originals]
        encodings = encode(sentences, tokenizer)
        share = coverage(encodings)
        if share < min_coverage:
            raise DataError(
                f"only {share:.1%} of the panel's words reach a token of {type(tokenizer).__name__} "
                f"(at least {min_coverage:.0%} are needed)",
                "Check that the tokenizer belongs to this text, or lower min_coverage",
            )
        unknown = unknown_share(encodings, tokenizer)
        if unknown > MANY_UNKNOWN:
            logger.warning(
                "%.0f%% of the panel's tokens are unknown to %s; check that it belongs to this text",
                100 * unknown,
                type(tokenizer).__name__,
            )
        full = [i for i, e in enumerate(encodings) if len(e.ids)]
        skipped += len(sentences) - len(full)
        if not full:
            raise DataError(
                f"the panel is empty: {len(items)} sentences, {skipped} of them without words",
                "Pass annotated sentences",
            )
        provenance = {
            "source": str(source) if isinstance(source, (str, Path)) else type(source).__name__,
            "available": len(items), "skipped": skipped, "coverage": share,
            "notes": dict(getattr(corpus, "notes", None) or {}),
        }  # fmt: skip
        panel = cls(
            [sentences[i] for i in full], [encodings[i] for i in full], tokenizer, settings, provenance,
            take(items, [chosen[i] for i in full]), getattr(corpus, "oracle", None), training,
        )  # fmt: skip
        if panel.shared > MANY_SHARED:
            logger.warning(
                "%.0f%% of the panel's words share their vector with another word of their sentence: no probe can tell these "
                "apart",
                100 * panel.shared,
            )
        return panel

    def with_objective(self, objective: Objective, decoder_start_id: int | None = None) -> Panel:
        """Return the same sentences, tokenized for another objective."""
        settings = replace(self.settings, objective=objective, decoder_start_id=decoder_start_id)
        return Panel(
            self.sentences,
            self.encodings,
            self.tokenizer,
            settings,
            self.provenance,
            self._originals,
            self._oracle,
            self._training,
        )

    def with_end(self, end: bool) -> Panel:
        """Return the same panel with ends of sentences averaged, or not; its settings still say what was told."""
        changed = copy.copy(self)
        changed.end, changed._made = end, {}
        changed.__dict__.pop("averaged", None)
        return changed

    def _is_trained_on_ends(self) -> bool:
        return self.objective != "causal" or self._oracle is not None or ends_of_itself(self.tokenizer)

    @cached_property
    def ends(self) -> np.ndarray:
        """[predictions] bool: ends of sentences; none of them under other objectives than the causal one."""
        predictions, end = self.predictions, special_id(self.tokenizer, "eos")
        if self.objective != "causal" or end is None or not len(predictions):
            return np.zeros(len(predictions), bool)
        last = np.append(predictions.sentence[1:] != predictions.sentence[:-1], True)
        return last & (predictions.word < 0) & (predictions.target == end)

    @cached_property
    def averaged(self) -> np.ndarray:
        """[predictions] bool: what is averaged; everything where there is nothing but ends."""
        return np.ones(len(self.ends), bool) if self.end or self.ends.all() else ~self.ends

    def _flat_heads(self) -> np.ndarray | None:
        if all(s.heads is None for s in self.sentences):
            return None
        heads = np.full(len(self.word_sentence), -1, np.int64)
        for start, sentence in zip(self.word_offsets[:-1], self.sentences, strict=True):
            if sentence.heads is not None:
                local = np.asarray(sentence.heads, np.int64)
                heads[start : start + len(local)] = np.where(local > 0, start + local - 1, -1)
        return heads

    @property
    def objective(self) -> Objective:
        """Return "causal", "masked" or "seq2seq"."""
        return self.settings.objective

    @property
    def policy(self) -> Policy:
        """Return which of a word's tokens stands for it."""
        return self.settings.policy

    @property
    def oracle(self) -> Any:
        """Return the corpus's oracle, or None; unlike `truth` it is there for every objective and tokenizer."""
        return self._oracle

    @property
    def masked_ids(self) -> tuple[np.ndarray, ...] | None:
        """Return, for masked models, the encoder's ids with the masks that predictions are made at; None for others."""
        return self._streams.masked

    @property
    def num_sentences(self) -> int:
        """Return the number of sentences."""
        return len(self.sentences)

    @property
    def num_words(self) -> int:
        """Return the number of words, cut ones included."""
        return len(self.word_sentence)

    @property
    def num_tokens(self) -> int:
        """Return the number of token rows of the main stream, special tokens included."""
        return self.encoder.num_tokens

    @property
    def longest(self) -> int:
        """Return the number of tokens of the longest sequence of either stream."""
        sides = [side for side in (self.encoder, self.decoder) if side is not None]
        return max((len(ids) for side in sides for ids in side.ids), default=1)

    @property
    def coverage(self) -> float:
        """Return the share of words that reach at least one token, before cutting."""
        return self.provenance["coverage"]

    @property
    def skipped(self) -> int:
        """Return how many sentences without words were passed over."""
        return self.provenance["skipped"]

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the label layers."""
        return tuple(self._layers)

    def labels(self, layer: str) -> LabelLayer:
        """Return a label layer; an unknown one is an error that names those the panel has."""
        if layer not in self._layers:
            raise label_layers.unknown_layer(layer, self.layers)
        return self._layers[layer]

    def prediction_codes(self, layer: str) -> np.ndarray:
        """Return [predictions] int64: the layer's code of the word that each prediction belongs to; -1 where none."""
        codes = self.labels(layer).codes
        word = self.predictions.word
        return np.where(word >= 0, codes[np.maximum(word, 0)], -1)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` gave when the key was first asked for: what depends on the panel alone is made once.

        Keys start with the name of the module that owns them; what is made lives as long as the panel.
        """
        if key not in self._made:  # signals may ask side by side, and must be given one thing
            self._made.setdefault(key, make())
        return self._made[key]

    @cached_property
    def shuffled(self) -> np.ndarray:
        """[sentences] int64: the order in which sequences are taken where not all of them are read.

        `sentences` keeps the order of its source, whose beginning may be one document, or its shortest sentences.
        """
        return np.random.default_rng(self.settings.seed).permutation(self.num_sentences)

    @cached_property
    def training_texts(self) -> frozenset[str] | None:
        """Training sentences, words joined by a space; None where the panel was built without the training corpus."""
        if self._training is None:
            return None
        return frozenset(" ".join(words) for words in iterate_words(self._training))

    @property
    def training(self) -> Any:
        """The training corpus that the panel was built with, or None."""
        return self._training

    @cached_property
    def in_training(self) -> np.ndarray | None:
        """[sentences] bool: the sentence is in the training corpus; None where the panel was built without one."""
        return None if self._training is None else overlap.in_training(self, self._training)

    @cached_property
    def references(self) -> tuple[dict[str, Reference], dict[str, str]]:
        """Reference predictors by rung, and why others are missing (see `lmtrace.text.references`); counted once."""
        return references.build(self, self._training)

    @cached_property
    def lexicon(self) -> Lexicon | None:
        """The categories of the vocabulary's tokens, by the oracle or by the panel's own words; None without either."""
        return lexicon.build(self)

    @property
    def hash(self) -> str:
        """Return 32 hex digits that change with any id, alignment, label, prediction, policy or objective."""
        digest = hashlib.blake2b(f"{self.objective}\x1f{self.policy}".encode(), digest_size=16)
        for side in (self.encoder, self.decoder):
            if side is not None:
                for array in (*side.ids, side.offsets, side.word_first, side.word_last):
                    digest.update(array.tobytes())
        for ids in self._streams.masked or ():
            digest.update(ids.tobytes())
        for array in (self.word_types, self.predictions.target, self.predictions.word, self._streams.column):
            digest.update(array.tobytes())
        digest.update("\x1f".join(self.type_names).encode())
        for name in sorted(self._layers):
            layer = self._layers[name]
            # Bands of frequency were named without "rank" once: a panel keeps its hash.
            names = [value.removeprefix("rank ") if name == "frequency" else value for value in layer.names]
            digest.update("\x1f".join((name, *names)).encode())
            digest.update(layer.codes.tobytes())
        return digest.hexdigest()

    def batches(
        self, size: int, indices: Sequence[int] | np.ndarray | None = None, padding_side: str = "right",
        price: int | None = None,
    ) -> Iterator[PanelBatch]:  # fmt: skip
        """Yield the sequences in batches of `size`, the shortest first, padded on one side.

        Parameters
        ----------
        indices
            Panel sequences to take; all by default.
        padding_side
            "right" or "left"; with "left" the batch also carries `position_ids`, so that both give the same numbers.
        price
            Of one more batch, in tokens: batches are then smaller where that saves more padding than it costs.
        """
        if size < 1:
            raise ConfigError(f"panel: batch size is {size}", "Use at least 1")
        if padding_side not in ("right", "left"):
            raise ConfigError(f"panel: padding_side is {padding_side!r}", "Use 'right' or 'left'")
        rows = np.arange(self.num_sentences) if indices is None else np.asarray(indices, np.int64)
        lengths = np.diff(self.encoder.offsets)[rows]
        second = lengths if self.decoder is None else np.diff(self.decoder.offsets)[rows]
        rows = rows[np.lexsort((rows, second, lengths))]
        begin = np.arange(size, len(rows), size)
        if price is not None:
            rising = np.sort(lengths)
            key = ("text.panel.batches", size, price, rising.tobytes())
            begin = self.once(key, lambda: streams.cuts(rising, size, price))
        for part in np.split(rows, begin) if len(rows) else ():
            yield streams.pad(self._streams, part, self.tokenizer, cast(Literal["left", "right"], padding_side))

    def describe(self) -> dict[str, Any]:
        """Return what a run's header says of its panel, as plain data."""
        return {
            "hash": self.hash,
            "objective": self.objective,
            "target": self.target,
            "end": self.end,
            "end_told": self.settings.end is not None,
            "policy": self.policy,
            "num_sentences": self.num_sentences,
            "num_words": self.num_words,
            "num_tokens": self.num_tokens,
            "num_predictions": len(self.predictions),
            "num_types": len(self.type_names),
            "cut_words": int((self.encoder.word_first < 0).sum()),
            "shared": self.shared,
            "activations": WITHOUT_MASKS if self.objective == "masked" else AS_PREDICTED,
            "in_training": None if self.in_training is None else float(self.in_training.mean()),
            "twin_sentences": int((self.sentence_twins != np.arange(self.num_sentences)).sum()),
            "unknown_tokens": unknown_share(self.encodings, self.tokenizer),
            "max_length": self.settings.max_length,
            "seed": self.settings.seed,
            "layers": {
                name: list(layer.names) if len(layer.names) <= 100 else f"{len(layer.names)} values"
                for name, layer in self._layers.items()
            },
            "trees": self.heads is not None,
            "truth": "exact" if self.truth is not None else self.truth_reason,
            "tokenizer": {"class": type(self.tokenizer).__name__, "size": len(self.tokenizer)},
            **self.provenance,
        }
