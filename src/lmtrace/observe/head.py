"""Logits only where something is predicted: the output layer, which is most of a small model, need not read the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmtrace.errors import TraceError

MOST_DIFFERENCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Relative difference of logits that rounding explains; 0.02 in half precision."""

NOT_SO = (TraceError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What models raise that have no output layer, or want the logits of all positions."""


@dataclass(eq=False)
class Head:
    """A model's output layer that reads chosen positions only, inside `hooked`.

    Attributes
    ----------
    module
        The layer.
    """

    module: nn.Module
    _shape: tuple[int, ...] = ()
    _positions: Tensor | None = None

    @classmethod
    def of(cls, model: nn.Module, logits: Callable[[int | None], Tensor]) -> Head | None:
        """Return the output layer that Hugging Face names, if chosen positions get the logits that they get among all.

        None where there is none, where somebody else has hooks on it, or where the model wants all positions.

        Parameters
        ----------
        logits
            Calls the model on a few sequences, of logits [sequences, length, vocabulary]; given a number, checks that they
            are [1, that number, vocabulary].
        """
        with contextlib.suppress(*NOT_SO):
            module = getattr(model, "get_output_embeddings", lambda: None)()
            if not isinstance(module, nn.Module) or not cls(module).alone:
                return None
            head, every = cls(module), logits(None)
            chosen = torch.arange(every.shape[0] * every.shape[1] - 1, -1, -2, device=every.device)
            with head.hooked():
                head.choose(every.shape[:2], chosen)
                found = logits(len(chosen))[0].float()
            expected = every.flatten(0, 1)[chosen].float()
            difference = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
            return head if difference < MOST_DIFFERENCE.get(every.dtype, 0.02) else None
        return None

    @property
    def alone(self) -> bool:
        """Whether nobody else has hooks on the layer, which would see fewer positions than they expect."""
        return not (self.module._forward_hooks or self.module._forward_pre_hooks)

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Let the layer read only what `choose` says, in the body."""
        handle = self.module.register_forward_pre_hook(self._choose, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self._positions = None

    def choose(self, shape: tuple[int, ...], positions: Tensor) -> None:
        """Say what to read in the next call: positions [n] int64 of sequences and length of this shape, flattened."""
        self._shape, self._positions = tuple(shape), positions

    def _choose(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._positions is None or not args or tuple(args[0].shape[:2]) != self._shape:
            return None
        return (args[0].flatten(0, 1).index_select(0, self._positions)[None], *args[1:]), kwargs
