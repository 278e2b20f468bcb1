"""Where to look: the residual stream's sites, found from the flow of data through the model.

The blocks are the repeated modules of which each reads what the one before it gave (`lmtrace.observe.flow`). `embed` is what
enters block 0, `block.i` what leaves block i (before the final norm), `final` what leaves the norm that reads the last block's
output. A block that runs several times has a site for every time. Encoder-decoder models have each of them twice, with the
stream's name in front: `encoder.block.0`, `decoder.final`; the streams are told apart by the length of what they read.

Where no trial pass can be run, the blocks are the entries of the outermost `ModuleList` whose length is the number of layers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.errors import ModelError
from lmtrace.observe.flow import AS_IS, Call, Key, Layout, Trial, entries, layout, trial
from lmtrace.observe.forward import default_forward, device_of, table_length, text_config, vocabulary_of
from lmtrace.observe.isolation import undisturbed
from lmtrace.text.panel import Panel

Stream = Literal["encoder", "decoder"]
FIX = 'Name the blocks yourself: Tracer(..., sites={"block": "path.to.the.ModuleList", "final": "path.to.the.norm"})'
LENGTH = 7
"""Tokens of the sequences of the first trial pass."""
TOTAL = "total"
"""`Site.entry` of a block that gives (hidden, residual): the residual stream is their sum."""
OTHER_WORDS = {"layers": "block", "ln_final": "final", "norm": "final"}
"""What other libraries call the parts that `sites=` names: nnterp's layers, TransformerLens's ln_final."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place of the residual stream.

    Attributes
    ----------
    name
        "embed", "block.3", "decoder.block.3", "block.3.attn", "final".
    module
        The module that is hooked.
    path
        Its dotted path in the model.
    when
        "input": what enters the module; "output": what leaves it.
    stream
        "encoder": rows are the tokens of the main (or encoder's) input; "decoder": those of the decoder's input.
    call, calls
        Which call of the module in a pass it is, from 0, and how many there are.
    entry
        Which argument, or which entry of the output; None is the only one or the first; "total" the sum of the first two.
    layout
        Where sequences and positions lie.
    """

    name: str
    module: nn.Module
    path: str
    when: Literal["input", "output"]
    stream: Stream
    call: int = 0
    calls: int = 1
    entry: Key = None
    layout: Layout = AS_IS

    def pick(self, value: Any) -> Any:
        """Return the site's tensor among a module's arguments or in its output, as the model lays it out."""
        found = entries(value)
        if self.entry == TOTAL:
            return found[0] + found[1]
        if self.entry in found:
            return found[self.entry]
        return next(iter(found.values()), None)

    def put(self, output: Any, hidden: Tensor) -> Any:
        """Return a module's output with the site's tensor replaced."""
        if isinstance(output, Mapping):
            changed = type(output)(output)  # pyright: ignore[reportCallIssue]
            changed[self.entry] = hidden  # pyright: ignore[reportIndexIssue]
            return changed
        if not isinstance(output, (tuple, list)):
            return hidden
        parts = list(output)
        at = self.entry if isinstance(self.entry, int) else 0
        parts[at] = hidden
        if self.entry == TOTAL:
            parts[1] = torch.zeros_like(hidden)
        return type(output)(parts)


@dataclass(eq=False)
class Found:
    """The sites of a model, and those that it has but that cannot be read.

    Attributes
    ----------
    sites
        Name -> site, in the order in which data walks through the model.
    lost
        Name -> why it cannot be read.
    reason
        Why there is no site at all; empty where there are some.
    blocks
        Name -> block, those that run but cannot be read included.
    """

    sites: dict[str, Site] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    blocks: dict[str, Site] = field(default_factory=dict)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module inside `DistributedDataParallel`, `torch.compile` and the like."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module) and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def unwrap_optimizer(optimizer: Any) -> Any:
    """Return the torch optimizer inside accelerate's or Lightning's."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def embed_of(site: str) -> str:
    """Return where a site's stream begins: "embed", or "encoder.embed" for "encoder.block.3"."""
    stream = site.partition(".")[0]
    return f"{stream}.embed" if stream in ("encoder", "decoder") else "embed"


def sub_site(sites: Mapping[str, Site], name: str) -> Site:
    """Return the sub-site "block.i.attn" or "block.i.mlp" of a known block, by the child's name."""
    block, _, part = name.rpartition(".")
    if block in sites and part in ("attn", "mlp"):
        words = ("attn", "attention", "mixer") if part == "attn" else ("mlp", "feed_forward", "ffn", "moe", "output")
        for child, module in sites[block].module.named_children():
            if any(word in child.lower() for word in words) and "norm" not in child.lower():
                whole = sites[block]
                entry = whole.entry if whole.entry != TOTAL else None
                return replace(whole, name=name, module=module, path=f"{whole.path}.{child}", entry=entry)
    raise ModelError(f"site {name!r} is not part of the model", f"It has: {', '.join(sites)}")


# What the user says


def _named(overrides: Mapping[str, str] | None) -> dict[str, str]:
    """Return the user's paths by our words; an unknown word is an error."""
    found = {}
    for key, path in (overrides or {}).items():
        prefix, _, word = key.rpartition(".")
        ours = OTHER_WORDS.get(word, word)
        if ours not in ("block", "final") or prefix not in ("", "encoder", "decoder"):
            raise ModelError(f"sites: {key!r} names no part of a model", FIX)
        found[f"{prefix}.{ours}".lstrip(".")] = path
    return found


def check_names(model: nn.Module, overrides: Mapping[str, str] | None) -> None:
    """Raise a `ModelError` where what the user says names nothing."""
    for key, path in _named(overrides).items():
        if key.endswith("block"):
            _entries(model, path)
        else:
            _module(model, path)


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{type(model).__name__} has no module at {path!r}", FIX) from error


def _entries(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Return the blocks in a container: (path, module) of its entries."""
    module = _module(model, path)
    if not isinstance(module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)) or len(module) == 0:
        raise ModelError(f"{path!r} is a {type(module).__name__}, not a list of blocks", FIX)
    return [(f"{path}.{name}", child) for name, child in module._modules.items() if child is not None]


# By the flow of data


def trial_inputs(
    model: nn.Module, panel: Panel, rows: int = 2 * LENGTH
) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """Return two batches of the panel's tokens, of other sizes and lengths; None where no trial pass can be run.

    Parameters
    ----------
    rows
        About how many tokens the first is to hold.
    """
    sides = [side for side in (panel.encoder, panel.decoder) if side is not None]
    ids = [np.concatenate([np.asarray(row) for row in side.ids]) for side in sides if len(side.ids)]
    return made_inputs(model, ids, rows)


def made_inputs(
    model: nn.Module, ids: Sequence[np.ndarray], rows: int = 2 * LENGTH
) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """Return `trial_inputs` of these tokens: of the input, and of the decoder's where there is one."""
    parameter = next(model.parameters(), None)
    divided = parameter is not None and hasattr(parameter, "placements")
    limit = table_length(model)
    longest = LENGTH if limit is None else min(LENGTH, limit)
    if divided or (parameter is not None and parameter.is_meta) or longest < 4 or not any(len(i) for i in ids):
        return None
    device = device_of(model)
    first = max(1, rows // longest)
    return _tokens(ids, first, longest, device), _tokens(ids, first + 1, longest - 1, device)


def _tokens(ids: Sequence[np.ndarray], batch: int, length: int, device: torch.device) -> dict[str, Tensor]:
    """Return a batch without padding; the decoder reads two tokens fewer."""
    found = {}
    for prefix, row, width in zip(("", "decoder_"), ids, (length, length - 2), strict=False):
        tokens = np.resize(row, (batch, width))
        found[f"{prefix}input_ids"] = torch.as_tensor(tokens, dtype=torch.int64, device=device)
        found[f"{prefix}attention_mask"] = torch.ones(batch, width, dtype=torch.int64, device=device)
    return found


@dataclass(eq=False)
class _Chain:
    """Steps along the residual stream: the call that begins each and the one that ends it.

    Attributes
    ----------
    begin, end
        Of every step, in order.
    into, out
        Which argument and which entry of the output are the residual stream.
    linked
        Share of the steps whose output was seen to enter the next.
    container
        Path of the container of the blocks, and the index in it of each step; None where they have none.
    """

    begin: list[Call]
    end: list[Call]
    into: Key
    out: Key
    linked: float
    container: str | None = None
    index: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Parameters of its modules."""
        modules = {id(call.module): call.module for call in (*self.begin, *self.end)}
        return sum(p.numel() for module in modules.values() for p in module.parameters())


def trace_sites(
    model: nn.Module,
    run: Callable[[dict[str, Tensor]], Any],
    inputs: tuple[dict[str, Tensor], dict[str, Tensor]],
    overrides: Mapping[str, str] | None = None,
) -> Found:
    """Return the sites of a model as two trial passes show them.

    Parameters
    ----------
    model
        Unwrapped, in evaluation mode, gradients off.
    run
        Calls the model on inputs.
    inputs
        Of the two passes, which must differ in the number of sequences and in every length.
    overrides
        `{"block": path of the list of blocks, "final": path of the final norm}`; for encoder-decoder models
        "encoder.block", "decoder.block" and so on. Other libraries' words: `OTHER_WORDS`.

    Raises
    ------
    ModelError
        Where a path of `overrides` names nothing.
    """
    named = _named(overrides)
    first = trial(model, run, inputs[0])
    second = trial(model, run, inputs[1])
    found = Found()
    streams = _streams(model, first, second, named)
    if not streams:
        found.reason = f"no blocks found in {type(model).__name__}: no module is repeated along its residual stream"
        return found
    steps = {call.start for chain in streams.values() for call in chain.begin}
    for stream, chain in streams.items():
        prefix = f"{stream}." if len(first.lengths) > 1 else ""
        _add_chain(found, model, first, chain, prefix, stream)
        norm = _final(model, first, chain, named.get(f"{prefix}final"), steps)
        if norm is not None:
            name = f"{prefix}final"
            found.sites[name] = _site(name, norm, "output", stream, first, None)
    found.blocks = {name: site for name, site in found.sites.items() if "block." in name}
    _read_layouts(found, first, second)
    _find_positions(found, model, run, inputs[0])
    return found


def _streams(model: nn.Module, first: Trial, second: Trial, named: Mapping[str, str]) -> dict[Stream, _Chain]:
    """Return stream -> its chain of blocks."""
    other = second.shapes()
    found: dict[Stream, _Chain] = {}
    wanted: tuple[Stream, ...] = ("encoder", "decoder") if len(first.lengths) > 1 else ("encoder",)
    chains = _chains(model, first)
    for stream in wanted:
        prefix = f"{stream}." if len(wanted) > 1 else ""
        path = named.get(f"{prefix}block")
        if path is not None:
            found[stream] = _named_chain(model, first, path)
            continue
        fitting = [c for c in chains if _fits(c, first, second, other, stream, exact=True)]
        if not fitting and len(wanted) == 1:
            fitting = [c for c in chains if _fits(c, first, second, other, stream, exact=False)] or chains
        elif not fitting:
            elsewhere = [s for s in wanted if s != stream]
            fitting = [
                c
                for c in chains
                if _fits(c, first, second, other, stream, exact=False)
                and not any(_fits(c, first, second, other, s, exact=True) for s in elsewhere)
            ]
        if fitting:
            found[stream] = max(fitting, key=lambda c: (c.linked >= 0.5, c.size, c.begin[0].start))
    return found


def _fits(
    chain: _Chain, first: Trial, second: Trial, other: Mapping[tuple[str, int], Call], stream: str, *, exact: bool
) -> bool:
    """Whether what enters the first block has the stream's positions: just these, or these and more."""
    call = chain.begin[0]
    twin = other.get(call.place)
    if twin is None or chain.into not in call.inputs or chain.into not in twin.inputs:
        return False
    shapes = (call.inputs[chain.into].shape, twin.inputs[chain.into].shape)
    if exact and len(shapes[0]) > 3:
        return all(t.lengths[stream] in shape for t, shape in zip((first, second), shapes, strict=True))
    place = layout(shapes, (first, second), stream)
    return isinstance(place, Layout) and not (exact and place.padded)


def _chains(model: nn.Module, seen: Trial) -> list[_Chain]:
    """Return the chains of repeated modules, those inside a block of another left out."""
    groups: dict[int, list[Call]] = {}
    for call in seen.calls:
        groups.setdefault(-1 if call.parent is None else call.parent.start, []).append(call)
    chains: list[_Chain] = []
    for calls in groups.values():
        chains += _chains_among(model, calls)
    linked = [chain for chain in chains if chain.linked >= 0.5]
    outer = {call.start for chain in linked for call in chain.begin}
    kept = [chain for chain in chains if not chain.begin[0].inside(outer)]
    return kept


def _chains_among(model: nn.Module, calls: list[Call]) -> list[_Chain]:
    """Return the chains among the calls of one parent."""
    labels: dict[str, list[Call]] = {}
    for call in calls:
        labels.setdefault(_label(model, call)[0], []).append(call)
    own: list[_Chain] = []
    mixed: list[_Chain] = []
    for label, members in labels.items():
        steps = [call for call in members if _is_step(call)]
        if not steps or (len(steps) == 1 and "#" not in label):
            continue
        chain = _linked_chain(steps, steps)
        chain.container, chain.index = _container(model, label, steps)
        if chain.linked >= 0.5 or len(steps) == 1 or chain.container is not None:
            own.append(chain)
        if chain.linked < 0.5 and len(steps) > 1:
            around = _around(calls, steps)
            if around is not None:
                mixed.append(around)
    if any(chain.linked >= 0.5 for chain in own) or not mixed:
        return own
    return [*own, min(mixed, key=lambda chain: chain.begin[0].start)]


def _around(calls: list[Call], steps: list[Call]) -> _Chain | None:
    """Return the chain whose steps begin with these calls and end with another child of the same parent (XLM), or None."""
    ends: list[Call] = []
    borders = [call.start for call in steps[1:]] + [calls[-1].end + 1]
    label = ""
    for step, border in zip(steps, borders, strict=True):
        between = [call for call in calls if step.start <= call.start < border]
        marks = {seen.mark for later in steps if later.start == border for seen in later.inputs.values()}
        giving = [call for call in between if any(seen.mark in marks for seen in call.outputs.values())]
        if border in {call.start for call in steps} and not giving:
            return None
        if giving:
            label = re.sub(r"\d+", "#", giving[-1].path)
        alike = [call for call in between if re.sub(r"\d+", "#", call.path) == label]
        if not alike:
            return None
        ends.append(alike[-1])
    return _linked_chain(steps, ends)


def _linked_chain(begin: list[Call], end: list[Call]) -> _Chain:
    """Return the chain of these steps, with the argument and the entry by which they are linked."""
    votes: dict[tuple[Key, Key], int] = {}
    pairs = 0
    for last, following in zip(end, begin[1:], strict=False):
        links = [
            (into, out)
            for out, given in last.outputs.items()
            for into, read in following.inputs.items()
            if given.mark == read.mark and given.shape == read.shape
        ]
        pairs += bool(links)
        for link in links:
            votes[link] = votes.get(link, 0) + 1
    if votes:
        into, out = max(votes, key=lambda link: votes[link])
    else:
        into, out = _widest(begin[0])
    return _Chain(begin, end, into, out, pairs / max(1, len(begin) - 1))


def _widest(call: Call) -> tuple[Key, Key]:
    """Return the first argument that has the shape of an entry of the output, and that entry."""
    for into, read in call.inputs.items():
        for out, given in call.outputs.items():
            if read.shape == given.shape:
                return into, out
    return next(iter(call.inputs), 0), next(iter(call.outputs), None)


def _is_step(call: Call) -> bool:
    """Whether a call may be a block: it has parameters, is no norm, and gives what has the shape of what it read."""
    if is_norm(call.module, call.path) or not any(True for _ in call.module.parameters()):
        return False
    shapes = {seen.shape for seen in call.inputs.values() if len(seen.shape) >= 3}
    return any(seen.shape in shapes for seen in call.outputs.values())


def is_norm(module: nn.Module, path: str) -> bool:
    """Whether a module is a normalisation, by its class or its own name."""
    own = path.rpartition(".")[2].lower()
    kind = type(module).__name__.lower()
    if any(True for _ in module.children()):
        return False
    return "norm" in kind or "norm" in own or bool(re.fullmatch(r"ln(_?\w)?\d*|ln_.*", own))


def _label(model: nn.Module, call: Call) -> tuple[str, int]:
    """Return the path of a call with the place of its index marked, and that index; -1 where it has none."""
    above = "" if call.parent is None else call.parent.path
    parts = call.path.split(".")
    start = len(above.split(".")) if above and call.path.startswith(f"{above}.") else 0
    for i in range(start, len(parts)):
        if parts[i].isdigit():
            return ".".join([*parts[:i], "#", *parts[i + 1 :]]), int(parts[i])
    for i in range(start, len(parts)):
        holder = model.get_submodule(".".join(parts[:i]))
        kinds = {type(child) for child in holder.children()}
        if isinstance(holder, nn.ModuleDict) and len(holder) > 1 and len(kinds) == 1:
            return ".".join([*parts[:i], "#", *parts[i + 1 :]]), list(holder).index(parts[i])
    for i in range(start, len(parts)):
        numbered = re.fullmatch(r"(.*\D)(\d+)", parts[i])
        if numbered:
            return ".".join([*parts[:i], f"{numbered[1]}#", *parts[i + 1 :]]), int(numbered[2])
    return call.path, -1


def _container(model: nn.Module, label: str, steps: list[Call]) -> tuple[str | None, list[int]]:
    """Return the container that holds the blocks, where they are its entries, and the place in it of each step."""
    if not label.endswith(".#") and label != "#":
        return None, []
    path = label.removesuffix("#").rstrip(".")
    holder = model.get_submodule(path)
    if not isinstance(holder, (nn.ModuleList, nn.ModuleDict)):
        return None, []
    return path, [_label(model, call)[1] for call in steps]


def _named_chain(model: nn.Module, seen: Trial, path: str) -> _Chain:
    """Return the chain of the blocks that the user named."""
    modules = {id(module) for _, module in _entries(model, path)}
    steps = [call for call in seen.calls if id(call.module) in modules]
    outer = {call.start for call in steps}
    steps = [call for call in steps if not call.inside(outer)]
    if not steps:
        raise ModelError(f"the blocks at {path!r} do not run when the model reads the panel", FIX)
    chain = _linked_chain(steps, steps)
    order = [id(module) for _, module in _entries(model, path)]
    chain.container = path
    chain.index = [order.index(id(call.module)) for call in steps]
    return chain


def _add_chain(found: Found, model: nn.Module, seen: Trial, chain: _Chain, prefix: str, stream: Stream) -> None:
    """Add the sites of a chain of blocks."""
    out, unknown = _pair(chain, seen)
    name = f"{prefix}embed"
    found.sites[name] = _site(name, chain.begin[0], "input", stream, seen, chain.into)
    once = len({id(call.module) for call in chain.begin}) == len(chain.begin)
    numbers = chain.index if once and chain.container is not None else list(range(len(chain.begin)))
    total = len(chain.begin)
    if once and chain.container is not None:
        total = len(_entries(model, chain.container))
    places = dict(zip(numbers, chain.end, strict=True))
    for number in range(total):
        name = f"{prefix}block.{number}"
        if number not in places:
            found.lost[name] = "the block does not run when the model reads the panel"
        elif unknown:
            found.lost[name] = unknown
        else:
            entry = out if out == TOTAL or out in places[number].outputs else _widest(places[number])[1]
            found.sites[name] = _site(name, places[number], "output", stream, seen, entry)


def _pair(chain: _Chain, seen: Trial) -> tuple[Key, str]:
    """Return the entry of the output that is the residual stream, "total" for (hidden, residual), and why it cannot be told."""
    last, following = chain.end[0], chain.begin[1] if len(chain.begin) > 1 else None
    if last.total is None or following is None:
        return chain.out, ""
    both = {last.outputs[0].mark, last.outputs[1].mark}
    if len(both) < 2 or not both <= {read.mark for read in following.inputs.values()}:
        return chain.out, ""
    later = {read.mark for call in seen.calls if call.start > last.end for read in call.inputs.values()}
    if last.total.mark in later:
        return TOTAL, ""
    return (
        chain.out,
        "the block gives two tensors that the next one reads, and which is the residual stream cannot be told",
    )


def _site(name: str, call: Call, when: Literal["input", "output"], stream: Stream, seen: Trial, entry: Key) -> Site:
    calls = sum(other.module is call.module for other in seen.calls)
    return Site(name, call.module, call.path, when, stream, call.number, calls, entry)


def _final(model: nn.Module, seen: Trial, chain: _Chain, path: str | None, steps: set[int]) -> Call | None:
    """Return the call of the norm that reads the last block's output; None for post-norm models."""
    last = chain.end[-1]
    after = [call for call in seen.calls if call.start > last.end]
    if path is not None:
        module = _module(model, path)
        named = [call for call in seen.calls if call.module is module]
        if not named:
            raise ModelError(f"the norm at {path!r} does not run when the model reads the panel", FIX)
        return named[-1]
    marks = {given.mark for given in last.outputs.values()}
    if last.total is not None:
        marks.add(last.total.mark)
    for call in after:
        reads = any(read.mark in marks for read in call.inputs.values())
        if reads and is_norm(call.module, call.path) and not call.inside(steps):
            return call
    if any(len(given.shape) == 3 for given in last.outputs.values()):
        return None
    # Several streams are put together after the last block: what the output layer reads is then the one stream there is.
    head = getattr(model, "get_output_embeddings", lambda: None)()
    marks = {read.mark for call in after if call.module is head for read in call.inputs.values()}
    given = [c for c in after if is_norm(c.module, c.path) and any(o.mark in marks for o in c.outputs.values())]
    return given[-1] if given else None


def _read_layouts(found: Found, first: Trial, second: Trial) -> None:
    """Give every site its layout; those that have none are lost."""
    one, two = first.shapes(), second.shapes()
    for name, site in list(found.sites.items()):
        shapes = (_shape(site, one), _shape(site, two))
        if shapes[0] is None or shapes[1] is None:
            place: Layout | str = "it does not run at every length"
        else:
            place = layout((shapes[0], shapes[1]), (first, second), site.stream)
        if isinstance(place, str):
            found.lost[name] = place
            del found.sites[name]
        else:
            found.sites[name] = replace(site, layout=place)


def _shape(site: Site, calls: Mapping[tuple[str, int], Call]) -> tuple[int, ...] | None:
    call = calls.get((site.path, site.call))
    if call is None:
        return None
    if site.entry == TOTAL:
        return None if call.total is None else call.total.shape
    seen = call.inputs if site.when == "input" else call.outputs
    chosen = seen.get(site.entry) or next(iter(seen.values()), None)
    return None if chosen is None else chosen.shape


def _find_positions(
    found: Found, model: nn.Module, run: Callable[[dict[str, Tensor]], Any], inputs: dict[str, Tensor]
) -> None:
    """Find, for streams with more positions than tokens, where the tokens lie: one that changes moves one row of `embed`."""
    padded = {name: site for name, site in found.sites.items() if site.layout.padded}
    for stream in {site.stream for site in padded.values()}:
        here = [name for name, site in padded.items() if site.stream == stream]
        start = embed_of(here[0])
        skip = _skip(found.sites[start], model, run, inputs) if start in here else None
        for name in here:
            if skip is None:
                found.lost[name] = "it has other positions than the tokens, and which are theirs cannot be told"
                del found.sites[name]
            else:
                found.sites[name] = replace(padded[name], layout=replace(padded[name].layout, skip=skip))


def _skip(
    site: Site, model: nn.Module, run: Callable[[dict[str, Tensor]], Any], inputs: dict[str, Tensor]
) -> int | None:
    """Return how many positions stand before the first token, or None where the tokens do not lie one beside the other."""
    key = "input_ids" if site.stream == "encoder" else "decoder_input_ids"
    length = inputs[key].shape[1]
    plain = _value(site, run, inputs)
    moved = []
    for position in (0, length - 1):
        ids = inputs[key].clone()
        others = ids[:, (position + 1) % length]
        ids[:, position] = torch.where(others == ids[:, position], ids[:, (position + 2) % length], others)
        if torch.equal(ids, inputs[key]):
            return None
        other = _value(site, run, {**inputs, key: ids})
        if other.shape != plain.shape:
            return None
        rows = (other != plain).any(dim=2).any(dim=0).nonzero()[:, 0].tolist()
        moved.append(rows)
    if [len(rows) for rows in moved] != [1, 1] or moved[1][0] - moved[0][0] != length - 1:
        return None
    return moved[0][0]


def _value(site: Site, run: Callable[[dict[str, Tensor]], Any], inputs: dict[str, Tensor]) -> Tensor:
    """Return what passes an input site, [sequences, positions, d_model]."""
    kept: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append(site.pick({**dict(enumerate(args)), **kwargs}).detach().clone())

    handle = site.module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        run(inputs)
    finally:
        handle.remove()
    return kept[site.call].permute(site.layout.axes)


def find_sites(
    model: nn.Module, overrides: Mapping[str, str] | None = None, ids: Sequence[np.ndarray] = ()
) -> dict[str, Site]:
    """Return name -> `Site`, by two trial passes, or by structure where none can be run. The model is left as it was.

    Parameters
    ----------
    model
        An unwrapped model.
    overrides
        As for `trace_sites`.
    ids
        Tokens to read, of the input and of the decoder's; the first of the vocabulary by default.

    Raises
    ------
    ModelError
        Where no blocks can be found, or a path names nothing.
    """
    check_names(model, overrides)
    made = np.arange(min(vocabulary_of(model) or 16, 64))
    streams = 2 if _is_encoder_decoder(model) else 1
    inputs = made_inputs(model, ids or [made] * streams)
    if inputs is not None:
        with contextlib.suppress(Exception), undisturbed(model):
            found = trace_sites(model, lambda batch: default_forward(model, batch), inputs, overrides)
            if found.sites:
                return found.sites
    return structural_sites(model, overrides)


# By structure, where no pass can be run


def structural_sites(model: nn.Module, overrides: Mapping[str, str] | None = None) -> dict[str, Site]:
    """Return name -> `Site`, in the order in which data walks through the model.

    Parameters
    ----------
    model
        An unwrapped model.
    overrides
        `{"block": path of the ModuleList, "final": path of the final norm}`; for encoder-decoder models
        "encoder.block", "decoder.block" and so on.

    Raises
    ------
    ModelError
        Where no list of blocks can be found, or a path names nothing.
    """
    named = _named(overrides)
    streams: list[tuple[str, Stream, str]] = []
    if any(key.startswith(("encoder.", "decoder.")) for key in named):
        for prefix in ("encoder", "decoder"):
            if path := named.get(f"{prefix}.block"):
                streams.append((f"{prefix}.", prefix, path))
    elif path := named.get("block"):
        streams.append(("", "encoder", path))
    elif _is_encoder_decoder(model):
        for prefix in ("encoder", "decoder"):
            streams.append((f"{prefix}.", prefix, _largest(model, inside=prefix)))
    else:
        streams.append(("", "encoder", _largest(model)))
    sites: dict[str, Site] = {}
    for prefix, stream, path in streams:
        blocks = _entries(model, path)
        sites[f"{prefix}embed"] = Site(f"{prefix}embed", blocks[0][1], blocks[0][0], "input", stream)
        for i, (where, block) in enumerate(blocks):
            name = f"{prefix}block.{i}"
            sites[name] = Site(name, block, where, "output", stream)
        norm = named.get(f"{prefix}final") or _final_norm(model, path)
        if norm:
            module = _module(model, norm)
            sites[f"{prefix}final"] = Site(f"{prefix}final", module, norm, "output", stream)
    return sites


def _is_encoder_decoder(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    return bool(getattr(config, "is_encoder_decoder", False))


def _num_layers(config: Any) -> set[int]:
    names = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
    return {value for name in names if isinstance(value := getattr(config, name, None), int)}


def _largest(model: nn.Module, inside: str = "") -> str:
    """Return the path of the outermost list of blocks (inside a part of the path, where given)."""
    lists: list[tuple[str, nn.ModuleList]] = []
    for path, module in model.named_modules():
        parts = path.split(".")
        if not isinstance(module, nn.ModuleList) or len(module) == 0 or (inside and inside not in parts):
            continue
        if any(path.startswith(f"{outer}.") for outer, _ in lists):
            continue
        if len({type(block) for block in module}) <= 2 and all(any(True for _ in b.parameters()) for b in module):
            lists.append((path, module))
    known = _num_layers(text_config(model))
    matching = [item for item in lists if len(item[1]) in known] or lists
    if not matching:
        where = f" in its {inside}" if inside else ""
        raise ModelError(f"no list of blocks (a torch.nn.ModuleList) found in {type(model).__name__}{where}", FIX)
    return max(matching, key=lambda item: sum(p.numel() for p in item[1].parameters()))[0]


def _final_norm(model: nn.Module, blocks: str) -> str | None:
    """Return the path of the norm that stands beside the list of blocks, or None (post-norm models have none)."""
    parent, _, own = blocks.rpartition(".")
    siblings = list(_module(model, parent).named_children())
    names = [name for name, _ in siblings]
    norms = [name for name, module in siblings if "norm" in type(module).__name__.lower()]
    after = [name for name in norms if names.index(name) > names.index(own)]
    final = after or [name for name in norms if "final" in name]
    return f"{parent}.{final[-1]}".lstrip(".") if final else None
