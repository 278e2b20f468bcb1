"""Words and tokens that share a character, found character by character."""


def overlap(spans, offsets):
    """Return (first, last) token of each word, by testing every pair."""
    first, last = [], []
    for start, end in spans:
        hits = [t for t, (a, b) in enumerate(offsets) if set(range(a, b)) & set(range(start, end))]
        first.append(hits[0] if hits else -1)
        last.append(hits[-1] if hits else -1)
    return first, last


def owners(spans, offsets):
    """Return the word that holds the first character of each token which lies in any word."""
    result = []
    for a, b in offsets:
        words = [w for c in range(a, b) for w, (start, end) in enumerate(spans) if start <= c < end]
        result.append(words[0] if words else -1)
    return result
