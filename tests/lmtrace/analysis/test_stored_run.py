"""What is said of a run on disk is what is said of its numbers."""

from __future__ import annotations

import numpy as np

from lmtrace.analysis.alerts import Alarms, alerts
from lmtrace.analysis.compare import compare
from lmtrace.analysis.findings import findings
from lmtrace.analysis.readings import measurements
from lmtrace.analysis.replay import replay
from lmtrace.analysis.stopping import Converged
from lmtrace.records.schema import RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run

from .synthetic import FIELDS, SyntheticRun

STEPS = np.arange(50) * 20


def synthetic(seed=0):
    noise = np.random.default_rng(seed).standard_normal
    fall = 3 + 1.5 * np.exp(-STEPS / 150)
    run = SyntheticRun(STEPS)
    run.add("output", "loss", fall + 0.01 * noise(50), stderr=0.02, null=4.6)
    accuracy = np.stack([np.full(50, 0.4), 0.4 + 0.4 * (STEPS > 300)], 1) + 0.01 * noise((50, 2))
    run.add("probe", "accuracy", accuracy, "role", "sentence", ("embed", "block.0"), 0.01, 0.35)
    dense = np.arange(1, STEPS[-1] + 1)
    losses = np.interp(dense, STEPS, fall) + 0.03 * noise(dense.size)
    losses[500] = 9.0
    return run.add_scalars("loss", dense, losses)


def write(run, folder, rule=None, alarms=None):
    """Write a run as a tracer does, with a rule and alarms beside it; return their answers."""
    decisions, rung = [], []
    dense, losses = run.scalars("loss")
    with RunWriter.create(folder, RunHeader(name="stored", fields=FIELDS)) as writer:
        done = 0
        for step, records in measurements(run, run.keys()):
            end = int(np.searchsorted(dense, step, side="right"))
            if end > done:
                part = dense[done:end].tolist(), losses[done:end].tolist()
                writer.write_scalars("loss", *part)
                rule.scalars("loss", *part)
                rung += alarms.scalars("loss", *part)
            done = end
            writer.write(step, records)
            decisions.append(rule.update(step, records))
            rung += alarms.update(step, records)
    return [d for d in decisions if d is not None], rung


def test_findings_rule_and_alerts_agree_with_the_live_run(tmp_path):
    run = synthetic()
    rule = Converged("output.loss", "probe.accuracy[role,sentence]@block.0", window=10, tolerance=4e-4, patience=2)
    decisions, rung = write(run, tmp_path / "run", rule, Alarms())
    stored = open_run(tmp_path / "run")
    assert decisions
    assert list(replay(stored, rule).decisions) == decisions
    assert alerts(stored) == rung
    assert [a.kind for a in rung] == ["spike"]
    assert [f.to_dict() for f in stored.findings()] == [f.to_dict() for f in findings(run)]
    kinds = {f.kind for f in stored.findings()}
    assert {"emergence", "no emergence", "phase", "alert"} <= kinds


def test_comparison_of_stored_runs(tmp_path):
    for seed in range(3):
        write(synthetic(seed), tmp_path / str(seed), Converged(), Alarms())
    found = compare([open_run(tmp_path / str(seed)) for seed in range(3)])
    assert [f.kind for f in found] == ["seeds", "seeds"]
    assert found[0].numbers["num_runs"] == 3
