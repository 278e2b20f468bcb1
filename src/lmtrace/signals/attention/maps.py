"""Statistics of attention heads, summed over the queries of each sequence so that sequences are the sampling units.

`maps: [sequences, heads, queries, keys]`, rows that sum to 1 over the visible keys; padding on the right. A query counts
for a statistic only where the statistic can be anything: a query that sees one key has no entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

STATISTICS = ("entropy", "distance", "previous", "first", "self", "same_token")


def visible_keys(valid: Tensor, causal: bool) -> Tensor:
    """Return [sequences, queries, keys] bool: which keys each real query may look at; `valid: [sequences, length]`."""
    seen = valid[:, :, None] & valid[:, None, :]
    return seen & torch.ones_like(seen[0]).tril() if causal else seen


def uniform_maps(visible: Tensor) -> Tensor:
    """Return [sequences, 1, queries, keys]: a head that looks at all visible keys alike, the null of every statistic."""
    weight = visible.float()
    return (weight / weight.sum(dim=2, keepdim=True).clamp_min(1))[:, None]


def head_statistics(maps: Tensor, ids: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums [sequences, heads, statistics] over queries, and how many queries counted [sequences, statistics].

    In the order of `STATISTICS`: entropy (nats); mean distance |q - k| (tokens); weight on the token before; on the first
    token; on the query itself; on other visible positions that hold the same token, where there are any.

    Parameters
    ----------
    maps : [sequences, heads, queries, keys]
        Attention weights.
    ids : [sequences, length]
        Token ids.
    visible : [sequences, queries, keys]
        From `visible_keys`.
    """
    length = ids.shape[1]
    position = torch.arange(length, device=maps.device)
    several = visible.sum(dim=2) > 1
    later = visible[:, :, 0] & (position > 0)
    twin = visible & (ids[:, :, None] == ids[:, None, :]) & (position[:, None] != position)
    distance = (position[:, None] - position).abs().to(maps.dtype)
    previous = torch.zeros_like(maps[..., 0])
    previous[..., 1:] = maps.diagonal(offset=-1, dim1=2, dim2=3)
    values = (
        -torch.special.xlogy(maps, maps).sum(dim=3),
        (maps * distance).sum(dim=3),
        previous,
        maps[..., 0],
        maps.diagonal(dim1=2, dim2=3),
        (maps * twin[:, None]).sum(dim=3),
    )
    counted = (several, several, later, later, several, twin.any(dim=2))
    sums = [(value * mask[:, None]).sum(dim=2) for value, mask in zip(values, counted)]
    return torch.stack(sums, dim=2), torch.stack([mask.sum(dim=1) for mask in counted], dim=1)


def word_maps(maps: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Return [sequences, heads, words, words]: from the last token of a word to all tokens of another.

    Parameters
    ----------
    maps : [sequences, heads, queries, keys]
        Attention weights between tokens.
    first, last : [sequences, words]
        Token positions; -1 where there is no such word, whose row and column are then zero.
    """
    heads, length = maps.shape[1], maps.shape[3]
    exists = first >= 0
    rows = last.clamp_min(0)[:, None, :, None].expand(-1, heads, -1, length)
    # In float64 sums of weights are exact, so words that get the same weight are ties wherever they stand.
    summed = torch.nn.functional.pad(maps.gather(2, rows).cumsum(dim=3, dtype=torch.float64), (1, 0))
    begin = first.clamp_min(0)[:, None, None].expand(-1, heads, first.shape[1], -1)
    end = (last + 1).clamp_min(0)[:, None, None].expand(-1, heads, first.shape[1], -1)
    weights = summed.gather(3, end) - summed.gather(3, begin)
    return (weights * (exists[:, :, None] & exists[:, None, :])[:, None]).to(maps.dtype)


def edge_statistics(weights: Tensor, query: Tensor, key: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums over edges [sequences, heads] of the weight on the edge and of its being the heaviest, and edges [sequences].

    Parameters
    ----------
    weights : [sequences, heads, words, words]
        From `word_maps`.
    query, key : [sequences, edges]
        The two words of each edge; -1 where there is no further edge.
    visible : [sequences, words, words]
        Which words each word may be paired with, itself left out.
    """
    edge = query >= 0
    heads, words = weights.shape[1], weights.shape[3]
    rows = query.clamp_min(0)[:, None, :, None].expand(-1, heads, -1, words)
    candidates = weights.masked_fill(~visible[:, None], -1.0).gather(2, rows)
    target = key.clamp_min(0)[:, None, :, None].expand(-1, heads, -1, -1)
    weight = candidates.gather(3, target)[..., 0]
    # A tie is shared: a head that looks everywhere alike has found nothing.
    best = candidates.max(dim=3, keepdim=True).values
    ties = (candidates == best).sum(dim=3)
    heaviest = (weight == best[..., 0]) / ties
    mask = edge[:, None]
    return (weight * mask).sum(dim=2), (heaviest * mask).sum(dim=2), edge.sum(dim=1)


def induction(maps: Tensor, period: int, start: int) -> Tensor:
    """Return [sequences, heads]: mean weight on the token after the query's last occurrence, in a repeated sequence.

    The tokens ``start .. start + period - 1`` are repeated once right after themselves. Olsson et al. (2022): the weight
    from position q of the second half to position q - period + 1.
    """
    queries = torch.arange(start + period, start + 2 * period, device=maps.device)
    return maps[:, :, queries, queries - period + 1].mean(dim=2)
