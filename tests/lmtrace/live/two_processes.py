"""One of the processes of a distributed training; run as a script by `test_distributed.py`.

    python two_processes.py FOLDER RANK RANKS PORT

With one process it trains alone on the batches that the others share. Every scenario leaves a run, and what each rank saw as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lmtrace.errors import TraceError
from lmtrace.live.tracer import Tracer
from lmtrace.observe.interface import Needs, Signal
from lmtrace.records.schema import Field
from lmtrace.signals.probe import Probe
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import tiny

toys = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "conftest.py")))
STEPS, BATCH = 6, 8
SIGNALS = "output,probe,dimension,similarity,lens,pairs,weights,gradient,attention,curvature"


class Raises(Signal):
    """Raises on one rank, from a step on; it reads activations, so it takes part in the pass."""

    name, cost, source = "raises", "none", "test"
    fields = (Field(metric="rank", title="rank"),)
    rank = 0

    def needs(self, panel):
        return Needs(sites="all", logits=True)

    def reduce(self, batch):
        if dist.is_initialized() and dist.get_rank() == self.rank:
            raise RuntimeError(f"no luck on rank {self.rank}")
        return {}

    def measure(self, view):
        yield self.record(view, "rank", float(dist.get_rank() if dist.is_initialized() else 0), n=1)


class RaisesOnOne(Raises):
    name, rank = "raises_on_one", 1


class Enough:
    """A stop rule that fires at the second measurement."""

    def update(self, step, records):
        return "enough" if step >= 4 else None


def train(how, rank, ranks, tokenizer, panel, folder, *, dropout=0.0, same=False, **settings):
    """Train a little, traced where settings are given; return what this rank saw.

    With `same`, every rank trains on the whole batch: the mean of equal gradients is exact, and with it every weight.
    """
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    model = tiny("gpt2", tokenizer)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    model.train()
    trained = model
    if how == "ddp":
        trained = DistributedDataParallel(model)
    elif how == "fsdp":
        for block in model.transformer.h:
            fully_shard(block)
        trained = fully_shard(model)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(100 + rank)
    data = torch.Generator().manual_seed(5)
    tracer = Tracer(trained, panel, run=folder, optimizer=optimizer, **settings) if settings else None
    seen = {"steps": 0}

    def loop():
        for _ in range(STEPS):
            ids = torch.randint(5, len(tokenizer), (BATCH, 9), generator=data)
            mine = ids if same else ids.chunk(ranks)[rank]
            loss = trained(input_ids=mine, labels=mine).loss
            loss.backward()
            optimizer.step()
            seen["steps"] += 1
            if tracer is not None:
                before = [p.grad for p in trained.parameters()]
                tracer.step(loss=loss, tokens=ids.numel() // ranks)
                assert all(p.grad is g for p, g in zip(trained.parameters(), before, strict=True))
            optimizer.zero_grad()
            if tracer is not None and tracer.should_stop:
                break

    try:
        if tracer is None:
            loop()
        else:
            with tracer:
                loop()
                if settings.get("every") == 3:
                    tracer.checkpoint()
    except (TraceError, RuntimeError) as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    seen["random"] = torch.rand(3).tolist()
    weights = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in trained.state_dict().values()]
    seen["bits"] = [hashlib.sha256(w.detach().contiguous().numpy().tobytes()).hexdigest() for w in weights]
    seen["classes"] = sorted({type(p).__name__ for p in trained.parameters()})
    return seen


def main(folder: Path, rank: int, ranks: int, port: int) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=ranks, timeout=timedelta(seconds=360))
    rng = np.random.default_rng(0)
    sentences = [toys.toy_sentence(rng) for _ in range(200)]
    tokenizer = WordTokenizer.from_corpus(sentences)
    panel = Panel.from_annotated(sentences[:120], tokenizer, size=120, seed=0)
    modes = ("ddp", "fsdp") if ranks > 1 else ("single",)
    seen = {}
    for how in modes:

        def run(name, how=how, **settings):
            key = f"{how}-{name}"
            found = train(how, rank, ranks, tokenizer, panel, folder / key, **settings)
            seen[f"{key}-again" if key in seen else key] = found

        run("all", same=True, signals=SIGNALS, every=3)
        run("shards", signals=["output", "dimension", "similarity", Probe(labels="role")], every=3)
        run("stop", signals="output", every=2, stop=Enough())
        if ranks > 1:
            run("fails", signals=[Raises(), RaisesOnOne()], every=1)
            run("raise", signals=[Raises()], every=1, on_error="raise")
            run("budget", signals="output", every=1, budget=0.5)
            run("plain", dropout=0.1)
            run("traced", signals=SIGNALS, every=2, dropout=0.1)
            run("stop", signals="output", every=1)  # the folder holds a run
    (folder / f"seen-{ranks}-{rank}.json").write_text(json.dumps(seen))
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
