"""The parts of speech, their inflection, and the names of roles and levels. All of it is data."""

from __future__ import annotations

from dataclasses import dataclass

ROLES = (
    "Agent",
    "Patient",
    "Theme",
    "Experiencer",
    "Stimulus",
    "Recipient",
    "Beneficiary",
    "Instrument",
    "Location",
    "Source",
    "Goal",
    "Time",
    "Manner",
    "Cause",
    "Result",
    "Purpose",
)
LEVELS = ("simple", "medium", "complex")
NUMBERS = ("Sing", "Plur")
TENSES = ("Pres", "Past")
END = "</s>"


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of a paradigm: what the form means and how it looks.

    Attributes
    ----------
    group
        "" or "finite", "passive", "inf": which slot of a construction can ask for it.
    number, tense
        0, 1, or -1 where the form does not show it.
    feats
        Universal Dependencies features, sorted; "_" where there are none.
    xpos
        Penn-style tag.
    suffix, label_suffix
        What is added to a pseudoword and to a labelled word.
    """

    group: str
    number: int
    tense: int
    feats: str
    xpos: str
    suffix: str
    label_suffix: str


def _finite(group: str, pseudo: str, label: str, voice: str, xpos: tuple[str, str, str]) -> tuple[Cell, ...]:
    # Pseudoword roots end in a vowel and suffixes have none, so no two (root, suffix) give the same form.
    ends = {
        (0, 0): ("t", "s", xpos[0]),
        (0, 1): ("d", "ed", xpos[2]),
        (1, 0): ("", "", xpos[1]),
        (1, 1): ("nd", "eden", xpos[2]),
    }
    return tuple(
        Cell(
            group,
            number,
            tense,
            f"Number={NUMBERS[number]}|Tense={TENSES[tense]}|VerbForm=Fin{voice}",
            ends[number, tense][2],
            pseudo + ends[number, tense][0],
            label + ends[number, tense][1],
        )
        for number in (0, 1)
        for tense in (0, 1)
    )


def _plain(xpos: str) -> tuple[Cell, ...]:
    return (Cell("", -1, -1, "_", xpos, "", ""),)


_NOUN = (Cell("", 0, -1, "Number=Sing", "NN", "", ""), Cell("", 1, -1, "Number=Plur", "NNS", "s", "s"))
_FINITE = _finite("finite", "", "", "", ("VBZ", "VBP", "VBD"))
_VERB = (
    *_FINITE,
    *_finite("passive", "k", "p", "|Voice=Pass", ("VBZ", "VBP", "VBD")),
    Cell("inf", -1, -1, "VerbForm=Inf", "VB", "n", "i"),
)


@dataclass(frozen=True, slots=True)
class Category:
    """A part of speech.

    Attributes
    ----------
    name
        Its name in grammars and labels.
    upos
        Universal part of speech.
    cells
        Its paradigm.
    open_class
        Whether its words fall into semantic clusters and may share forms with other categories.
    """

    name: str
    upos: str
    cells: tuple[Cell, ...]
    open_class: bool = True

    @property
    def label(self) -> str:
        """Return the value of the annotation layer "category": all markers are one category."""
        return "marker" if self.name.startswith("marker.") else self.name

    @property
    def is_verb(self) -> bool:
        """Return whether it can be the predicate of a clause."""
        return self.upos in ("VERB", "AUX")

    @property
    def is_nominal(self) -> bool:
        """Return whether it can head a noun phrase."""
        return self.upos == "NOUN"


_OPEN = [
    *(Category(name, "NOUN", _NOUN) for name in ("noun", "location", "instrument", "result")),
    Category("temporal", "NOUN", _plain("NN")),
    *(
        Category(f"{name}_verb", "VERB", _VERB)
        for name in ("transitive", "intransitive", "communication", "motion", "change", "transfer", "perception")
    ),
    Category("adjective", "ADJ", _plain("JJ")),
    Category("adverb", "ADV", _plain("RB")),
    Category("preposition", "ADP", _plain("IN")),
]
_CLOSED = [
    Category("conjunction", "CCONJ", _plain("CC"), False),
    Category("determiner", "DET", _plain("DT"), False),
    Category("complementizer", "SCONJ", _plain("IN"), False),
    Category("relativizer", "PRON", _plain("WP"), False),
    Category("copula", "AUX", _FINITE, False),
]
# A marker is a function word that a construction names: it tells roles apart whose phrases would look alike.
_MARKERS = [
    *(
        Category(f"marker.{name}", "ADP", _plain("IN"), False)
        for name in ("by", "to", "from", "for", "with", "of", "into")
    ),
    *(Category(f"marker.{name}", "SCONJ", _plain("IN"), False) for name in ("when", "because")),
    Category("marker.inf", "PART", _plain("TO"), False),
]

CATEGORIES: dict[str, Category] = {category.name: category for category in (*_OPEN, *_CLOSED, *_MARKERS)}
MARKERS = tuple(category.name for category in _MARKERS)
SIZED = tuple(name for name in CATEGORIES if name not in MARKERS and name != "copula")
