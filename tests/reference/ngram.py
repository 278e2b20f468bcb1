"""Interpolated Kneser-Ney with dictionaries, one probability at a time."""

from collections import Counter


def _discount(counts):
    once, twice = sum(c == 1 for c in counts), sum(c == 2 for c in counts)
    return min(0.95, max(0.05, once / (once + 2 * twice))) if once else 0.05


def probability(sequences, vocabulary, order, context, word):
    """p(word | context) for one word."""
    tables = {1: Counter(), 2: Counter(), 3: Counter()}
    for s in sequences:
        for i in range(1, len(s)):
            tables[1][s[i],] += 1
            tables[2][s[i - 1], s[i]] += 1
            tables[3][s[i - 2] if i >= 2 else None, s[i - 1], s[i]] += 1
    top = tables[order]
    if order == 3:
        middle = Counter(gram[1:] for gram in top)
        for gram in middle:
            heads = {u for (u, v, w) in tables[3] if (v, w) == gram}
            if heads == {None}:
                middle[gram] = tables[2][gram]
        chain = [top, middle]
    else:
        chain = [top] if order == 2 else []
    unigram = tables[1] if order == 1 else Counter(gram[1:] for gram in tables[2])
    total, d = sum(unigram.values()), _discount(unigram.values())
    p = max(unigram[word,] - d, 0) / total + d * len(unigram) / total / vocabulary
    for table in reversed(chain):
        length = len(next(iter(table))) - 1
        ctx = tuple(context[-length:])
        follow = {g[-1]: c for g, c in table.items() if g[:-1] == ctx}
        if follow:
            total, d = sum(follow.values()), _discount(table.values())
            p = max(follow.get(word, 0) - d, 0) / total + d * len(follow) / total * p
    return p
