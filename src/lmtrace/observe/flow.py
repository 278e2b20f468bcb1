"""The trial pass: every call of every module, and which module's output becomes which module's input.

Two passes over a few tokens, of other numbers of sequences and other lengths: an axis that follows the number of sequences is
that of the sequences, one that follows the length is that of the positions. Tensors are compared by their bytes, so nothing is
kept but marks and shapes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Key = int | str | None
"""Where a tensor stands among the arguments or in the output of a module; None is an output that is one tensor."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A tensor that went by.

    Attributes
    ----------
    mark
        Equal for tensors of equal bytes and shape.
    shape
        Its shape.
    """

    mark: bytes
    shape: tuple[int, ...]


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes
    ----------
    path
        The module's dotted path in the model.
    number
        The how many-th call of this module it is, from 0.
    start, end
        When it began and ended; calls inside it lie between.
    parent
        The call inside which it ran; None at the top.
    inputs, outputs
        Floating-point tensors among its arguments and in its output.
    total
        The sum of the first two tensors of an output of several, where they have one shape.
    kept
        The tensors themselves, where they were asked for.
    """

    path: str
    module: nn.Module
    number: int
    start: int
    parent: Call | None
    inputs: dict[Key, Seen]
    outputs: dict[Key, Seen] = field(default_factory=dict)
    end: int = 0
    total: Seen | None = None
    kept: dict[Key, Tensor] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, int]:
        """Path and number, which name the same call in another pass."""
        return self.path, self.number

    def inside(self, others: set[int]) -> bool:
        """Whether it ran inside one of these calls (by their start)."""
        parent = self.parent
        while parent is not None:
            if parent.start in others:
                return True
            parent = parent.parent
        return False


@dataclass(frozen=True)
class Trial:
    """One pass: the numbers of sequences and positions that were read, and the calls in the order in which they began.

    Attributes
    ----------
    batch
        Number of sequences.
    lengths
        Stream -> number of positions.
    calls
        In the order in which they began.
    """

    batch: int
    lengths: dict[str, int]
    calls: list[Call]

    def shapes(self) -> dict[tuple[str, int], Call]:
        """Return place -> call."""
        return {call.place: call for call in self.calls}


def trial(
    model: nn.Module, run: Callable[[dict[str, Tensor]], Any], inputs: dict[str, Tensor], keep: int | None = None
) -> Trial:
    """Run the model on inputs and return what every module read and gave.

    Parameters
    ----------
    model
        In evaluation mode, gradients off.
    run
        Calls the model.
    inputs
        `input_ids` [sequences, length] and what else the model reads.
    keep
        Number of axes of the tensors of which copies are kept.
    """
    lengths = {"encoder": int(inputs["input_ids"].shape[1])}
    if "decoder_input_ids" in inputs:
        lengths["decoder"] = int(inputs["decoder_input_ids"].shape[1])
    with _watched(model, keep) as calls:
        run(inputs)
    return Trial(len(inputs["input_ids"]), lengths, calls)


@contextlib.contextmanager
def _watched(model: nn.Module, keep: int | None) -> Iterator[list[Call]]:
    """Collect the calls of all modules in the body."""
    calls: list[Call] = []
    open_calls: list[Call] = []
    counts: dict[int, int] = {}
    clock = [0]

    def tick() -> int:
        clock[0] += 1
        return clock[0]

    def before(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            number = counts.get(id(module), 0)
            counts[id(module)] = number + 1
            arguments: dict[Key, Any] = {**dict(enumerate(args)), **kwargs}
            parent = open_calls[-1] if open_calls else None
            call = Call(path, module, number, tick(), parent, _seen(arguments))
            calls.append(call)
            open_calls.append(call)

        return hook

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = open_calls.pop()
        call.end = tick()
        call.outputs = _seen(entries(output))
        call.total = _total(output)
        call.kept = {key: entries(output)[key].clone() for key, seen in call.outputs.items() if len(seen.shape) == keep}

    handles = []
    try:
        for path, module in model.named_modules():
            if not path or isinstance(module, torch.jit.ScriptModule):
                continue
            handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def entries(output: Any) -> dict[Key, Any]:
    """Return the entries of a module's output by where they stand."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    return {None: output}


def _seen(values: Mapping[Key, Any]) -> dict[Key, Seen]:
    found = {}
    for key, value in values.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2:
            found[key] = Seen(_mark(value), tuple(value.shape))
    return found


def _total(output: Any) -> Seen | None:
    """Return the sum of the first two tensors of an output of several."""
    if not isinstance(output, (tuple, list)) or len(output) < 2:
        return None
    first, second = output[0], output[1]
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.shape != second.shape:
        return None
    total = first + second
    return Seen(_mark(total), tuple(total.shape))


def _mark(value: Tensor) -> bytes:
    """Return a digest of the bytes of a tensor."""
    digest = hashlib.blake2b(repr(tuple(value.shape)).encode(), digest_size=16)
    if value.is_nested or value.numel() == 0:
        return digest.digest()
    plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(plain.numpy().tobytes())
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the sequences and their positions lie in a tensor of three axes.

    Attributes
    ----------
    axes
        Which axis is that of the sequences, of the positions, of d_model.
    skip
        Positions in front that are none of the tokens (a prompt).
    padded
        Whether there may be positions behind the tokens.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    skip: int = 0
    padded: bool = False

    def read(self, hidden: Tensor, length: int) -> Tensor:
        """Return [sequences, length, d_model] of a tensor as the model lays it out."""
        if self.axes != (0, 1, 2):
            hidden = hidden.permute(self.axes)
        return hidden[:, self.skip : self.skip + length] if self.padded else hidden

    def write(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Return a copy of a tensor as the model lays it out, its tokens replaced: values [sequences, length, d_model]."""
        changed = hidden.clone()
        self.read(changed, values.shape[1]).copy_(values)
        return changed


AS_IS = Layout()
"""[sequences, positions, d_model]."""


def layout(shapes: tuple[tuple[int, ...], tuple[int, ...]], trials: tuple[Trial, Trial], stream: str) -> Layout | str:
    """Return the layout of a tensor that had these shapes in the two trials, or why it cannot be read."""
    if len(shapes[0]) != 3:
        return f"it has {len(shapes[0])} axes, not sequences, positions and d_model: several streams side by side"
    batches = tuple(t.batch for t in trials)
    lengths = tuple(t.lengths[stream] for t in trials)
    axes = list(zip(*shapes, strict=True))
    rows = [axis for axis in range(3) if axes[axis] == batches]
    columns = [axis for axis in range(3) if axes[axis] == lengths]
    if len(rows) == 1 and len(columns) == 1:
        return Layout((rows[0], columns[0], 3 - rows[0] - columns[0]))
    if rows in ([0], [1]) and not columns:
        more = [have - want for have, want in zip(axes[1 - rows[0]], lengths, strict=True)]
        if min(more) >= 0:
            return Layout((rows[0], 1 - rows[0], 2), skip=-1, padded=True)
    return f"its shape {shapes[0]} follows neither the {batches[0]} sequences nor the {lengths[0]} tokens"
