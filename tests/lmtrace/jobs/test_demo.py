"""The demonstration: the whole way of the data, and a model that comes near the exact floor."""

import pytest

from lmtrace.jobs.demo import demo, demo_config
from lmtrace.jobs.train import train
from lmtrace.run import open_run


@pytest.mark.slow
def test_the_whole_way_with_every_signal(tmp_path):
    run = demo(tmp_path / "demo", steps=24)
    assert run.header.status == "finished"
    assert run.steps[0] == 0
    assert run.steps[-1] == 24
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000
    assert {"probe", "curvature", "dimension", "errors", "pairs", "truth"} <= {key.signal for key in run.keys()}
    assert run.findings()


@pytest.mark.slow
def test_the_panel_loss_comes_near_the_floor_and_not_below(tmp_path):
    config = demo_config(tmp_path / "demo").model_copy(update={"signals": "output,truth"})
    train(config)
    run = open_run(tmp_path / "demo")
    assert len(run.steps) >= 13, "step 0 and at least twelve later steps"
    excess = run.series(signal="truth", metric="excess", label=None)
    assert (excess.values[:, 0] > -3 * excess.stderr[:, 0]).all()
    assert excess.values[-1, 0] < 0.25
