"""What the callbacks of training frameworks have in common: one tracer, and a look at the training forwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lmtrace.live.distributed import gather, on_main
from lmtrace.live.tracer import Tracer
from lmtrace.live.weights import local_part
from lmtrace.observe.forward import loss_of
from lmtrace.text.panel import Panel

REPLACED = "the last step is not measured: the weights were replaced after it (the best checkpoint was loaded, or weights were averaged)"


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
        Losses that the model returned in training since `begin_step`, one per forward.
    tokens
        Tokens that it read since then, padding left out, on the device of the batch; None where that cannot be seen.
    shares
        Whether each of these losses is a share of the whole step's (Hugging Face's `num_items_in_batch`).
    """

    def __init__(self, panel: Panel, settings: dict[str, Any]) -> None:
        self.panel, self.settings = panel, settings
        self.tracer: Tracer | None = None
        self._hook: Any = None
        self._counts = True
        self._last_weights: list[Tensor] = []
        self._watched: list[nn.Parameter] = []
        self.begin_step()

    def begin(self, model: nn.Module, optimizer: Any, step: int, last_step: int | None) -> Tracer:
        """Create the run, or go on with it from `step`, and measure what has not been measured.

        Where training begins again before it has ended (a smaller batch is tried, a cell is run again), the first attempt is
        closed as interrupted and its run is replaced, or gone on with from a later step.
        """
        settings = dict(self.settings)
        if self.tracer is not None:
            self.close(KeyboardInterrupt())
            settings["overwrite"] = True
        resume = settings.pop("resume", False) or step > 0
        self.tracer = Tracer(model, self.panel, optimizer=optimizer, resume=resume, start_step=step, **settings)
        self.tracer.last_step = last_step
        try:
            self.tracer.__enter__()
        except BaseException:
            self.tracer = None
            raise
        self._hook = model.register_forward_hook(self._after_forward, with_kwargs=True)
        self._model, self._watched = model, _watched(model)
        return self.tracer

    def begin_step(self) -> None:
        """Forget the forwards so far, those between two steps too: a step begins."""
        self.losses: list[Tensor] = []
        self.tokens: Tensor | int | None = None
        self.shares = False
        self._counts = True
        self.begin_part()

    def begin_part(self) -> None:
        """Tell that the next micro-batch of the step comes."""
        self._counted: set[tuple[int, ...]] = set()

    def end_forwards(self) -> None:
        """Tell that the gradients of the step are there: forwards until the next one are not of the training."""
        self._counts = False

    def end_step(self) -> None:
        """Tell that the step is over, and keep what its weights can be known by."""
        self.end_forwards()
        self._last_weights = _beginnings(self._watched)

    def checkpoint(self) -> None:
        """Keep what a resume from the training state of this step needs."""
        if self.tracer is not None:
            self.tracer.checkpoint()

    def close(self, error: BaseException | None = None) -> None:
        """Remove the hook and close the run, as crashed where there is an error.

        The last step is measured only while the weights are those that it has left.
        """
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        tracer, self.tracer = self.tracer, None
        if tracer is None:
            return
        if error is None and self._weights_replaced():
            tracer.leave_out(REPLACED)
        tracer.__exit__(type(error) if error else None, error, None)

    def _weights_replaced(self) -> bool:
        """Return whether the weights are no longer those of the last step; the same on every rank, of which each has a part."""
        before, now = self._last_weights, _beginnings(_watched(self._model))
        ranks = gather(bool(before) and not _same(before, now))
        return on_main(lambda: any(ranks))

    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # Inside a module that is being compiled this must be nothing: it would be compiled with it.
        if torch.compiler.is_compiling() or not (self._counts and module.training and torch.is_grad_enabled()):
            return
        loss = loss_of(output)
        if loss is not None:
            self.losses.append(loss.detach())
            self.shares = kwargs.get("num_items_in_batch") is not None
        ids = kwargs.get("input_ids", args[0] if args else None)
        if isinstance(ids, Tensor):
            self._count(ids, kwargs.get("attention_mask"))

    def _count(self, ids: Tensor, mask: Any) -> None:
        """Add the tokens of a batch, once however often the model reads it (R-Drop)."""
        batch = (ids.data_ptr(), *ids.shape)
        if batch in self._counted:
            return
        self._counted.add(batch)
        same_shape = isinstance(mask, Tensor) and mask.shape == ids.shape
        number = mask.detach().sum() if same_shape else ids.numel()
        self.tokens = number if self.tokens is None else self.tokens + number


def _watched(model: nn.Module) -> list[nn.Parameter]:
    """Return the first, the middle and the last trained parameter: who replaces the weights replaces these."""
    trained = [p for p in model.parameters() if p.requires_grad and p.numel()]
    return [trained[i] for i in sorted({0, len(trained) // 2, len(trained) - 1})] if trained else []


def _beginnings(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return copies of eight numbers of each, where they lie: nothing synchronises, so it can be done at every step."""
    return [local_part(p).flatten()[:8].clone() for p in parameters]


def _same(before: list[Tensor], now: list[Tensor]) -> bool:
    return len(before) == len(now) and all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
