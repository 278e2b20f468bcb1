"""Toy grammars whose whole language can be listed."""

from absynth import Construction, Frame, Grammar, Zipf


def _frame(name, verb, core, share, *patterns, optional=None):
    constructions = tuple(Construction(name=f"c{i}", level="simple", pattern=p) for i, p in enumerate(patterns))
    return Frame(
        name=name,
        verb=verb,
        core=tuple(core.split()),
        share=share,
        constructions=constructions,
        optional=optional or {},
    )


def agreement(**changes):
    """Agreement across a prepositional attractor; adjectives before their noun."""
    settings = dict(
        sizes={"noun": 3, "location": 2, "preposition": 2, "intransitive_verb": 2, "adjective": 2, "adverb": 2},
        frames=[
            _frame(
                "act",
                "intransitive_verb",
                "Agent",
                1.0,
                "(S (NP:Agent adjective?0.3 noun) (VP verb))",
                "(S (NP:Agent (NP noun) (PP preposition (NP location))) (VP verb (ADVP:Manner adverb)?))",
                optional={"Manner": 0.4},
            )
        ],
        clusters=2,
        strength=0.6,
        seed=3,
        zipf=Zipf(1.0, 0.5),
    )
    return Grammar(**{**settings, **changes})


def relative(**changes):
    """Subject and object relative clauses: agreement across a clause, a verb selected by the noun that it modifies."""
    settings = dict(
        sizes={"noun": 3, "transitive_verb": 2, "intransitive_verb": 2, "relativizer": 1},
        frames=[
            _frame(
                "act",
                "intransitive_verb",
                "Agent",
                0.7,
                "(S (NP:Agent noun) (VP verb))",
                "(S (NP:Agent (NP noun) (SBAR relativizer:Agent (S@hit (VP verb (NP:Patient noun))))) (VP verb))",
                "(S (NP:Agent (NP noun) (SBAR relativizer:Patient (S@hit (NP:Agent noun) (VP verb)))) (VP verb))",
            ),
            _frame(
                "hit",
                "transitive_verb",
                "Agent Patient",
                0.3,
                "(S (NP:Agent noun) (VP verb (NP:Patient noun)))",
                "(S (NP:Patient noun) (VP verb.passive (PP:Agent marker.by (NP noun))))",
            ),
        ],
        clusters=2,
        strength=0.7,
        seed=1,
        past=0.0,
    )
    return Grammar(**{**settings, **changes})


def ambiguous(**changes):
    """Homographs, and strings with two derivations: a phrase after the verb belongs to the noun or to the verb."""
    settings = dict(
        sizes={"noun": 4, "location": 2, "preposition": 2, "transitive_verb": 3, "intransitive_verb": 2, "adverb": 2},
        frames=[
            _frame(
                "hit",
                "transitive_verb",
                "Agent Patient",
                0.6,
                "(S (NP:Agent noun) (VP verb (NP:Patient noun) (PP:Location preposition (NP location))?))",
                "(S (NP:Agent noun) (VP verb (NP:Patient (NP noun) (PP preposition (NP location)))))",
                optional={"Location": 0.4},
            ),
            _frame(
                "act",
                "intransitive_verb",
                "Agent",
                0.4,
                "(S (NP:Agent noun) (VP verb (ADVP:Manner adverb)?))",
                optional={"Manner": 0.5},
            ),
        ],
        clusters=2,
        strength=0.8,
        seed=5,
        ambiguity=0.3,
        past=0.0,
        plural=0.4,
    )
    return Grammar(**{**settings, **changes})


def fronted(**changes):
    """Several dependents before their head, and coordination."""
    settings = dict(
        sizes={
            "noun": 2,
            "adjective": 2,
            "transitive_verb": 2,
            "temporal": 2,
            "conjunction": 1,
            "copula": 1,
            "location": 2,
            "preposition": 2,
        },
        frames=[
            _frame(
                "hit",
                "transitive_verb",
                "Agent Patient",
                0.7,
                "(S (NP:Time temporal) (NP:Agent adjective noun) (VP verb (NP:Patient noun)))",
                "(S (NP:Agent (NP noun) conjunction (NP noun)) (VP verb (NP:Patient noun)))",
                optional={"Time": 0.5},
            ),
            _frame(
                "be",
                "copula",
                "Theme Location",
                0.3,
                "(S (NP:Theme noun) (VP copula (PP:Location preposition (NP location)) (NP:Time temporal)?))",
                optional={"Time": 0.5},
            ),
        ],
        clusters=2,
        strength=1.0,
        seed=2,
        past=0.0,
    )
    return Grammar(**{**settings, **changes})


TOYS = {"agreement": agreement, "relative": relative, "ambiguous": ambiguous, "fronted": fronted}
