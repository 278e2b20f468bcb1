"""The proof of non-interference: it passes where nothing is disturbed, and only there."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lmtrace.cli.main import app
from lmtrace.errors import ConfigError
from lmtrace.jobs.verify import Verdict, load_train_step, verify
from lmtrace.observe.interface import Needs, Signal
from lmtrace.observe.isolation import generator_fingerprint
from lmtrace.records.schema import Field
from lmtrace_helpers import PlainModel, tiny


class Quiet(Signal):
    """Only reads."""

    name, cost, source = "quiet", "none", "test"
    fields = (Field(metric="x", title="x"),)

    def needs(self, panel):
        return Needs(model=True, optimizer=True)

    def measure(self, view):
        self.disturb(view)
        yield self.record(view, "x", 1.0, n=1)

    def disturb(self, view):
        """Do nothing."""


class Behind(Quiet):
    """Changes a weight behind autograd's back, which no version counter sees."""

    name = "behind"

    def disturb(self, view):
        next(iter(view.parameters().values())).data.add_(1e-3)


class InPlace(Quiet):
    """Changes a weight in the open; the isolation notices, and verify has to say so."""

    name = "in_place"

    def disturb(self, view):
        next(iter(view.parameters().values())).add_(1e-3)


class Rate(Quiet):
    """Changes the learning rate."""

    name = "rate"

    def disturb(self, view):
        view.optimizer.param_groups[0]["lr"] *= 0.5


class Threads(Quiet):
    """Changes a global setting."""

    name = "threads"

    def disturb(self, view):
        torch.set_num_threads(torch.get_num_threads() + 1)


@pytest.mark.parametrize("style", ["gpt2", "bert", "t5", "plain"])
def test_the_signals_disturb_nothing(style, tokenizer, panel):
    model = PlainModel(len(tokenizer)) if style == "plain" else tiny(style, tokenizer)
    before, generators = {k: v.clone() for k, v in model.state_dict().items()}, generator_fingerprint()
    verdict = verify(model, panel, signals="standard", steps=2)
    assert verdict == Verdict(identical=True, deterministic=True, differences=())
    assert str(verdict).startswith("Nothing was disturbed")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert generator_fingerprint() == generators, "the caller's generators are not touched either"


@pytest.mark.parametrize(
    ("signal", "what"),
    [
        (Behind(), "weight transformer.wte.weight"),
        (InPlace(), "the weight "),
        (Rate(), "optimizer settings"),
        (Threads(), "threads"),
    ],
)
def test_a_signal_that_disturbs_is_caught_and_named(signal, what, gpt2, panel):
    threads = torch.get_num_threads()
    try:
        verdict = verify(gpt2, panel, signals=[Quiet(), signal, "output"], steps=2)
    finally:
        torch.set_num_threads(threads)
    assert verdict.deterministic
    assert not verdict.identical
    assert any(name.startswith(what) for name in verdict.differences), verdict.differences
    assert verdict.culprits == (signal.name,)
    assert str(verdict).endswith(f"By: {signal.name}.")
    assert str(verdict).startswith("Measuring changed")


def script_step(model, optimizer, step):
    """A user's own step: its own batches, drawn from all three generators, with dropout."""
    ids = torch.randint(5, 20, (4, 9)) + random.randint(0, 3) + int(np.random.randint(0, 3))  # noqa: NPY002
    loss = model(input_ids=ids, labels=ids).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def test_it_runs_the_users_own_step(gpt2, panel):
    assert verify(gpt2, panel, signals="light", steps=3, train_step=script_step).identical
    found = verify(gpt2, panel, signals=[Behind()], steps=3, train_step=script_step)
    assert found.deterministic
    assert found.culprits == ("behind",)


def test_a_training_that_differs_from_itself_says_so(gpt2, panel):
    calls = iter(range(1000))

    def step(model, optimizer, i):
        next(iter(model.parameters())).data.add_(1e-4 * next(calls))
        return 1.0

    verdict = verify(gpt2, panel, signals=[Behind()], steps=2, train_step=step)
    assert not verdict.deterministic
    assert verdict.culprits == (), "nobody is accused where nothing can be known"
    assert str(verdict) == "This training is not deterministic by itself: two runs without measuring already differ."


def test_a_training_that_diverges_is_compared_all_the_same(gpt2, panel):
    def step(model, optimizer, i):
        with torch.no_grad():
            next(iter(model.parameters())).fill_(float("nan"))
        return float("nan")

    assert verify(gpt2, panel, signals=[Quiet()], steps=2, train_step=step).identical


def test_the_command_line(tokenizer, panel, tmp_path):
    folder = tmp_path / "model"
    tiny("gpt2", tokenizer, size="1x32").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lines = [json.dumps({"tokens": s.tokens, "labels": s.labels}) for s in panel.sentences[:20]]
    (tmp_path / "panel.jsonl").write_text("\n".join(lines))
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def step(model, optimizer, i):\n"
        "    ids = torch.randint(5, 20, (4, 9))\n"
        "    loss = model(input_ids=ids, labels=ids).loss\n"
        "    loss.backward(); optimizer.step(); optimizer.zero_grad()\n"
        "    return loss\n"
        "calls = []\n"
        "def strange(model, optimizer, i):\n"
        "    calls.append(i)\n"
        "    return float(len(calls))\n"
    )
    runner = CliRunner()
    command = ["verify", str(folder), "--panel", str(tmp_path / "panel.jsonl"), "--signals", "output", "--steps", "2"]
    for more in ([], ["--train-step", f"{tmp_path / 'mine.py'}:step"]):
        done = runner.invoke(app, [*command, *more, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        assert json.loads(done.stdout) == {"identical": True, "deterministic": True, "differences": [], "culprits": []}
    done = runner.invoke(app, [*command, "--train-step", f"{tmp_path / 'mine.py'}:strange"])
    assert done.exit_code == 1
    assert "not deterministic by itself" in " ".join(done.output.split())


def test_wrong_scripts_are_said_in_one_line(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    for spec, message in (
        ("step", "no such file"),
        (f"{tmp_path / 'b.py'}:step", "no such file"),
        (f"{tmp_path / 'a.py'}:step", "has no function 'step'"),
        (f"{tmp_path / 'a.py'}:x", "has no function 'x'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_train_step(spec)
