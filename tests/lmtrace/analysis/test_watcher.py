from __future__ import annotations

import json

import numpy as np
import pytest

from lmtrace.analysis.alerts import alerts
from lmtrace.analysis.replay import replay
from lmtrace.analysis.stopping import Converged
from lmtrace.analysis.watcher import Watcher
from lmtrace.live.tracer import Tracer
from lmtrace.run import open_run
from lmtrace.signals.output import Output

from .test_stopping import STEPS, live, loss_curve, make


def troubled():
    panel = loss_curve() + 2.0 * (STEPS >= 1500)
    return make(panel)


@pytest.mark.parametrize("resume_at", [None, 500, 1500, 2000])
def test_alerts_and_decisions_are_those_found_afterwards(resume_at):
    run = troubled()
    rule = Converged(window=15, tolerance=1e-4)

    class Fresh(Watcher):
        def fresh(self):
            again = Fresh(rule.fresh())
            again.rung = self.rung
            return again

    decisions, watcher = live(run, Fresh(rule.fresh()), resume_at)
    expected = alerts(run)
    assert ("jump", 1600) in [(a.kind, a.step) for a in expected]
    assert sorted(map(repr, watcher.rung)) == sorted(map(repr, expected))
    assert [d for _, d in decisions if d is not None] == list(replay(run, rule).decisions)


def test_without_a_rule_it_only_watches():
    decisions, watcher = live(troubled(), Watcher())
    assert all(d is None for _, d in decisions)
    assert [a.kind for a in watcher.rung].count("jump") == 1
    json.dumps(watcher.state_dict(), allow_nan=False)


def test_a_tracer_writes_the_alert_when_it_rings(tmp_path, gpt2, panel):
    watcher = Watcher()
    with Tracer(gpt2, panel, signals=[Output(layers=())], every=5, run=tmp_path / "run", stop=watcher) as tracer:
        for step in range(40):
            tracer.step(loss=9.0 if step == 30 else 3.0 + 0.01 * np.sin(step))
        assert [a.kind for a in watcher.rung] == ["spike"]
    (event,) = open_run(tmp_path / "run").events("alert")
    assert "jumped to 9" in str(event)
