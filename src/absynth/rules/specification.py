"""`Specification`: everything that determines a language, checked where it is declared, with the tables compiled from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, Self

from absynth.errors import AbsynthError
from absynth.rules.checks import (
    check_clusters,
    check_frames,
    check_levels,
    check_share,
    check_strength,
    check_zipf,
    per_category,
)
from absynth.rules.frames import Frame, add_frames
from absynth.rules.lexicon import Lexicon, Zipf, build_lexicon, check_sizes
from absynth.rules.program import Program, build_templates, compile_program, used_groups
from absynth.rules.reading import to_toml
from absynth.rules.selection import mutual_information
from absynth.rules.surface import STYLES
from absynth.rules.template import Template

LAW_VERSION = 1
"""Raised whenever the same specification and seed would give other sentences."""


class Specification:
    """The parameters of a grammar with the tables that follow from them; `absynth.Grammar` says what each parameter is."""

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
        self.frames = check_frames(frames)
        self.levels = check_levels(levels)
        self.zipf = per_category("zipf", zipf, Zipf, check_zipf)
        self.clusters = per_category("clusters", clusters, int, check_clusters)
        self.strength = check_strength(strength)
        self.ambiguity = check_share("ambiguity", ambiguity, 0.0, 0.5)
        if surface not in STYLES:
            raise AbsynthError("surface", surface, f"one of {', '.join(STYLES)}")
        self.surface = surface
        self.plural = check_share("plural", plural, 0.0, 1.0)
        self.past = check_share("past", past, 0.0, 1.0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise AbsynthError("seed", seed, "a whole number from 0 to 2^63 - 1")
        self.seed = seed
        self.templates = _templates(self.frames, self.levels)
        self.sizes = check_sizes(sizes, used_groups(self.templates))

    def replace(self, **changes: Any) -> Self:
        """Return a grammar with some parameters changed."""
        now = {
            "sizes": self.sizes,
            "frames": self.frames,
            "levels": self.levels,
            "zipf": self.zipf,
            "clusters": self.clusters,
            "strength": self.strength,
            "ambiguity": self.ambiguity,
            "surface": self.surface,
            "plural": self.plural,
            "past": self.past,
            "seed": self.seed,
            "name": self.name,
        }
        return type(self)(**{**now, **changes})

    def with_frame(self, *frames: Frame) -> Self:
        """Return a grammar with frames added (or replaced, by name); the other shares are scaled to make room."""
        return self.replace(frames=add_frames(self.frames, frames))

    def to_toml(self) -> str:
        """Return the whole grammar as a file that `from_toml` reads back."""
        return to_toml(self.to_dict())

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
                    "verb": frame.verb,
                    "core": list(frame.core),
                    "optional": dict(frame.optional),
                    "share": frame.share,
                    "constructions": [asdict(construction) for construction in frame.constructions],
                }
                for frame in self.frames
            },
        }

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of the law: grammars with one fingerprint generate the same sentences."""
        spec = {key: value for key, value in self.to_dict().items() if key != "name"}
        text = json.dumps([LAW_VERSION, spec], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Specification) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        words = sum(self.sizes.values())
        kind = type(self).__name__
        return f"{kind}({self.name!r}, {words} words, {len(self.constructions)} constructions, {self.fingerprint})"

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
        """Return what the strength dial buys: "head-dependent:Relation" -> mutual information in bits."""
        program = self.program
        return {
            f"{head}-{dependent}:{relation}": mutual_information(joint)
            for (head, dependent, relation), joint in zip(program.joint_names, program.joints)
        }


_built: dict[str, tuple[Template, ...]] = {}


def _templates(frames: tuple[Frame, ...], levels: Mapping[str, float] | None) -> tuple[Template, ...]:
    """Return the templates of some frames; grammars that differ in words only share them."""
    key = repr((frames, levels))
    if key not in _built:
        while len(_built) >= 8:
            del _built[next(iter(_built))]
        _built[key] = tuple(build_templates(frames, levels))
    return _built[key]
