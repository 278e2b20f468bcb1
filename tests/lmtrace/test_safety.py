"""Nothing that is read can run code: no pickle anywhere, weights only, remote code off unless asked for."""

from __future__ import annotations

import ast
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

import absynth
import lmtrace
from lmtrace.errors import ModelError
from lmtrace.jobs.analyze import load_checkpoint
from lmtrace.live.tracer import Tracer
from lmtrace.run import open_run
from lmtrace_helpers import tiny

SOURCES = [path for package in (lmtrace, absynth) for path in Path(package.__file__).parent.rglob("*.py")]
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}


def unsafe(tree: ast.AST) -> list[str]:
    """Return what a source file does that could unpickle or run what it reads."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            refusal = isinstance(node, ast.ImportFrom) and [a.name for a in node.names] == ["UnpicklingError"]
            found += [name for name in names if name.split(".")[0] in UNSAFE_MODULES and not refusal]
        if isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in ("torch.load", "torch.save") and keywords.get("weights_only") != "True":
                found.append(name)
            if name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
                found.append(name)
            if name in ("eval", "exec", "compile", "os.system") or keywords.get("shell") == "True":
                found.append(name)
            if keywords.get("trust_remote_code") == "True":
                found.append("trust_remote_code=True")
    return found


def test_no_source_file_unpickles_or_evaluates():
    assert len(SOURCES) > 100
    found = {str(path): what for path in SOURCES if (what := unsafe(ast.parse(path.read_text(encoding="utf-8"))))}
    assert found == {}


def test_the_search_above_finds_what_it_is_for():
    for bad in ("import pickle", "from dill import loads", "torch.load(f)", "np.load(f, allow_pickle=True)", "eval(x)",
                "subprocess.run(c, shell=True)", "f(trust_remote_code=True)"):  # fmt: skip
        assert unsafe(ast.parse(bad)), bad
    for good in (
        "torch.load(f, weights_only=True)",
        "np.load(f)",
        "re.compile(x)",
        "from pickle import UnpicklingError",
    ):
        assert not unsafe(ast.parse(good)), good


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_whole_run_is_written_and_read_without_pickle(gpt2, panel, tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise AssertionError("something was pickled")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    with Tracer(gpt2, panel, signals="light", every=1, run=tmp_path / "r") as tracer:
        tracer.step(loss=1.0)
        tracer.checkpoint()
    with Tracer(gpt2, panel, signals="light", every=1, run=tmp_path / "r", resume=True, start_step=1) as tracer:
        tracer.step(loss=1.0)
    with open_run(tmp_path / "r") as run:
        assert len(list(run.records())) > 10
    for path in (tmp_path / "r").rglob("*"):
        assert not path.is_file() or not path.read_bytes().startswith(b"\x80"), path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_checkpoint_that_holds_code_is_refused_and_not_run(wrapped, tokenizer, tmp_path):
    folder, bomb = tmp_path / "model", tmp_path / "exploded"
    tiny("gpt2", tokenizer, size="1x32").save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    if wrapped:
        torch.save({"x": Bomb(bomb)}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(bomb)))
    with pytest.raises(ModelError, match="cannot load a model from") as caught:
        load_checkpoint(str(folder))
    assert "\n" not in str(caught.value)
    assert not bomb.exists()


def test_remote_code_is_not_run_unless_asked_for(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder, mark = tmp_path / "model", tmp_path / "ran"
    tiny("gpt2", tokenizer, size="1x32").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine", "architectures": ["Mine"],
        "auto_map": {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.Mine"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    with pytest.raises(ModelError, match="cannot load a model from"):
        load_checkpoint(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["Trainer", "pipeline", "logging", "AutoModel", "__class__", 3, None])
def test_an_architecture_that_is_no_model_is_not_looked_up(name, tokenizer, tmp_path):
    folder = tmp_path / "model"
    tiny("gpt2", tokenizer, size="1x32").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": [name]}
    (folder / "config.json").write_text(json.dumps(config))
    assert type(load_checkpoint(str(folder))).__name__ == "GPT2LMHeadModel"
