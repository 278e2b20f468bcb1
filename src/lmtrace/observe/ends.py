"""Whether a causal model is trained on an end after every sentence, found out once from what it predicts.

A model that has learned anything of a text with ends after its sentences gives them no less than their share: the end is the most
frequent token and among the first things learned. One that was trained on packed text gives an end after a sentence less than it
gives an average word, and often less than a model that knows nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lmtrace.observe.forward import Forward, default_forward, device_of, inputs_of, logits_of
from lmtrace.text.panel import Panel

NUM_SEQUENCES = 64
LEARNED = 0.5
"""Nats below the uniform law from which on a model counts as trained: before, an end is as likely as any token."""


@dataclass(frozen=True, slots=True)
class EndLosses:
    """Mean losses (nats) on a part of the panel.

    Attributes
    ----------
    words, end
        Of everything else, and of the ends of sentences.
    uniform
        Of a law that is the same for every token.
    share
        Share of ends among what is predicted.
    """

    words: float
    end: float
    uniform: float
    share: float

    @property
    def trained(self) -> bool | None:
        """Whether ends are trained on: not worse than the average word, or than their frequency; None where the model is untrained."""
        if not self.words < self.uniform - LEARNED:
            return None
        return self.end <= max(self.words, -math.log(self.share))


def end_losses(model: nn.Module, panel: Panel, forward: Forward | None = None, batch_size: int = 8) -> EndLosses | None:
    """Return the losses on at most `NUM_SEQUENCES` sequences; None where these hold no ends or nothing else.

    Parameters
    ----------
    model
        In evaluation mode, gradients off.
    panel, forward
        As for `capture`.
    batch_size
        Sequences at a time.
    """
    losses, ends, vocabulary = [], [], 0
    for batch in panel.batches(batch_size, indices=panel.shuffled[:NUM_SEQUENCES]):
        inputs = inputs_of(batch, device_of(model))
        logits = logits_of((forward or default_forward)(model, inputs), inputs)
        chosen = logits[torch.as_tensor(batch.predict_row), torch.as_tensor(batch.predict_column)].float()
        targets = torch.as_tensor(batch.targets, device=chosen.device)
        losses.append(nn.functional.cross_entropy(chosen, targets, reduction="none").double().cpu().numpy())
        ends.append(panel.ends[batch.index])
        vocabulary = logits.shape[-1]
    loss, end = np.concatenate(losses), np.concatenate(ends)
    if end.all() or not end.any() or not np.isfinite(loss).all():
        return None
    return EndLosses(float(loss[~end].mean()), float(loss[end].mean()), math.log(vocabulary), float(end.mean()))
