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


FIX = "Pass forward=lambda model, inputs: logits of shape [sequences, length, vocabulary]"
MASKS = ("src_key_padding_mask", "key_padding_mask", "padding_mask", "input_mask", "mask")
"""Names under which forwards take what is padding, or what is not."""
LOGITS = ("logits", "prediction_logits", "lm_logits")
"""Names under which models return logits over their vocabulary."""


class LogitsError(ModelError):
    """The model gives no logits over its vocabulary; what needs none can be measured."""


def objective_of(model: nn.Module) -> Objective:
    """Return what the model is trained to predict, read off its configuration and class name."""
    if bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False)):
        return "seq2seq"
    return "masked" if "MaskedLM" in type(_inner(model)).__name__ else "causal"


def _inner(model: nn.Module) -> nn.Module:
    """Return the model inside a PEFT-style wrapper, whose class tells the task."""
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model  # pyright: ignore[reportReturnType]


def text_config(model: nn.Module) -> Any:
    """Return the configuration of the part that reads text, the model's own where it has no parts, None where it has none."""
    config = getattr(model, "config", None)
    inner = getattr(config, "get_text_config", None)
    if not callable(inner):
        return config
    try:
        return inner()
    except (ValueError, AttributeError):  # several parts read text
        return config


def vocabulary_of(model: nn.Module) -> int | None:
    """Return the size of the vocabulary that the configuration states; None where none does."""
    size = getattr(text_config(model), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


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
    """Call the model as Hugging Face models are called; a plain module gets the input ids as its one argument.

    Raises
    ------
    ModelError
        Where its forward wants arguments that nobody knows of.
    """
    arguments = accepted(model, {**inputs, "use_cache": False, **extra})
    if "input_ids" in arguments:
        return model(**arguments)
    signature = inspect.signature(model.forward)
    first = next(iter(signature.parameters.values()), None)
    args, given = (inputs["input_ids"],), {}
    if first is not None and first.kind is inspect.Parameter.KEYWORD_ONLY:
        args, given = (), {first.name: inputs["input_ids"]}
    try:
        signature.bind(*args, **given)
    except TypeError as error:
        raise ModelError(
            f"{type(model).__name__}.forward cannot be called with input ids alone: {error}", FIX
        ) from error
    return model(*args, **given)


def masked_forward(model: nn.Module, inputs: dict[str, Tensor]) -> Forward | None:
    """Return how to call a model whose argument for padding has another name than `attention_mask`; None for all others.

    PyTorch's masks are True at padding, others at what is real: with the right one a batch without padding reads as it does
    without a mask.

    Parameters
    ----------
    inputs
        A batch without padding.
    """
    names = inspect.signature(model.forward).parameters
    kinds = {parameter.kind for parameter in names.values()}
    name = next((name for name in MASKS if name in names), None)
    if name is None or "attention_mask" in names or inspect.Parameter.VAR_KEYWORD in kinds:
        return None

    def calling(at_padding: bool) -> Forward:
        def forward(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
            mask = inputs["attention_mask"] == (0 if at_padding else 1)
            if "input_ids" in names:
                return model(input_ids=inputs["input_ids"], **{name: mask})
            return model(inputs["input_ids"], **{name: mask})

        return forward

    plain = logits_of(default_forward(model, inputs), inputs).float()
    for at_padding in (True, False):
        with contextlib.suppress(RuntimeError, TypeError, ValueError, ModelError):
            found = logits_of(calling(at_padding)(model, inputs), inputs).float()
            if torch.allclose(found, plain, rtol=1e-3, atol=1e-4):
                return calling(at_padding)
    return None


def logits_of(output: Any, inputs: Mapping[str, Tensor], chosen: int | None = None) -> Tensor:
    """Return the logits [sequences, length, vocabulary] of an output: itself, its `.logits`, or one of a tuple.

    Parameters
    ----------
    inputs
        What the model read.
    chosen
        How many positions the output layer was told to read (`observe.head`): the logits are then [1, chosen, vocabulary].

    Raises
    ------
    LogitsError
        Where there are none, or there are logits for some positions only.
    """
    read = inputs.get("decoder_input_ids", inputs["input_ids"]).shape if chosen is None else torch.Size((1, chosen))
    logits = _logits_in(output, inputs, read)
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise LogitsError(f"expected logits of three dimensions from the model, got {shape}", FIX)
    if logits.shape[:2] != read:
        raise LogitsError(f"expected logits for all {tuple(read)} positions, got {tuple(logits.shape)}", FIX)
    return logits


def _logits_in(output: Any, inputs: Mapping[str, Tensor], read: torch.Size) -> Any:
    """Return what looks like logits in an output: by name, or the first of a tuple that is as wide as the ids need."""
    for name in LOGITS:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if found is not None:
            return found
    if not isinstance(output, (tuple, list)) or not output:
        return output
    fitting = [part for part in output if isinstance(part, Tensor) and part.dim() == 3 and part.shape[:2] == read]
    if len(fitting) < 2:
        return output[0]
    largest = int(inputs["input_ids"].max())
    return next((part for part in fitting if part.shape[2] > largest), output[0])


def check_vocabulary(logits: Tensor, targets: Any) -> None:
    """Refuse logits over fewer classes than the panel has tokens: those of a classifier.

    Raises
    ------
    LogitsError
        Where a target has no logit.
    """
    largest = int(targets.max()) if len(targets) else -1
    if logits.shape[-1] <= largest:
        raise LogitsError(
            f"the model's logits are over {logits.shape[-1]} classes but token {largest} is predicted", FIX
        )


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
    check_vocabulary(logits, batch.targets)
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
    configs = attention_configs(model)
    before = [(config, dict(vars(config))) for config in configs]
    try:
        # The switch itself is used where there is nothing else: some parts of a model refuse to be put back (the towers of
        # composite ones), and some models (Falcon) do not listen to it.
        for config in configs:
            config._attn_implementation = "eager"
        if not configs:
            switch("eager")
        with captures_removed(model):
            yield
    finally:
        for config, values in before:
            for name in ("_attn_implementation", "_attn_implementation_internal"):
                if name in values:
                    vars(config)[name] = values[name]


def attention_configs(model: nn.Module) -> list[Any]:
    """Return every configuration of a model and its parts that names an attention implementation."""
    waiting = [getattr(module, "config", None) for module in model.modules()]
    found: dict[int, Any] = {}
    while waiting:
        config = waiting.pop()
        if config is None or id(config) in found or not hasattr(config, "_attn_implementation"):
            continue
        found[id(config)] = config
        waiting += [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return list(found.values())


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
    config = text_config(model)
    stated = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((n for n in stated if isinstance(n, int) and n > 0), None)
