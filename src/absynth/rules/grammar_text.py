"""A grammar as a TOML file that people can read and `Grammar.from_toml` reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from absynth.rules.specification import Specification


def to_toml(grammar: Specification) -> str:
    """Return the whole grammar as TOML; reading it gives a grammar with the same fingerprint."""
    spec = grammar.to_dict()
    lines = [f"# {grammar!r}"]
    lines += [f"{key} = {_value(spec[key])}" for key in ("name", "seed", "surface", "plural", "past", "ambiguity")]
    lines += ["", "# How strongly heads and dependents choose each other's clusters; what it buys, in bits:"]
    lines += [f"#   {pair}: {bits:.3f}" for pair, bits in grammar.selection_information().items()]
    lines += _table("strength", spec["strength"]) + _table("clusters", spec["clusters"])
    for category, law in spec["zipf"].items():
        lines += _table(f"zipf.{_key(category)}", law)
    lines += _table("sizes", spec["sizes"])
    if spec["levels"] is not None:
        lines += _table("levels", spec["levels"])
    for name, frame in spec["frames"].items():
        lines += _table(f"frames.{_key(name)}", {key: frame[key] for key in ("verb", "core", "optional", "share")})
        for construction in frame["constructions"]:
            share = grammar.shares["construction"].get(f"{name}/{construction['name']}", 0.0)
            lines += ["", f"[[frames.{_key(name)}.constructions]]  # {share:.2%} of the sentences"]
            lines += [f"{key} = {_value(construction[key])}" for key in ("name", "level", "pattern", "weight")]
    return "\n".join(lines) + "\n"


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    return ["", f"[{name}]", *(f"{_key(key)} = {_value(value)}" for key, value in values.items())]


def _key(name: str) -> str:
    name = name or "default"
    return name if name.replace("_", "").isalnum() and name.isascii() else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value)  # numbers, truth values and strings are written alike in JSON and TOML
