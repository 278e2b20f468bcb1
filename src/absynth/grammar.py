"""`Grammar`: everything that determines a language, checked where it is declared."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from absynth.categories import CATEGORIES, LEVELS, MARKERS, ROLES
from absynth.errors import AbsynthError
from absynth.frames import Construction, Frame, add_frames
from absynth.lexicon import Lexicon, Zipf, build_lexicon, check_sizes
from absynth.program import Program, build_templates, compile_program, used_groups
from absynth.selection import mutual_information
from absynth.surface import STYLES
from absynth.template import Template

LAW_VERSION = 1
"""Raised whenever the same specification and seed would give other sentences."""


class Grammar:
    """A finite probabilistic language, held as tables.

    Parameters
    ----------
    sizes
        Category -> number of words; every category that some construction uses needs one (markers and the copula have one).
    frames
        The situation types with their constructions.
    levels
        Shares of "simple", "medium" and "complex" sentences; None lets the constructions' weights decide.
    zipf
        One law for all categories, or category -> law ("" for the others).
    clusters
        Number of semantic clusters of each open category, or category -> number ("" for the others).
    strength
        Selection in [0, 1], or "head-dependent" or "head-dependent:Relation" -> strength ("" for the others).
    ambiguity
        Share of surface forms that belong to two categories, in [0, 0.5].
    surface
        "pseudoword", "opaque" or "labelled".
    plural, past
        Probabilities of plural nouns and of past tense.
    seed
        Decides which word has which rank, and how words look.
    name
        For people.

    Raises
    ------
    AbsynthError
        For any value that is not allowed; it names field, value and what is allowed.
    """

    def __init__(
        self,
        *,
        sizes: Mapping[str, int],
        frames: Sequence[Frame],
        levels: Mapping[str, float] | None = None,
        zipf: Zipf | Mapping[str, Zipf] = Zipf(),  # noqa: B008
        clusters: int | Mapping[str, int] = 5,
        strength: float | Mapping[str, float] = 0.5,
        ambiguity: float = 0.0,
        surface: str = "pseudoword",
        plural: float = 0.35,
        past: float = 0.5,
        seed: int = 0,
        name: str = "custom",
    ) -> None:
        self.name = name
        self.frames = _check_frames(frames)
        self.levels = _check_levels(levels)
        self.zipf = _per_category("zipf", zipf, Zipf, _check_zipf)
        self.clusters = _per_category("clusters", clusters, int, _check_clusters)
        self.strength = _check_strength(strength)
        self.ambiguity = _share("ambiguity", ambiguity, 0.0, 0.5)
        if surface not in STYLES:
            raise AbsynthError("surface", surface, f"one of {', '.join(STYLES)}")
        self.surface = surface
        self.plural = _share("plural", plural, 0.0, 1.0)
        self.past = _share("past", past, 0.0, 1.0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise AbsynthError("seed", seed, "a whole number from 0 to 2^63 - 1")
        self.seed = seed
        self.templates = _templates(self.frames, self.levels)
        self.sizes = check_sizes(sizes, used_groups(self.templates))

    # ---- where grammars come from ----
    @classmethod
    def preset(cls, name: str = "small", **changes: Any) -> Grammar:
        """Return "tiny" (about 60 words), "small" (about 1,000) or "paper" (the published sizes).

        Any parameter of `Grammar` can be changed: ``Grammar.preset("small", strength=0.9, seed=3)``; ``shares`` sets the shares
        of all frames by name.
        """
        from absynth.presets import preset

        settings = {**preset(name), **changes}
        if "shares" in settings:
            settings["frames"] = _reshared(settings["frames"], settings.pop("shares"))
        unknown = settings.keys() - inspect.signature(cls).parameters.keys()
        if unknown:
            raise AbsynthError(f"preset.{min(unknown)}", changes[min(unknown)], "a parameter of Grammar, or shares")
        return cls(**settings)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> Grammar:
        """Build from `to_dict` output or an equal structure."""
        from absynth.reading import from_dict

        return from_dict(spec)

    @classmethod
    def from_toml(cls, path: str | Path) -> Grammar:
        """Read a grammar file; errors name its line."""
        from absynth.reading import from_toml

        return from_toml(path)

    def replace(self, **changes: Any) -> Grammar:
        """Return a grammar with some parameters changed."""
        now = {
            "sizes": self.sizes, "frames": self.frames, "levels": self.levels, "zipf": self.zipf, "clusters": self.clusters,
            "strength": self.strength, "ambiguity": self.ambiguity, "surface": self.surface, "plural": self.plural,
            "past": self.past, "seed": self.seed, "name": self.name,
        }  # fmt: skip
        return Grammar(**{**now, **changes})

    def with_frame(self, *frames: Frame) -> Grammar:
        """Return a grammar with frames added (or replaced, by name); the shares of the others are scaled to make room."""
        return self.replace(frames=add_frames(self.frames, frames))

    def to_toml(self) -> str:
        """Return the whole grammar as a file that `from_toml` reads back."""
        from absynth.reading import to_toml

        return to_toml(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole specification as plain data; `from_dict` gives an equal grammar."""
        return {
            "name": self.name,
            "seed": self.seed,
            "surface": self.surface,
            "plural": self.plural,
            "past": self.past,
            "ambiguity": self.ambiguity,
            "strength": dict(self.strength),
            "clusters": dict(self.clusters),
            "zipf": {category: asdict(law) for category, law in self.zipf.items()},
            "sizes": dict(self.sizes),
            "levels": None if self.levels is None else dict(self.levels),
            "frames": {
                frame.name: {
                    "verb": frame.verb, "core": list(frame.core), "optional": dict(frame.optional), "share": frame.share,
                    "constructions": [asdict(construction) for construction in frame.constructions],
                }
                for frame in self.frames
            },
        }  # fmt: skip

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of the law: grammars with one fingerprint generate the same sentences."""
        spec = {key: value for key, value in self.to_dict().items() if key != "name"}
        text = json.dumps([LAW_VERSION, spec], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __reduce__(self) -> tuple[Any, ...]:
        return Grammar.from_dict, (self.to_dict(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grammar) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Grammar({self.name!r}, {sum(self.sizes.values())} words, {len(self.constructions)} constructions, {self.fingerprint})"

    # ---- compiled ----
    @cached_property
    def lexicon(self) -> Lexicon:
        """Return the words and forms."""
        laws = {name: self.zipf.get(name, self.zipf[""]) for name in self.sizes}
        clusters = {name: self.clusters.get(name, self.clusters[""]) for name in self.sizes}
        return build_lexicon(
            used_groups(self.templates), self.sizes, laws, clusters, self.ambiguity, self.surface, self.seed
        )

    @cached_property
    def program(self) -> Program:
        """Return the tables that the sampler and the oracle share."""
        return compile_program(self.templates, self.lexicon, self.strength, self.plural, self.past)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Return the surface forms; the index is the token id."""
        return self.lexicon.vocabulary

    @cached_property
    def constructions(self) -> tuple[str, ...]:
        """Return the names "frame/construction" in the order of the grammar."""
        return tuple(dict.fromkeys(template.construction for template in self.templates))

    @cached_property
    def shares(self) -> dict[str, dict[str, float]]:
        """Return the exact shares of frames, levels and constructions."""
        result: dict[str, dict[str, float]] = {"frame": {}, "level": {}, "construction": {}}
        for template in self.templates:
            for layer, key in (
                ("frame", template.frame),
                ("level", template.level),
                ("construction", template.construction),
            ):
                result[layer][key] = result[layer].get(key, 0.0) + template.probability
        return result

    def selection_information(self) -> dict[str, float]:
        """Return what the strength dial buys: "head-dependent:Relation" -> mutual information of the clusters in bits."""
        program = self.program
        return {
            f"{head}-{dependent}:{relation}": mutual_information(joint)
            for (head, dependent, relation), joint in zip(program.joint_names, program.joints)
        }

    def with_entropy(self, bits_per_token: float, dial: str = "alpha") -> Grammar:
        """Return a grammar whose entropy is `bits_per_token`, the end of sentence counted as a token.

        Parameters
        ----------
        bits_per_token
            Target.
        dial
            "alpha" scales the exponents of all categories by one factor, "strength" sets the selection.

        Raises
        ------
        AbsynthError
            When the dial cannot reach the target; it says what range it reaches.
        """
        from absynth.entropy import solve

        return solve(self, bits_per_token, dial)


