"""One forward pass over the panel that serves every signal: hooks on sites, reductions of logits and attention."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.errors import ModelError, SignalError
from lmtrace.numerics.prediction import Cells, Entries, Laws
from lmtrace.numerics.sparse_rows import SparseRows
from lmtrace.observe.forward import Forward, default_forward, device_of, eager_attention, inputs_of, logits_of
from lmtrace.observe.head import Head
from lmtrace.observe.interface import UNDECLARED, Batch, Needs, Signal
from lmtrace.observe.sites import Site
from lmtrace.text.panel import Panel, PanelBatch

MAX_LOGITS = 2**25
"""Numbers in the logits of one micro-batch; 2**25 float32 are 128 MiB."""
BATCH_PRICE = {"cpu": 16}
"""What one more micro-batch costs beside its tokens, in tokens. On an accelerator 2048 is a guess: it waits for launches."""
MAX_CELLS = 2**22
"""Entries of a panel's laws whose places are kept between passes; 2**22 take 64 MiB."""


@dataclass
class Captured:
    """What one pass over the panel left behind.

    Attributes
    ----------
    activations
        Site -> [tokens of its stream, d_model] float32, of the sentences as they are.
    masked
        The same where the model predicts: of the pass with mask tokens in masked models, of the same pass in others.
    reduced
        Signal (by position in the list of signals) -> what its `reduce` returned, joined.
    failures
        Signal position -> the exception its `reduce` raised.
    seconds
        Time of the pass without the reductions, and of each signal's reductions.
    """

    activations: dict[str, Tensor] = field(default_factory=dict)
    masked: dict[str, Tensor] = field(default_factory=dict)
    reduced: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)
    seconds: dict[int | str, float] = field(default_factory=dict)


@dataclass(eq=False)
class PassBatch:
    """One micro-batch of the pass, shared by the signals; implements `observe.interface.Batch`.

    Attributes
    ----------
    logits : [positions, vocabulary]
        Of all positions, flattened, or of the predictions.
    rows : [predictions] or None
        int64, which of them are the predictions; None is all, and the logits may then be overwritten.
    """

    panel: Panel
    panel_batch: PanelBatch
    logits: Tensor
    rows: Tensor | None
    maps: dict[str, Tensor] | None
    device: torch.device
    taken: dict[int, Entries] = field(default_factory=dict)
    room: dict[str, Tensor] = field(default_factory=dict)
    """Memory for the laws, which the batches of a pass hand on: what a reduction returns is copied before the next."""

    @cached_property
    def laws(self) -> Laws:
        """The predictions' laws, computed once and shared."""
        lexicon, width = self.panel.lexicon, self.logits.shape[1]
        groups = None if lexicon is None else self.panel.once(("capture.groups", width), lambda: lexicon.groups(width))
        groups = None if groups is None else torch.as_tensor(groups, device=self.device)
        if self.rows is None and self.logits.dtype == torch.float32:
            return Laws.of(self.logits, groups, room=self.logits)
        num = len(self.panel_batch.index)
        if "laws" not in self.room or len(self.room["laws"]) < num:
            self.room["laws"] = torch.empty(num, width, device=self.device)
        return Laws.of(self.logits, groups, self.rows, self.room["laws"])

    @property
    def log_probs(self) -> Tensor:
        """[predictions, vocabulary] float32."""
        return self.laws.log_probs

    def entries(self, rows: SparseRows) -> Entries:
        """Log-probabilities at the entries that sparse rows [panel's predictions] have here; the same rows are read once."""
        if id(rows) not in self.taken:
            self.taken[id(rows)] = Entries.of(self.log_probs, self._cells(rows))
        return self.taken[id(rows)]

    def _cells(self, rows: SparseRows) -> Cells:
        """Return the cells of sparse rows in this batch's laws; they are kept for the next pass where they are not too many."""

        def make() -> tuple[SparseRows, Cells]:
            return rows, Cells.of(rows.take(self.panel_batch.index), self.logits.shape[1], self.device)

        if len(rows.values) > MAX_CELLS:
            return make()[1]
        # The rows are kept beside their cells, so that their id is not given to other rows meanwhile.
        key = ("capture.cells", id(rows), self.logits.shape[1], self.device, self.panel_batch.index.tobytes())
        return self.panel.once(key, make)[1]

    @cached_property
    def index(self) -> Tensor:
        """[predictions] rows of `Panel.predictions`."""
        return torch.as_tensor(self.panel_batch.index, device=self.device)

    @cached_property
    def targets(self) -> Tensor:
        """[predictions] token ids that are right."""
        return torch.as_tensor(self.panel_batch.targets, device=self.device)

    @cached_property
    def sequences(self) -> Tensor:
        """[sequences] panel indices."""
        return torch.as_tensor(self.panel_batch.sequences, device=self.device)

    @cached_property
    def valid(self) -> Tensor:
        """[sequences, length] bool."""
        return torch.as_tensor(self.panel_batch.attention_mask, device=self.device).bool()

    @property
    def attentions(self) -> Mapping[str, Tensor]:
        """Site -> [sequences, heads, queries, keys]."""
        if self.maps is None:
            raise ModelError("a model that is called through forward= gives no attention maps")
        return self.maps


