"""The documentation is true: its code runs, generated pages leave nothing out, every error has its entry."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WITH_CODE = ["quickstart.md", "integrations.md", "add_a_signal.md"]


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("docs_pages", DOCS / "pages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("name", WITH_CODE)
def test_python_blocks_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    module = types.ModuleType("docs_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    exec(compile("\n".join(blocks), name, "exec"), vars(module))


def test_the_readmes_language_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "import absynth" in block]
    names: dict[str, object] = {}
    exec(compile(block.replace("50_000", "500"), "README.md", "exec"), names)
    assert len(names["corpus"]) == 500  # pyright: ignore[reportArgumentType]


def test_every_page_with_code_is_run():
    # docs/absynth has its own test; ```py is code that needs a program around it.
    found = {p.name for p in DOCS.glob("*.md") if "```python\n" in p.read_text(encoding="utf-8")}
    assert found <= set(WITH_CODE)


def test_every_error_has_an_entry(pages):
    families = pages.families((DOCS / "errors.md").read_text(encoding="utf-8"))
    assert len(families) == len(set(families))
    missing = {m.module for m in pages.messages() if not any(pages.belongs(m.module, f) for f in families)}
    assert not missing, f"add them to a family in docs/errors.md: {sorted(missing)}"
    twice = [m for m in pages.messages() if sum(pages.belongs(m.module, f) for f in families) > 1]
    assert not twice
    assert {m.kind for m in pages.messages()} >= set(pages.kinds()) - {"TraceError"}


def test_error_messages_are_read_with_their_cures(pages, tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "thing.py").write_text(
        'FIX = "Do that"\n'
        'def f(x):\n    raise DataError(f"{x} is bad: " f"{x!r}", FIX)\n'
        'def g(x):\n    return RunError("no run" if x else "no folder")\n'
    )
    assert [(m.kind, m.words, m.cure, m.module) for m in pages.messages(tmp_path)] == [
        ("DataError", "… is bad: …", "Do that", "room/thing"),
        ("RunError", "no run / no folder", "", "room/thing"),
    ]


def test_every_error_tells_what_to_do(pages):
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    directives = re.findall(r"```\{errors\} (.*?)\n:cure: (.*?)\n```", text)
    assert len(directives) == len(pages.FAMILY.findall(text))
    for names, cure in directives:
        for row in pages.error_table(names.split(), cure).splitlines()[2:]:
            assert re.search(r"\| [^|]+ \|$", row.replace("\\|", "")), row


def test_every_signal_has_a_whole_page(pages):
    from lmtrace.signals import available

    written = pages.signal_pages()
    assert set(written) == {"signals.md", *(f"signals/{name}.md" for name in available())}
    for name, signal in available().items():
        page = written[f"signals/{name}.md"]
        for part in ("## When it misleads", "## What it records", "## Cost and source", signal.source, signal.cost):
            assert part in page, (name, part)
        for field in signal.fields:
            meaning = " ".join(field.meaning.split()).replace("|", "\\|")
            assert f"| `{field.metric}` | {meaning} | {field.unit or '1'} |" in page, (name, field.metric)
        for parameter in pages.fields(signal):
            row = next(line for line in page.splitlines() if line.startswith(f"| `{parameter.name}` | `"))
            assert not row.endswith("|  |"), f"{name}: the docstring says nothing of {parameter.name}"


def test_choose_names_every_signal_of_ours():
    text = (DOCS / "choose.md").read_text(encoding="utf-8")
    for module in pkgutil.iter_modules([str(ROOT / "src" / "lmtrace" / "signals")]):
        assert f"[{module.name}](generated/signals/{module.name}.md)" in text, module.name


def test_a_signal_of_another_package_gets_its_page(pages, monkeypatch):
    import dataclasses

    from lmtrace import signals
    from lmtrace.signals.weights import Weights

    other = dataclasses.make_dataclass("Other", [("power", int, 2)], bases=(Weights,), frozen=True, kw_only=True)
    other.name, other.__module__, other.__doc__ = "other", __name__, "Somebody else's."
    monkeypatch.setattr(signals, "available", lambda: {"other": other})
    page = pages.signal_pages()["signals/other.md"]
    assert page.startswith("# other")
    assert "| `power` | `2` |" in page


def test_every_command_and_option_is_on_its_page(pages):
    import typer

    from absynth.cli import app as absynth
    from lmtrace.cli.main import app as lmtrace

    written = pages.command_pages()
    for name, app in (("lmtrace", lmtrace), ("absynth", absynth)):
        page = written[f"commands/{name}.md"]
        for command_name, command in typer.main.get_command(app).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
            section = page.partition(f"## {name} {command_name}\n")[2].partition("\n## ")[0]
            assert section, command_name
            for parameter in command.params:
                options = (
                    parameter.opts
                    if parameter.param_type_name == "option"
                    else [parameter.metavar or parameter.name.upper()]
                )
                assert all(f"`{option}`" in section for option in options), (command_name, options)


def test_the_reference_holds_every_public_name(pages):
    import absynth
    import lmtrace

    written = pages.api_pages()
    for name, module in (("lmtrace", lmtrace), ("functional", lmtrace.functional), ("absynth", absynth)):
        for public in module.__all__:
            if (
                not public.startswith("__")
                and not hasattr(getattr(module, public), "__path__")
                and public != "functional"
            ):
                assert f"## {public}\n" in written[f"api/{name}.md"]


def test_links_between_pages_and_files_named_in_prose_exist(pages, tmp_path):
    pages.write_all(tmp_path / "generated")
    sources = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md"), *(DOCS / "absynth").glob("*.md")]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            place = tmp_path / target if target.startswith("generated/") else path.parent / target
            assert place.exists(), f"{path.name}: {target}"
        for target in re.findall(r"`((?:examples|studies|docs|scripts|benchmarks)/[\w/.]+)`", text):
            assert (ROOT / target).exists(), f"{path.name}: {target}"


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("furo", reason="the extra docs is not installed")
    pytest.importorskip("myst_parser", reason="the extra docs is not installed")
    import subprocess

    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(DOCS), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    errors = (tmp_path / "html" / "errors.html").read_text(encoding="utf-8")
    assert "already holds a run" in errors


OUTSIDER = '''
"""How many parameters there are: a signal of somebody else."""
from dataclasses import dataclass
from lmtrace import Field, Needs, Signal


@dataclass(frozen=True, kw_only=True)
class Outsider(Signal):
    """Counts."""

    name = "outsider"
    cost = "nothing"
    source = "nobody 2026"
    fields = (Field(metric="count", title="Outsider's count", low=0.0, meaning="Number of trained parameters."),)

    def needs(self, panel):
        return Needs(model=True)

    def measure(self, view):
        yield self.record(view, "count", float(sum(p.numel() for p in view.parameters().values())), n=1)
'''

USE = """
import sys
from lmtrace.cli.main import main

