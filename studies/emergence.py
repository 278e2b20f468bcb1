"""What emerges when, in a language whose truth is known: syntax against semantics, compression of dimension, curvature.

The published claims (syntax before semantics; dimension rises, then compresses; curvature collapses when it happens) are
tested, not assumed. A small decoder learns the tiny ABSynth language with selection: every seed has its own language, corpus,
initial weights and order of data. Conditions:

    base             2 blocks of width 64, the whole language throughout
    large            4 blocks of width 96
    attention_only   as base, without feed-forward layers
    syntax_first     as base; until the switch, nothing chooses its arguments: selection cannot be learned before it
    semantics_first  as base; until the switch, no noun is plural: agreement cannot be learned before it

Run: `python -m studies.emergence --condition base --seed 0` makes one run (about a minute; a finished one is not made again),
`--all` makes all that are missing, `--page` prints the verdicts and writes `docs/studies/emergence.md` with its figures.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import absynth
from lmtrace.live.tracer import Tracer
from lmtrace.run import open_run
from lmtrace.signals.curvature import Curvature
from lmtrace.signals.dimension import Dimension
from lmtrace.signals.output import Output
from lmtrace.signals.pairs import Pairs
from lmtrace.signals.probe import Probe
from lmtrace.signals.truth import Truth
from lmtrace.text.pairs import MinimalPair
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from studies._model import Decoder

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "emergence"
SEEDS = range(5)
CONDITIONS = ("base", "attention_only", "syntax_first", "semantics_first", "large")
STEPS, SWITCH, WARMUP, BATCH, RATE = 1500, 600, 20, 64, 2e-3
EARLY = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 56, 75, 100, 130, 165, 200, 240, 285, 335, 390, 450, 510, 570)
MEASURED = (*EARLY, 600, 605, 610, 620, 635, 655, 680, 710, 750, 800, 860, 930, 1000, 1100, 1200, 1300, 1400, 1500)
"""Dense early, and dense again after the switch of the twins; the same steps in every condition."""


def twist() -> ModuleType:
    """Return the example that makes the order-swapped corpora."""
    spec = importlib.util.spec_from_file_location("absynth_twist", ROOT / "examples" / "11_absynth_twist.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def agreement_pairs(corpus: Any, seed: int, num: int) -> list[MinimalPair]:
    """Return pairs that differ in the number of the verb; singular and plural equally often.

    So whoever prefers one number always is right in one half of them, whatever the corpus was like.
    """
    of_number: dict[str, list[MinimalPair]] = {"Sing": [], "Plur": []}
    for pair in absynth.minimal_pairs(corpus, kind="agreement_violation", seed=seed, limit=8 * num):
        number = pair.good.labels["number"][pair.position]
        if pair.expected is not None and number in of_number:
            of_number[number].append(MinimalPair(tuple(pair.good.tokens), tuple(pair.bad.tokens), "agreement"))
    half = min(num // 2, *map(len, of_number.values()))
    return [p for pairs in of_number.values() for p in pairs[:half]]


def selection_pairs(corpus: Any, seed: int, num: int) -> list[MinimalPair]:
    """Return pairs that differ in who does what to whom, where the language makes the good one at least twice as probable."""
    swaps = absynth.minimal_pairs(corpus, kind="role_swap", seed=seed, limit=8 * num)
    found = [MinimalPair(tuple(p.good.tokens), tuple(p.bad.tokens), "selection") for p in swaps if 1 <= p.severity < 60]
    return found[:num]


def without(oracle: Any, pairs: list[MinimalPair]) -> float:
    """Return how many pairs somebody gets right who knows another language exactly (ties count one half)."""
    good, bad = (oracle.log2_probability([list(t) for t in texts]) for texts in zip(*((p.good, p.bad) for p in pairs)))
    return float(np.mean(np.where(np.isclose(good, bad, rtol=0, atol=1e-9), 0.5, good > bad)))


class Task:
    """Everything that a seed fixes but the model: the languages, the panel, the pairs, the tokenizer."""

    def __init__(self, seed: int) -> None:
        self.example, self.seed = twist(), seed
        self.languages = self.example.grammars("tiny", seed)
        held_out = absynth.generate(self.languages["both"], n=8000, seed=1000 + seed)
        many = absynth.generate(self.languages["both"], n=20_000, seed=2000 + seed)
        self.tokenizer = WordTokenizer.from_corpus(many)
        self.panel = Panel.from_annotated(held_out[:1200], self.tokenizer, size=400, seed=seed)
        agreement, selection = agreement_pairs(held_out, seed, 500), selection_pairs(held_out, seed, 500)
        self.pairs = tuple(agreement + selection)
        self.nulls = {
            "agreement without agreement": without(
                absynth.generate(self.languages["semantics"], n=1).oracle, agreement
            ),
            "selection without selection": without(absynth.generate(self.languages["syntax"], n=1).oracle, selection),
            "num_agreement": float(len(agreement)),
            "num_selection": float(len(selection)),
        }

    def rows(self, name: str, steps: int, seed: int) -> Tensor:
        """Return [steps * BATCH, longest] token ids of fresh sentences of a language, padded with -100's stand-in (pad)."""
        corpus = absynth.generate(self.languages[name], n=steps * BATCH, seed=seed)
        begin, end, pad = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        rows = [[begin, *self.tokenizer.encode(s.tokens), end] for s in corpus]
        longest = max(map(len, rows))
        return torch.tensor([row + [pad] * (longest - len(row)) for row in rows])

    def batches(self, condition: str) -> Tensor:
        """Return [STEPS, BATCH, longest] token ids in the order in which they are read."""
        first = {"syntax_first": "syntax", "semantics_first": "semantics"}.get(condition, "both")
        parts = [self.rows(first, SWITCH, 3000 + self.seed), self.rows("both", STEPS - SWITCH, 4000 + self.seed)]
        longest = max(part.shape[1] for part in parts)
        pad = self.tokenizer.pad_token_id
        padded = [torch.nn.functional.pad(p, (0, longest - p.shape[1]), value=pad) for p in parts]
        return torch.cat(padded).view(STEPS, BATCH, longest)


