"""One signal per file; the file's name is the signal's name. Found by name, and by the entry-point group `lmtrace.signals`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points

from lmtrace.errors import ConfigError
from lmtrace.observe.interface import Signal

PRESETS: dict[str, tuple[str, ...]] = {
    "light": ("output", "truth", "probe"),
    "standard": ("output", "truth", "ladder", "probe", "dimension", "lens", "similarity", "weights", "curvature"),
    "full": (),
}
"""Names of signals; `full` is all that exist."""


@cache
def available() -> dict[str, type[Signal]]:
    """Return name -> class of every signal, ours and those of installed packages.

    Raises
    ------
    ConfigError
        Where a signal's file does not hold a class of its own name, or two packages use the same name.
    """
    found: dict[str, type[Signal]] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        classes = [c for c in vars(loaded).values() if isinstance(c, type) and getattr(c, "name", None) == module.name]
        if len(classes) != 1:
            raise ConfigError(f"{loaded.__name__} must hold one signal named {module.name!r}, found {len(classes)}")
        found[module.name] = classes[0]
    for entry in entry_points(group="lmtrace.signals"):
        loaded = entry.load()
        if entry.name in found or getattr(loaded, "name", None) != entry.name:
            raise ConfigError(f"the installed signal {entry.name!r} ({entry.value}) is not unique or not named so")
        found[entry.name] = loaded
    return found


def resolve(signals: str | Sequence[str | Signal]) -> list[Signal]:
    """Return instances for a preset, a list of names, or a list of objects.

    Raises
    ------
    ConfigError
        For a name that does not exist; the error lists those that do.
    """
    if isinstance(signals, str):
        known = available()
        if signals in PRESETS:
            names = [n for n in PRESETS[signals] if n in known] or list(known)
            return [known[name]() for name in names]
        signals = [part.strip() for part in signals.split(",")]
    chosen: list[Signal] = []
    for item in signals:
        if isinstance(item, Signal):
            chosen.append(item)
        elif item in available():
            chosen.append(available()[item]())
        else:
            raise ConfigError(
                f"no signal or preset is called {item!r}",
                f"Presets: {', '.join(PRESETS)}; signals: {', '.join(sorted(available()))}",
            )
    if not chosen:
        raise ConfigError("no signals were given", f"Choose from: {', '.join(sorted(available()))}")
    return chosen
