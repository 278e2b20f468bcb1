"""Whether a model that should read from left to right sees what comes later: a mask that shows the answer makes every loss wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lmtrace.observe.forward import Forward, default_forward, device_of, inputs_of, logits_of
from lmtrace.text.panel import Panel

MAX_CHANGE = {torch.float64: 5e-5, torch.float32: 5e-5}
"""Relative change of earlier logits that rounding explains; 0.05 in half precision."""


def future_seen(model: nn.Module, panel: Panel, forward: Forward | None = None) -> float | None:
    """Return how much the logits before the last token change when that token does; None where it is rounding only.

    One pass over two rows: a long sequence of the panel, and the same with another last token (of the decoder's, where
    there is one). Relative to the norm of these logits. Masked models see everything, and are not asked.

    Parameters
    ----------
    model
        In evaluation mode, gradients off.
    panel, forward
        As for `capture`.
    """
    side = panel.encoder if panel.decoder is None else panel.decoder
    lengths = np.array([len(ids) for ids in side.ids])
    row = int(lengths.argmax())
    length = int(lengths[row])
    if panel.objective == "masked" or length < 2:
        return None
    inputs = inputs_of(next(panel.batches(1, indices=[row])), device_of(model))
    inputs = {name: torch.cat([value, value]) for name, value in inputs.items()}
    ids = inputs["input_ids" if panel.decoder is None else "decoder_input_ids"]
    other = ids[0, : length - 1][ids[0, : length - 1] != ids[0, length - 1]]
    if not len(other):
        return None
    ids[1, length - 1] = other[-1]
    logits = logits_of((forward or default_forward)(model, inputs), inputs)[:, : length - 1]
    first, second = logits.float()
    change = float((second - first).norm() / first.norm().clamp(min=1e-30))
    return change if change > MAX_CHANGE.get(logits.dtype, 0.05) else None


def padding_seen(model: nn.Module, panel: Panel, forward: Forward | None = None) -> float | None:
    """Return how much the logits of a short sequence change beside a long one; None where it is rounding only.

    Relative to the norm of the logits of the sequence alone. None as well where all sequences have one length.

    Parameters
    ----------
    model
        In evaluation mode, gradients off.
    panel, forward
        As for `capture`.
    """
    sides = [side for side in (panel.encoder, panel.decoder) if side is not None]
    total = np.sum([[len(ids) for ids in side.ids] for side in sides], axis=0)
    short, long = int(total.argmin()), int(total.argmax())
    if all(len(side.ids[short]) == len(side.ids[long]) for side in sides):
        return None
    call = forward or default_forward
    alone = inputs_of(next(panel.batches(1, indices=[short])), device_of(model))
    [both] = panel.batches(2, indices=[short, long])
    row = int(np.flatnonzero(both.sequences == short)[0])
    together = inputs_of(both, device_of(model))
    first = logits_of(call(model, alone), alone)[0]
    mask = together.get("decoder_attention_mask", together["attention_mask"])[row].bool()
    second = logits_of(call(model, together), together)[row][mask]
    change = float((second.float() - first.float()).norm() / first.float().norm().clamp(min=1e-30))
    return change if change > MAX_CHANGE.get(first.dtype, 0.05) else None  # a model that diverged gives NaN: not told
