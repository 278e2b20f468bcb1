"""Coarser and finer label sets, as data: which value of a layer stands for which value of the set.

A probe names them as `layer/set`: "upos/basic", "role/basic". The sets "basic" are those of the published TRACE; its
"detailed" sets add values that are named here too, reached from ABSynth's categories, roles and frames.
A value that a set does not name becomes OTHER.
"""

from __future__ import annotations

import numpy as np

from lmtrace.errors import ConfigError
from lmtrace.text.panel_parts import LabelLayer

OTHER = "OTHER"

POS_BASIC = {
    # Universal part-of-speech tags
    "NOUN": "NOUN", "PROPN": "NOUN", "PRON": "NOUN", "VERB": "VERB", "AUX": "VERB", "ADJ": "ADJ", "ADV": "ADV",
    "ADP": "PREP", "DET": "DET", "CCONJ": "CONJ", "SCONJ": "CONJ",
    # ABSynth categories
    "noun": "NOUN", "location": "NOUN", "instrument": "NOUN", "temporal": "ADV", "result": "NOUN",
    "pronoun": "NOUN", "transitive_verb": "VERB", "intransitive_verb": "VERB", "communication_verb": "VERB",
    "motion_verb": "VERB", "change_verb": "VERB", "verb": "VERB", "auxiliary": "VERB", "adjective": "ADJ",
    "adverb": "ADV", "preposition": "PREP", "determiner": "DET", "conjunction": "CONJ",
}  # fmt: skip
"""NOUN VERB ADJ ADV PREP DET CONJ OTHER."""

POS_DETAILED = POS_BASIC | {
    "transitive_verb": "TRANSITIVE_VERB", "intransitive_verb": "INTRANSITIVE_VERB",
    "communication_verb": "COMMUNICATION_VERB", "motion_verb": "MOTION_VERB", "change_verb": "CHANGE_VERB",
    "location": "LOCATION", "temporal": "TEMP", "result": "RESULT",
}  # fmt: skip
"""The basic set with the verb classes, LOCATION, TEMP and RESULT."""

ROLE_BASIC = {
    "Agent": "AGENT", "Experiencer": "AGENT", "Cause": "AGENT",
    "Patient": "PATIENT", "Theme": "PATIENT", "Stimulus": "PATIENT", "Recipient": "PATIENT", "Beneficiary": "PATIENT",
    "Predicate": "ACTION", "Action": "ACTION",
    "Location": "LOCATION", "Source": "LOCATION", "Goal": "LOCATION",
    "Relation": "RELATION", "Connector": "CONNECTOR", "Result": "RESULT",
}  # fmt: skip
"""AGENT PATIENT ACTION LOCATION RELATION CONNECTOR RESULT OTHER."""

ROLE_DETAILED = ROLE_BASIC | {
    "Motion": "MOTION", "Communication": "COMMUNICATION", "Change": "CHANGE", "Goal": "DESTINATION", "Time": "TIME",
    "Property": "PROPERTY", "Manner": "MANNER",
}  # fmt: skip
"""The basic set with MOTION COMMUNICATION CHANGE DESTINATION TIME PROPERTY MANNER."""

SETS: dict[tuple[str, str], dict[str, str]] = {
    ("upos", "basic"): POS_BASIC,
    ("upos", "detailed"): POS_DETAILED,
    ("category", "basic"): POS_BASIC,
    ("category", "detailed"): POS_DETAILED,
    ("role", "basic"): ROLE_BASIC,
    ("role", "detailed"): ROLE_DETAILED,
}
"""(layer, set) -> value -> value of the set."""


def layer_of(label: str) -> str:
    """Return the panel's layer that a label names: "role" for "role/basic".

    Raises
    ------
    ConfigError
        For a set that does not exist; the error lists those of the layer.
    """
    layer, slash, name = label.partition("/")
    if slash and (layer, name) not in SETS:
        known = [f"{a}/{b}" for a, b in SETS]
        raise ConfigError(f"there is no label set {label!r}", f"Known: {', '.join(known)}")
    return layer


def coarsen(layer: LabelLayer, label: str) -> LabelLayer:
    """Return the layer under the set that `label` names ("role/basic"); unchanged where it names none."""
    if "/" not in label:
        return layer
    layer_of(label)
    table = SETS[layer.name, label.partition("/")[2]]
    values = [table.get(name, OTHER) for name in layer.names]
    names = tuple(sorted(set(values)))
    lookup = np.array([names.index(v) for v in values] or [-1], np.int64)
    return LabelLayer(label, np.where(layer.codes >= 0, lookup[layer.codes], -1), names)
