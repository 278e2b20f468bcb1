"""Which part of the model a parameter belongs to: embedding, attention q/k/v/o, mlp, norm, head; and which block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lmtrace.errors import ModelError
from lmtrace.observe.sites import Site, structural_sites

COMPONENTS = (
    "embedding",
    "attention.q",
    "attention.k",
    "attention.v",
    "attention.qkv",
    "attention.o",
    "attention.other",
    "mlp",
    "norm",
    "head",
    "other",
)
"""All names, in the order in which figures show them; "attention.qkv" is a fused projection of unknown layout."""

_PROJECTIONS = {
    "q": ("q", "q_proj", "query", "query_proj", "wq", "to_q", "q_lin", "q_attn"),
    "k": ("k", "k_proj", "key", "key_proj", "wk", "to_k", "k_lin"),
    "v": ("v", "v_proj", "value", "value_proj", "wv", "to_v", "v_lin"),
    "qkv": ("c_attn", "qkv", "qkv_proj", "query_key_value", "wqkv", "in_proj", "in_proj_weight", "in_proj_bias"),
    "o": ("o", "o_proj", "out_proj", "c_proj", "dense", "wo", "out_lin", "to_out", "proj"),
}
_ATTENTION = ("attn", "attention")
_MLP = ("mlp", "ffn", "feed_forward", "feedforward", "densereludense", "intermediate", "output", "expert", "moe")
_MLP_LEAVES = ("fc", "up", "down", "gate", "wi", "wo", "linear1", "linear2", "lin1", "lin2", "c_fc", "c_proj")
_HEAD = ("head", "cls", "classifier", "score", "embed_out", "output_projection", "unembed", "logits")
_HEAD_LEAVES = ("out", "output", "decoder", "readout", "fc_out", "proj_out", "to_out")


@dataclass(frozen=True, slots=True)
class Part:
    """A parameter, or a slice of a fused one, and where it belongs.

    Attributes
    ----------
    parameter
        Its name.
    index
        Which entries of it: `p[index]`.
    component
        One of `COMPONENTS`.
    block
        "block.3", "decoder.block.3", or None outside the blocks.
    """

    parameter: str
    index: tuple[slice, ...]
    component: str
    block: str | None


def parts_of(model: nn.Module, params: Mapping[str, Tensor], sites: Mapping[str, Site] | None = None) -> list[Part]:
    """Return the parts of the parameters; together they cover every entry once.

    The rules read the class of the owning module (embeddings, norms) and the words of the parameter's path, so that
    they hold for the families of transformers and for what people write themselves; what no rule knows is "other".

    Parameters
    ----------
    model
        An unwrapped model.
    params
        Name -> parameter, names as in `model.named_parameters()`.
    sites
        Of the model, as the measurement knows them; by the model's structure by default. A model without a list of
        blocks has none.
    """
    if sites is None:
        try:
            sites = structural_sites(model)
        except ModelError:
            sites = {}
    blocks: dict[str, str] = {}
    for name, site in sites.items():
        if site.when == "output" and "block." in name:
            blocks.setdefault(site.path, name)  # a block that runs several times has its parameters once
    parts = []
    for name, p in params.items():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        block = next((blocks[b] for b in _parents(path) if b in blocks), None)
        component = _component(owner, path, leaf, block is not None)
        if component == "attention.qkv" and (split := _thirds(owner, leaf, p)):
            parts += [Part(name, index, f"attention.{letter}", block) for letter, index in zip("qkv", split)]
        else:
            parts.append(Part(name, (), component, block))
    return parts


def _parents(path: str) -> list[str]:
    words = path.split(".")
    return [".".join(words[:i]) for i in range(len(words), 0, -1)]


def _component(owner: nn.Module, path: str, leaf: str, in_block: bool) -> str:
    words = [word.lower() for word in path.split(".") if not word.isdigit()]
    last = words[-1] if words else ""
    kind = type(owner).__name__.lower()
    attention = any(word in part for part in words for word in _ATTENTION) or "attention" in kind
    if "norm" in kind or "norm" in last or last.startswith("ln"):
        return "norm"
    for letter, names in _PROJECTIONS.items():
        plain = len(last) > 1 and letter in "qkv" and last in names and last != "in_proj"  # Mamba has one
        if (attention and (last in names or leaf in names)) or (in_block and plain):
            return f"attention.{letter}"
    if attention:
        return "attention.other"
    if isinstance(owner, nn.Embedding) or (
        not in_block and any("emb" in w for w in (*words, leaf)) and "out" not in last
    ):
        return "embedding"
    if in_block:
        known = any(word in part for part in words for word in _MLP) or last.startswith(_MLP_LEAVES)
        return "mlp" if known else "other"
    head = any(word in part for part in words for word in _HEAD) or last in _HEAD_LEAVES
    return "head" if head else "other"


def _thirds(owner: nn.Module, leaf: str, p: Tensor) -> list[tuple[slice, ...]] | None:
    """Return where q, k and v lie in a fused projection whose layout is known, else None."""
    conv1d = type(owner).__name__ == "Conv1D"  # weight [in, out], as in GPT-2
    if not (conv1d or isinstance(owner, nn.MultiheadAttention)):
        return None
    axis = p.ndim - 1 if conv1d else 0
    size, rest = divmod(p.shape[axis], 3)
    if rest or (p.ndim == 2 and p.shape[1 - axis] != size):
        return None
    before = (slice(None),) * axis
    return [(*before, slice(i * size, (i + 1) * size)) for i in range(3)]
