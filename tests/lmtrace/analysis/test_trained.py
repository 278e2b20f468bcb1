"""What is said about real trainings of seconds whose answer is known."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import absynth
from lmtrace.analysis.alerts import alerts
from lmtrace.analysis.emergence import emergence
from lmtrace.analysis.findings import findings
from lmtrace.analysis.online import online_changes
from lmtrace.analysis.phases import change_points
from lmtrace.analysis.readings import measurements
from lmtrace.analysis.replay import replay
from lmtrace.analysis.stopping import Converged
from lmtrace.signals.dimension import Dimension
from lmtrace.signals.gradient import Gradient
from lmtrace.signals.ladder import Ladder
from lmtrace.signals.output import Output
from lmtrace.signals.pairs import Pairs
from lmtrace.signals.probe import Probe

from .trained import BATCH, Setting, curve, joined, pairs_of, tiny_setting, train

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def standard(setting):
    pairs = pairs_of(setting.held_out, "agreement_violation", "agreement", 100)
    return [
        Output(layers=()), Ladder(rungs=("unigram", "bigram")), Probe(labels=("role",), sites=("embed", "block.1")),
        Dimension(sites=("embed", "block.1")), Gradient(), Pairs(pairs=tuple(pairs)),
    ]  # fmt: skip


def kinds(run):
    return {finding.kind for finding in findings(run)}


def test_a_healthy_training_learns_and_rings_nothing(tmp_path):
    setting = tiny_setting()
    run = train(setting, setting.rows(200 * BATCH), tmp_path / "run", standard(setting), [*range(1, 20, 2), *range(20, 201, 10)])  # fmt: skip
    assert alerts(run) == []
    assert {"emergence", "floor"} <= kinds(run)
    participation = curve(run, "dimension", "participation_ratio", site=1)[1]
    assert participation.min() < 0.4 * participation[0]  # it falls early in a healthy training: no ground for an alert


def test_a_learning_rate_of_zero_shows_no_emergence_and_no_phase(tmp_path):
    setting = tiny_setting()
    run = train(setting, setting.rows(30 * BATCH), tmp_path / "run", standard(setting), 2, rate=0.0)
    found = kinds(run)
    assert {"no emergence", "no transition", "no memorisation"} <= found
    assert not found & {"emergence", "phase", "compression", "memorisation", "contextual gain", "alert", "order"}


def test_shuffled_tokens_show_no_emergence_and_no_phase(tmp_path):
    setting = tiny_setting()
    rows = setting.shuffled(setting.rows(200 * BATCH))
    run = train(setting, rows, tmp_path / "run", standard(setting), 8)
    loss = curve(run, "output", "loss")[1]
    assert loss[0] - loss[-1] > 1  # frequencies are learned, and that is all
    found = kinds(run)
    assert {"no emergence", "no transition"} <= found
    assert not found & {"emergence", "phase", "compression", "memorisation", "contextual gain", "alert", "order"}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_onset_is_found_within_two_measurements_at_any_density(tmp_path, seed):
    setting, switch, every = tiny_setting(), 180, 15
    rows = setting.rows(390 * BATCH)
    rows = joined(
        setting.shuffled(rows[: switch * BATCH], seed), rows[switch * BATCH :], pad=setting.tokenizer.pad_token_id
    )
    run = train(
        setting, rows, tmp_path / "run", [Output(layers=()), Ladder(rungs=("unigram",))], every, seed=seed, width=64
    )
    steps, excess, error = curve(run, "ladder", "excess", split="unigram")
    _, loss, _ = curve(run, "output", "loss")
    for thin in (1, 2):  # every 15th step, and every 30th
        nearly = switch + 2 * every * thin
        found = emergence(steps[::thin], excess[::thin], error[::thin], null=0.0)
        assert switch < found.onset <= nearly
        assert found.onset_after >= switch
        assert found.interval[1] > switch
    (change,) = online_changes(steps, loss)
    assert switch < change.step <= switch + 2 * every
    assert change.direction == -1


def test_a_jump_of_the_task_is_one_phase_at_any_density(tmp_path):
    """From the step at which every second batch is noise, the train loss has another level at once."""
    setting, switch = tiny_setting(), 120
    rows = setting.rows(240 * BATCH)
    noisy = setting.shuffled(rows[switch * BATCH :])
    rows = joined(rows[: switch * BATCH], noisy, pad=setting.tokenizer.pad_token_id)
    run = train(setting, rows, tmp_path / "run", [Output(layers=())], 60)
    steps, loss = run.scalars("loss")
    for thin in (2, 4):
        at, mean = steps[::thin], np.add.reduceat(loss, np.arange(0, loss.size, thin)) / thin
        (change,) = change_points(at, mean, false_alarm=0.01)
        assert switch <= change.step <= switch + 2 * thin
        assert change.size > 0.5


def twist():
    path = Path(__file__).parents[3] / "examples" / "11_absynth_twist.py"
    spec = importlib.util.spec_from_file_location("absynth_twist", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_order_swapped_corpora_give_the_swapped_order(tmp_path):
    languages, switch = twist().grammars("tiny", 0), 200
    setting = Setting(languages["both"], size=60)
    simple = absynth.generate(
        languages["semantics"], n=3000, seed=7
    )  # what can be learned of selection before the switch
    pairs = [
        *pairs_of(setting.held_out, "agreement_violation", "agreement", 200, unknown_to=simple.oracle),
        *pairs_of(simple, "role_swap", "selection", 200),
    ]
    second = setting.rows(200 * BATCH, seed=4)
    onset = {}
    for first in ("syntax", "semantics"):
        rows = joined(
            setting.rows(switch * BATCH, languages[first], seed=3), second, pad=setting.tokenizer.pad_token_id
        )
        signals = [Pairs(pairs=tuple(pairs))]
        run = train(setting, rows, tmp_path / first, signals, 10, width=64)
        for kind in ("agreement", "selection"):
            steps, values, error = curve(run, "pairs", "accuracy", f"kind={kind}")
            found = emergence(steps, values, error, null=0.5)
            onset[first, kind] = np.inf if found is None else found.onset
    assert onset["syntax", "agreement"] < switch < onset["syntax", "selection"]
    assert onset["semantics", "selection"] < switch < onset["semantics", "agreement"]


class Recorded(Converged):
    """Keeps its state after every measurement."""

    def update(self, step, records):
        decision = super().update(step, records)
        self.states = {**getattr(self, "states", {}), step: json.dumps(self.state_dict(), sort_keys=True)}
        return decision


@pytest.mark.parametrize("watch_only", [True, False])
def test_live_and_replayed_rules_agree_step_for_step(tmp_path, watch_only):
    setting = tiny_setting()
    settings = dict(window=8, tolerance=6e-3, patience=2, watch_only=watch_only)
    rule = Recorded("output.loss", "probe.accuracy[role,sentence]@block.1", combine="any", **settings)
    signals = [Output(layers=()), Probe(labels=("role",), sites=("embed", "block.1"))]
    run = train(setting, setting.rows(200 * BATCH), tmp_path / "run", signals, 4, stop=rule)
    assert rule.would_stop is not None
    assert run.header.status == ("finished" if watch_only else "stopped early")
    again = Recorded("output.loss", "probe.accuracy[role,sentence]@block.1", combine="any", **settings)
    dense, losses = run.scalars("loss")
    done = 0
    for step, records in measurements(run, run.keys()):
        end = int(np.searchsorted(dense, step, side="right"))
        if end > done:
            again.scalars("loss", dense[done:end].tolist(), losses[done:end].tolist())
            done = end
        again.update(step, records)
    last = max(again.states)
    assert list(again.states) == list(rule.states)[: len(again.states)]
    # What is stored of a train loss is float32's mean of the same numbers.
    assert {k: json.loads(v)["would_stop"] for k, v in again.states.items()} == {
        k: json.loads(v)["would_stop"] for k, v in rule.states.items()
    }
    assert json.loads(again.states[last])["histories"] == json.loads(rule.states[last])["histories"]
    outcome = replay(run, rule)
    assert (outcome.would_stop, outcome.step) == (rule.would_stop, rule.stopped)
