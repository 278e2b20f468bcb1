"""Surface forms: pseudowords, opaque codes or labelled words; homographs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from absynth.errors import AbsynthError
from absynth.rules.categories import CATEGORIES

STYLES = ("pseudoword", "opaque", "labelled")
_ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "bl",
    "br",
    "dr",
    "fl",
    "gr",
    "kl",
    "pr",
    "tr",
)
_VOWELS = ("a", "e", "i", "o", "u")


def _roots(count: int, seed: int) -> list[str]:
    """Return distinct pronounceable roots, short ones first; each ends in a vowel."""
    syllables = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
    stream = np.random.default_rng([seed, 2])
    one = [syllables[i] for i in stream.permutation(len(syllables))]
    roots = one[: min(len(one), max(count // 20, 1))]
    length = 2
    seen = set(roots)
    while len(roots) < count:
        room = len(syllables) ** length // 4
        want = min(count - len(roots), room)
        for row in stream.integers(0, len(syllables), (4 * want + 16, length)):
            root = "".join(syllables[i] for i in row)
            if root not in seen:
                seen.add(root)
                roots.append(root)
                want -= 1
                if want == 0:
                    break
        length += 1
    order = stream.permutation(count)
    return [roots[i] for i in order]


def _spread(
    count: int, categories: np.ndarray, upos: Sequence[str], stream: np.random.Generator
) -> list[tuple[int, int]]:
    """Pair up `count` disjoint entries of different categories, of different parts of speech as long as there are any.

    Parameters
    ----------
    categories : [candidates]
        Category of each candidate entry.
    upos
        Part of speech of each category.
    """
    pairs: list[tuple[int, int]] = []
    left = [int(i) for i in stream.permutation(len(categories))]
    for kind_of in (lambda i: upos[int(categories[i])], lambda i: str(categories[i])):
        piles: dict[str, list[int]] = {}
        for i in left:
            piles.setdefault(kind_of(i), []).append(i)
        while len(pairs) < count:
            # Taking from the two largest piles pairs as many as can be paired.
            largest = sorted(piles, key=lambda name: (-len(piles[name]), name))[:2]
            if len(largest) < 2 or not piles[largest[1]]:
                break
            pairs.append((piles[largest[0]].pop(), piles[largest[1]].pop()))
        left = [i for pile in piles.values() for i in pile]
    return pairs


def spell(
    names: tuple[str, ...],
    num_words: np.ndarray,
    word_category: np.ndarray,
    entry_word: np.ndarray,
    entry_cell: np.ndarray,
    ambiguity: float,
    surface: str,
    seed: int,
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """Write every entry.

    Returns
    -------
    vocabulary
        Distinct forms.
    entry_token : [entries]
        Vocabulary id of each entry; two entries of different categories share one where they are homographs.
    lemmas
        One citation form for each word.
    """
    number = np.concatenate([np.arange(n) for n in num_words])
    name_of = [names[int(c)] for c in word_category]
    suffixes = [[cell.suffix for cell in CATEGORIES[name].cells] for name in names]
    endings = [[cell.label_suffix for cell in CATEGORIES[name].cells] for name in names]
    total = len(word_category)
    if surface == "pseudoword":
        lemmas = _roots(total, seed)
        forms = [lemmas[w] + suffixes[word_category[w]][c] for w, c in zip(entry_word, entry_cell)]
    elif surface == "labelled":
        lemmas = [name if name.startswith("marker.") else f"{name}{i}" for name, i in zip(name_of, number)]
        forms = [lemmas[w] + endings[word_category[w]][c] for w, c in zip(entry_word, entry_cell)]
    elif surface == "opaque":
        codes = np.random.default_rng([seed, 3]).permutation(len(entry_word))
        width = max(4, len(str(len(entry_word) - 1)))
        forms = [f"w{code:0{width}d}" for code in codes]
        first = np.concatenate([[0], np.flatnonzero(np.diff(entry_word)) + 1])
        lemmas = [forms[i] for i in first]
    else:
        raise AbsynthError("surface", surface, f"one of {', '.join(STYLES)}")
    if ambiguity > 0:
        entry_category = word_category[entry_word]
        candidates = np.flatnonzero([CATEGORIES[name_of[w]].open_class for w in entry_word])
        # n entries with m pairs make n - m forms, of which m are ambiguous.
        wanted = round(ambiguity * len(forms) / (1 + ambiguity))
        stream = np.random.default_rng([seed, 4])
        pairs = _spread(wanted, entry_category[candidates], [CATEGORIES[name].upos for name in names], stream)
        if len(pairs) < wanted:
            reach = len(pairs) / (len(forms) - len(pairs))
            raise AbsynthError("ambiguity", ambiguity, f"at most {reach:.3f} with these sizes of open-class categories")
        for a, b in pairs:
            forms[candidates[b]] = forms[candidates[a]]
    vocabulary = tuple(dict.fromkeys(forms))
    index = {form: i for i, form in enumerate(vocabulary)}
    return vocabulary, np.array([index[form] for form in forms], np.int32), tuple(lemmas)
