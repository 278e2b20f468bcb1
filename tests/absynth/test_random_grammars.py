"""Random small grammars: conditionals sum to one, trees are valid, the oracle equals the listing."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import absynth
from absynth import Construction, Frame, Grammar, Zipf
from absynth.language import language_size
from reference.language import Listing, entropy
from reference.trees import check_tree

_SUBJECTS = (
    "(NP:Agent noun)",
    "(NP:Agent adjective noun)",
    "(NP:Agent determiner adjective?0.4 noun)",
    "(NP:Agent (NP noun) (PP preposition (NP location)))",
    "(NP:Agent (NP noun) conjunction (NP noun))",
    "(NP:Agent (NP noun) (SBAR relativizer:Agent (S@act (VP verb))))",
)
_OBJECTS = (
    "",
    " (NP:Patient noun)",
    " (NP:Patient adjective noun)",
    " (NP:Patient (NP noun) (PP preposition (NP location)))",
)
_REST = ("", " (ADVP:Manner adverb)?", " (PP:Location preposition (NP location))?", " (NP:Time temporal)?0.3")
_FRONT = ("", "(NP:Time temporal) ", "(PP:Location preposition (NP location)) ")


@st.composite
def grammars(draw):
    act, hit = [], []
    for i in range(draw(st.integers(1, 3))):
        front, rest = draw(st.sampled_from(_FRONT)), draw(st.sampled_from(_REST))
        assume(not ("Time" in front and "Time" in rest) and not ("Location" in front and "Location" in rest))
        subject, thing = draw(st.sampled_from(_SUBJECTS)), draw(st.sampled_from(_OBJECTS))
        pattern = f"(S {front}{subject} (VP verb{thing}{rest}))"
        construction = Construction(name=f"c{i}", level="simple", pattern=pattern, weight=draw(st.floats(0.1, 3)))
        (hit if thing else act).append(construction)
    act.append(Construction(name="plain", level="simple", pattern="(S (NP:Agent noun) (VP verb))"))
    optional = {"Manner": 0.3, "Location": 0.4, "Time": 0.5}
    frames = [
        Frame(
            name="act",
            verb="intransitive_verb",
            core=("Agent",),
            optional=optional,
            share=0.4 if hit else 1.0,
            constructions=tuple(act),
        )
    ]
    if hit:
        frames.append(
            Frame(
                name="hit",
                verb="transitive_verb",
                core=("Agent", "Patient"),
                optional=optional,
                share=0.6,
                constructions=tuple(hit),
            )
        )
    size = st.integers(1, 3)
    names = (
        "noun",
        "adjective",
        "determiner",
        "preposition",
        "location",
        "conjunction",
        "relativizer",
        "intransitive_verb",
        "transitive_verb",
        "adverb",
        "temporal",
    )
    settings_ = dict(
        sizes={name: draw(size) for name in names},
        frames=frames,
        clusters=draw(st.integers(1, 3)),
        strength=draw(st.sampled_from([0.0, 0.4, 0.9, 1.0])),
        zipf=Zipf(draw(st.floats(0, 2)), draw(st.floats(0, 3))),
        plural=draw(st.sampled_from([0.0, 0.3, 1.0])),
        past=draw(st.sampled_from([0.0, 0.5])),
        seed=draw(st.integers(0, 99)),
    )
    grammar = Grammar(**settings_)
    if draw(st.booleans()):
        try:
            ambiguous = Grammar(**{**settings_, "ambiguity": 0.2})
            ambiguous.vocabulary  # noqa: B018
            grammar = ambiguous
        except absynth.AbsynthError:
            pass  # too few open-class words to pair
    return grammar


@settings(max_examples=60, deadline=None)
@given(grammars())
def test_conditionals_sum_to_one_and_surprisals_are_consistent(grammar):
    oracle = absynth.Oracle(grammar)
    corpus = absynth.generate(grammar, 30, seed=0)
    score = oracle.score(corpus)
    assert np.isfinite(score.surprisal).all()
    for i, law in enumerate(oracle.laws(corpus)):
        np.testing.assert_allclose(law.sum(axis=1), 1.0, atol=1e-12)
        assert law.min() >= 0
        rows = slice(score.offsets[i], score.offsets[i + 1])
        picked = [*corpus.ids[corpus.offsets[i] : corpus.offsets[i + 1]], -1]
        np.testing.assert_allclose(-np.log2(law[np.arange(len(law)), picked]), score.surprisal[rows], atol=1e-9)
        np.testing.assert_allclose(
            [entropy({j: p for j, p in enumerate(row)}) for row in law], score.entropy[rows], atol=1e-9
        )
    np.testing.assert_allclose(score.log2_probability, oracle.log2_probability(corpus), atol=1e-9)
    for sentence in corpus[:10]:
        check_tree(sentence.heads)
        assert oracle.parse(sentence.tokens)


@settings(max_examples=25, deadline=None)
@given(grammars())
def test_the_oracle_equals_the_listing(grammar):
    assume(language_size(grammar) < 6_000)
    oracle, listing = absynth.Oracle(grammar), Listing(grammar)
    strings = sorted(listing.strings)
    assert abs(sum(listing.strings.values()) - 1.0) < 1e-9
    np.testing.assert_allclose(
        2.0 ** oracle.log2_probability(strings), [listing.strings[s] for s in strings], rtol=1e-8
    )
