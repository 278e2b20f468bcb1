"""Attention maps, each of the block whose attention made it: read at the attention modules, not by their order in a tuple.

A trial pass shows which modules inside a block give [sequences, heads, T, T] with rows that are weights. Rows that sum to less
than one have a sink that is no token (gpt-oss): they are divided by their sum, so that they are weights among tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lmtrace.errors import ModelError
from lmtrace.observe.flow import Call, Key, Trial, entries, trial
from lmtrace.observe.sites import Site

NO_MAP = "no module of this block gives attention weights between the tokens"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a block's map is made.

    Attributes
    ----------
    block
        "block.3", "decoder.block.3".
    module
        The attention module.
    call
        Which of its calls in a pass it is.
    entry
        Which entry of its output is the map.
    sink
        Whether its rows give weight to something that is no token.
    """

    block: str
    module: nn.Module
    call: int
    entry: Key
    sink: bool


@dataclass(eq=False)
class Maps:
    """The maps of a model, read in a pass inside `hooked`.

    Attributes
    ----------
    sources
        One or more for each block that has a map; the heads of several are put one after the other.
    lost
        Block -> why it has none.
    ordered
        Names of the blocks, where the model's output holds the maps and no module does; their order is then that of the tuple.
    """

    sources: list[Source] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    ordered: dict[str, list[str]] = field(default_factory=dict)
    _found: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _counts: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def sinks(self) -> list[str]:
        """Blocks whose rows give weight to a sink."""
        return list(dict.fromkeys(source.block for source in self.sources if source.sink))

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Keep what the attention modules give, in the body."""
        handles = []
        self.begin()
        try:
            for module in {id(source.module): source.module for source in self.sources}.values():
                handles.append(module.register_forward_hook(self._keep))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.begin()

    def begin(self) -> None:
        """Forget the last batch."""
        self._found.clear()
        self._counts.clear()

    def _keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        number = self._counts.get(id(module), 0)
        self._counts[id(module)] = number + 1
        for i, source in enumerate(self.sources):
            if source.module is module and source.call == number:
                self._found[i] = entries(output)[source.entry]

    def read(self, output: Any) -> dict[str, Tensor]:
        """Return block -> [sequences, heads, queries, keys] float32 of the batch that has just run."""
        if self.ordered:
            return _in_order(output, self.ordered)
        parts: dict[str, list[Tensor]] = {}
        for i, source in enumerate(self.sources):
            weights = self._found[i].float()
            if source.sink:
                weights = weights / weights.sum(dim=3, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
            parts.setdefault(source.block, []).append(weights)
        return {block: maps[0] if len(maps) == 1 else torch.cat(maps, dim=1) for block, maps in parts.items()}


def find_maps(
    model: nn.Module,
    run: Callable[[dict[str, Tensor]], Any],
    inputs: tuple[dict[str, Tensor], dict[str, Tensor]],
    blocks: Mapping[str, Site],
) -> Maps:
    """Return where the maps of a model are made, as two trial passes show it.

    Parameters
    ----------
    model
        In evaluation mode, gradients off, with the attention that gives maps.
    run
        Calls the model so that it gives them.
    inputs
        Of the two passes, which must differ in the number of sequences and in every length.
    blocks
        The block sites, in order.

    Raises
    ------
    ModelError
        Where no block has a map.
    """
    outputs: list[Any] = []

    def keeping(batch: dict[str, Tensor]) -> Any:
        outputs.append(run(batch))
        return outputs[-1]

    first = trial(model, keeping, inputs[0], keep=4)
    second = trial(model, keeping, inputs[1], keep=4).shapes()
    maps = Maps()
    spans = _spans(first, blocks)
    seen: set[bytes] = set()
    for call in sorted(first.calls, key=lambda call: call.end):
        twin = second.get(call.place)
        for entry, weights in call.kept.items():
            stream = _stream(weights, None if twin is None else twin.kept.get(entry), first, inputs[1])
            block = _block(call, spans, stream, first)
            mark = call.outputs[entry].mark
            if block is None or mark in seen:
                continue
            seen.add(mark)
            reason = not_weights(weights)
            if reason:
                maps.lost[block] = reason
            else:
                sink = bool((weights.float().sum(dim=3) < 1 - _tolerance(weights)).any())
                maps.sources.append(Source(block, call.module, call.number, entry, sink))
    have = {source.block for source in maps.sources}
    maps.lost = {block: why for block, why in maps.lost.items() if block not in have}
    if not have and not maps.lost:
        maps.ordered = _by_order(outputs[0], first, blocks)
        have = {name for names in maps.ordered.values() for name in names}
    for name in blocks:
        if name not in have:
            maps.lost.setdefault(name, NO_MAP)
    if not maps.sources and not maps.ordered:
        reasons = dict.fromkeys(maps.lost.values())
        if set(reasons) <= {NO_MAP}:
            raise ModelError(f"{type(model).__name__} returned no attention maps even with eager attention")
        raise ModelError(next(why for why in reasons if why != NO_MAP))
    return maps


def not_weights(weights: Tensor) -> str:
    """Return why a tensor [sequences, heads, queries, keys] holds no attention weights; "" where it does."""
    weights = weights.float()
    if bool(weights.isnan().any()):
        return ""  # a model that diverges: the statistics say so
    lowest, highest = float(weights.min()), float(weights.sum(dim=3).max())
    if lowest < -1e-6 or highest > 1 + _tolerance(weights):
        return f"what its attention gives are no weights: from {lowest:.2g} on, rows sum to {highest:.3g}"
    return ""


def _tolerance(weights: Tensor) -> float:
    """Return how far rounding moves a sum of weights."""
    return 1e-3 if weights.dtype in (torch.float32, torch.float64) else 2e-2


def _stream(weights: Tensor, twin: Tensor | None, first: Trial, other: dict[str, Tensor]) -> str:
    """Return the stream in which a tensor is [sequences, heads, T, T]; "" for another kind of tensor."""
    lengths = {"encoder": int(other["input_ids"].shape[1])}
    if "decoder_input_ids" in other:
        lengths["decoder"] = int(other["decoder_input_ids"].shape[1])
    for stream, length in first.lengths.items():
        same = weights.shape[0] == first.batch and weights.shape[2:] == (length, length)
        if same and twin is not None and twin.shape[2:] == (lengths[stream], lengths[stream]):
            return stream
    return ""


def _spans(seen: Trial, blocks: Mapping[str, Site]) -> list[tuple[str, int, int]]:
    """Return (block, where it begins, where it ends): from the end of the block before it in its stream to its own end."""
    calls = seen.shapes()
    spans = []
    before: dict[str, int] = {}
    for name, site in blocks.items():
        call = calls.get((site.path, site.call))
        if call is not None:
            begin = before.get(site.stream, 0)
            spans.append((name, begin, call.end))
            before[site.stream] = call.end
    return spans


def _block(call: Call, spans: list[tuple[str, int, int]], stream: str, seen: Trial) -> str | None:
    """Return the block in which a call ran."""
    for name, begin, end in spans:
        of = name.partition(".")[0] if len(seen.lengths) > 1 else "encoder"
        if of == stream and begin < call.end <= end:
            return name
    return None


def _by_order(output: Any, seen: Trial, blocks: Mapping[str, Site]) -> dict[str, list[str]]:
    """Return attribute -> names of the blocks, where an output holds one map for every block."""
    found = {}
    for attribute, prefix in (
        ("attentions", ""),
        ("encoder_attentions", "encoder."),
        ("decoder_attentions", "decoder."),
    ):
        names = [name for name in blocks if name.startswith(f"{prefix}block.")]
        maps = [m for m in getattr(output, attribute, None) or () if isinstance(m, Tensor)]
        length = seen.lengths.get("decoder" if prefix == "decoder." else "encoder")
        fitting = [m for m in maps if m.dim() == 4 and m.shape[2:] == (length, length) and not not_weights(m)]
        if names and len(fitting) == len(maps) == len(names):
            found[attribute] = names
    return found


def _in_order(output: Any, ordered: dict[str, list[str]]) -> dict[str, Tensor]:
    found = {}
    for attribute, names in ordered.items():
        for name, weights in zip(names, getattr(output, attribute), strict=True):
            found[name] = weights.float()
    return found
