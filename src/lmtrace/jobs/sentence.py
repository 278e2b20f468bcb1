"""One sentence through one model: tokens, surprisal, logit lens, attention, and the residual stream of its words."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmtrace.errors import DataError, ModelError
from lmtrace.observe.capture import check_eager
from lmtrace.observe.forward import context_length, default_forward, device_of, eager_attention, inputs_of, logits_of
from lmtrace.observe.maps import find_maps
from lmtrace.observe.replay import Replay
from lmtrace.observe.sites import Site, made_inputs
from lmtrace.observe.view import pool
from lmtrace.signals.lens import checked, tail_of
from lmtrace.text.alignment import Encoding, encode
from lmtrace.text.panel import Panel, PanelSettings
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.sequences import bidirectional_affixes, mask_id

TOP = 5
CHUNK = 32
"""Masked copies of the sentence in one forward pass."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A sentence as a model of one objective reads it.

    Attributes
    ----------
    plain
        What is read as it stands: one row; residual stream and attention come from it.
    score
        What predicts: the same row, or for masked models one row per token with that token masked.
    row, column, target : [T]
        Where in `score`'s logits each token is predicted, and its id.
    word : [T]
        The word that each token belongs to; -1 for none.
    spans
        Stream -> (first [W], last [W]) token of every word; -1 for none.
    panel
        The sentence as a panel of its own; None for masked models, which a panel would mask at random.
    """

    plain: dict[str, Tensor]
    score: dict[str, Tensor]
    row: np.ndarray
    column: np.ndarray
    target: np.ndarray
    word: np.ndarray
    spans: dict[str, tuple[np.ndarray, np.ndarray]]
    panel: Panel | None

    def streams(self) -> dict[str, Tensor]:
        """Return stream -> [length] ids that are read."""
        found = {"encoder": self.plain["input_ids"][0]}
        if "decoder_input_ids" in self.plain:
            found["decoder"] = self.plain["decoder_input_ids"][0]
        return found


def read(
    sentence: AnnotatedSentence, tokenizer: Any, settings: PanelSettings, oracle: Any, model: nn.Module
) -> Reading:
    """Return how a model reads a sentence, exactly as a panel of the same settings would feed it.

    Raises
    ------
    DataError
        Where no token is left, or the sentence is longer than the model can read.
    """
    encoding = encode([sentence], tokenizer)[0]
    if not len(encoding.ids):
        raise DataError("inspect: the tokenizer makes no token of this sentence", "Give at least one word")
    device = device_of(model)
    reading = (_masked if settings.objective == "masked" else _directed)(
        sentence, encoding, tokenizer, settings, oracle, device
    )
    longest = max(len(ids) for ids in reading.streams().values())
    limit = context_length(model)
    if limit is not None and longest > limit:
        raise DataError(f"inspect: the sentence has {longest} tokens, the model reads at most {limit}", "Shorten it")
    if not len(reading.target):
        raise DataError("inspect: nothing in this sentence is predicted", "Give at least two tokens")
    return reading


def _directed(
    sentence: AnnotatedSentence,
    encoding: Encoding,
    tokenizer: Any,
    settings: PanelSettings,
    oracle: Any,
    device: torch.device,
) -> Reading:
    panel = Panel([sentence], [encoding], tokenizer, settings, {"coverage": 1.0}, [sentence], oracle)
    batch = next(iter(panel.batches(1)))
    inputs = inputs_of(batch, device)
    sides = {"encoder": panel.encoder} | ({"decoder": panel.decoder} if panel.decoder is not None else {})
    spans = {name: (side.word_first, side.word_last) for name, side in sides.items() if (side.word_last >= 0).any()}
    return Reading(
        inputs,
        inputs,
        batch.predict_row,
        batch.predict_column,
        batch.targets,
        panel.predictions.word[batch.index],
        spans,
        panel,
    )


def _masked(
    sentence: AnnotatedSentence,
    encoding: Encoding,
    tokenizer: Any,
    settings: PanelSettings,
    oracle: Any,
    device: torch.device,
) -> Reading:
    begin, end = bidirectional_affixes(tokenizer)
    ids = torch.tensor([[*begin, *encoding.ids.tolist(), *end]], device=device)
    column = np.arange(len(encoding.ids)) + len(begin)
    copies = ids.repeat(len(column), 1)
    at = torch.as_tensor(column, device=device)
    copies[torch.arange(len(column), device=device), at] = mask_id(tokenizer)
    first, last = (np.where(x >= 0, x + len(begin), -1) for x in (encoding.first, encoding.last))
    return Reading(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        {"input_ids": copies, "attention_mask": torch.ones_like(copies)},
        np.arange(len(column)), column, encoding.ids, encoding.owner, {"encoder": (first, last)}, None,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Seen:
    """What one model made of a reading; the entries of `Inspection.moments` but the probes, and the words' residual stream."""

    moment: dict[str, Any]
    words: dict[str, Tensor]


