"""Grokking (Power et al. 2022): a stop rule meets a plateau that is not the end, says so, and goes on.

Addition modulo p = 59, 40 % of the table for training, full-batch AdamW (weight decay 1): the network knows the training pairs
by heart near step 50 and adds correctly near step 2,750. In between both losses give no sign of what is to come. Checked: a rule
that watches the train loss, and one that watches the test accuracy, come to rest on that plateau, and neither stops there: each warns
that train and panel loss differ, and the second stops once the network has generalised. The same rules told to stop (`on_gap="stop"`) do stop, and say what they do not know. Live and
replayed decisions are equal. Run with `python -m studies.grokking`, half a minute of CPU a seed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lmtrace.analysis.replay import Replay, replay
from lmtrace.analysis.stopping import MAY_GENERALISE, Converged
from lmtrace.records.schema import Field, Record, RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import Run, open_run

P, SHARE, EVERY = 59, 0.4, 25
FIELDS = {
    "output": [
        Field(metric="loss", title="Loss on the pairs left out", unit="nats", low=0.0, better="down"),
        Field(metric="accuracy", title="Accuracy on the pairs left out", low=0.0, high=1.0, better="up"),
    ]
}
RULES = {
    "train loss": "train.loss window=20",
    "test accuracy": "output.accuracy window=20 tolerance=2e-5",
    "test loss": "output.loss window=20",
}


class Adder(nn.Module):
    """Two embeddings side by side, one hidden layer, one class per remainder."""

    def __init__(self, width: int = 64, hidden: int = 256) -> None:
        super().__init__()
        self.embed = nn.Embedding(P, width)
        self.hidden, self.head = nn.Linear(2 * width, hidden), nn.Linear(hidden, P)

    def forward(self, pairs: Tensor) -> Tensor:
        """Return logits [pairs, P]."""
        return self.head(torch.relu(self.hidden(self.embed(pairs).flatten(1))))


@dataclass
class Outcome:
    """When the training pairs were known (99 %), when the others (95 %), and what each live rule did."""

    known: int | None = None
    generalised: int | None = None
    rules: dict[str, Converged] | None = None


def train(folder: Path, seed: int, steps: int) -> Outcome:
    """Train, watch with every rule, and write the run."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    order = torch.randperm(len(pairs), generator=generator)
    cut = int(SHARE * len(pairs))
    (x, y), (x_test, y_test) = ((pairs[part], pairs[part].sum(1) % P) for part in (order[:cut], order[cut:]))
    model = Adder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1.0, betas=(0.9, 0.98))
    found = Outcome(rules={name: Converged.parse(text) for name, text in RULES.items()})
    pending: tuple[list[int], list[float]] = ([], [])
    with RunWriter.create(folder, RunHeader(name=f"grokking, seed {seed}", fields=FIELDS)) as writer:
        for step in range(steps + 1):
            if step % EVERY == 0:
                if pending[0]:
                    writer.write_scalars("loss", *pending)
                records = _measure(model, x_test, y_test, step)
                assert found.rules is not None
                for rule in found.rules.values():
                    rule.scalars("loss", *pending)
                    rule.update(step, records)
                writer.write(step, records)
                pending = ([], [])
                if found.generalised is None and (records[1].value or 0.0) >= 0.95:
                    found.generalised = step
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            if found.known is None and float((logits.argmax(1) == y).float().mean()) >= 0.99:
                found.known = step
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pending[0].append(step + 1)
            pending[1].append(float(loss.detach()))
    return found


@torch.no_grad()
def _measure(model: nn.Module, x: Tensor, y: Tensor, step: int) -> list[Record]:
    losses = nn.functional.cross_entropy(model(x), y, reduction="none").double()
    right = (model(x).argmax(1) == y).double()
    error = float(losses.std() / len(losses) ** 0.5)
    return [
        Record(step=step, signal="output", metric="loss", value=float(losses.mean()), stderr=error, n=len(y)),
        Record(step=step, signal="output", metric="accuracy", value=float(right.mean()), n=len(y), null=1 / P),
    ]


def _say(name: str, text: str, run: Run, live: Converged) -> tuple[Replay, Replay]:
    """Print what a rule did, and what it would have done if told to stop; return both replays."""
    careful, careless = replay(run, text), replay(run, f"{text} on_gap=stop")
    assert careful.step == live.stopped
    print(f"rule on the {name} ({text})")
    print(f"  first at rest at step {careful.would_stop}; stopped at {careful.step}")
    for note in careful.notes:
        print(f"  note: {note}")
    print(f"  told to stop on a gap: {careless.finding().sentence}")
    return careful, careless


def main() -> int:
    """Train every seed, print what happened and the verdict; exit code 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5000)
    options = parser.parse_args()
    start, failed = time.perf_counter(), 0
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "run"
            found = train(folder, seed, options.steps)
            print(f"seed {seed}: train 99 % at step {found.known}, test 95 % at step {found.generalised}")
            failed += not _verdict(found, open_run(folder))
    print(f"VERDICT: {'fails' if failed else 'holds'} ({time.perf_counter() - start:.0f} s)")
    return int(failed > 0)


def _verdict(found: Outcome, run: Run) -> bool:
    assert found.rules is not None
    both = {name: _say(name, text, run, found.rules[name]) for name, text in RULES.items()}
    late = found.generalised or 0
    plateau = {k: v for k, v in both.items() if k != "test loss"}
    checks = {
        "memorised early, generalised much later": found.known is not None and late > 20 * found.known,
        "both rules come to rest on the plateau": all(
            a.would_stop is not None and a.would_stop < late for a, _ in plateau.values()
        ),
        "none stops before the generalisation": all(a.step is None or a.step >= late for a, _ in both.values()),
        "each warns instead": all(any(MAY_GENERALISE in n for n in a.notes) for a, _ in plateau.values()),
        "the rule on the accuracy stops when the rest is done": (both["test accuracy"][0].step or 0) >= late,
        "told to stop, they stop there and say what they do not know": all(
            b.step is not None and b.step < late and MAY_GENERALISE in b.decisions[0].reason
            for _, b in plateau.values()
        ),
        "live and replayed decisions are equal": all(
            (a.step, a.would_stop) == (found.rules[k].stopped, found.rules[k].would_stop) for k, (a, _) in both.items()
        ),
    }
    for text, holds in checks.items():
        print(f"  {'holds' if holds else 'FAILS'}: {text}")
    return all(checks.values())


if __name__ == "__main__":
    sys.exit(main())
