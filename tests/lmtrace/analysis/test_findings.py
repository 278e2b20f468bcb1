from __future__ import annotations

import json

import numpy as np
import pytest

from lmtrace.analysis.findings import findings
from lmtrace.analysis.findings.finding import say_duration
from lmtrace.records.schema import SeriesKey

from .synthetic import SyntheticRun

STEPS = np.arange(40) * 100
SITES = ("embed", "block.0", "block.1")


def rise(middle, width=0.25):
    return 1 / (1 + np.exp(-(np.log1p(STEPS) - np.log1p(middle)) / width))


def noise(scale, seed, shape=40):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def learning_run():
    run = SyntheticRun(STEPS)
    run.add("output", "loss", 4.6 - rise(600) + noise(0.01, 0), stderr=0.02, null=4.6)
    run.add("truth", "excess", 1.05 - rise(600) + noise(0.005, 1), stderr=0.005)
    run.add("truth", "floor", np.full(40, 3.55))
    role = np.stack([0.4 + 0 * STEPS, 0.4 + 0.3 * rise(1500), 0.4 + 0.5 * rise(1500)], 1) + noise(0.01, 2, (40, 3))
    upos = np.stack([0.5 + 0 * STEPS, 0.5 + 0.4 * rise(400), 0.5 + 0.3 * rise(400)], 1) + noise(0.01, 3, (40, 3))
    run.add("probe", "accuracy", role, "role", "sentence", SITES, 0.01, 0.35)
    run.add("probe", "accuracy", upos, "upos", "sentence", SITES, 0.01, 0.35)
    run.add("probe", "f1", role, "role=Agent", "sentence", SITES, 0.02, 0.2)
    run.add("probe", "gain_over_embed", role - 0.4, "role", "sentence", SITES, 0.02, 0.0)
    run.add("probe", "gain_over_embed", noise(0.01, 4, (40, 3)), "upos", "lexical", SITES, 0.02, 0.0)
    hump = 8 + 6 * np.exp(-((np.arange(40) - 12) ** 2) / 40)
    run.add(
        "dimension",
        "two_nn",
        np.stack([hump, np.full(40, 9.0)], 1) + noise(0.2, 5, (40, 2)),
        sites=("block.0", "block.1"),
    )
    run.add("curvature", "trace", 50 * np.exp(-np.arange(40) / 8) + noise(0.5, 6))
    run.add("curvature", "edge", 1 + noise(0.02, 7))
    dense = np.arange(1, 3901)
    run.add_scalars("loss", dense, np.interp(dense, STEPS, 4.6 - rise(600)) + noise(0.05, 8, dense.size))
    run.add_scalars("learning_rate", dense, np.minimum(dense / 500, 1.0))
    return run


@pytest.fixture(scope="module")
def found():
    return findings(learning_run())


def of(found, kind, **key):
    return [f for f in found if f.kind == kind and all(getattr(f.series[0], k) == v for k, v in key.items())]


def test_loss_is_told_against_its_floor(found):
    (floor,) = of(found, "floor")
    assert floor.null == 3.55
    assert floor.numbers["excess"] == pytest.approx(0.05, abs=0.02)
    assert floor.interval[0] < 0.05 < floor.interval[1]
    assert not of(found, "leak")


def test_emergence_by_site_with_its_best_and_first(found):
    role = of(found, "emergence", metric="accuracy", label="role")
    assert [f.site for f in role] == ["block.0", "block.1"]
    assert [f.numbers["best_site"] for f in role] == [False, True]
    for f in role:
        assert f.numbers["midpoint"] == pytest.approx(1500, rel=0.1)
        assert f.interval[0] < f.numbers["midpoint"] < f.interval[1]
    (embed,) = of(found, "no emergence", label="role")
    assert embed.site == "embed"
    (agent,) = of(found, "emergence", label="role=Agent")
    assert agent.site == "block.1"


def test_order_of_layers_in_one_run_is_said_with_its_caveat(found):
    (order,) = of(found, "order")
    assert "upos came before role" in order.sentence
    assert "One run" in order.caveats[0]


def test_overlapping_intervals_are_not_resolved():
    run = SyntheticRun(STEPS)
    for i, label in enumerate(("upos", "role")):
        run.add("probe", "accuracy", 0.4 + 0.5 * rise(1000 + 30 * i) + noise(0.03, i), label, None, stderr=0.03)
    (order,) = of(findings(run), "not resolved")
    assert "not resolved" in order.sentence


def test_no_contextual_gain_is_said(found):
    (without,) = of(found, "no contextual gain")
    assert without.series[0].label == "upos"
    (gain,) = of(found, "contextual gain")
    assert gain.site == "block.1"
    assert gain.interval[0] > 0


def test_smooth_curves_have_no_transition_and_warm_up_is_known(found):
    assert not of(found, "phase")
    (none,) = of(found, "no transition")
    assert "500" in none.sentence
    assert SeriesKey("output", "loss") in none.series