def look(model: nn.Module, sites: Mapping[str, Site], reading: Reading, tokenizer: Any, policy: str) -> Seen:
    """Run a model on a reading. The model must be in evaluation mode, gradients off (`observe.isolation.undisturbed`)."""
    hidden, maps, missing = _plain_pass(model, sites, reading)
    logits, residual = _score_pass(model, sites, reading)
    target = torch.as_tensor(reading.target, device=logits.device)
    log_probs = logits.float().log_softmax(-1).double()
    own = log_probs.gather(1, target[:, None])
    moment: dict[str, Any] = {
        "surprisal": (-own[:, 0]).tolist(),
        "rank": ((log_probs > own).sum(1) + 1).tolist(),
        "entropy": (-(log_probs.exp() * log_probs.clamp(min=-1e9)).sum(1)).tolist(),
        "top": _top(log_probs, tokenizer),
        "illegal": _illegal(reading, log_probs),
        "lens": _lens(model, sites, reading, residual, logits, tokenizer),
        "attention": maps if maps is not None else {"missing": missing},
    }
    words = {}
    for name, site in sites.items():
        stream = site.stream if len(reading.streams()) > 1 else "encoder"
        if stream in reading.spans:
            first, last = reading.spans[stream]
            rows = pool(hidden[name][0].cpu().float(), first, last, policy)
            words[name] = rows.masked_fill(torch.as_tensor(last < 0)[:, None], math.nan)
    return Seen(moment, words)


def _plain_pass(
    model: nn.Module, sites: Mapping[str, Site], reading: Reading
) -> tuple[dict[str, Tensor], dict[str, Any] | None, str]:
    """Return the residual stream at every site, and the attention maps or why there are none."""
    try:
        own = logits_of(default_forward(model, reading.plain), reading.plain)
        inputs = made_inputs(model, [ids.cpu().numpy() for ids in reading.streams().values()])
        if inputs is None:
            raise ModelError("no pass over a few tokens can be run")
        blocks = {name: site for name, site in sites.items() if "block." in name}
        with eager_attention(model):
            maps = find_maps(model, lambda ids: default_forward(model, ids, output_attentions=True), inputs, blocks)
            with maps.hooked(), _kept(sites, reading.plain) as hidden:
                output = default_forward(model, reading.plain, output_attentions=True)
                weights = maps.read(output)
        check_eager(own, logits_of(output, reading.plain))
    except (ModelError, ValueError, TypeError) as error:
        # Models without attention refuse the switch or the argument, each in its own way.
        with _kept(sites, reading.plain) as hidden:
            default_forward(model, reading.plain)
        return hidden, None, str(error).splitlines()[0]
    streams = ["decoder" if name.startswith("decoder.") else "encoder" for name in weights]
    values = [np.round(m[0].float().cpu().numpy(), 3) for m in weights.values()]
    return hidden, {"sites": list(weights), "streams": streams, "maps": [v.tolist() for v in values]}, ""


def _score_pass(model: nn.Module, sites: Mapping[str, Site], reading: Reading) -> tuple[Tensor, dict[str, Tensor]]:
    """Return ([T, vocabulary] logits, site -> [T, d_model]) where the tokens are predicted."""
    blocks = {name: site for name, site in sites.items() if "block." in name and not name.startswith("encoder.")}
    num = len(reading.score["input_ids"])
    logits, hidden = [], {name: [] for name in blocks}
    for start in range(0, num, CHUNK):
        part = {k: v[start : start + CHUNK] for k, v in reading.score.items()}
        here = (reading.row >= start) & (reading.row < start + CHUNK)
        row, column = (torch.as_tensor(x[here]) for x in (reading.row - start, reading.column))
        with _kept(blocks, part) as found:
            logits.append(logits_of(default_forward(model, part), part)[row, column])
        for name in blocks:
            hidden[name].append(found[name][row, column])
    return torch.cat(logits), {name: torch.cat(parts) for name, parts in hidden.items()}


