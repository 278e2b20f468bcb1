"""A signal in a package of somebody else's: found, listed, documented, checked, measured and drawn without a change here."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmtrace.show.pack import read, unpack

MODULE = '''"""How far the residual stream is from the origin: the mean Euclidean norm of its rows, ``mean_t |h_t|``."""

from collections.abc import Iterator
from dataclasses import dataclass

import lmtrace
import torch


@dataclass(frozen=True, kw_only=True)
class StreamNorm(lmtrace.Signal):
    """Mean norm of the stream's rows, to a power."""

    power: float = 1.0

    name = "stream_norm"
    cost = "none beyond the shared pass"
    source = "an outsider"
    fields = (lmtrace.Field(metric="norm", title="Norm of the outsider's stream", low=0.0, meaning="Mean norm of rows."),)

    def needs(self, panel: object) -> lmtrace.Needs:
        return lmtrace.Needs(sites="all")

    def measure(self, view: object) -> Iterator[lmtrace.Record]:
        for site in view.sites:
            norms = torch.linalg.vector_norm(view.tokens(site), dim=1) ** self.power
            stderr = float(norms.std() / len(norms) ** 0.5)
            yield self.record(view, "norm", float(norms.mean()), site=site, stderr=stderr, n=len(norms))
'''

SCRIPT = """
import contextlib, io, json, runpy, shutil, sys
from pathlib import Path

folder, tests, docs = map(Path, sys.argv[1:])
found = {}

from lmtrace.cli.main import main
for flags in ([], ["--json"]):
    sys.argv, said = ["lmtrace", "signals", *flags], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main()
    found["cli" + "".join(flags)] = said.getvalue()

if (docs / "pages.py").exists():
    sys.path.insert(0, str(docs))
    import pages
    found["docs"] = "".join(pages.signal_pages().values())
else:
    (folder / "docs").mkdir()
    shutil.copy(docs / "conf.py", folder / "docs")
    runpy.run_path(str(folder / "docs" / "conf.py"))
    found["docs"] = (folder / "docs" / "signals.md").read_text()

import numpy as np
import lmtrace
from lmtrace.show.report import write_report
from lmtrace.signals import available, resolve
from lmtrace.testing import check_signal
from lmtrace_helpers import tiny

toys = runpy.run_path(str(tests / "lmtrace" / "conftest.py"))
rng = np.random.default_rng(0)
sentences = [toys["toy_sentence"](rng) for _ in range(60)]
tokenizer = lmtrace.WordTokenizer.from_corpus(sentences)
panel = lmtrace.Panel.from_annotated(sentences, tokenizer, size=60, seed=0)
model = tiny("gpt2", tokenizer, "2x32")

signal = available()["stream_norm"]
found["kit"] = [r.site for r in check_signal(signal(), model, panel)]
found["full"] = "stream_norm" in [s.name for s in resolve("full")]
with lmtrace.Tracer(model, panel, run=folder / "run", every=1, signals=["output", signal(power=2.0)]) as tracer:
    tracer.step(loss=1.0)
with lmtrace.open_run(folder / "run") as run:
    series = run.series(signal="stream_norm", metric="norm")
    found["run"] = [series.steps.tolist(), list(series.sites), series.values.tolist()]
    found["parameters"] = run.header.signals["stream_norm"]
    write_report(run, folder / "report.html")
(folder / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Install the package beside ours, as pip would, and look for its signal everywhere."""
    folder = tmp_path_factory.mktemp("outsider")
    site = folder / "site-packages"
    (site / "outsider").mkdir(parents=True)
    (site / "outsider" / "__init__.py").write_text(MODULE)
    info = site / "outsider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lmtrace.signals]\nstream_norm = outsider:StreamNorm\n")
    tests = Path(__file__).parents[1]
    paths = [tests.parent / "src", tests, site]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "300"}
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(tests), str(tests.parent / "docs")], env=env, check=True
    )
    return {**json.loads((folder / "found.json").read_text()), "report": (folder / "report.html").read_text()}


def test_the_command_lists_it(found):
    assert "stream_norm" in found["cli"]
    assert "How far the residual stream is from the origin" in found["cli"]
    assert json.loads(found["cli--json"])["stream_norm"] == {
        "cost": "none beyond the shared pass", "source": "an outsider", "fields": ["norm"], "stride": 1,
    }  # fmt: skip


def test_the_docs_have_its_page(found):
    assert "# stream_norm" in found["docs"]
    assert "mean_t |h_t|" in found["docs"]
    assert "Mean norm of rows." in found["docs"]


def test_it_passes_the_contract_kit_and_is_part_of_the_full_preset(found):
    assert found["kit"] == ["embed", "block.0", "block.1", "final"]
    assert found["full"]


def test_a_run_holds_its_numbers_and_parameters(found):
    steps, sites, values = found["run"]
    assert steps == [0, 1]
    assert sites == ["embed", "block.0", "block.1", "final"]
    assert all(value > 0 for row in values for value in row)
    assert found["parameters"] == [{"power": 2.0}]


def test_the_report_draws_it(found):
    [packed] = re.findall(r'id="payload">([^<]+)</script>', found["report"])
    head, blob = unpack(base64.b64decode(packed))
    [run] = head["runs"]
    [series] = [entry for entry in run["series"] if entry["signal"] == "stream_norm"]
    assert json.dumps(run["fields"]["stream_norm"]).count("Norm of the outsider's stream") == 1
    steps, sites, values = found["run"]
    drawn = read(series["values"], blob, (len(steps), len(sites)))
    np.testing.assert_allclose(drawn, values, rtol=1e-6)
