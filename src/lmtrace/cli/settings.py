"""Flags, a TOML file and --set a.b=c become one nested dictionary."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from lmtrace.errors import ConfigError


def merge(base: Mapping[str, Any], flags: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return the file's values, overridden by --set, overridden by flags that were given (not None).

    Raises
    ------
    ConfigError
        For an assignment without "=".
    """
    values: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in base.items()}
    for text in assignments:
        path, equals, raw = text.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set needs name=value, got {text!r}", "For example --set data.seed=3")
        try:
            value = tomllib.loads(f"value = {raw}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            value = raw
        _put(values, path, value)
    for path, value in flags.items():
        if value is not None:
            _put(values, path, value)
    return values


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {parent} is a value, not a group of values")
    values[last] = value