_built: dict[str, tuple[Template, ...]] = {}


def _templates(frames: tuple[Frame, ...], levels: Mapping[str, float] | None) -> tuple[Template, ...]:
    """Return the templates of some frames; grammars that differ in words only share them."""
    key = repr((frames, levels))
    if key not in _built:
        while len(_built) >= 8:
            del _built[next(iter(_built))]
        _built[key] = tuple(build_templates(frames, levels))
    return _built[key]


# ---- checks ----
def _number(field: str, value: Any, allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise AbsynthError(field, value, allowed)
    return float(value)


def _share(field: str, value: Any, low: float, high: float) -> float:
    allowed = f"a number from {low:g} to {high:g}"
    if not low <= _number(field, value, allowed) <= high:
        raise AbsynthError(field, value, allowed)
    return float(value)


def _sum_to_one(field: str, shares: Mapping[str, float]) -> None:
    for name, value in shares.items():
        _share(f"{field}.{name}", value, 0.0, 1.0)
    if abs(sum(shares.values()) - 1.0) > 1e-9:
        raise AbsynthError(field, dict(shares), f"shares that sum to 1; these sum to {sum(shares.values()):.6g}")


def _reshared(frames: Sequence[Frame], shares: Mapping[str, float]) -> tuple[Frame, ...]:
    """Return the frames with new shares; frames without one get none and are left out."""
    names = [frame.name for frame in frames]
    if not isinstance(shares, Mapping):
        raise AbsynthError("shares", shares, "a table of frames and shares")
    for name in shares:
        if name not in names:
            raise AbsynthError(f"shares.{name}", name, f"a frame: {', '.join(names)}")
    _sum_to_one("shares", shares)
    return tuple(replace(frame, share=shares[frame.name]) for frame in frames if shares.get(frame.name, 0) > 0)


def _check_levels(levels: Mapping[str, float] | None) -> dict[str, float] | None:
    if levels is None:
        return None
    if not isinstance(levels, Mapping):
        raise AbsynthError("levels", levels, f"a table of shares of {', '.join(LEVELS)}")
    for name in levels:
        if name not in LEVELS:
            raise AbsynthError(f"levels.{name}", name, f"one of {', '.join(LEVELS)}")
    _sum_to_one("levels", levels)
    return {name: float(levels.get(name, 0.0)) for name in LEVELS}


def _check_zipf(field: str, law: Zipf) -> Zipf:
    if not 0.0 <= _number(f"{field}.alpha", law.alpha, "a number from 0 to 20") <= 20.0:
        raise AbsynthError(f"{field}.alpha", law.alpha, "a number from 0 to 20")
    if not -1.0 < _number(f"{field}.q", law.q, "a number above -1") <= 1e6:
        raise AbsynthError(f"{field}.q", law.q, "a number above -1, at most 1,000,000")
    return Zipf(float(law.alpha), float(law.q))


def _check_clusters(field: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 50:
        raise AbsynthError(field, value, "a whole number from 1 to 50")
    return value


def _per_category(field: str, value: Any, kind: type, check: Any) -> dict[str, Any]:
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


def _check_strength(strength: float | Mapping[str, float]) -> dict[str, float]:
    if not isinstance(strength, Mapping):
        return {"": _share("strength", strength, 0.0, 1.0)}
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
        result[key] = _share(f"strength.{key}" if key else "strength", value, 0.0, 1.0)
    return result


def _check_frames(frames: Sequence[Frame]) -> tuple[Frame, ...]:
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