def test_compression_with_its_peak(found):
    (hump,) = of(found, "compression")
    assert hump.site == "block.0"
    assert hump.interval[0] <= 1200 <= hump.interval[1]
    (flat,) = of(found, "no compression")
    assert flat.site == "block.1"


def test_edge_and_published_event(found):
    (edge,) = of(found, "curvature")
    assert "at the edge" in edge.sentence
    (event,) = of(found, "descriptor")
    assert "no evidence" in event.sentence


def test_train_and_panel_agree(found):
    assert of(found, "no memorisation")


def test_everything_is_plain_and_rests_on_a_series(found):
    text = json.dumps([f.to_dict() for f in found], allow_nan=False)
    assert "Infinity" not in text
    for f in found:
        assert f.series
        assert f.sentence.endswith(".")
        assert f.sentence[0].isupper()
        assert "nan" not in f.sentence


@pytest.mark.parametrize("kind", ["constant", "noise"])
def test_learning_rate_zero_shows_nothing(kind):
    run = SyntheticRun(STEPS)
    for i, (signal, metric) in enumerate((("output", "loss"), ("output", "accuracy"), ("probe", "accuracy"))):
        values = np.full(40, 0.3) + (noise(0.02, i) if kind == "noise" else 0.0)
        run.add(signal, metric, values, stderr=0.02, null=0.2)
    kinds = {f.kind for f in findings(run)}
    assert "no emergence" in kinds
    assert "no transition" in kinds
    assert not kinds & {"emergence", "phase", "order", "compression", "alert", "leak"}


def test_a_run_of_one_measurement_says_nothing_it_cannot():
    run = SyntheticRun([0])
    run.add("output", "loss", [4.6], stderr=0.02, null=4.6)
    run.add("probe", "gain_over_embed", [[np.nan, 0.2]], "role", "sentence", ("embed", "block.0"), 0.02, 0.0)
    assert {f.kind for f in findings(run)} == {"contextual gain"}


def test_an_empty_run_has_no_findings():
    assert findings(SyntheticRun([])) == []


def test_valleys_of_panel_and_training_batch_that_part():
    apart = SyntheticRun(STEPS).add("curvature", "trace_gap", 40 * rise(900) + noise(1.0, 9), stderr=1.5)
    (finding,) = of(findings(apart), "memorisation")
    assert "sharper on the panel" in finding.sentence
    assert finding.interval[0] <= 900 <= finding.interval[1]
    alike = SyntheticRun(STEPS).add("curvature", "trace_gap", noise(1.0, 9), stderr=1.0)
    assert [f.kind for f in findings(alike)] == ["no memorisation"]


def test_the_cost_of_a_measurement_is_not_counted_twice():
    run = SyntheticRun(STEPS).add("cost", "seconds", np.full(40, 0.5), "all")
    run.add("cost", "seconds", np.full(40, 0.3), "probe").add("cost", "seconds", np.full(40, 0.2), "output")
    (finding,) = of(findings(run), "cost")
    assert finding.numbers["seconds"] == pytest.approx(20)
    assert "took 20 s; most of it probe (12 s), output (8 s)" in finding.sentence


def test_one_word_of_a_small_test_part_is_no_phase():
    steps = np.where(np.arange(40) >= 20, 0.542, 0.534)
    run = SyntheticRun(STEPS).add("probe", "accuracy", steps, "role", "sentence", ("embed",), 0.04, 0.35)
    assert not of(findings(run), "phase")
    assert of(findings(run), "no transition")
    clear = SyntheticRun(STEPS).add("probe", "accuracy", steps * 1.5 - 0.5 * steps[0] * (steps < 0.54), "role", "sentence", ("embed",), 0.04, 0.35)  # fmt: skip
    assert of(findings(clear), "phase")


@pytest.mark.parametrize(
    ("late", "said"),
    [
        ([1.0, 1.02, 0.99, 1.01], "at the edge"),
        ([0.4, 0.42, 0.41, 0.4], "below the edge"),
        ([1.9, 2.0, 1.95, 1.9], "above the edge"),
        ([0.98, 0.0, 0.49, 0.5], "below the edge"),
        ([1.9, 0.1, 1.5, 0.2], "not resolved"),
        ([0.98, 0.0], "not resolved"),
    ],
)
def test_the_edge_of_stability_is_told_only_where_the_scatter_allows_it(late, said):
    steps = np.arange(2 * len(late)) * 10
    run = SyntheticRun(steps).add("curvature", "edge", np.concatenate([np.full(len(late), 0.5), late]))
    [found] = [f for f in findings(run) if f.kind == "curvature"]
    assert said in found.sentence
    assert any(caveat == "The limit that it is relative to: 1 is that of SGD." for caveat in found.caveats)


def test_a_length_of_time_is_said_in_the_unit_that_suits_it():
    assert [say_duration(s) for s in (0, 89, 90, 3600, 5400, 36_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "60 min",
        "1.5 h",
        "10.0 h",
    ]
