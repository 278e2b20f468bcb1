"""Log-probabilities of the tokens of texts that are not the panel's, in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lmtrace.observe.interface import View

MAX_NUMBERS = 2**24
"""Logits held at once: rows x length x vocabulary."""


def token_scores(
    view: View, rows: Sequence[Sequence[int]], begins: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for every row of a causal model, log p of its tokens and the log mass of `begins` at its columns, in nats.

    Parameters
    ----------
    rows
        Token ids, special tokens included.
    begins : [vocabulary] or None
        bool, the tokens whose mass is asked for; None gives zeros.

    Returns
    -------
    [(log_probs [length - 1], mass [length])]
        log p(token i + 1 | tokens to i), and the mass of `begins` after token i.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0))] * len(rows)
    for chunk in _chunks(rows, len(view.panel.tokenizer)):
        ids, mask = _padded(view, [rows[i] for i in chunk])
        log_probs = view.logits({"input_ids": ids, "attention_mask": mask}).float().log_softmax(-1)
        right = log_probs[:, :-1].gather(2, ids[:, 1:, None])[..., 0].double().cpu().numpy()
        mass = torch.zeros(ids.shape, dtype=torch.float64)
        if begins is not None:
            wanted = torch.zeros(log_probs.shape[-1], dtype=torch.bool, device=log_probs.device)
            wanted[: len(begins)] = torch.as_tensor(begins, device=log_probs.device)
            mass = log_probs[..., wanted].logsumexp(-1).double().cpu()
        for row, i in enumerate(chunk):
            length = len(rows[i])
            found[i] = right[row, : length - 1], mass[row, :length].numpy()
    return found


def _chunks(rows: Sequence[Sequence[int]], vocabulary: int) -> Iterator[list[int]]:
    """Yield positions of rows of similar length whose logits fit into memory."""
    chunk: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: (len(rows[i]), i)):
        full = (len(chunk) + 1) * len(rows[i]) * vocabulary > MAX_NUMBERS
        if chunk and (full or len(chunk) == 256):
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk


def _padded(view: View, rows: list[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(view.model.parameters()).device
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64, device=device)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row, device=device)
        mask[i, : len(row)] = 1
    return ids, mask
