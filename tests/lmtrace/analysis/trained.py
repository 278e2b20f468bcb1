"""Real trainings of seconds, for tests of what is said about them: a small decoder on the tiny language."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

import absynth
from lmtrace.live.tracer import Tracer
from lmtrace.run import open_run
from lmtrace.text.pairs import MinimalPair
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import PlainModel

BATCH = 32


class Setting:
    """A language, its panel and tokenizer."""

    def __init__(self, grammar, seed=0, size=200):
        self.grammar, self.seed = grammar, seed
        many = absynth.generate(grammar, n=8000, seed=seed)
        self.held_out = absynth.generate(grammar, n=3000, seed=seed + 1)
        self.tokenizer = WordTokenizer.from_corpus(many)
        self.panel = Panel.from_annotated(self.held_out[:800], self.tokenizer, size=size, seed=seed, training=many)

    def rows(self, num, grammar=None, seed=2):
        """Return [num, longest] token ids of fresh sentences, padded."""
        t = self.tokenizer
        corpus = absynth.generate(grammar or self.grammar, n=num, seed=self.seed + seed)
        rows = [[t.bos_token_id, *t.encode(s.tokens), t.eos_token_id] for s in corpus]
        longest = max(map(len, rows))
        return torch.tensor([row + [t.pad_token_id] * (longest - len(row)) for row in rows])

    def shuffled(self, rows, seed=0, length=7):
        """Return as many rows of all their words and ends of sentences in one random order: frequencies, and nothing else."""
        t = self.tokenizer
        tokens = rows[(rows != t.pad_token_id) & (rows != t.bos_token_id)]
        tokens = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))]
        tokens = tokens[torch.arange(len(rows) * length) % len(tokens)].view(-1, length)
        return torch.cat([torch.full((len(rows), 1), t.bos_token_id), tokens], 1)


@cache
def tiny_setting():
    return Setting(absynth.Grammar.preset("tiny", strength=0.9))


def train(setting, rows, folder, signals, every, *, rate=4e-3, seed=0, stop=None, resume=False, start=0, width=32):
    """Train on the rows, BATCH a step, with a tracer; return the finished run.

    The tracer's step numbers, `rows` and the schedule are all that matters; nothing is saved.
    """
    torch.manual_seed(seed)
    model = PlainModel(len(setting.tokenizer), width=width)
    for name in ("wte", "wpe"):
        torch.nn.init.normal_(model.transformer[name].weight, std=0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    pad = setting.tokenizer.pad_token_id
    tracer = Tracer(
        model, setting.panel, signals=signals, every=every, run=folder, optimizer=optimizer, stop=stop, on_error="raise",
        forward=lambda model, inputs: model(inputs["input_ids"]), resume=resume, start_step=start,
    )  # fmt: skip
    with tracer:
        for ids in rows.view(-1, BATCH, rows.shape[1])[start:]:
            ids = ids[:, : int((ids != pad).sum(1).max())]
            logits = model(ids)[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tracer.step(loss=loss)
            if tracer.should_stop:
                break
    return open_run(folder)


def joined(*parts, pad):
    """Return token rows one after another, padded to the longest."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(p, (0, longest - p.shape[1]), value=pad) for p in parts])


def pairs_of(corpus, kind, name, num, seed=0, unknown_to=None):
    """Return minimal pairs of one kind under a name, singular and plural verbs equally often; swaps that the language minds.

    With `unknown_to`, an oracle, only pairs of which it can say nothing: both sentences lie outside its language.
    """
    found: dict[str, list[MinimalPair]] = {}
    for pair in absynth.minimal_pairs(corpus, kind=kind, seed=seed):
        if kind == "role_swap" and not 1 <= pair.severity < 60:
            continue
        texts = [list(pair.good.tokens), list(pair.bad.tokens)]
        if unknown_to is not None and np.isfinite(unknown_to.log2_probability(texts)).any():
            continue
        number = pair.good.labels["number"][pair.position] if kind == "agreement_violation" else "all"
        found.setdefault(number, []).append(MinimalPair(tuple(pair.good.tokens), tuple(pair.bad.tokens), name))
    groups = [found[k] for k in sorted(found) if k in ("Sing", "Plur", "all")]
    each = min(num // len(groups), *map(len, groups))
    return [pair for group in groups for pair in group[:each]]


def curve(run, signal, metric, label=None, split=None, site=0):
    """Return steps, values and standard errors of one curve."""
    series = run.series(signal=signal, metric=metric, label=label, split=split)
    keep = np.isfinite(series.values[:, site])
    return series.steps[keep], series.values[keep, site], series.stderr[keep, site]