def call(*arguments):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0, (arguments, end.code)

if __name__ == "__main__":
    call("signals")
    call("train", "--corpus", "absynth:tiny", "--size", "tiny", "--steps", "2", "--every", "1", "--signals", "output,outsider",
         "--run", "run", "--panel-size", "16", "--set", "data.sentences=200", "--batch-size", "8")
    call("report", "run")
    sys.path.insert(0, sys.argv[1])
    import pages
    assert "Number of trained parameters" in pages.signal_pages()["signals/outsider.md"]
    import absynth, lmtrace
    from lmtrace.jobs.analyze import load_checkpoint
    from lmtrace.signals import available
    from lmtrace.testing import check_signal
    corpus = absynth.generate(absynth.Grammar.preset("tiny"), n=50, seed=0)
    tokenizer = lmtrace.WordTokenizer.load("run/checkpoints/final")
    panel = lmtrace.Panel.from_annotated(corpus, tokenizer, size=8, seed=0)
    records = check_signal(available()["outsider"](), load_checkpoint("run/checkpoints/final"), panel)
    series = lmtrace.open_run("run").series(signal="outsider", metric="count")
    assert records[0].value == series.values[-1, 0] > 1000
"""


@pytest.mark.slow
def test_an_installed_outsiders_signal_is_everywhere(tmp_path):
    import base64
    import json
    import os
    import subprocess

    from lmtrace.show.pack import unpack

    site = tmp_path / "site"
    info = site / "outsider-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "outsider.py").write_text(OUTSIDER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lmtrace.signals]\noutsider = outsider:Outsider\n")
    (tmp_path / "use.py").write_text(USE)
    paths = [str(site), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "use.py", str(DOCS)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "outsider" in done.stdout
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    payload = re.search(r'id="payload">([^<]+)<', report)
    assert payload
    assert "Outsider's count" in json.dumps(unpack(base64.b64decode(payload[1]))[0])
