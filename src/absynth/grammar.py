"""`Grammar`: a language, made from parameters, from a preset, from a file, or for an entropy."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from absynth.errors import AbsynthError
from absynth.rules import presets
from absynth.rules.checks import reshared
from absynth.rules.reading import parameters, read_toml
from absynth.rules.specification import LAW_VERSION, Specification

__all__ = ["LAW_VERSION", "Grammar"]


class Grammar(Specification):
    """A finite probabilistic language, held as tables.

    Parameters
    ----------
    sizes
        Category -> number of words; every category that some construction uses needs one (markers and the copula
        have one).
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

    @classmethod
    def preset(cls, name: str = "small", **changes: Any) -> Self:
        """Return "tiny" (about 60 words), "small" (about 1,000) or "paper" (the published sizes).

        Any parameter of `Grammar` can be changed: ``Grammar.preset("small", strength=0.9, seed=3)``; ``shares``
        sets the shares of all frames by name.
        """
        settings = {**presets.preset(name), **changes}
        if "shares" in settings:
            settings["frames"] = reshared(settings["frames"], settings.pop("shares"))
        unknown = settings.keys() - inspect.signature(cls).parameters.keys()
        if unknown:
            raise AbsynthError(f"preset.{min(unknown)}", changes[min(unknown)], "a parameter of Grammar, or shares")
        return cls(**settings)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> Self:
        """Build from `to_dict` output or an equal structure."""
        return cls(**parameters(spec))

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a grammar file; errors name its line."""
        return read_toml(path, cls.from_dict)

    def with_entropy(self, bits_per_token: float, dial: str = "alpha") -> Self:
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
        from absynth.law.entropy import solve  # only now: a grammar starts without the law

        return solve(self, bits_per_token, dial)

    def __reduce__(self) -> tuple[Any, ...]:
        return Grammar.from_dict, (self.to_dict(),)
