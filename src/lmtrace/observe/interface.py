"""The interface between the tracer and its signals: what a signal needs, what it sees, what it yields."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from lmtrace.numerics.prediction import Entries, Laws
from lmtrace.numerics.sparse_rows import SparseRows
from lmtrace.records.schema import Field, Record

if TYPE_CHECKING:
    from lmtrace.text.panel import LabelLayer, Panel

Sites = tuple[str, ...] | Literal["all"]

UNDECLARED = "Declare it in the signal's needs()"
"""What to do about a `SignalError` of the kind "reads ... without having declared it"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a signal has to be given. The tracer provides the union, once; the view refuses the rest.

    Attributes
    ----------
    sites
        Residual-stream sites whose activations it reads: "all", or names ("embed", "block.0", "final").
    logits
        `reduce` is called on every micro-batch with the log-probabilities.
    attention
        `reduce` finds the attention maps of every layer in the batch (eager attention for this pass).
    labels
        Panel label layers; a layer that the panel does not have is an error that names those it has.
    truth
        The exact next-token law of the panel's sentences (`Panel.truth`), from a corpus with an oracle.
    model
        The model itself, its parameters, and losses of panel sequences with gradients (`View.loss`).
    parameters
        The trained parameters, read only. A signal that needs no more of the model than this runs beside others.
    optimizer
        The optimizer's state, read only.
    train_batch
        The last training batches, kept by the tracer (`View.train_batches`).
    masks
        Its sites are read where the model predicts: for masked models from the pass that holds the mask tokens. Otherwise
        activations and attention maps are those of the sentences as they are, which for masked models is a pass of its own.
    """

    sites: Sites = ()
    logits: bool = False
    attention: bool = False
    labels: tuple[str, ...] = ()
    truth: bool = False
    model: bool = False
    parameters: bool = False
    optimizer: bool = False
    train_batch: bool = False
    masks: bool = False

    def __or__(self, other: Needs) -> Needs:
        sites: Sites = (
            "all" if "all" in (self.sites, other.sites) else tuple(dict.fromkeys((*self.sites, *other.sites)))
        )
        flags = {
            name: getattr(self, name) or getattr(other, name)
            for name in ("logits", "attention", "truth", "model", "parameters", "optimizer", "train_batch", "masks")
        }
        return Needs(sites=sites, labels=tuple(dict.fromkeys((*self.labels, *other.labels))), **flags)


class Batch(Protocol):
    """One micro-batch of the captured pass, as `Signal.reduce` sees it.

    A *prediction* is one (context, target token) pair: for causal models every token after the first, the end
    of sentence included; for masked models the masked tokens; for encoder-decoder models the target's tokens.
    """

    @property
    def panel(self) -> Panel:
        """Return the panel, for what is constant over a pass (its lexicon, the exact law)."""
        ...

    @property
    def index(self) -> Tensor:
        """Return [predictions] int64: which rows of `Panel.predictions` these are."""
        ...

    @property
    def log_probs(self) -> Tensor:
        """Return [predictions, vocabulary] float32 log-probabilities (nats); computed once, shared, not to be changed."""
        ...

    @property
    def laws(self) -> Laws:
        """Return the same with entropy, confidence and `mass` [predictions, categories + 1], shared as well.

        `mass` is that on the categories of the panel's lexicon, the last column that on none; None without a lexicon.
        """
        ...

    def entries(self, rows: SparseRows) -> Entries:
        """Return log-probabilities at the entries of `rows`, which has one row per prediction of the panel; shared as well."""
        ...

    @property
    def targets(self) -> Tensor:
        """Return [predictions] int64: the token ids that are right."""
        ...

    @property
    def attentions(self) -> Mapping[str, Tensor]:
        """Return site ("block.0") -> [sequences, heads, queries, keys] float32."""
        ...

    @property
    def sequences(self) -> Tensor:
        """Return [sequences] int64: which panel sequences the batch holds, in the row order of `attentions`."""
        ...

    @property
    def valid(self) -> Tensor:
        """Return [sequences, length] bool: True at real tokens, False at padding."""
        ...


class View(Protocol):
    """What a signal sees of one measurement: no more than it declared. Padding is never part of it."""

    @property
    def step(self) -> int:
        """Return the optimizer step."""
        ...

    @property
    def last(self) -> bool:
        """Return whether training ends here, as far as is known: what is due now and then is due at the end as well."""
        ...

    @property
    def panel(self) -> Panel:
        """Return the panel: words, types, sentences, labels, predictions (see `lmtrace.text.panel`)."""
        ...

    @property
    def sites(self) -> tuple[str, ...]:
        """Return the declared sites, in the order of the model; "all" is resolved to their names."""
        ...

    def words(self, site: str, rows: np.ndarray | None = None) -> Tensor:
        """Return [words, d_model] float32: one row per panel word (of those in rows), by the panel's alignment policy."""
        ...

    def tokens(self, site: str) -> Tensor:
        """Return [tokens, d_model] float32: one row per real token of the panel, in panel order."""
        ...

    def labels(self, layer: str) -> LabelLayer:
        """Return the codes and names of a declared label layer."""
        ...

    def reduced(self) -> Mapping[str, Tensor]:
        """Return what this signal's `reduce` returned, concatenated, rows in the order of `Panel.predictions`.

        Tensors whose first dimension is the number of sequences of the batch come back in panel order of
        sequences instead; the key must then start with "sequence_".
        """
        ...

    @property
    def truth(self) -> Any:
        """Return the panel's exact law (see `lmtrace.text.truth`), or raise where it has none."""
        ...

    @property
    def model(self) -> torch.nn.Module:
        """Return the user's own module, in evaluation mode, restored afterwards."""
        ...

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return [sequences, length, vocabulary] for inputs of the signal's own (no gradient); needs `model`."""
        ...

    def module(self, site: str) -> torch.nn.Module:
        """Return the module whose output a site is (the final norm for "final"); needs `model`."""
        ...

    def attentions(self, inputs: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """Return site -> attention map for inputs of the signal's own (no gradient); needs `model` and `attention`."""
        ...

    def loss(self, num_sequences: int, start: int = 0) -> Callable[[], Tensor]:
        """Return a closure: mean loss (nats) over the predictions of `num_sequences` panel sequences from `start` on, in a random order."""
        ...

    def loss_parts(self, num_sequences: int, size: int) -> list[tuple[float, Callable[[], Tensor]]]:
        """Return `loss` in micro-batches of `size` sequences: (weight, closure); the weights sum to 1."""
        ...

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the trained parameters by name (frozen ones are left out, tied ones appear once)."""
        ...

    def in_float32(self) -> View:
        """Return the same view of a float32 copy of the model (second derivatives need the precision); needs `model`."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer, to be read only."""
        ...

    def train_loss(self, num_sequences: int | None = None, start: int = 0) -> Callable[[], Tensor]:
        """Return a closure: mean loss (nats) on (some sequences of) the last training batch that the tracer kept."""
        ...

    def train_loss_parts(self, num_sequences: int, size: int) -> list[tuple[float, Callable[[], Tensor]]]:
        """Return `train_loss` in micro-batches of `size` sequences: (weight, closure); the weights sum to 1."""
        ...

    @property
    def cache(self) -> dict[Any, Any]:
        """Return results that the signals of one measurement may share; a key starts with the module that owns it."""
        ...

    @property
    def memory(self) -> dict[str, Tensor]:
        """Return this signal's own tensors from the measurement before (empty at first); saved for resume."""
        ...

    def note(self, kind: str, text: str, data: dict[str, Any]) -> None:
        """Leave an event beside the records: examples, say, that are words and not numbers."""
        ...

    def generator(self, purpose: str = "") -> torch.Generator:
        """Return a generator seeded by (run seed, signal, purpose): the same at every step."""
        ...


@dataclass(frozen=True, kw_only=True)
class Signal(ABC):
    """A measurement. Subclasses are frozen dataclasses whose fields are their parameters.

    One signal is one file in `lmtrace/signals/`; the file's name is the signal's name. Two instances of one class may
    run together (a probe for roles, a probe for part of speech).
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]
    cost: ClassVar[str]
    """In gradients or forwards, in words: "2.1 gradients per product"."""
    source: ClassVar[str]
    """Citation of the definition."""
    stride: ClassVar[int] = 1
    """Takes part in every n-th measurement by default: expensive signals set it above 1."""
    shrinks: ClassVar[Mapping[str, int]] = MappingProxyType({})
    """Field -> smallest value to which a budget may lower it. Only sizes of samples over which all that depends on them is
    a mean, and of which the smaller one is the beginning of the larger: error bars widen, values do not move."""

    @abstractmethod
    def needs(self, panel: Panel) -> Needs:
        """Return what it has to be given for this panel."""

    def reduce(self, batch: Batch) -> dict[str, Tensor]:
        """Reduce a micro-batch to small per-prediction (or per-sequence) tensors; needs `logits` or `attention`."""
        return {}

    @abstractmethod
    def measure(self, view: View) -> Iterator[Record]:
        """Yield the records of one measurement."""

    def record(self, view: View, metric: str, value: float | None = None, **rest: Any) -> Record:
        """Return a `Record` of this signal at the view's step (`site=`, `label=`, `stderr=`, `missing=`, ...)."""
        return Record(step=view.step, signal=self.name, metric=metric, value=value, **rest)

    def parameters(self) -> dict[str, Any]:
        """Return the fields as plain data, for the run's header."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def seed_of(*parts: object) -> int:
    """Return a 63-bit seed that depends on the parts only, not on PYTHONHASHSEED."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """Return a NumPy generator that continues from a torch generator's seed."""
    return np.random.default_rng(generator.initial_seed())
