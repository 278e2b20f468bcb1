#!/usr/bin/env bash
# Importing rich draws from Python's global random generator.
#
# Library: rich 15.0.0 (PyPI). Source: rich/style.py takes the start of a counter for link identifiers from `random.randint`
# when the module is loaded.
# Expected: importing a library for terminal output leaves `random.getstate()` alone.
# Seen: the state after `import rich.style` differs, once per process. A seeded experiment that imports rich lazily (a progress
# bar, a table at the first log) gets other random numbers from then on than one that imports it first, or not at all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check rich==15.0.0
"$folder/env/bin/python" - <<'PY'
import random

random.seed(7)
before = random.getstate()
expected = random.random()
random.setstate(before)
import rich.style

moved = random.getstate() != before
print("random state moved by importing rich.style:", moved)
print("next number:", random.random(), "instead of", expected)
assert moved, "rich no longer draws when it is imported"
PY
