"""The three grammars that come with absynth."""

from __future__ import annotations

from typing import Any

from absynth.errors import AbsynthError
from absynth.frames import default_frames

LEVELS = {"simple": 0.55, "medium": 0.35, "complex": 0.10}

SIZES: dict[str, dict[str, int]] = {
    "tiny": {
        "noun": 12, "transitive_verb": 5, "intransitive_verb": 4, "communication_verb": 2, "motion_verb": 2, "change_verb": 2,
        "transfer_verb": 2, "perception_verb": 2, "adjective": 5, "adverb": 3, "location": 5, "temporal": 3, "instrument": 3,
        "result": 2, "preposition": 2, "conjunction": 1, "determiner": 2, "complementizer": 1, "relativizer": 1,
    },
    "small": {
        "noun": 330, "transitive_verb": 80, "intransitive_verb": 70, "communication_verb": 40, "motion_verb": 40,
        "change_verb": 40, "transfer_verb": 30, "perception_verb": 30, "adjective": 120, "adverb": 50, "location": 60,
        "temporal": 40, "instrument": 30, "result": 20, "preposition": 15, "conjunction": 4, "determiner": 6,
        "complementizer": 2, "relativizer": 2,
    },
    "paper": {
        "noun": 2783, "transitive_verb": 694, "intransitive_verb": 694, "communication_verb": 347, "motion_verb": 347,
        "change_verb": 347, "transfer_verb": 347, "perception_verb": 347, "adjective": 1388, "adverb": 555, "location": 694,
        "temporal": 694, "instrument": 277, "result": 277, "preposition": 416, "conjunction": 277, "determiner": 111,
        "complementizer": 2, "relativizer": 2,
    },
}  # fmt: skip


def preset(name: str) -> dict[str, Any]:
    """Return the parameters of a preset grammar."""
    if name not in SIZES:
        raise AbsynthError("preset", name, f"one of {', '.join(SIZES)}")
    return {"name": name, "sizes": SIZES[name], "frames": default_frames(), "levels": LEVELS}
