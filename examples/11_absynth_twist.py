"""Two corpora that end alike and begin differently: syntax before semantics, and semantics before syntax.

Each corpus is a first and a second part, to be read in this order. The second part is the same in both.

    syntax first      1: every construction, agreement and tense, but heads do not choose their dependents (selection 0)
                      2: the whole language
    semantics first   1: heads choose their dependents, but the sentences are simple, present, and every noun is
                         singular: nothing long-distance, no clause in a clause, no number to agree with
                         (only the verb of a coordinated subject is plural, as it always is)
                      2: the whole language

So a model cannot know selection before the switch in the first corpus, nor agreement before it in the second. An
analysis that says when each was learned must find the onset of selection after the switch in the one, and the onset of
agreement after the switch in the other.

What is equal: the vocabulary and its ids; the Zipf law of the words in every category (selection has fixed
marginals); the frame shares; the number of words in each part, to within a sentence; the second part itself. What is
not equal, and cannot be: the first parts differ in the length of their sentences and in entropy. The exact floors are
printed: subtract them from a model's loss.

Run: python examples/11_absynth_twist.py [FOLDER]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import absynth

STRENGTH = 0.9


@dataclass(frozen=True)
class Twist:
    """A corpus in two parts, each with its own grammar and oracle."""

    name: str
    first: absynth.Corpus
    second: absynth.Corpus

    @property
    def switch(self) -> int:
        """Return the number of words in the first part."""
        return len(self.first.ids)


def grammars(preset: str = "small", seed: int = 0) -> dict[str, absynth.Grammar]:
    """Return the whole language, the one without selection and the one without agreement."""
    both = absynth.Grammar.preset(preset, strength=STRENGTH, seed=seed).replace(name="both")
    # Not quite 0: a construction that never occurs would take its word forms out of the vocabulary.
    plain = {"simple": 1.0 - 2e-9, "medium": 1e-9, "complex": 1e-9}
    return {
        "both": both,
        "syntax": both.replace(strength=0.0, name="syntax"),
        "semantics": both.replace(levels=plain, plural=0.0, past=0.0, name="semantics"),
    }


def words_of(grammar: absynth.Grammar, words: int, seed: int) -> absynth.Corpus:
    """Return as many sentences as have about so many words."""
    program = grammar.program
    mean = float(program.probability @ program.length)
    corpus = absynth.generate(grammar, n=int(1.1 * words / mean) + 100, seed=seed)
    return corpus[: int((corpus.offsets < words).sum())]


def twins(words: int = 500_000, preset: str = "small", seed: int = 0) -> tuple[Twist, Twist]:
    """Return the corpus with syntax first and the one with semantics first; each part has about `words` words."""
    languages = grammars(preset, seed)
    second = words_of(languages["both"], words, seed + 1)
    return (
        Twist("syntax_first", words_of(languages["syntax"], words, seed + 2), second),
        Twist("semantics_first", words_of(languages["semantics"], words, seed + 2), second),
    )


def main(folder: Path) -> None:
    """Write both corpora and print what is controlled."""
    for twist in twins():
        place = folder / twist.name
        place.mkdir(parents=True, exist_ok=True)
        print(f"{twist.name}: the switch comes after {twist.switch:,} words")
        for number, part in enumerate((twist.first, twist.second), start=1):
            part.save(place / f"{number}.parquet")
            grammar, oracle = part.grammar, part.oracle
            rate = oracle.entropy_rate(unit="bits", samples=2000)
            bits = grammar.selection_information()
            plural = (part.column("number")[0] == 1).mean()
            print(
                f"  {number}: {grammar.name:<9} {len(part):,} sentences, {len(part.ids):,} words; "
                f"floor {float(rate):.4f} bits per token; "
                f"selection {sum(bits.values()) / max(1, len(bits)):.3f} bits per pair; plural forms {plural:.1%}"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "twist"))