def signals(task: Task) -> list[Any]:
    """Return what is measured."""
    return [
        Output(layers=("category",)),
        Truth(layers=()),
        Probe(labels=("upos", "role")),
        Pairs(pairs=task.pairs, per_kind=500),
        Dimension(num_points=2000),
        Curvature(quantities=("spectrum", "trace"), sequences=32),
    ]


def call(model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits, as the tracer asks for them."""
    return model(inputs["input_ids"])


def make_run(condition: str, seed: int, steps: int = STEPS) -> None:
    """Train and trace one model, unless its folder holds a finished run."""
    folder = RUNS / condition / str(seed)
    if (folder / "run.sqlite").is_file() and open_run(folder).header.status == "finished":
        return
    start = time.perf_counter()
    torch.set_num_threads(1)
    task = Task(seed)
    batches = task.batches(condition)
    torch.manual_seed(seed)
    size = {"width": 96, "layers": 4, "heads": 6} if condition == "large" else {"width": 64, "layers": 2, "heads": 4}
    model = Decoder(len(task.tokenizer), 40, attention_only=condition == "attention_only", **size)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    pad = task.tokenizer.pad_token_id
    tracer = Tracer(
        model, task.panel, signals=signals(task), every=MEASURED, run=folder, optimizer=optimizer, forward=call,
        overwrite=True, on_error="raise", seed=seed,
        data={"corpus": f"ABSynth tiny, seed {seed}, {condition}", "switch": SWITCH, **task.nulls},
    )  # fmt: skip
    tracer.schedule = type(tracer.schedule)(steps=frozenset(MEASURED), strides={"curvature": 1})
    with tracer:
        for batch in batches[:steps]:
            ids = batch[:, : int((batch != pad).sum(1).max())]
            logits = model(ids)[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            warm.step()
            tracer.step(loss=loss, tokens=int((ids != pad).sum()))
    print(f"{condition} seed {seed}: loss {loss.item():.3f} nats, {time.perf_counter() - start:.0f} s", flush=True)


def main() -> int:
    """Make runs, or the page of those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--condition", choices=CONDITIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="make every run that is missing")
    parser.add_argument("--page", action="store_true", help="write the page of the finished runs")
    options = parser.parse_args()
    if options.condition:
        make_run(options.condition, options.seed)
    if options.all:
        for seed in SEEDS:
            for condition in CONDITIONS:
                make_run(condition, seed)
    if options.page:
        from studies._emergence_page import write_page

        return write_page(RUNS, ROOT / "docs" / "studies", CONDITIONS, SWITCH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
