"""The three grammars that come with absynth."""

from __future__ import annotations

from typing import Any

from absynth.errors import AbsynthError
from absynth.rules.frames import default_frames

LEVELS = {"simple": 0.55, "medium": 0.35, "complex": 0.10}

SIZES: dict[str, dict[str, int]] = {
    "tiny": {
        "noun": 10,
        "transitive_verb": 4,
        "intransitive_verb": 3,
        "communication_verb": 2,
        "motion_verb": 2,
        "change_verb": 2,
        "transfer_verb": 2,
        "perception_verb": 2,
        "adjective": 4,
        "adverb": 2,
        "location": 4,
        "temporal": 2,
        "instrument": 2,
        "result": 2,
        "preposition": 2,
        "conjunction": 1,
        "determiner": 1,
        "complementizer": 1,
        "relativizer": 1,
    },
    "small": {
        "noun": 360,
        "transitive_verb": 80,
        "intransitive_verb": 70,
        "communication_verb": 35,
        "motion_verb": 35,
        "change_verb": 35,
        "transfer_verb": 30,
        "perception_verb": 30,
        "adjective": 100,
        "adverb": 40,
        "location": 70,
        "temporal": 40,
        "instrument": 30,
        "result": 20,
        "preposition": 15,
        "conjunction": 4,
        "determiner": 6,
        "complementizer": 2,
        "relativizer": 2,
    },
    "paper": {
        "noun": 2783,
        "transitive_verb": 694,
        "intransitive_verb": 694,
        "communication_verb": 347,
        "motion_verb": 347,
        "change_verb": 347,
        "transfer_verb": 347,
        "perception_verb": 347,
        "adjective": 1388,
        "adverb": 555,
        "location": 694,
        "temporal": 694,
        "instrument": 277,
        "result": 277,
        "preposition": 416,
        "conjunction": 277,
        "determiner": 111,
        "complementizer": 2,
        "relativizer": 2,
    },
}


def preset(name: str) -> dict[str, Any]:
    """Return the parameters of a preset grammar."""
    if name not in SIZES:
        raise AbsynthError("preset", name, f"one of {', '.join(SIZES)}")
    return {"name": name, "sizes": SIZES[name], "frames": default_frames(), "levels": LEVELS}
