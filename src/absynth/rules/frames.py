"""Frames and constructions as data, and the fourteen frames that come with absynth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Construction:
    """One linearisation of a frame.

    Attributes
    ----------
    name
        Unique within its frame.
    level
        "simple", "medium" or "complex".
    pattern
        Bracketed text, see `absynth.rules.pattern`.
    weight
        Relative probability among the constructions of the same frame and level.
    """

    name: str
    level: str
    pattern: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A situation type: its verb category, its roles and the ways to say it.

    Attributes
    ----------
    name
        Unique within its grammar.
    verb
        Category of its predicate.
    core
        Roles that every clause of the frame realises.
    optional
        Other roles that it may realise -> probability (used by "?" in patterns).
    share
        Share of sentences.
    constructions
        The linearisations.
    """

    name: str
    verb: str
    core: tuple[str, ...]
    share: float
    constructions: tuple[Construction, ...]
    optional: Mapping[str, float] = field(default_factory=dict)


_OBLIQUE = {
    "Location": "(PP:Location preposition (NP location))",
    "Source": "(PP:Source marker.from (NP location))",
    "Goal": "(PP:Goal marker.to (NP location))",
    "Recipient": "(PP:Recipient marker.to (NP noun))",
    "Beneficiary": "(PP:Beneficiary marker.for (NP noun))",
    "Instrument": "(PP:Instrument marker.with (NP instrument))",
    "Result": "(PP:Result marker.into (NP result))",
    "Possession": "(PP:Theme marker.of (NP noun))",
    "Time": "(NP:Time temporal)",
    "Manner": "(ADVP:Manner adverb)",
    "Purpose": "(SBAR:Purpose marker.inf (S@transitive_action (VP verb.inf (NP:Patient noun))))",
    "WhenTime": "(SBAR:Time marker.when (S@intransitive_action (NP:Agent noun) (VP verb)))",
    "BecauseCause": "(SBAR:Cause marker.because (S@intransitive_action (NP:Agent noun) (VP verb)))",
}
_ACT = "(S@intransitive_action (NP:Agent noun) (VP verb))"
_ACT_SO = "(S@intransitive_action (NP:Agent noun) (VP verb (ADVP:Manner adverb)))"
_HIT = "(S@transitive_action (NP:Agent noun) (VP verb (NP:Patient noun)))"
_SREL = "(SBAR relativizer:Agent (S@transitive_action (VP verb (NP:Patient noun))))"
_OREL = "(SBAR relativizer:Patient (S@transitive_action (NP:Agent noun) (VP verb)))"


