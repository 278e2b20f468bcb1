"""Corpora drawn from a grammar: all at once, in parts, or one piece of a cluster's work."""

from __future__ import annotations

from collections.abc import Iterator

from absynth.corpus import Corpus
from absynth.errors import AbsynthError
from absynth.grammar import Grammar
from absynth.sentences.sampling import BLOCK, Sampler, chunks, quota_templates, rows, wrap

__all__ = ["BLOCK", "Sampler", "generate", "part", "quota_templates", "stream"]


def generate(grammar: Grammar, n: int, seed: int = 0, workers: int = 1, exact: bool = False) -> Corpus:
    """Draw n sentences.

    Parameters
    ----------
    grammar
        The language.
    n
        Number of sentences.
    seed
        Same grammar, seed and n give the same corpus on any machine with any number of workers; sentence k does not
        depend on n.
    workers
        Number of processes.
    exact
        Draw stratified quotas: every template appears n times its share, rounded, in seeded order. Shares then hold to
        1/n; sentences are no longer independent, and sentence k depends on n.

    Raises
    ------
    AbsynthError
        For a negative n, a seed out of range or fewer than one worker.
    """
    parts = list(stream(grammar, n, seed=seed, workers=workers, exact=exact))
    return Corpus.concatenate(parts) if parts else Corpus.empty(grammar, seed)


def stream(
    grammar: Grammar, n: int, seed: int = 0, workers: int = 1, exact: bool = False, chunk: int = 65_536
) -> Iterator[Corpus]:
    """Draw n sentences in constant memory: corpora of about `chunk` sentences, end to end equal to `generate`."""
    for drawn in chunks(grammar, n, seed, workers, exact, chunk):
        yield wrap(Corpus, grammar, seed, exact, drawn)


def part(grammar: Grammar, first: int, last: int, seed: int = 0) -> Corpus:
    """Draw sentences `first` to `last` of ``generate(grammar, n, seed)``, whatever n: the piece of work of a cluster.

    Raises
    ------
    AbsynthError
        Where `first` is not a multiple of the block of sentences that are drawn together, or nothing lies between the two.
    """
    if first % BLOCK or not 0 <= first < last:
        raise AbsynthError("first", (first, last), f"a multiple of {BLOCK}, less than last")
    drawn = rows(Sampler(grammar.program), seed, first, last)
    return wrap(Corpus, grammar, seed, False, drawn)
