"""How a model is called: batches to arguments, outputs to logits, losses with gradients."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lmtrace.errors import ModelError
from lmtrace.observe.isolation import captures_removed
from lmtrace.text.panel import Objective, PanelBatch

Forward = Callable[[nn.Module, dict[str, Tensor]], Tensor]
"""(model, inputs) -> logits [sequences, length, vocabulary]; inputs hold input_ids, attention_mask and, for
encoder-decoder models, decoder_input_ids and decoder_attention_mask; position_ids only with padding on the left."""


TrainLoss = Callable[[nn.Module, dict[str, Any]], Tensor]
"""(model, the arguments of its last training forward by name) -> mean loss of that batch (nats)."""


def objective_of(model: nn.Module) -> Objective:
    """Return what the model is trained to predict, read off its configuration and class name."""
    if bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False)):
        return "seq2seq"
    return "masked" if "MaskedLM" in type(_inner(model)).__name__ else "causal"


def _inner(model: nn.Module) -> nn.Module:
    """Return the model inside a PEFT-style wrapper, whose class tells the task."""
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model  # pyright: ignore[reportReturnType]


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's inputs belong."""
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


def inputs_of(batch: PanelBatch, device: torch.device, *, plain: bool = False) -> dict[str, Tensor]:
    """Return the batch as tensors on a device; for masked models without its masks where it is to be `plain`."""
    unmasked = plain and batch.plain_ids is not None
    arrays = {
        "input_ids": batch.plain_ids if unmasked else batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "decoder_input_ids": batch.decoder_input_ids,
        "decoder_attention_mask": batch.decoder_attention_mask,
    }
    return {k: torch.as_tensor(v, dtype=torch.int64, device=device) for k, v in arrays.items() if v is not None}


def accepted(model: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments that the model's forward takes."""
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in parameters}


def default_forward(model: nn.Module, inputs: dict[str, Tensor], **extra: Any) -> Any:
    """Call the model as Hugging Face models are called; a plain module gets the input ids as its one argument."""
    arguments = accepted(model, {**inputs, "use_cache": False, **extra})
    return model(**arguments) if "input_ids" in arguments else model(inputs["input_ids"])


def logits_of(output: Any, inputs: Mapping[str, Tensor], chosen: int | None = None) -> Tensor:
    """Return the logits [sequences, length, vocabulary] of an output: itself, its `.logits`, or the first of a tuple.

    Parameters
    ----------
    inputs
        What the model read.
    chosen
        How many positions the output layer was told to read (`observe.head`): the logits are then [1, chosen, vocabulary].

    Raises
    ------
    ModelError
        Where there are none, or there are logits for some positions only.
    """
    fix = "Pass forward=lambda model, inputs: logits of shape [sequences, length, vocabulary]"
    logits = getattr(output, "logits", None)
    if logits is None:
        logits = output[0] if isinstance(output, (tuple, list)) and output else output
    if isinstance(output, Mapping) and "logits" in output:
        logits = output["logits"]
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise ModelError(f"expected logits of three dimensions from the model, got {shape}", fix)
    read = inputs.get("decoder_input_ids", inputs["input_ids"]).shape if chosen is None else (1, chosen)
    if logits.shape[:2] != read:
        raise ModelError(f"expected logits for all {tuple(read)} positions, got {tuple(logits.shape)}", fix)
    return logits


def loss_of(output: Any) -> Tensor | None:
    """Return the loss in an output: its `.loss`, or the one scalar of a tuple or mapping; None where there is none."""
    loss = getattr(output, "loss", None)
    if not isinstance(loss, Tensor) and isinstance(output, (tuple, list, Mapping)):
        parts = output.values() if isinstance(output, Mapping) else output
        scalars = [part for part in parts if isinstance(part, Tensor) and part.dim() == 0]
        loss = scalars[0] if len(scalars) == 1 else None
    return loss if isinstance(loss, Tensor) else None


def named_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a forward was called with, by the names of its parameters; nothing where some have no name.

    `num_items_in_batch` is left out: with it a Hugging Face model returns its share of a larger batch's loss.
    """
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError:
        return {}
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            return {}
        found |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    found.pop("num_items_in_batch", None)
    return found


def mean_loss(logits: Tensor, batch: PanelBatch) -> Tensor:
    """Return the mean negative log-likelihood (nats) over the batch's predictions, in float32 or better."""
    chosen = logits[
        torch.as_tensor(batch.predict_row, device=logits.device),
        torch.as_tensor(batch.predict_column, device=logits.device),
    ]
    chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
    return nn.functional.cross_entropy(chosen, torch.as_tensor(batch.targets, device=logits.device))


@contextlib.contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Switch a Hugging Face model to the attention that returns its maps; isolation restores the flags.

    Raises
    ------
    ModelError
        Where the model has no such switch.
    """
    switch = getattr(model, "set_attn_implementation", None)
    if switch is None:
        raise ModelError(f"{type(model).__name__} has no set_attn_implementation, so its attention maps cannot be read")
    before = getattr(model.config, "_attn_implementation", None)
    switch("eager")
    try:
        with captures_removed(model):
            yield
    finally:
        if before is not None:
            switch(before)


def table_length(model: nn.Module) -> int | None:
    """Return how many positions a table holds; None where they are not looked up (rotary ones and biases go on)."""
    limit = _stated_length(model)
    words = getattr(model, "get_input_embeddings", lambda: None)()
    for table in model.modules():
        if not isinstance(table, nn.Embedding) or table is words or limit is None:
            continue
        # OPT's has two rows more; RoBERTa counts from its padding's id on.
        if limit <= table.num_embeddings <= limit + 2:
            return limit if table.padding_idx is None else min(limit, table.num_embeddings - table.padding_idx - 1)
    return None


def context_length(model: nn.Module) -> int | None:
    """Return how many tokens a model is made to read, by its table of positions or its configuration; None if none says."""
    return table_length(model) or _stated_length(model)


def _stated_length(model: nn.Module) -> int | None:
    config = getattr(model, "config", None)
    stated = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((n for n in stated if isinstance(n, int) and n > 0), None)
