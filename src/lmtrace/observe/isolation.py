"""Nothing is disturbed: everything that a measurement could touch is saved before it and put back after it."""

from __future__ import annotations

import collections
import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.errors import SignalError

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)
_APART = {*_HOOKS, "training", "forward", "_state_dict_hooks", "_load_state_dict_pre_hooks"}
"""Attributes of modules that are put back in their own way, or that the body's tools put back themselves."""
_CONTAINERS = (dict, list, set, collections.OrderedDict)
RESCALES = "rescale_every"
"""The setting by which RWKV divides the weights of its later blocks in evaluation mode."""
_CAPTURES = "_output_capturing_hooks_installed"
"""How transformers 5 marks a model that has its hooks for hidden states, maps and router logits."""


@contextlib.contextmanager
def captures_removed(model: nn.Module) -> Iterator[None]:
    """Take off again what transformers puts on at the first forward that asks for more outputs, and leaves there for good.

    An argument asks (`output_attentions=True`), or the configuration.
    """
    modules = [(module, set(module._forward_hooks), _CAPTURES in vars(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, hooks, marked in modules:
            for key, hook in list(module._forward_hooks.items()):
                if key not in hooks and getattr(hook, "__module__", "") == "transformers.utils.output_capturing":
                    del module._forward_hooks[key]
            if _CAPTURES in vars(module) and not marked:
                delattr(module, _CAPTURES)


@contextlib.contextmanager
def undisturbed(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
    """Run the body with the model in evaluation mode, and put everything back afterwards, even on exceptions.

    Saved and restored: the training flag of every module, the state of every generator (Python, NumPy, torch on every
    device), `.grad` and `requires_grad` of every parameter, grad and autocast mode, buffers, the attention
    implementation and the cache flag of every configuration, every attribute of every module (some models keep caches and
    counters in them, or put other submodules in the place of theirs), and hooks, those that transformers puts on by itself
    included. Inside, gradients are enabled only where
    the body enables them, autocast is off (the autocast that accelerate wraps around a forward as well), and
    `torch.compile`d code runs eagerly.

    Raises
    ------
    SignalError
        Where the body changed weights or optimizer state, or left a hook behind (the hook is removed).
    """
    parameters = list(model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    saved_parameters = [(p, p.grad, p.requires_grad, p._version, p.data_ptr()) for p in parameters]
    training = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    hooks = [(module, name, dict(getattr(module, name, {}))) for module in model.modules() for name in _HOOKS]
    attributes = [(module, _attributes(module)) for module in model.modules() if not _of_the_library(module)]
    configs = _configurations(model)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    optimizer_versions = _optimizer_versions(optimizer)
    generators = _generator_states()
    problem = ""
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)  # its nested tensors have no positions
        _keep_rwkv_whole(model)
        for p in parameters:
            p.grad = None
        with (
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
            _device_autocast_off(parameters),
            torch.compiler.set_stance("force_eager"),
            _own_forward(model),
            captures_removed(model),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, before in attributes:
            _put_back(module, before)
        for module, flag in training:
            module.training = flag
        for module, name, before in hooks:
            now = getattr(module, name, None)
            if now is not None and set(now) != set(before):
                problem = f"a hook was left on {type(module).__name__}.{name}"
                now.clear()
                now.update(before)
        for p, grad, requires_grad, version, pointer in saved_parameters:
            p.requires_grad_(requires_grad)
            p.grad = grad
            if p._version != version or p.data_ptr() != pointer:
                problem = f"the weight {names.get(id(p))} was changed during the measurement"
        for buffer, copy in buffers:
            if buffer.shape == copy.shape and not torch.equal(_bits(buffer), _bits(copy)):
                with torch.no_grad():
                    buffer.copy_(copy)
        for config, values in configs:
            for name, value in values.items():
                if getattr(config, name, None) != value:
                    setattr(config, name, value)
        _restore_generators(generators)
        if _optimizer_versions(optimizer) != optimizer_versions:
            problem = "the optimizer's state was changed during the measurement"
    if problem:
        raise SignalError(problem, "A signal must only read; run lmtrace verify to find which one it is")


def _bits(tensor: Tensor) -> Tensor:
    """NaN equals itself in this comparison."""
    return torch.nan_to_num(tensor) if tensor.is_floating_point() else tensor


def _configurations(model: nn.Module) -> list[tuple[Any, dict[str, Any]]]:
    """Return every configuration object of the model with the flags that a captured pass may switch."""
    found: dict[int, tuple[Any, dict[str, Any]]] = {}
    for module in model.modules():
        for owner in (module, getattr(module, "config", None), getattr(module, "generation_config", None)):
            names = (
                "_attn_implementation",
                "_attn_implementation_internal",
                "use_cache",
                "output_attentions",
                RESCALES,
            )
            state = getattr(owner, "__dict__", {})
            values = {name: state[name] for name in names if name in state}
            if values:
                found[id(owner)] = (owner, values)
    return list(found.values())


def _of_the_library(module: nn.Module) -> bool:
    """Whether a module is a wrapper of torch's own, which keeps track of itself."""
    return type(module).__module__.startswith(("torch.distributed", "torch.nn.parallel", "torch._dynamo"))


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes; dictionaries, lists and sets among them are copied."""
    state = vars(module)
    kept = {name: value for name, value in state.items() if name not in _APART}
    return {name: copy.copy(value) if type(value) in _CONTAINERS else value for name, value in kept.items()}


def _put_back(module: nn.Module, before: dict[str, Any]) -> None:
    """Give a module back the attributes that it had."""
    state = vars(module)
    for name in [name for name in state if name not in before and name not in _APART]:
        del state[name]
    for name, value in before.items():
        now = state.get(name)
        if type(value) not in _CONTAINERS:
            if now is not value:
                state[name] = value
        elif now is None or _identities(now) != _identities(value):
            state[name] = value


def _identities(values: Any) -> Any:
    """Return what a container holds, to tell whether it holds the same objects."""
    if isinstance(values, dict):
        return [(key, id(value)) for key, value in values.items()]
    return {id(value) for value in values} if isinstance(values, set) else [id(value) for value in values]


def _keep_rwkv_whole(model: nn.Module) -> None:
    """Keep RWKV from dividing its weights in place at the first forward in evaluation mode; the function stays the same."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(module, "layers_are_rescaled", True) is False and getattr(config, RESCALES, 0):
            setattr(config, RESCALES, 0)


def _optimizer_versions(optimizer: torch.optim.Optimizer | None) -> list[tuple[int, int]]:
    if optimizer is None or not hasattr(optimizer, "state"):
        return []
    return [
        (value._version, value.data_ptr())
        for state in optimizer.state.values()
        if isinstance(state, dict)
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def _device_autocast_off(parameters: list[nn.Parameter]) -> contextlib.AbstractContextManager[Any]:
    kinds = {p.device.type for p in parameters} - {"cpu", "meta"}
    stack = contextlib.ExitStack()
    for kind in sorted(kinds):
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


@contextlib.contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """Set aside the forward that accelerate puts over the model's own for mixed precision."""
    state = vars(model)
    own, wrapped = state.get("_original_forward"), state.get("forward")
    if own is None or wrapped is None:
        yield
        return
    state["forward"] = own
    try:
        yield
    finally:
        state["forward"] = wrapped


def _generator_states() -> dict[str, Any]:
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  the user's global generator is what must be kept
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _restore_generators(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Put the global generators back after the body, which may draw from them."""
    states = _generator_states()
    try:
        yield
    finally:
        _restore_generators(states)


def generator_fingerprint() -> tuple[bytes, ...]:
    """Return the state of the global generators, to tell whether somebody drew from them."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    return (
        repr(random.getstate()).encode(),
        repr(numpy_state[0]).encode() + np.asarray(numpy_state[1]).tobytes() + repr(numpy_state[2:]).encode(),
        torch.get_rng_state().numpy().tobytes(),
        *(state.numpy().tobytes() for state in _generator_states().get("cuda", ())),
    )
