from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmtrace.errors import ConfigError, RunError
from lmtrace.run import Run, open_run
from lmtrace.show.notebook import findings_html, plot

matplotlib = pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
matplotlib.use("Agg")


@pytest.fixture
def run(example: Path) -> Run:
    return open_run(example)


@pytest.fixture(autouse=True)
def close() -> Any:
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def test_curves_hold_the_values_the_bands_and_the_null(run: Run) -> None:
    ax = plot(run, "probe", "accuracy", label="role")
    series = run.series(signal="probe", metric="accuracy", label="role")
    lines = {line.get_label(): line for line in ax.lines}
    assert set(lines) == {*series.sites, "null"}
    np.testing.assert_array_equal(lines["block.2"].get_ydata(), series.at("block.2").values[:, 0])
    np.testing.assert_allclose(lines["null"].get_ydata(), 0.22)
    assert len(ax.collections) == len(series.sites)
    assert ax.get_xscale() == "symlog"
    assert "Probe accuracy, role" in ax.get_title(loc="left")


def test_a_map_shows_the_distance_from_the_null(run: Run) -> None:
    ax = plot(run, "probe", "accuracy", label="role", kind="map")
    series = run.series(signal="probe", metric="accuracy", label="role")
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()), (series.values - series.null).T)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(series.sites)


def test_training_scalars_are_drawn_by_name(run: Run) -> None:
    ax = run.plot("loss")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), run.scalars("loss")[1])
    assert ax.get_ylabel() == "nats"


def test_what_cannot_be_drawn_is_said(run: Run) -> None:
    with pytest.raises(ConfigError, match="kind is 'pie'"):
        plot(run, "probe", "accuracy", label="role", kind="pie")
    with pytest.raises(RunError, match="Choose from"):
        plot(run, "probe", "accuracy")


def test_findings_are_escaped(findings: list[dict[str, Any]]) -> None:
    assert "not resolved" in findings_html(findings)
    assert "<script>" not in findings_html([{"kind": "<script>", "sentence": "<script>", "caveats": ["<script>"]}])


def test_a_run_shows_where_its_quantities_went(run: Run) -> None:
    shown = run._repr_html_()
    loss = run.series(signal="output", metric="loss", label=None)
    assert f"{loss.values[0, 0]:.4g}" in shown
    assert f"{loss.values[-1, 0]:.4g}" in shown
    role = run.series(signal="probe", metric="accuracy", label="role")
    assert f"{role.values[-1].max():.4g}" in shown
    assert f"{role.null[-1, 0]:.4g}" in shown
    assert "<polyline" in shown
    assert "nan" not in shown
    matplotlib_axes = run.plot("output", "loss")
    assert matplotlib_axes.get_title(loc="left")


def test_findings_of_a_run_are_a_list_that_a_notebook_shows(run: Run) -> None:
    found = run.findings()
    assert isinstance(found, list)
    assert found._repr_html_().count("<tr>") >= len(found)


def test_a_tracer_shows_where_it_is(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from lmtrace.live.tracer import Tracer
    from lmtrace.text.panel import Panel
    from lmtrace.text.sentences import AnnotatedSentence
    from lmtrace.text.tokenizer import WordTokenizer
    from lmtrace_helpers import tiny

    sentences = [AnnotatedSentence(tokens=("a", f"b{i % 5}", "c")) for i in range(20)]
    tokenizer = WordTokenizer.from_corpus(sentences)
    tracer = Tracer(tiny("gpt2", tokenizer), Panel.from_annotated(sentences, tokenizer), signals="output", run=tmp_path)
    assert "Tracer" in tracer._repr_html_()
    with tracer:
        tracer.step(loss=torch.tensor(1.0))
        shown = tracer._repr_html_()
    assert "1, the last at step 0" in shown
    assert "output" in shown
