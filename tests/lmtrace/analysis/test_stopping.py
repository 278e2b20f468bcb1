from __future__ import annotations

import json

import numpy as np
import pytest

from lmtrace.analysis.convergence import convergence
from lmtrace.analysis.replay import replay
from lmtrace.analysis.stopping import Converged, Watch
from lmtrace.errors import ConfigError
from lmtrace.records.schema import Record

from .synthetic import SyntheticRun

STEPS = np.arange(80) * 50


def loss_curve(seed=0, tau=500.0, noise=0.01):
    return 3 + 1.5 * np.exp(-STEPS / tau) + noise * np.random.default_rng(seed).standard_normal(STEPS.size)


def make(panel, train=None, sites=False):
    run = SyntheticRun(STEPS).add("output", "loss", panel, stderr=0.01)
    run.add("probe", "accuracy", np.stack([panel, -panel], 1), "role", "sentence", ("embed", "block.0"))
    dense = np.arange(1, STEPS[-1] + 1)
    train = panel if train is None else train
    return run.add_scalars("loss", dense, np.interp(dense, STEPS, train))


def records_at(run, step):
    i = int(np.searchsorted(run.steps, step))
    for key in run.keys():
        s = run.series(key.signal, key.metric, key.label, key.split)
        for j, site in enumerate(s.sites):
            yield Record(step=step, signal=key.signal, metric=key.metric, label=key.label, split=key.split, site=site,
                         value=float(s.values[i, j]))  # fmt: skip


def live(run, rule, resume_at=None):
    """Feed a rule as a tracer does; returns [(step, decision)]."""
    dense, losses = run.scalars("loss")
    out, done = [], 0
    for step in run.steps.tolist():
        end = int(np.searchsorted(dense, step, side="right"))
        rule.scalars("loss", dense[done:end].tolist(), losses[done:end].tolist())
        done = end
        out.append((step, rule.update(step, records_at(run, step))))
        if step == resume_at:
            state = json.loads(json.dumps(rule.state_dict(), allow_nan=False))
            rule = rule.fresh()
            rule.load_state_dict(state)
    return out, rule


def test_stops_a_converged_run_where_the_function_says_so():
    run = make(loss_curve())
    rule = Converged("output.loss", window=15, tolerance=1e-4)
    decisions, rule = live(run, rule)
    fired = [d for _, d in decisions if d is not None]
    assert len(fired) == 1
    assert fired[0].stop
    assert rule.stopped == fired[0].step
    values = run.series("output", "loss").values[:, 0]
    before = rule.stopped >= STEPS
    found = convergence(STEPS[before], values[before], window=15, tolerance=1e-4)
    assert found.converged
    assert found.step == rule.stopped


@pytest.mark.parametrize("resume_at", [0, 500, 1000, 2000])
@pytest.mark.parametrize("tolerance", [1e-4, None])
def test_live_resumed_and_replayed_agree_step_for_step(resume_at, tolerance):
    run = make(loss_curve(3))
    rule = Converged("output.loss", "probe.accuracy[role,sentence]@block.0", window=12, tolerance=tolerance, patience=2)
    plain, one = live(run, rule.fresh())
    resumed, other = live(run, rule.fresh(), resume_at)
    assert plain == resumed
    assert one.state_dict() == other.state_dict()
    again = replay(run, rule)
    assert again.step == one.stopped
    assert list(again.decisions) == [d for _, d in plain if d is not None]


def grokking():
    train = 4 * np.exp(-STEPS / 60) + 0.002
    panel = np.where(STEPS < 2500, 5.0, 5.0 * np.exp(-(STEPS - 2500) / 200)) + 0.002
    return make(panel + 0.003 * np.random.default_rng(0).standard_normal(80), train)


def test_a_plateau_with_a_gap_is_not_stopped_but_noted():
    outcome = replay(grokking(), Converged("output.loss", window=15, tolerance=1e-5))
    assert outcome.would_stop is not None
    assert outcome.would_stop < 2500
    assert outcome.step is None or outcome.step > 2500
    assert "may still generalise" in outcome.notes[0]
    assert len([n for n in outcome.notes if "not stopped" in n]) == 1


