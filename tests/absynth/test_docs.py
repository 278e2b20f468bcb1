"""The code in the documentation runs, and what it asserts holds."""

import re
from pathlib import Path

import pytest

DOCS = sorted((Path(__file__).parents[2] / "docs" / "absynth").glob("*.md"))


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_python_blocks_run(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile("\n".join(blocks), str(path), "exec"), {})