def _np(role: str, kind: str = "bare") -> str:
    return {
        "bare": f"(NP:{role} noun)",
        "maybe": f"(NP:{role} determiner?0.3 noun)",
        "det": f"(NP:{role} determiner noun)",
        "adj": f"(NP:{role} determiner?0.3 adjective noun)",
        "pp": f"(NP:{role} (NP determiner noun) (PP preposition (NP location)))",
        "srel": f"(NP:{role} (NP determiner noun) {_SREL})",
        "orel": f"(NP:{role} (NP determiner noun) {_OREL})",
    }[kind]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a frame is said: subject, complements ("Patient" is a bare noun phrase, "+Goal" an oblique), extras."""

    subject: str
    complements: tuple[str, ...]
    passive: tuple[str, tuple[str, ...]] | None = None  # subject, complements
    time: bool = True
    clause: str = "WhenTime"  # "" for none
    purpose: bool = False


def _standard(plan: _Plan) -> list[Construction]:
    """Lay the common constructions over one plan."""

    def tail(complements: tuple[str, ...], kind: str) -> str:
        return "".join(" " + (_OBLIQUE[c[1:]] if c.startswith("+") else _np(c, kind)) for c in complements)

    def say(
        name: str, level: str, subject: str, kind: str, extra: str = "", front: str = "", weight: float = 1.0
    ) -> Construction:
        pattern = f"(S {front}{_np(plan.subject, subject)} (VP verb{tail(plan.complements, kind)}{extra}))"
        return Construction(name=name, level=level, pattern=pattern, weight=weight)

    time = " (NP:Time temporal)?" if plan.time else ""
    found = [
        say("canonical", "simple", "maybe", "bare", weight=3.0),
        say("modified", "medium", "adj", "det", f" (ADVP:Manner adverb)?{time}", weight=3.0),
        say("attractor", "medium", "pp", "bare"),
        say("subject_relative", "complex", "srel", "det", " (ADVP:Manner adverb)?"),
        say("object_relative", "complex", "orel", "det", " (ADVP:Manner adverb)?"),
    ]
    if plan.time:
        found.append(say("fronted_time", "medium", "adj", "bare", front="(NP:Time temporal) "))
    if plan.clause:
        found.append(say("adverbial_clause", "complex", "adj", "det", f" {_OBLIQUE[plan.clause]}"))
        fronted = f"{_OBLIQUE[plan.clause]} "
        found.append(say("fronted_clause", "complex", "adj", "det", front=fronted, weight=0.5))
    if plan.purpose:
        found.append(say("purpose_clause", "complex", "adj", "det", f" {_OBLIQUE['Purpose']}"))
    if plan.passive:
        subject, complements = plan.passive
        pattern = f"(S {_np(subject, 'maybe')} (VP verb.passive{tail(complements, 'bare')}))"
        found.append(Construction(name="passive", level="medium", pattern=pattern))
    return found


def _by(role: str, kind: str = "det") -> str:
    return f"(PP:{role} marker.by {_np(role, kind).replace(':' + role, '', 1)})"


for _role in ("Agent", "Experiencer", "Cause"):
    _OBLIQUE[f"By{_role}"] = _by(_role)


def default_frames() -> tuple[Frame, ...]:
    """Return the fourteen frames of the default grammar; every one has constructions on all three levels."""
    place = Construction(
        name="fronted_place",
        level="medium",
        pattern=f"(S {_OBLIQUE['Location']} {_np('Agent', 'maybe')} (VP verb))",
    )
    double = Construction(
        name="double_object",
        level="medium",
        pattern=f"(S {_np('Agent', 'maybe')} (VP verb {_np('Recipient')} {_np('Theme', 'det')}))",
    )
    said = Construction(
        name="sentential_complement",
        level="complex",
        weight=2.0,
        pattern=f"(S {_np('Agent', 'adj')} (VP verb (SBAR:Theme complementizer {_HIT})))",
    )
    seen = Construction(
        name="sentential_complement",
        level="complex",
        weight=2.0,
        pattern=f"(S {_np('Experiencer', 'adj')} (VP verb (SBAR:Stimulus complementizer {_ACT_SO})))",
    )
    both = "(NP:{0} (NP {1}noun) conjunction (NP {1}noun))"

    def frame(
        name: str, verb: str, core: str, share: float, plan: _Plan, *more: Construction, **optional: float
    ) -> Frame:
        constructions = (*_standard(plan), *more)
        roles = {"Manner": 0.3, **({"Time": 0.3} if plan.time or plan.clause == "WhenTime" else {}), **optional}
        if plan.clause == "BecauseCause":
            roles["Cause"] = 0.1
        if plan.purpose:
            roles["Purpose"] = 0.1
        core_roles = tuple(core.split())
        roles = {role: p for role, p in roles.items() if role not in core_roles}
        return Frame(name=name, verb=verb, core=core_roles, share=share, constructions=constructions, optional=roles)

    located = Construction(
        name="located", level="simple", pattern=f"(S {_np('Agent', 'maybe')} (VP verb {_OBLIQUE['Location']}))"
    )
    coordination = (
        Construction(
            name="subjects", level="simple", pattern=f"(S {both.format('Agent', '')} (VP verb {_np('Patient')}))"
        ),
        Construction(
            name="objects", level="simple", pattern=f"(S {_np('Agent')} (VP verb {both.format('Patient', '')}))"
        ),
        Construction(
            name="modified_subjects",
            level="medium",
            pattern=(
                f"(S {both.format('Agent', 'determiner ')} (VP verb {_np('Patient', 'maybe')} (ADVP:Manner adverb)?))"
            ),
        ),
        Construction(
            name="clauses",
            level="complex",
            pattern=f"(S (S {_np('Agent', 'adj')} (VP verb {_np('Patient', 'det')})) conjunction {_ACT})",
        ),
        Construction(
            name="transitive_clauses",
            level="complex",
            pattern=f"(S (S {_np('Agent', 'det')} (VP verb {_np('Patient')})) conjunction {_HIT})",
        ),
    )
    static = (
        Construction(
            name="canonical", level="simple", pattern=f"(S {_np('Theme', 'maybe')} (VP copula {_OBLIQUE['Location']}))"
        ),
        Construction(
            name="modified",
            level="medium",
            pattern=f"(S {_np('Theme', 'adj')} (VP copula {_OBLIQUE['Location']} (NP:Time temporal)?))",
            weight=2.0,
        ),
        Construction(
            name="attractor", level="medium", pattern=f"(S {_np('Theme', 'pp')} (VP copula {_OBLIQUE['Location']}))"
        ),
        Construction(
            name="subject_relative",
            level="complex",
            pattern=f"(S {_np('Theme', 'srel')} (VP copula {_OBLIQUE['Location']}))",
        ),
        Construction(
            name="object_relative",
            level="complex",
            pattern=f"(S {_np('Theme', 'orel')} (VP copula {_OBLIQUE['Location']}))",
        ),
    )
    return (
        frame(
            "transitive_action",
            "transitive_verb",
            "Agent Patient",
            0.20,
            _Plan("Agent", ("Patient",), ("Patient", ("+ByAgent",)), purpose=True),
        ),
        frame(
            "intransitive_action",
            "intransitive_verb",
            "Agent",
            0.13,
            _Plan("Agent", (), time=False, clause="BecauseCause"),
            located,
            place,
            Location=0.3,
        ),
        frame(
            "communication",
            "communication_verb",
            "Agent Theme",
            0.09,
            _Plan("Agent", ("Theme", "+Recipient")),
            said,
            Recipient=0.5,
        ),
        frame(
            "motion",
            "motion_verb",
            "Agent Goal",
            0.09,
            _Plan("Agent", ("+Source", "+Goal"), purpose=True),
            Construction(
                name="goal", level="simple", pattern=f"(S {_np('Agent', 'maybe')} (VP verb {_OBLIQUE['Goal']}))"
            ),
            Source=0.5,
        ),
        frame("change_of_state", "change_verb", "Patient Result", 0.08, _Plan("Patient", ("+Result",))),
        frame(
            "instrumental_action",
            "transitive_verb",
            "Agent Patient Instrument",
            0.07,
            _Plan("Agent", ("Patient", "+Instrument"), ("Patient", ("+ByAgent", "+Instrument"))),
        ),
        frame(
            "transfer",
            "transfer_verb",
            "Agent Theme Recipient",
            0.08,
            _Plan("Agent", ("Theme", "+Recipient"), ("Theme", ("+Recipient", "+ByAgent")), purpose=True),
            double,
        ),
        frame(
            "perception",
            "perception_verb",
            "Experiencer Stimulus",
            0.07,
            _Plan("Experiencer", ("Stimulus",), ("Stimulus", ("+ByExperiencer",))),
            seen,
        ),
        frame(
            "possession",
            "transitive_verb",
            "Agent Theme",
            0.03,
            _Plan("Agent", ("+Possession",), clause="BecauseCause"),
        ),
        Frame(
            name="location_static",
            verb="copula",
            core=("Theme", "Location"),
            share=0.05,
            constructions=static,
            optional={"Time": 0.3},
        ),
        frame(
            "causation", "change_verb", "Cause Patient", 0.03, _Plan("Cause", ("Patient",), ("Patient", ("+ByCause",)))
        ),
        frame(
            "temporal_action",
            "intransitive_verb",
            "Agent Time",
            0.03,
            _Plan("Agent", ("+Time",), time=False, clause=""),
            Construction(
                name="fronted_time", level="medium", pattern=f"(S (NP:Time temporal) {_np('Agent', 'maybe')} (VP verb))"
            ),
        ),
        Frame(
            name="coordination",
            verb="transitive_verb",
            core=("Agent", "Patient"),
            share=0.03,
            constructions=coordination,
            optional={"Manner": 0.3},
        ),
        frame(
            "multi_participant",
            "transfer_verb",
            "Agent Theme Recipient Beneficiary",
            0.02,
            _Plan("Agent", ("Theme", "+Recipient", "+Beneficiary"), purpose=True),
        ),
    )


def add_frames(frames: Sequence[Frame], new: Sequence[Frame]) -> tuple[Frame, ...]:
    """Return the frames with new ones added, or put in place of those of the same name.

    The new frames keep their shares; the shares of the others are scaled so that all sum to 1.
    """
    names = {frame.name for frame in new}
    kept = [frame for frame in frames if frame.name not in names]
    room, now = 1.0 - sum(frame.share for frame in new), sum(frame.share for frame in kept)
    scale = room / now if now > 0 and room >= 0 else 1.0
    return (*(replace(frame, share=frame.share * scale) for frame in kept), *new)
