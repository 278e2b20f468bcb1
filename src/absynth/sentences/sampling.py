"""Sampling: blocks of sentences drawn from the tables, each from its own counter-based stream."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from absynth.errors import AbsynthError
from absynth.rules.program import Program
from absynth.rules.specification import Specification
from absynth.rules.template import FIXED_PLURAL
from absynth.sentences.columns import Columns

C = TypeVar("C", bound=Columns)

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(tokens, lengths, templates) of some sentences: [tokens] int32, [sentences] int64, [sentences] int32."""

BLOCK = 4096
"""Sentences of one random stream. Sentence k is row k % BLOCK of block k // BLOCK, whatever n, chunk or worker."""


@dataclass(eq=False)
class Sampler:
    """Draws blocks of one grammar."""

    program: Program

    @cached_property
    def template_cdf(self) -> np.ndarray:
        """Return the cumulative law of templates."""
        cdf = np.cumsum(self.program.probability)
        return cdf / cdf[-1]

    @cached_property
    def cluster_cdf(self) -> np.ndarray:
        """Return [clusters, rows]: cumulative cluster laws; past the last possible cluster they are infinite."""
        law = self.program.conditional
        cdf = np.cumsum(law, axis=1)
        last = law.shape[1] - 1 - np.argmax(law[:, ::-1] > 0, axis=1)
        cdf[np.arange(law.shape[1]) >= last[:, None]] = np.inf
        return np.ascontiguousarray(cdf.T)

    @cached_property
    def words(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the words ordered by (category, cluster), their cumulative law (one unit per class) and class ends."""
        lexicon = self.program.lexicon
        width = lexicon.mass.shape[1]
        key = lexicon.word_category * width + lexicon.word_cluster
        order = np.argsort(key, kind="stable")
        counts = np.bincount(key, minlength=len(lexicon.categories) * width)
        ends = np.cumsum(counts)
        cdf = np.empty(len(order))
        for k in np.flatnonzero(counts):
            inside = slice(ends[k] - counts[k], ends[k])
            cdf[inside] = k + np.cumsum(lexicon.word_conditional[order[inside]])
            cdf[ends[k] - 1] = k + 1
        return order, cdf, ends

    def block(self, seed: int, block: int, templates: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw one block.

        Parameters
        ----------
        templates : [BLOCK], optional
            Use these templates instead of drawing them.

        Returns
        -------
        templates : [BLOCK] int32
        tokens : [tokens] int32, the sentences end to end
        """
        p, lexicon = self.program, self.program.lexicon
        longest = int(p.length.max())
        stream = np.random.Generator(np.random.Philox(key=[seed, 0xAB5], counter=[0, 0, 0, block]))
        uniform = stream.random((BLOCK, 1 + 4 * longest))
        if templates is None:
            templates = np.searchsorted(self.template_cdf, uniform[:, 0], side="right").astype(np.int32)
            np.minimum(templates, len(p.probability) - 1, out=templates)
        length = p.length[templates]
        sentence = np.repeat(np.arange(BLOCK), length)
        starts = np.concatenate([[0], np.cumsum(length)[:-1]])
        position = np.arange(len(sentence)) - starts[sentence]
        slot = p.start[templates][sentence] + position
        cell = self._cells(uniform, longest, sentence, slot)
        at = sentence * longest + position
        u_cluster = uniform[sentence, 1 + position]
        clusters = np.zeros(BLOCK * longest, np.int32)
        depth, law, parent = p.depth[slot], p.law[slot], p.parent[slot]
        for d in range(int(depth.max()) + 1):
            now = np.flatnonzero(depth == d)
            row = law[now] if d == 0 else law[now] + clusters[sentence[now] * longest + parent[now]]
            drawn = np.zeros(len(now), np.int32)
            for cdf in self.cluster_cdf[:-1]:
                drawn += u_cluster[now] >= cdf[row]
            clusters[at[now]] = drawn
        category = p.category[slot]
        key = category * lexicon.mass.shape[1] + clusters[at]
        order, cdf, ends = self.words
        found = np.searchsorted(cdf, key + uniform[sentence, 1 + longest + position], side="right")
        word = order[np.minimum(found, ends[key] - 1)] - lexicon.word_base[category]
        entry = lexicon.entry_base[category] + word * lexicon.num_cells[category] + lexicon.cells[category, cell]
        return templates, lexicon.entry_token[entry]

    def _cells(self, uniform: np.ndarray, longest: int, sentence: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """Return the paradigm cell of every token from the values of its feature variables."""
        p = self.program
        number, tense = p.number[slot], p.tense[slot]
        plural = uniform[sentence, 1 + 2 * longest + np.maximum(number, 0)] < p.plural
        plural |= number == FIXED_PLURAL
        past = uniform[sentence, 1 + 3 * longest + np.maximum(tense, 0)] < p.past
        return p.cell_base[slot] + p.cell_number[slot] * plural + p.cell_tense[slot] * past


def draw(grammar: Specification, n: int, seed: int = 0) -> Columns:
    """Return the sentences of ``absynth.generate(grammar, n, seed)``, for what stands below `absynth.Corpus`."""
    parts = [wrap(Columns, grammar, seed, False, drawn) for drawn in chunks(grammar, n, seed)]
    return Columns.concatenate(parts) if parts else Columns.empty(grammar, seed)


def wrap(kind: type[C], grammar: Specification, seed: int, exact: bool, drawn: Drawn) -> C:
    """Return what was drawn as columns, or as a corpus, that knows where it comes from."""
    tokens, lengths, templates = drawn
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return kind.generated(grammar, tokens, offsets, templates, {"seed": int(seed), "exact": exact})


def chunks(
    grammar: Specification, n: int, seed: int = 0, workers: int = 1, exact: bool = False, chunk: int = 65_536
) -> Iterator[Drawn]:
    """Yield n sentences, about `chunk` at a time; see `absynth.generate` and `absynth.stream`."""
    for name, value, low in (("n", n, 0), ("workers", workers, 1), ("chunk", chunk, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise AbsynthError(name, value, f"a whole number, {low} or more")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise AbsynthError("seed", seed, "a whole number from 0 to 2^63 - 1")
    n, seed = int(n), int(seed)
    quotas = quota_templates(grammar.program, n, seed) if exact else None
    per_chunk = max(1, chunk // BLOCK) * BLOCK
    jobs = [(first, min(first + per_chunk, n)) for first in range(0, n, per_chunk)]
    if workers == 1 or len(jobs) < 2:
        sampler = Sampler(grammar.program)
        for first, last in jobs:
            yield rows(sampler, seed, first, last, quotas)
        return
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(grammar, seed, quotas)) as pool:
        # Only a few chunks are in flight, so memory does not grow with n.
        waiting = []
        for job in jobs:
            waiting.append(pool.submit(_work, *job))
            if len(waiting) > 2 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


_worker: tuple[Sampler, int, np.ndarray | None] | None = None


def _start(grammar: Specification, seed: int, quotas: np.ndarray | None) -> None:
    global _worker
    _worker = (Sampler(grammar.program), seed, quotas)


def _work(first: int, last: int) -> Drawn:
    if _worker is None:
        raise RuntimeError("the worker was not started")
    sampler, seed, quotas = _worker
    return rows(sampler, seed, first, last, quotas)


def rows(sampler: Sampler, seed: int, first: int, last: int, quotas: np.ndarray | None = None) -> Drawn:
    """Return (tokens, lengths, templates) of sentences first to last; `first` is a multiple of BLOCK."""
    tokens, templates = [], []
    for start in range(first, last, BLOCK):
        given = None
        if quotas is not None:
            given = np.zeros(BLOCK, np.int32)
            part = quotas[start : start + BLOCK]
            given[: len(part)] = part
        drawn, words = sampler.block(seed, start // BLOCK, given)
        keep = min(BLOCK, last - start)
        length = sampler.program.length[drawn[:keep]]
        templates.append(drawn[:keep])
        tokens.append(words[: int(length.sum())])
    chosen = np.concatenate(templates)
    return np.concatenate(tokens), sampler.program.length[chosen], chosen


def quota_templates(program: Program, n: int, seed: int) -> np.ndarray:
    """Return n template ids with counts n * share rounded by largest remainder, shuffled: [n] int32."""
    expected = program.probability / program.probability.sum() * n
    counts = np.floor(expected).astype(np.int64)
    short = n - int(counts.sum())
    counts[np.argsort(counts - expected, kind="stable")[:short]] += 1
    ids = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return np.random.Generator(np.random.Philox(key=[seed, 0xAB6])).permutation(ids)
