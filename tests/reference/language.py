"""The slow truth about a small grammar: every derivation listed, every question answered by adding up."""

from collections import defaultdict

import numpy as np

from absynth.language import enumerate_language
from absynth.rules.categories import END


class Listing:
    """All derivations of a grammar as (probability, sentence with annotations)."""

    def __init__(self, grammar):
        corpus, probabilities = enumerate_language(grammar)
        self.corpus, self.probabilities = corpus, probabilities
        self.rows = [(float(p), sentence) for p, sentence in zip(probabilities, corpus)]
        self.strings = defaultdict(float)
        for p, sentence in self.rows:
            self.strings[sentence.tokens] += p

    def prefixes(self):
        return {string[:t] for string in self.strings for t in range(len(string) + 1)}

    def next_token(self, prefix):
        law = defaultdict(float)
        for string, p in self.strings.items():
            if string[: len(prefix)] == prefix:
                law[string[len(prefix)] if len(string) > len(prefix) else END] += p
        total = sum(law.values())
        return {token: p / total for token, p in law.items()}

    def matching(self, prefix):
        return [(p, s) for p, s in self.rows if s.tokens[: len(prefix)] == prefix]

    def belief(self, prefix, value):
        """Posterior of value(sentence) given a prefix."""
        law = defaultdict(float)
        for p, sentence in self.matching(prefix):
            law[value(sentence)] += p
        total = sum(law.values())
        return {name: p / total for name, p in law.items()}

    def ceiling(self, layer):
        """(prefix, sentence, next) accuracies by the definition."""
        seen = [defaultdict(lambda: defaultdict(float)) for _ in range(3)]
        for p, sentence in self.rows:
            for t, label in enumerate(sentence.labels[layer]):
                if label is not None:
                    seen[0][sentence.tokens[: t + 1]][label] += p
                    seen[1][sentence.tokens, t][label] += p
                    seen[2][sentence.tokens[:t]][label] += p
        return [
            sum(max(law.values()) for law in table.values()) / sum(sum(law.values()) for law in table.values())
            for table in seen
        ]


def entropy(law):
    p = np.array([x for x in law.values() if x > 0])
    return float(-(p * np.log2(p)).sum())
