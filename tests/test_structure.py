"""The house stands: no circle between rooms, none of more than two files inside one, one number one design note."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"


def modules(package: str) -> dict[str, Path]:
    """Return the dotted name of every module of a package -> its file."""
    found = {}
    for path in sorted((SOURCE / package).rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(package: str) -> dict[str, set[str]]:
    """Return module -> the modules that it imports anywhere: at the top, inside functions, for types only."""
    known = modules(package)
    found: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & known.keys()
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= (whole & known.keys()) or ({node.module} & known.keys())
        found[name].discard(name)
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of nodes that reach each other."""
    reach = {node: set(next_nodes) for node, next_nodes in graph.items()}
    for middle in graph:
        for node in graph:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    found: list[set[str]] = []
    for node in graph:
        together = {other for other in reach[node] if node in reach[other]}
        if len(together) > 1 and together not in found:
            found.append(together)
    return found


def room(module: str) -> str:
    """Return the room of a module: the folder or file right below its package."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", ["lmtrace", "absynth"])
def test_no_circle_of_more_than_two_files(package):
    inside = {name: others - {package} for name, others in arrows(package).items() if name != package}
    assert [sorted(circle) for circle in circles(inside) if len(circle) > 2] == []


@pytest.mark.parametrize("package", ["lmtrace", "absynth"])
def test_no_circle_between_rooms(package):
    rooms: dict[str, set[str]] = {}
    for name, others in arrows(package).items():
        if name != package:  # its __init__ names everything that is public, for type checkers
            rooms.setdefault(room(name), set()).update(room(other) for other in others if other != package)
    rooms = {name: others - {name} for name, others in rooms.items()}
    assert [sorted(circle) for circle in circles(rooms)] == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def test_one_number_one_note():
    numbers = Counter(path.name[:4] for path in (ROOT / "docs" / "design").glob("[0-9]*.md"))
    assert [number for number, count in numbers.items() if count > 1] == []
    for path in (ROOT / "docs" / "design").glob("[0-9]*.md"):
        assert path.read_text(encoding="utf-8").startswith(f"# {path.name[:4]} "), path.name
