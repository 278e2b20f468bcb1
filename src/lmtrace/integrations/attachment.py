"""What the callbacks of training frameworks have in common: one tracer, and a look at the training forwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lmtrace.live.tracer import Tracer
from lmtrace.observe.forward import loss_of
from lmtrace.text.panel import Panel


class Attachment:
    """A tracer on somebody else's training loop.

    Parameters
    ----------
    panel
        What the model is asked to read.
    settings
        Everything else that `lmtrace.Tracer` takes.

    Attributes
    ----------
    tracer
        The tracer while training runs, else None.
    losses
        Losses that the model returned in training since `clear`, one per micro-batch.
    tokens
        Tokens that it read since `clear`.
    shares
        Whether each of these losses is a share of the whole step's (Hugging Face's `num_items_in_batch`).
    """

    def __init__(self, panel: Panel, settings: dict[str, Any]) -> None:
        self.panel, self.settings = panel, settings
        self.tracer: Tracer | None = None
        self._hook: Any = None
        self.clear()

    def begin(self, model: nn.Module, optimizer: Any, step: int, last_step: int | None) -> Tracer:
        """Create the run, or go on with it from `step`, and measure what has not been measured."""
        settings = dict(self.settings)
        resume = settings.pop("resume", False) or step > 0
        self.tracer = Tracer(model, self.panel, optimizer=optimizer, resume=resume, start_step=step, **settings)
        self.tracer.last_step = last_step
        self.tracer.__enter__()
        self._hook = model.register_forward_hook(self._after_forward, with_kwargs=True)
        return self.tracer

    def clear(self) -> None:
        """Forget the forwards so far: a step is over."""
        self.losses: list[Tensor] = []
        self.tokens = 0
        self.shares = False

    def checkpoint(self) -> None:
        """Keep what a resume from the training state of this step needs."""
        if self.tracer is not None:
            self.tracer.checkpoint()

    def close(self, error: BaseException | None = None) -> None:
        """Remove the hook and close the run, as crashed where there is an error."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        tracer, self.tracer = self.tracer, None
        if tracer is not None:
            tracer.__exit__(type(error) if error else None, error, None)

    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # Inside a module that is being compiled this must be nothing: it would be compiled with it.
        if not (module.training and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return
        loss = loss_of(output)
        if loss is not None:
            self.losses.append(loss.detach())
            self.shares = kwargs.get("num_items_in_batch") is not None
        ids, mask = kwargs.get("input_ids", args[0] if args else None), kwargs.get("attention_mask")
        if isinstance(ids, Tensor):
            padded = isinstance(mask, Tensor) and mask.shape == ids.shape and not mask.is_cuda
            self.tokens += int(mask.sum()) if padded else ids.numel()  # pyright: ignore[reportOptionalMemberAccess]
