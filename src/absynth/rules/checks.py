"""Checks of a grammar's settings: what is not allowed is named, with what is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from absynth.errors import AbsynthError
from absynth.rules.categories import CATEGORIES, LEVELS, MARKERS, ROLES
from absynth.rules.frames import Construction, Frame
from absynth.rules.lexicon import Zipf


def _number(field: str, value: Any, allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise AbsynthError(field, value, allowed)
    return float(value)


def check_share(field: str, value: Any, low: float, high: float) -> float:
    """Return the number if it lies in [low, high]."""
    allowed = f"a number from {low:g} to {high:g}"
    if not low <= _number(field, value, allowed) <= high:
        raise AbsynthError(field, value, allowed)
    return float(value)


def _sum_to_one(field: str, shares: Mapping[str, float]) -> None:
    for name, value in shares.items():
        check_share(f"{field}.{name}", value, 0.0, 1.0)
    if abs(sum(shares.values()) - 1.0) > 1e-9:
        raise AbsynthError(field, dict(shares), f"shares that sum to 1; these sum to {sum(shares.values()):.6g}")


def reshared(frames: Sequence[Frame], shares: Mapping[str, float]) -> tuple[Frame, ...]:
    """Return the frames with new shares; frames without one get none and are left out."""
    names = [frame.name for frame in frames]
    if not isinstance(shares, Mapping):
        raise AbsynthError("shares", shares, "a table of frames and shares")
    for name in shares:
        if name not in names:
            raise AbsynthError(f"shares.{name}", name, f"a frame: {', '.join(names)}")
    _sum_to_one("shares", shares)
    return tuple(replace(frame, share=shares[frame.name]) for frame in frames if shares.get(frame.name, 0) > 0)


def check_levels(levels: Mapping[str, float] | None) -> dict[str, float] | None:
    """Return a share for every level, or None."""
    if levels is None:
        return None
    if not isinstance(levels, Mapping):
        raise AbsynthError("levels", levels, f"a table of shares of {', '.join(LEVELS)}")
    for name in levels:
        if name not in LEVELS:
            raise AbsynthError(f"levels.{name}", name, f"one of {', '.join(LEVELS)}")
    _sum_to_one("levels", levels)
    return {name: float(levels.get(name, 0.0)) for name in LEVELS}


def check_zipf(field: str, law: Zipf) -> Zipf:
    """Return the law with numbers as floats."""
    if not 0.0 <= _number(f"{field}.alpha", law.alpha, "a number from 0 to 20") <= 20.0:
        raise AbsynthError(f"{field}.alpha", law.alpha, "a number from 0 to 20")
    if not -1.0 < _number(f"{field}.q", law.q, "a number above -1") <= 1e6:
        raise AbsynthError(f"{field}.q", law.q, "a number above -1, at most 1,000,000")
    return Zipf(float(law.alpha), float(law.q))


def check_clusters(field: str, value: int) -> int:
    """Return the number of clusters."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 50:
        raise AbsynthError(field, value, "a whole number from 1 to 50")
    return value


def per_category(field: str, value: Any, kind: type, check: Any) -> dict[str, Any]:
    """Return category -> value with "" for all others."""
    if isinstance(value, kind) and not isinstance(value, bool):
        return {"": check(field, value)}
    if not isinstance(value, Mapping):
        raise AbsynthError(field, value, f"a {kind.__name__}, or a table of categories")
    result = {}
    for name, item in value.items():
        if name and name not in CATEGORIES:
            raise AbsynthError(f"{field}.{name}", name, f"a category: {', '.join(CATEGORIES)}")
        if not isinstance(item, kind):
            raise AbsynthError(f"{field}.{name}", item, f"a {kind.__name__}")
        result[name] = check(f"{field}.{name}" if name else field, item)
    defaults: dict[type, Any] = {Zipf: Zipf(), int: 5}
    return {"": defaults[kind], **result}


def check_strength(strength: float | Mapping[str, float]) -> dict[str, float]:
    """Return "" -> the global strength, and the strengths of single pairs."""
    if not isinstance(strength, Mapping):
        return {"": check_share("strength", strength, 0.0, 1.0)}
    result = {"": 0.5}
    for key, value in strength.items():
        pair, _, relation = key.partition(":")
        names = pair.split("-")
        if key and (len(names) != 2 or any(n not in CATEGORIES for n in names)):
            raise AbsynthError(
                f"strength.{key}", key, '"head-dependent" or "head-dependent:Relation" with names of categories'
            )
        if relation and relation not in (*ROLES, "amod", "case", "conj", "nmod"):
            raise AbsynthError(f"strength.{key}", relation, f"a relation: {', '.join(ROLES)}, amod, case, conj, nmod")
        result[key] = check_share(f"strength.{key}" if key else "strength", value, 0.0, 1.0)
    return result


def check_frames(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Return the frames by name; every field is checked, patterns are when templates are built."""
    # In a fixed order, so that the law does not depend on the order of a file's tables.
    if not isinstance(frames, Sequence) or not all(isinstance(frame, Frame) for frame in frames):
        raise AbsynthError("frames", frames, "a sequence of Frame")
    frames = tuple(sorted(frames, key=lambda frame: str(frame.name)))
    if not frames:
        raise AbsynthError("frames", (), "at least one frame")
    for frame in frames:
        where = f"frames.{frame.name}"
        if not frame.name or not all(ch.isalnum() or ch == "_" for ch in frame.name):
            raise AbsynthError("frames", frame.name, "a name of letters, digits and underscores")
        if frame.verb not in CATEGORIES or not CATEGORIES[frame.verb].is_verb:
            verbs = [name for name, category in CATEGORIES.items() if category.is_verb and name not in MARKERS]
            raise AbsynthError(f"{where}.verb", frame.verb, f"one of {', '.join(verbs)}")
        for role in (*frame.core, *frame.optional):
            if role not in ROLES:
                raise AbsynthError(
                    f"{where}.core" if role in frame.core else f"{where}.optional", role, f"a role: {', '.join(ROLES)}"
                )
        for role, probability in frame.optional.items():
            if role in frame.core:
                raise AbsynthError(f"{where}.optional.{role}", role, "a role that is not core as well")
            if not 0.0 < _number(f"{where}.optional.{role}", probability, "a probability between 0 and 1") < 1.0:
                raise AbsynthError(
                    f"{where}.optional.{role}", probability, "a probability between 0 and 1, neither included"
                )
        if not frame.constructions:
            raise AbsynthError(f"{where}.constructions", (), "at least one construction")
        _unique(f"{where}.constructions", [c.name for c in frame.constructions])
        for construction in frame.constructions:
            _check_construction(f"{where}.{construction.name}", construction)
    _unique("frames", [frame.name for frame in frames])
    _sum_to_one("frames.share", {frame.name: frame.share for frame in frames})
    return frames


def _check_construction(where: str, construction: Construction) -> None:
    if construction.level not in LEVELS:
        raise AbsynthError(f"{where}.level", construction.level, f"one of {', '.join(LEVELS)}")
    if not 0.0 < _number(f"{where}.weight", construction.weight, "a positive number") < 1e9:
        raise AbsynthError(f"{where}.weight", construction.weight, "a positive number")


def _unique(field: str, names: Sequence[str]) -> None:
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise AbsynthError(field, twice[0], "distinct names")