def test_it_stops_once_the_late_generalisation_has_closed_the_gap():
    # Both losses end near zero, so their ratio would keep the gap open for ever.
    panel = np.where(STEPS < 2500, 5.0, 5.0 * np.exp(-(STEPS - 2500) / 40)) + 0.02
    panel = panel + 0.003 * np.random.default_rng(0).standard_normal(80)
    outcome = replay(make(panel, 4 * np.exp(-STEPS / 60) + 0.001), Converged("output.loss", window=15, tolerance=1e-5))
    assert outcome.would_stop < 2500
    assert outcome.step > 3000
    assert len(outcome.notes) == 2


def test_a_plateau_with_a_gap_is_stopped_with_a_warning_where_asked():
    outcome = replay(grokking(), Converged("output.loss", window=15, tolerance=1e-5, on_gap="stop"))
    assert outcome.step < 2500
    assert "may still generalise" in outcome.decisions[0].reason
    assert outcome.loss_given_up == pytest.approx(5.0, abs=0.1)
    assert outcome.steps_saved == STEPS[-1] - outcome.step
    assert "of the steps saved" in outcome.finding().sentence


def test_watching_only_records_where_it_would_have_stopped():
    run = make(loss_curve())
    stopping = replay(run, Converged(window=15, tolerance=1e-4))
    watching = replay(run, Converged(window=15, tolerance=1e-4, watch_only=True))
    assert watching.step is None
    assert watching.would_stop == stopping.step
    assert len(watching.decisions) == 1
    assert not watching.decisions[0].stop


def test_without_a_train_loss_the_decision_says_what_it_does_not_know():
    run = SyntheticRun(STEPS).add("output", "loss", loss_curve())
    (decision,) = replay(run, Converged(window=15, tolerance=1e-4)).decisions
    assert "train loss is not known" in decision.reason


def test_never_where_it_still_falls():
    outcome = replay(make(5 - STEPS / 2000), Converged(window=10, tolerance=1e-4))
    assert (outcome.step, outcome.would_stop, outcome.steps_saved) == (None, None, 0)
    assert "would not have stopped" in outcome.finding().sentence


@pytest.mark.parametrize(("combine", "stops"), [("all", False), ("any", True), (1, True), (2, False)])
def test_combinations(combine, stops):
    run = make(loss_curve())
    run.add("output", "accuracy", STEPS / 5000)
    rule = Converged("output.loss", "output.accuracy", window=15, tolerance=1e-4, combine=combine)
    assert (replay(run, rule).step is not None) == stops


def test_patience_waits():
    run = make(loss_curve())
    one = replay(run, Converged(window=15, tolerance=1e-4))
    three = replay(run, Converged(window=15, tolerance=1e-4, patience=3))
    assert three.step >= one.step + 100


def test_rule_from_text():
    rule = Converged.parse(
        "output.loss probe.accuracy[role,lexical]@final window=30 tolerance=1e-4 combine=any patience=2"
    )
    assert rule.watch == (Watch("output", "loss"), Watch("probe", "accuracy", "role", "lexical", "final"))
    assert (rule.window, rule.tolerance, rule.combine, rule.patience) == (30, 1e-4, "any", 2)
    for text in ("output.loss", "probe.accuracy[role]", "probe.f1[role=Agent,sentence]@block.0", "a.b[,lexical]"):
        assert str(Watch.parse(text)) == text
    assert Converged.parse("probe.f1[role=Agent]@block.0").watch[0].label == "role=Agent"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "cannot read the series 'nonsense'"),
        ("output.loss width=3", "no setting 'width'"),
        ("output.loss window=many", "window cannot be 'many'"),
        ("output.loss combine=3", "combine is 3"),
        ("output.loss window=2", "window is 2"),
    ],
)
def test_bad_rules(text, message):
    with pytest.raises(ConfigError, match=message):
        Converged.parse(text)


def test_a_series_that_is_not_there_is_named_with_the_choices():
    with pytest.raises(ConfigError, match=r"output\.lose\. Choose from: output\.loss"):
        replay(make(loss_curve()), "output.lose")


def test_state_of_another_rule_is_refused():
    rule = Converged(window=15)
    with pytest.raises(ConfigError, match="other settings: window"):
        Converged(window=20).load_state_dict(rule.state_dict())
    rule.update(0, records_at(make(loss_curve()), 0))
    with pytest.raises(ConfigError, match="Call load_state_dict on resume"):
        rule.update(0, [])
