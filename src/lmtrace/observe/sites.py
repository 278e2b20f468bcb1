"""Where to look: the residual stream's sites, found from the structure of the model.

The blocks are the entries of the outermost `ModuleList` whose length is the model's number of layers. `embed` is what enters
block 0, `block.i` what leaves block i (before the final norm), `final` what leaves the final norm. Encoder-decoder models have
each of them twice, with the stream's name in front: `encoder.block.0`, `decoder.final`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from lmtrace.errors import ModelError

Stream = Literal["encoder", "decoder"]
FIX = 'Name the blocks yourself: Tracer(..., sites={"block": "path.to.the.ModuleList", "final": "path.to.the.norm"})'


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
    """

    name: str
    module: nn.Module
    path: str
    when: Literal["input", "output"]
    stream: Stream


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


def find_sites(model: nn.Module, overrides: Mapping[str, str] | None = None) -> dict[str, Site]:
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
    overrides = dict(overrides or {})
    for key in overrides:
        if key.removeprefix("encoder.").removeprefix("decoder.") not in ("block", "final"):
            raise ModelError(f"sites: {key!r} names no part of a model", FIX)
    streams: list[tuple[str, Stream, str, nn.ModuleList]] = []
    if any(key.startswith(("encoder.", "decoder.")) for key in overrides):
        for prefix in ("encoder", "decoder"):
            if path := overrides.get(f"{prefix}.block"):
                streams.append((f"{prefix}.", prefix, path, _module_list(model, path)))
    elif path := overrides.get("block"):
        streams.append(("", "encoder", path, _module_list(model, path)))
    elif _is_encoder_decoder(model):
        for prefix in ("encoder", "decoder"):
            path, blocks = _largest(model, inside=prefix)
            streams.append((f"{prefix}.", prefix, path, blocks))
    else:
        path, blocks = _largest(model)
        streams.append(("", "encoder", path, blocks))
    sites: dict[str, Site] = {}
    for prefix, stream, path, blocks in streams:
        sites[f"{prefix}embed"] = Site(f"{prefix}embed", blocks[0], f"{path}.0", "input", stream)
        for i, block in enumerate(blocks):
            name = f"{prefix}block.{i}"
            sites[name] = Site(name, block, f"{path}.{i}", "output", stream)
        norm = overrides.get(f"{prefix}final") or _final_norm(model, path)
        if norm:
            module = _module(model, norm)
            sites[f"{prefix}final"] = Site(f"{prefix}final", module, norm, "output", stream)
    return sites


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
                return Site(name, module, f"{sites[block].path}.{child}", "output", sites[block].stream)
    raise ModelError(f"site {name!r} is not part of the model", f"It has: {', '.join(sites)}")


def _is_encoder_decoder(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    return bool(getattr(config, "is_encoder_decoder", False))


def _num_layers(config: Any) -> set[int]:
    names = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
    return {value for name in names if isinstance(value := getattr(config, name, None), int)}


def _largest(model: nn.Module, inside: str = "") -> tuple[str, nn.ModuleList]:
    """Return path and module of the outermost list of blocks (inside a part of the path, where given)."""
    lists: list[tuple[str, nn.ModuleList]] = []
    for path, module in model.named_modules():
        parts = path.split(".")
        if not isinstance(module, nn.ModuleList) or len(module) == 0 or (inside and inside not in parts):
            continue
        if any(path.startswith(f"{outer}.") for outer, _ in lists):
            continue
        if len({type(block) for block in module}) <= 2 and all(any(True for _ in b.parameters()) for b in module):
            lists.append((path, module))
    known = _num_layers(getattr(model, "config", None))
    matching = [item for item in lists if len(item[1]) in known] or lists
    if not matching:
        where = f" in its {inside}" if inside else ""
        raise ModelError(f"no list of blocks (a torch.nn.ModuleList) found in {type(model).__name__}{where}", FIX)
    return max(matching, key=lambda item: sum(p.numel() for p in item[1].parameters()))


def _final_norm(model: nn.Module, blocks: str) -> str | None:
    """Return the path of the norm that stands beside the list of blocks, or None (post-norm models have none)."""
    parent, _, own = blocks.rpartition(".")
    siblings = list(_module(model, parent).named_children())
    names = [name for name, _ in siblings]
    norms = [name for name, module in siblings if "norm" in type(module).__name__.lower()]
    after = [name for name in norms if names.index(name) > names.index(own)]
    final = after or [name for name in norms if "final" in name]
    return f"{parent}.{final[-1]}".lstrip(".") if final else None


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{type(model).__name__} has no module at {path!r}", FIX) from error


def _module_list(model: nn.Module, path: str) -> nn.ModuleList:
    module = _module(model, path)
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) == 0:
        raise ModelError(f"{path!r} is a {type(module).__name__}, not a list of blocks", FIX)
    return module  # type: ignore[return-value]
