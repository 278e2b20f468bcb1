"""Logit lens: what each block would predict if the model ended there, and where the final prediction appears.

Final norm and unembedding are applied to the residual stream after every block: loss and accuracy of those predictions, agreement
with the model's own most probable token, and the depth from which this agreement holds to the end (in blocks, 1 to the
number of blocks; nostalgebraist 2020, Geva et al. 2022).

What follows the last block is checked on one sequence: where norm and head do not give the model's own logits (up to a
constant factor), the signal is missing with that reason. A masked model is read at its masks, where it predicts. When it misleads: early blocks write in directions that the final norm
was never trained on, so a high loss at a block is not absence of information (compare a probe).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.errors import ConfigError, ModelError
from lmtrace.numerics.clustered import clustered_mean
from lmtrace.observe.interface import Needs, Signal, View
from lmtrace.records.schema import Field, Record
from lmtrace.text.panel import Panel

MAX_LOGITS = {"cpu": 2**19}
"""Numbers in the logits of one chunk of predictions, by device: those that stay in a processor's cache; 2**23 elsewhere."""

Tail = Callable[[Tensor], Tensor]
"""[rows, d_model] after a block -> [rows, vocabulary] logits."""


@dataclass(frozen=True, kw_only=True)
class Lens(Signal):
    """Loss, accuracy and agreement of every block read through the model's own head.

    Parameters
    ----------
    num_predictions
        Predictions in the sample, the same ones at every step.
    """

    num_predictions: int = 512

    name = "lens"
    shrinks = MappingProxyType({"num_predictions": 128})
    cost = "one unembedding of num_predictions per block"
    source = "nostalgebraist 2020, interpreting GPT: the logit lens; Geva et al. 2022"
    fields = (
        Field(
            metric="loss",
            title="Logit-lens loss",
            unit="nats",
            low=0.0,
            better="down",
            null="uniform prediction: log of the vocabulary's size",
            meaning="Loss of final norm and unembedding on the residual stream after this block.",
        ),
        Field(
            metric="accuracy",
            title="Logit-lens accuracy",
            low=0.0,
            high=1.0,
            better="up",
            null="always the most frequent target",
            meaning="Share of predictions whose most probable token is the right one.",
        ),
        Field(
            metric="agreement",
            title="Agreement with the final prediction",
            low=0.0,
            high=1.0,
            better="",
            null="always the most frequent final prediction",
            meaning="Share of predictions whose most probable token is already that of the last block.",
        ),
        Field(
            metric="depth",
            title="Depth of the final prediction",
            unit="blocks",
            low=1.0,
            meaning="Mean number of blocks after which the most probable token is, and stays, the final one.",
        ),
    )

    def __post_init__(self) -> None:
        if self.num_predictions < 2:
            raise ConfigError(f"lens: num_predictions must be at least 2, got {self.num_predictions}")

    def needs(self, panel: Panel) -> Needs:
        """Return the need of the sites that lead to the predictions, and of the model."""
        return Needs(sites="all", model=True, masks=True)

    def measure(self, view: View) -> Iterator[Record]:
        """Yield loss, accuracy and agreement of every block, and the mean depth."""
        blocks = [s for s in view.sites if "block." in s and not s.startswith("encoder.")]
        rows, targets, sentence = self._sample(view)
        tail, reason = find_tail(view, blocks[-1])
        if not reason and len(targets) < 2:
            reason = "the panel holds fewer than 2 predictions"
        if reason or tail is None:
            for field in self.fields:
                yield self.record(view, field.metric, missing=reason)
            return
        losses, choices = [], []
        with torch.no_grad():
            vocabulary = tail(view.tokens(blocks[0])[rows[:1]]).shape[1]
            for block in blocks:
                loss, choice = _read(view.tokens(block)[rows], targets, tail, vocabulary)
                losses.append(loss)
                choices.append(choice)
        yield from self._records(
            view, blocks, np.array(losses), np.array(choices), targets.cpu().numpy(), sentence, vocabulary
        )

    def _records(
        self,
        view: View,
        blocks: list[str],
        losses: np.ndarray,
        choices: np.ndarray,
        targets: np.ndarray,
        sentence: np.ndarray,
        vocabulary: int,
    ) -> Iterator[Record]:
        n = len(targets)
        right, agree = choices == targets, choices == choices[-1]
        nulls = (math.log(vocabulary), _majority(targets), _majority(choices[-1]))
        # The most probable of probabilities that are not numbers is nothing, though argmax names one.
        broken = [bool(np.isnan(loss).any()) for loss in losses]
        for i, block in enumerate(blocks):
            for metric, values, null in zip(("loss", "accuracy", "agreement"), (losses[i], right[i], agree[i]), nulls):
                if not np.isfinite(values).all() or broken[i] or (metric == "agreement" and broken[-1]):
                    yield self.record(view, metric, site=block, missing="the loss is not finite")
                    continue
                mean = clustered_mean(values, sentence)
                yield self.record(view, metric, mean.value, site=block, stderr=mean.stderr, n=n, null=null)
        # Going down from the last block, agreement holds without a break up to this depth.
        unbroken = np.cumprod(agree[::-1], axis=0).sum(axis=0)
        if any(broken):
            yield self.record(view, "depth", missing="the loss is not finite")
            return
        depth = clustered_mean(len(blocks) - unbroken + 1, sentence)
        yield self.record(view, "depth", depth.value, stderr=depth.stderr, n=n)

    def _sample(self, view: View) -> tuple[Tensor, Tensor, np.ndarray]:
        """Return the token rows that predict, the right tokens, and the sentence of each."""
        rows, targets = view.panel.once("lens.rows", lambda: prediction_rows(view.panel))
        sentence = view.panel.predictions.sentence
        if not (averaged := view.panel.averaged).all():
            rows, targets, sentence = rows[averaged], targets[averaged], sentence[averaged]
        if len(rows) > self.num_predictions:
            chosen = torch.randperm(len(rows), generator=view.generator("sample"))[: self.num_predictions]
            chosen = chosen.sort().values.numpy()
            rows, targets, sentence = rows[chosen], targets[chosen], sentence[chosen]
        device = next(view.model.parameters()).device
        return torch.as_tensor(rows, device=device), torch.as_tensor(targets, device=device), sentence