@contextlib.contextmanager
def _kept(sites: Mapping[str, Site], inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Keep what passes the sites inside the block: site -> [rows, length, d_model].

    Raises
    ------
    ModelError
        Where a site did not fire.
    """
    lengths = {name: ids.shape[1] for name, ids in inputs.items()}
    found: dict[str, Tensor] = {}
    counts = dict.fromkeys(sites, 0)
    handles = []

    def keep(name: str, value: Any) -> None:
        counts[name] += 1
        if counts[name] == sites[name].call + 1:
            stream = "decoder_input_ids" if sites[name].stream == "decoder" else "input_ids"
            found[name] = sites[name].layout.read(sites[name].pick(value), lengths[stream]).detach()

    def before(name: str) -> Any:
        return lambda module, args, kwargs: keep(name, {**dict(enumerate(args)), **kwargs})

    def after(name: str) -> Any:
        return lambda module, args, output: keep(name, output)

    try:
        for name, site in sites.items():
            if site.when == "input":
                handles.append(site.module.register_forward_pre_hook(before(name), with_kwargs=True))
            else:
                handles.append(site.module.register_forward_hook(after(name)))
        yield found
    finally:
        for handle in handles:
            handle.remove()
    if silent := [name for name in sites if name not in found]:
        raise ModelError(f"sites {', '.join(silent)} did not fire", "Name the blocks with sites=")


def _lens(
    model: nn.Module,
    sites: Mapping[str, Site],
    reading: Reading,
    residual: Mapping[str, Tensor],
    logits: Tensor,
    tokenizer: Any,
) -> dict[str, Any]:
    """Return what each block would predict if the model ended there, or why that cannot be told."""
    if not residual:
        return {"missing": "the model has no blocks that lead to a prediction"}
    last = list(residual)[-1]
    norm = sites.get(last.split("block.")[0] + "final")
    tail, reason = tail_of(model, None if norm is None else norm.module, residual[last], logits)
    if tail is None:
        inputs = made_inputs(model, [ids.cpu().numpy() for ids in reading.streams().values()], len(reading.target))
        if inputs is not None:
            run = Replay(lambda batch: logits_of(default_forward(model, batch), batch), sites[last], sites, inputs[0])
            tail, reason = checked(run, residual[last], logits, reason)
    if tail is None:
        return {"missing": reason}
    target = torch.as_tensor(reading.target, device=logits.device)
    result: dict[str, Any] = {"sites": list(residual), "surprisal": [], "top": []}
    for rows in residual.values():
        log_probs = tail(rows).log_softmax(-1).double()
        value, choice = log_probs.max(1)
        result["surprisal"].append((-log_probs.gather(1, target[:, None])[:, 0]).tolist())
        result["top"].append(
            [[_text(tokenizer, i), math.exp(v)] for i, v in zip(choice.tolist(), value.tolist(), strict=True)]
        )
    return result


def _illegal(reading: Reading, log_probs: Tensor) -> list[float | None] | None:
    """Return the probability that the model gives to tokens that the oracle forbids; None past an impossible word."""
    truth = None if reading.panel is None else reading.panel.truth
    if truth is None or int(truth.token_ids.max()) >= log_probs.shape[1]:
        return None
    law = torch.as_tensor(truth.law(np.arange(len(reading.target))), device=log_probs.device)
    allowed = law > 0
    mass = (log_probs.exp()[:, : law.shape[1]] * allowed).sum(1)
    return [max(0.0, 1.0 - m) if ok else None for m, ok in zip(mass.tolist(), allowed.any(1).tolist(), strict=True)]


def _top(log_probs: Tensor, tokenizer: Any) -> list[list[list[Any]]]:
    value, choice = log_probs.topk(min(TOP, log_probs.shape[1]), dim=1)
    return [
        [[_text(tokenizer, i), math.exp(v)] for i, v in zip(ids, values, strict=True)]
        for ids, values in zip(choice.tolist(), value.tolist(), strict=True)
    ]


def texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return how tokens are shown: their own text, a leading space as such, special tokens by name."""
    return [_text(tokenizer, int(i)) for i in ids]


def _text(tokenizer: Any, index: int) -> str:
    if index >= len(tokenizer):
        return f"#{index}"  # models may have more logits than the tokenizer has tokens
    piece = str(tokenizer.convert_ids_to_tokens(index))
    # Byte-level and sentencepiece alphabets write a space as a letter.
    return piece.replace("Ġ", "\u00b7").replace("▁", "\u00b7").replace("Ċ", "⏎")
