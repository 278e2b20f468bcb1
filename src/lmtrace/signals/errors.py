"""Structural errors: does what the model writes belong to the language, and if not, what is wrong with it?

Sentences are sampled from the model (temperature 1, nothing cut off, the same seed at every step) and parsed with the exact grammar of
the corpus. well_formed = share that the grammar derives; `rate` per type = share of all samples whose first error is of that type.
The null of well_formed is the share of the panel's own sentences that stay well-formed when their words are shuffled.

It misleads early in training, when most errors are of the first kind met: the parser reports one error per sentence, so
later kinds are hidden behind earlier ones. Diversity near its null and novelty near zero mean copying, however well-formed.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmtrace.errors import ConfigError
from lmtrace.numerics.pairs import wilson_stderr
from lmtrace.observe.forward import context_length
from lmtrace.observe.interface import Needs, Signal, View, numpy_generator
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import Panel

TYPES = (
    "unknown word",
    "category impossible here",
    "agreement violation",
    "selectional violation",
    "missing argument",
    "extra argument",
    "unfinished sentence",
)


@dataclass(frozen=True, kw_only=True)
class Errors(Signal):
    """Well-formedness of generated text, errors by type, novelty and diversity.

    Parameters
    ----------
    samples
        Sentences to generate.
    max_words
        Longest sentence; None takes one and a half times the panel's longest. No more than the model's context holds. What has not
        ended by then is unfinished, whatever its words are.
    examples
        How many of the worst are kept as an event, their error marked.
    """

    samples: int = 256
    max_words: int | None = None
    examples: int = 12

    name = "errors"
    cost = "one sampled sentence of the model's own per sample, and a parse of each ill-formed one"
    source = "the corpus's own grammar (absynth oracle)"
    stride = 5
    fields = (
        Field(
            metric="well_formed",
            title="Well-formed sentences",
            low=0.0,
            high=1.0,
            better="up",
            null="the panel's sentences with their words shuffled",
            meaning="Share of sampled sentences that the grammar derives.",
        ),
        Field(
            metric="rate",
            title="Error rate by type",
            low=0.0,
            high=1.0,
            better="down",
            null="the language itself makes no errors: zero",
            meaning="Share of sampled sentences whose first error is of this type.",
        ),
        Field(
            metric="novelty",
            title="Novelty",
            low=0.0,
            high=1.0,
            null="the panel's sentences, which were never trained on",
            meaning="Share of well-formed samples that are not in the training corpus.",
        ),
        Field(
            metric="diversity",
            title="Diversity",
            low=0.0,
            high=1.0,
            null="as many sentences of the panel",
            meaning="Share of samples that are distinct.",
        ),
    )

    def __post_init__(self) -> None:
        if self.samples < 1 or (self.max_words is not None and self.max_words < 1) or self.examples < 0:
            raise ConfigError(f"errors: samples and max_words must be at least 1, got {self.samples}, {self.max_words}")

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the model and of the exact law."""
        return Needs(model=True, truth=True)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield well-formedness, rates by type, novelty and diversity."""
        reason = self._obstacle(view)
        if reason:
            for field in self.fields:
                yield self.record(view, field.metric, missing=reason)
            return
        oracle = view.truth.oracle
        longest = max((len(s.tokens) for s in view.panel.sentences), default=1)
        limit = min(self.max_words or math.ceil(1.5 * longest), (context_length(view.model) or sys.maxsize) - 2)
        sentences, ended = sample_sentences(view, self.samples, limit)
        diagnoses = diagnose(oracle, sentences, ended)
        n = len(sentences)
        good = sum(d is None for d in diagnoses)
        yield self.record(
            view,
            "well_formed",
            good / n,
            stderr=wilson_stderr(good / n, n),
            n=n,
            null=self._shuffled_share(view, oracle),
        )
        counts = Counter(d.kind for d in diagnoses if d is not None)
        for kind in (*TYPES, *sorted(set(counts) - set(TYPES))):
            share = counts[kind] / n
            yield self.record(view, "rate", share, label=f"type={kind}", stderr=wilson_stderr(share, n), n=n, null=0.0)
        yield from self._variety(view, sentences, diagnoses)
        worst = [(s, d) for s, d in zip(sentences, diagnoses, strict=True) if d is not None][: self.examples]
        if worst:
            found = [
                {"tokens": list(s), "position": int(d.position), "type": d.kind, "reason": d.message} for s, d in worst
            ]
            view.note("examples", f"{n - good} of {n} generated sentences are ill-formed", {"examples": found})

    def _obstacle(self, view: View) -> str:
        if view.panel.objective != "causal":
            return f"sentences are sampled from causal models only; this one is {view.panel.objective}"
        if view.truth is None:
            return f"no grammar to parse with: {view.panel.truth_reason}"
        if not hasattr(view.truth.oracle, "parse"):
            return "the corpus's oracle cannot parse"
        return ""

    def _variety(self, view: View, sentences: Sequence[tuple[str, ...]], diagnoses: Sequence[Any]) -> Iterator[Record]:
        own = [s.tokens for s in view.panel.sentences][: len(sentences)]
        n = len(sentences)
        share = len(set(sentences)) / n
        null = len({tuple(s) for s in own}) / len(own) if len(own) == n else None
        yield self.record(view, "diversity", share, stderr=wilson_stderr(share, n), n=n, null=null)
        well = [" ".join(s) for s, d in zip(sentences, diagnoses, strict=True) if d is None]
        training = view.panel.training_texts
        if training is None:
            yield self.record(view, "novelty", missing="the panel was built without training=, the training corpus")
        elif not well:
            yield self.record(view, "novelty", missing="no well-formed sentence was generated")
        else:
            new = sum(s not in training for s in well) / len(well)
            unseen = sum(" ".join(s) not in training for s in own) / len(own)
            yield self.record(view, "novelty", new, stderr=wilson_stderr(new, len(well)), n=len(well), null=unseen)

    def _shuffled_share(self, view: View, oracle: Any) -> float:
        key = "shuffled_share"
        if key not in view.memory:
            rng = numpy_generator(view.generator("shuffle"))
            shuffled = [[str(w) for w in rng.permutation(list(s.tokens))] for s in view.panel.sentences]
            share = float(np.isfinite(oracle.log2_probability(shuffled)).mean())
            view.memory[key] = torch.tensor(share, dtype=torch.float64)
        return float(view.memory[key])


@dataclass(frozen=True, slots=True)
class Endless:
    """The diagnosis of a text whose words are a sentence, but which did not end."""

    position: int
    kind: str = "unfinished sentence"
    message: str = "a sentence could end here, and the text went on to the limit of its length"


def diagnose(oracle: Any, sentences: Sequence[Sequence[str]], ended: Sequence[bool] | None = None) -> list[Any]:
    """Return the diagnosis of every sentence, None where it is well-formed; only the ill-formed ones are parsed.

    Parameters
    ----------
    ended : [sentences]
        Whether each came to its end; all of them by default.
    """
    derived = np.isfinite(np.asarray(oracle.log2_probability([list(s) for s in sentences])))
    cache: dict[tuple[str, ...], Any] = {}
    found: list[Any] = []
    for sentence, fine, whole in zip(sentences, derived, ended or [True] * len(sentences), strict=True):
        key = tuple(sentence)
        if not fine and key not in cache:
            cache[key] = oracle.parse(list(sentence)).diagnosis
        found.append(cache[key] if not fine else None if whole else Endless(len(sentence)))
    return found


def sample_sentences(view: View, samples: int, max_words: int) -> tuple[list[tuple[str, ...]], list[bool]]:
    """Return (sampled sentences as words, whether each ended); the model's own `generate` is used where it has one."""
    tokenizer = view.panel.tokenizer
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    device = next(view.model.parameters()).device
    start = torch.full((samples, 1), bos if bos is not None else eos, dtype=torch.int64, device=device)
    seed = view.generator("samples").initial_seed() % 2**63
    if hasattr(view.model, "generate"):
        ids = _generate(view.model, start, max_words, eos, tokenizer.pad_token_id, seed)
    else:
        ids = _sample_loop(view, start, max_words, eos, seed)
    sentences, ended = [], []
    for row in ids[:, 1:].tolist():
        ended.append(eos in row)
        row = row[: row.index(eos)] if eos in row else row
        sentences.append(tuple(str(word) for word in tokenizer.convert_ids_to_tokens(row)))
    return sentences, ended


def _generate(model: Any, start: Tensor, max_words: int, eos: int, pad: int | None, seed: int) -> Tensor:
    """Call the model's `generate`; it draws from the global generator, which is forked around it."""
    devices = [start.device] if start.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        return model.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_words + 1,
            eos_token_id=eos,
            pad_token_id=eos if pad is None else pad,
        )


def _sample_loop(view: View, ids: Tensor, max_words: int, eos: int, seed: int) -> Tensor:
    generator = torch.Generator(device=ids.device).manual_seed(seed)
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_words + 1):
        law = view.logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[:, -1].float().softmax(-1)
        following = torch.multinomial(law, 1, generator=generator)[:, 0].masked_fill(done, eos)
        ids = torch.cat([ids, following[:, None]], dim=1)
        done |= following == eos
        if bool(done.all()):
            break
    return ids