def prediction_rows(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Return [predictions] the flat token row whose logits predict, and [predictions] the target."""
    side = panel.encoder if panel.decoder is None else panel.decoder
    rows = np.empty(len(panel.predictions), np.int64)
    for batch in panel.batches(256):
        rows[batch.index] = side.offsets[batch.sequences[batch.predict_row]] + batch.predict_column
    return rows, np.asarray(panel.predictions.target)


def find_tail(view: View, last: str) -> tuple[Tail | None, str]:
    """Return what the model does after its last block, or why it cannot be told; checked on the panel's first sequence."""
    batch = next(iter(view.panel.batches(1, indices=[0])))
    arrays = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "decoder_input_ids": batch.decoder_input_ids,
        "decoder_attention_mask": batch.decoder_attention_mask,
    }
    device = next(view.model.parameters()).device
    expected = view.logits({k: torch.as_tensor(v, device=device) for k, v in arrays.items() if v is not None})[0]
    side = view.panel.encoder if view.panel.decoder is None else view.panel.decoder
    try:
        norm = view.module(last.split("block.")[0] + "final")
    except ModelError:
        norm = None
    return tail_of(view.model, norm, view.tokens(last)[side.offsets[0] : side.offsets[1]], expected)


def tail_of(model: nn.Module, norm: nn.Module | None, hidden: Tensor, expected: Tensor) -> tuple[Tail | None, str]:
    """Return what a model does after its last block, or why it cannot be told.

    Parameters
    ----------
    norm
        The final norm; None for post-norm models, whose last block ends with its norm.
    hidden : [rows, d_model]
        The residual stream after the last block.
    expected : [rows, vocabulary]
        The model's own logits there, which norm and head have to give, up to a constant factor.
    """
    head = _head(model)
    if head is None:
        return None, "no head found: the model has no get_output_embeddings() and no child with a head's name"
    expected = expected.double()
    dtype = next(model.parameters()).dtype

    def plain(x: Tensor) -> Tensor:
        x = x.to(dtype)
        return head(x if norm is None else norm(x))

    with torch.no_grad():
        found = plain(hidden)
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return None, f"what follows the last block is not norm and {type(head).__name__}"
    found = found.double()
    factor = float((found * expected).sum() / found.square().sum())  # T5 and Cohere scale before or after the head
    error = float((factor * found - expected).norm() / expected.norm())
    if not error < (1e-3 if dtype == torch.float32 else 3e-2):
        return (
            None,
            f"what follows the last block is more than a norm and {type(head).__name__}: logits differ by {error:.1%}",
        )
    factor = 1.0 if abs(factor - 1) < 1e-2 else factor
    return (lambda x: plain(x).float() * factor), ""


def _head(model: nn.Module) -> nn.Module | None:
    """Return the child of the model that holds the unembedding: a linear layer, or a head with its own transform."""
    output = getattr(model, "get_output_embeddings", lambda: None)()
    children = dict(model.named_children())
    for name, child in children.items():
        if output is not None and any(module is output for module in child.modules()):
            return _head(child) if hasattr(child, "get_output_embeddings") else child  # a wrapper (PEFT) is gone into
        if output is None and any(word in name.lower() for word in ("head", "cls", "unembed", "embed_out", "output")):
            return child
    return output


def _read(hidden: Tensor, targets: Tensor, tail: Tail, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each prediction's loss (nats) and most probable token."""
    losses, choices = [], []
    step = max(1, MAX_LOGITS.get(hidden.device.type, 2**23) // vocabulary)
    for start in range(0, len(hidden), step):
        logits = tail(hidden[start : start + step])
        losses.append(nn.functional.cross_entropy(logits, targets[start : start + step], reduction="none"))
        choices.append(logits.max(dim=1).indices)  # the same as argmax, in half the time
    return torch.cat(losses).double().cpu().numpy(), torch.cat(choices).cpu().numpy()


def _majority(values: np.ndarray) -> float:
    return float(np.unique(values, return_counts=True)[1].max() / len(values))