@dataclass(frozen=True)
class DeclaredBatch:
    """A `PassBatch` as one signal sees it: what it did not declare is refused, though another signal may have it."""

    batch: PassBatch
    signal: Signal
    needs: Needs

    def __getattr__(self, name: str) -> Any:
        if (name in ("log_probs", "laws", "entries") and not self.needs.logits) or (
            name == "attentions" and not self.needs.attention
        ):
            raise SignalError(f"{self.signal.name} reads {name} without having declared it", UNDECLARED)
        return getattr(self.batch, name)


def batch_size_for(vocabulary: int, longest: int, max_logits: int = MAX_LOGITS, limit: int = 64) -> int:
    """Return how many sequences fit into one micro-batch without its logits growing past `max_logits` numbers."""
    return max(1, min(limit, max_logits // max(1, vocabulary * longest)))


def capture(
    model: nn.Module,
    panel: Panel,
    sites: Mapping[str, Site],
    signals: Iterable[tuple[int, Signal, Needs]],
    *,
    forward: Forward | None = None,
    head: Head | None = None,
    batch_size: int = 64,
) -> Captured:
    """Run the panel through the model once and keep what the signals need.

    A masked model reads the panel twice where both are needed: without masks for activations and attention maps, with them
    for predictions.

    Parameters
    ----------
    model
        Unwrapped, in evaluation mode, gradients off (see `isolation.undisturbed`).
    sites
        Those whose activations are kept.
    signals
        (position, signal, needs); `reduce` is called for those that need logits or attention.
    forward
        (model, inputs) -> logits, for models that are not called as Hugging Face models are.
    head
        Their output layer, which then reads predictions only, or nothing where no signal reads logits; see `head_of`.

    Raises
    ------
    ModelError
        Where a site did not fire, fired with another shape than its stream's tokens, or maps are missing or are not those
        of the model's own attention.
    """
    device = device_of(model)
    result = Captured()
    wanted = list(signals)
    attention = any(needs.attention for _, _, needs in wanted)
    reducers = [(i, s, needs) for i, s, needs in wanted if needs.logits or needs.attention]
    joined: dict[int, _Joined] = {i: _Joined(panel) for i, _, _ in reducers}
    readings, room = _readings(panel, sites, [needs for _, _, needs in wanted], device), {}
    seconds: dict[int | str, float] = {"pass": 0.0, **{i: 0.0 for i, _, _ in reducers}}
    with contextlib.ExitStack() as stack:
        if attention:
            own = None if forward is not None else _at_tokens(model, panel)
            stack.enter_context(eager_attention(model))
            if own is not None:
                check_eager(own, _at_tokens(model, panel, output_attentions=True))
        for reading in readings:
            stack.enter_context(reading.recorder.hooked())
        if head is not None:
            stack.enter_context(head.hooked())
        for panel_batch in panel.batches(batch_size, price=BATCH_PRICE.get(device.type, 2048)):
            start = time.perf_counter()
            batch = PassBatch(panel, panel_batch, torch.empty(0, 0, device=device), None, None, device, room=room)
            for reading in readings:
                reading.read(batch, model, forward, head)
            seconds["pass"] += time.perf_counter() - start
            for i, signal, needs in reducers:
                if i in result.failures:
                    continue
                start = time.perf_counter()
                try:
                    joined[i].add(panel_batch, signal.reduce(cast(Batch, DeclaredBatch(batch, signal, needs))))
                except Exception as error:  # noqa: BLE001  the isolation boundary: one signal's failure is its own
                    result.failures[i] = error
                seconds[i] += time.perf_counter() - start
    for reading in readings:
        if reading.plain:
            result.activations = reading.recorder.buffers
        if reading.predicts:
            result.masked = reading.recorder.buffers
    result.reduced = {i: parts.tensors() for i, parts in joined.items() if i not in result.failures}
    result.seconds = seconds
    return result


@dataclass(frozen=True)
class _Reading:
    """One way in which every batch is read: as it is, with its masks, or, where there are none, both at once.

    Attributes
    ----------
    plain, predicts
        Whether it is what activations and maps are of, and what predictions are of.
    attention, logits
        Whether its maps and its logits are wanted.
    """

    recorder: _Recorder
    plain: bool
    predicts: bool
    attention: bool
    logits: bool

    def read(self, batch: PassBatch, model: nn.Module, forward: Forward | None, head: Head | None) -> None:
        """Run the model over the batch, and leave in it the maps and the logits that are wanted."""
        panel_batch, device = batch.panel_batch, batch.device
        inputs = inputs_of(panel_batch, device, plain=not self.predicts)
        self.recorder.begin(panel_batch)
        shape = inputs.get("decoder_input_ids", inputs["input_ids"]).shape
        rows = torch.as_tensor(panel_batch.predict_row * shape[1] + panel_batch.predict_column, device=device)
        chosen = rows if self.logits else rows[:0]
        if head is not None:
            head.choose(shape, chosen)
        if forward is not None:
            logits = logits_of(forward(model, inputs), inputs)
        else:
            output = default_forward(model, inputs, **({"output_attentions": True} if self.attention else {}))
            if self.attention:
                batch.maps = attention_maps(output, model)
            logits = logits_of(output, inputs, None if head is None else len(chosen))
        self.recorder.finish_batch()
        if self.predicts:
            batch.logits = logits.flatten(0, 1)
            batch.rows = rows if head is None else None
            if self.logits and len(panel_batch.index):
                _ = batch.laws


def _readings(panel: Panel, sites: Mapping[str, Site], needs: list[Needs], device: torch.device) -> list[_Reading]:
    """Return how the batches of a pass are read, for the sites that are kept and what the signals need."""
    attention = any(need.attention for need in needs)
    logits = any(need.logits for need in needs)
    if panel.masked_ids is None:
        return [_Reading(_Recorder(panel, sites, device), True, True, attention, logits)]

    def asked(masks: bool) -> dict[str, Site]:
        wanted = [need.sites for need in needs if need.masks == masks and need.sites]
        return {name: site for name, site in sites.items() if any(w == "all" or name in w for w in wanted)}

    plain = asked(masks=False) if needs else dict(sites)
    at_masks = asked(masks=True)
    readings = []
    if plain or attention:
        readings.append(_Reading(_Recorder(panel, plain, device), True, False, attention, False))
    if at_masks or logits:
        readings.append(_Reading(_Recorder(panel, at_masks, device), False, True, False, logits))
    return readings


def head_of(model: nn.Module, panel: Panel) -> Head | None:
    """Return the output layer of a Hugging Face model, if it gives chosen positions the logits that they get among all."""
    inputs = _two_sequences(model, panel)
    return Head.of(model, lambda chosen: logits_of(default_forward(model, inputs), inputs, chosen))


def _two_sequences(model: nn.Module, panel: Panel) -> dict[str, Tensor]:
    """Return a short and a long sequence, padded to one length."""
    lengths = np.array([len(ids) for ids in panel.encoder.ids])
    return inputs_of(next(panel.batches(2, indices=np.unique([lengths.argmin(), lengths.argmax()]))), device_of(model))


def _at_tokens(model: nn.Module, panel: Panel, **extra: Any) -> Tensor:
    """Return the logits at the real tokens of two sequences."""
    inputs = _two_sequences(model, panel)
    logits = logits_of(default_forward(model, inputs, **extra), inputs)
    return logits[inputs.get("decoder_attention_mask", inputs["attention_mask"]).bool()]


def check_eager(own: Tensor, eager: Tensor) -> None:
    """Refuse maps of an attention that is not the model's: the eager one of some families has no causal mask."""
    difference = float((eager.float() - own.float()).norm() / own.float().norm().clamp(min=1e-30))
    if difference > (0.02 if own.dtype in (torch.float32, torch.float64) else 0.1):
        raise ModelError(f"eager attention is not the model's own: its logits differ by {difference:.0%}")


class _Recorder:
    """Writes the real tokens' activations of every batch to their rows in panel order."""

    def __init__(self, panel: Panel, sites: Mapping[str, Site], device: torch.device) -> None:
        self.panel, self.sites, self.device = panel, sites, device
        self.buffers: dict[str, Tensor] = {}
        self.rows: dict[str, tuple[Tensor, Tensor | None]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.fired: dict[str, int] = {}

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        try:
            for site in self.sites.values():
                if site.when == "input":
                    hook = site.module.register_forward_pre_hook(self._before(site), with_kwargs=True)
                else:
                    hook = site.module.register_forward_hook(self._after(site))
                handles.append(hook)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, batch: PanelBatch) -> None:
        """Work out which flat rows the batch's real tokens go to, and from which positions, for each stream."""
        self.fired = dict.fromkeys(self.sites, 0)
        self.rows = {"encoder": self._rows_of(batch.sequences, batch.attention_mask, "encoder")}
        if batch.decoder_attention_mask is not None:
            self.rows["decoder"] = self._rows_of(batch.sequences, batch.decoder_attention_mask, "decoder")

    def _rows_of(self, sequences: np.ndarray, mask: np.ndarray, stream: str) -> tuple[Tensor, Tensor | None]:
        side = self.panel.encoder if stream == "encoder" else self.panel.decoder
        if side is None:
            raise ModelError(f"the model has a {stream} but the panel was not prepared for one")
        rows = np.concatenate([np.arange(int(side.offsets[s]), int(side.offsets[s + 1])) for s in sequences])
        self.shapes[stream] = mask.shape
        positions = None if mask.all() else torch.as_tensor(np.flatnonzero(mask), device=self.device)
        return torch.as_tensor(rows, device=self.device), positions

    def _write(self, site: Site, hidden: Any) -> None:
        if not self.rows:  # another reading of the batch is under way
            return
        hidden = hidden[0] if isinstance(hidden, (tuple, list)) else hidden
        (rows, positions), shape = self.rows[site.stream], self.shapes[site.stream]
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != shape:
            got = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise ModelError(f"site {site.name} gave {got}, expected {shape} positions and d_model")
        if site.name not in self.buffers:
            side = self.panel.encoder if site.stream == "encoder" else self.panel.decoder
            assert side is not None
            self.buffers[site.name] = hidden.new_empty((side.num_tokens, hidden.shape[-1]), dtype=torch.float32)
        real = hidden.flatten(0, 1)
        real = real if positions is None else real.index_select(0, positions)
        self.buffers[site.name].index_copy_(0, rows, real.float())
        self.fired[site.name] += 1

    def _before(self, site: Site) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._write(site, args[0] if args else kwargs.get("hidden_states"))

        return hook

    def _after(self, site: Site) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._write(site, output)

        return hook

    def finish_batch(self) -> None:
        """Prove that every site fired exactly once."""
        silent = [name for name, count in self.fired.items() if count != 1]
        if silent:
            raise ModelError(
                f"sites {', '.join(silent)} fired {[self.fired[name] for name in silent]} times in one pass, expected 1",
                "Pass forward= so that the model runs each block once, or name the blocks with sites=",
            )
        self.rows = {}


class _Joined:
    """Puts the reductions of the batches back into the panel's order."""

    def __init__(self, panel: Panel) -> None:
        self.num = {"prediction": len(panel.predictions), "sequence": panel.num_sentences}
        self.parts: dict[str, Tensor] = {}

    def add(self, batch: PanelBatch, tensors: Mapping[str, Tensor]) -> None:
        for key, value in tensors.items():
            kind = "sequence" if key.startswith("sequence_") else "prediction"
            rows = batch.sequences if kind == "sequence" else batch.index
            if len(value) != len(rows):
                raise ModelError(f"reduce gave {key!r} with {len(value)} rows, expected {len(rows)} ({kind}s)")
            if key not in self.parts:
                self.parts[key] = value.new_zeros((self.num[kind], *value.shape[1:]))
            self.parts[key][torch.as_tensor(rows, device=value.device)] = value.detach()

    def tensors(self) -> dict[str, Tensor]:
        return self.parts


def attention_maps(output: Any, model: nn.Module) -> dict[str, Tensor]:
    """Return site -> attention map; encoder-decoder models give both streams' self-attention."""
    found: dict[str, Tensor] = {}
    for attribute, prefix in (
        ("attentions", ""),
        ("encoder_attentions", "encoder."),
        ("decoder_attentions", "decoder."),
    ):
        maps = getattr(output, attribute, None)
        for i, attention in enumerate(maps or ()):
            if isinstance(attention, Tensor):
                found[f"{prefix}block.{i}"] = attention.float()
    if not found:
        raise ModelError(f"{type(model).__name__} returned no attention maps even with eager attention")
    return found
