from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "src/lmtrace/show/static"


def test_the_committed_bundle_is_what_its_source_builds(frontend: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["npm", "run", "build"], cwd=frontend, env=os.environ | {"LMTRACE_BUNDLE_OUT": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in STATIC.iterdir()}
    for built in tmp_path.iterdir():
        assert built.read_bytes() == (STATIC / built.name).read_bytes(), (
            f"{built.name} differs: npm run build in frontend/"
        )


def test_the_source_type_checks(frontend: Path) -> None:
    done = subprocess.run(
        ["npm", "run", "check"], cwd=frontend, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_bundle_is_small() -> None:
    assert sum(p.stat().st_size for p in STATIC.iterdir()) < 200_000


def test_the_lock_names_no_registry() -> None:
    text = (ROOT / "frontend/package-lock.json").read_text()
    assert "resolved" not in text
    packages = json.loads(text)["packages"]
    assert all("integrity" in p for name, p in packages.items() if name)


def test_no_address_of_another_machine_is_in_the_bundle() -> None:
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, file.name
        assert "https://" not in text, file.name
