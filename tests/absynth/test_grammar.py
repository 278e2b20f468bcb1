"""Grammars: what they promise is what their tables hold, and what is wrong is refused by name."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import absynth
from absynth import AbsynthError, Construction, Frame, Grammar, Zipf
from absynth.rules.lexicon import deal_clusters
from absynth.rules.selection import joint_law, mutual_information, transport_plan
from reference.toys import TOYS

PATTERN = "(S (NP:Agent noun) (VP verb))"


def simple(**changes):
    frame = dict(
        name="act",
        verb="intransitive_verb",
        core=("Agent",),
        share=1.0,
        constructions=(Construction(name="c", level="simple", pattern=PATTERN),),
    )
    frame |= changes.pop("frame", {})
    return Grammar(**{"sizes": {"noun": 5, "intransitive_verb": 4}, "frames": [Frame(**frame)], **changes})


@pytest.mark.parametrize("name", ["tiny", "small", "paper"])
def test_presets_honour_their_shares(name):
    grammar = Grammar.preset(name)
    assert sum(t.probability for t in grammar.templates) == pytest.approx(1.0, abs=1e-12)
    assert grammar.shares["level"] == pytest.approx(grammar.levels, abs=1e-12)
    assert grammar.shares["frame"] == pytest.approx({f.name: f.share for f in grammar.frames}, abs=1e-12)
    assert len(grammar.frames) == 14


def test_preset_sizes():
    assert 55 <= sum(Grammar.preset("tiny").sizes.values()) <= 75
    assert 950 <= sum(Grammar.preset("small").sizes.values()) <= 1050
    paper = Grammar.preset("paper").sizes
    assert (paper["noun"], paper["adjective"], paper["preposition"], paper["result"]) == (2783, 1388, 416, 277)


def test_default_templates_can_be_told_apart():
    signatures = [t.signature() for t in Grammar.preset("small").templates]
    assert len(set(signatures)) == len(signatures)


def test_uneven_levels_are_fitted_exactly():
    both = (
        Construction(name="a", level="simple", pattern=PATTERN),
        Construction(name="b", level="medium", pattern="(S (NP:Agent adjective noun) (VP verb))"),
    )
    one = (Construction(name="c", level="simple", pattern="(S (NP:Agent noun) (VP verb (NP:Patient noun)))"),)
    frames = [
        Frame(name="x", verb="intransitive_verb", core=("Agent",), share=0.7, constructions=both),
        Frame(name="y", verb="transitive_verb", core=("Agent", "Patient"), share=0.3, constructions=one),
    ]
    sizes = {"noun": 3, "adjective": 3, "intransitive_verb": 2, "transitive_verb": 2}
    grammar = Grammar(sizes=sizes, frames=frames, levels={"simple": 0.6, "medium": 0.4})
    assert grammar.shares["frame"] == pytest.approx({"x": 0.7, "y": 0.3}, abs=1e-12)
    assert grammar.shares["level"] == pytest.approx({"simple": 0.6, "medium": 0.4}, abs=1e-12)
    with pytest.raises(AbsynthError, match=r"levels.*can realise together"):
        Grammar(sizes=sizes, frames=frames, levels={"simple": 0.2, "medium": 0.8})


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    st.floats(0, 1),
    st.integers(0, 7),
)
def test_joint_laws_keep_their_marginals(head, dependent, strength, shift):
    a, b = np.array(head) / sum(head), np.array(dependent) / sum(dependent)
    joint = joint_law(a, b, strength, shift)
    assert joint.min() >= 0
    np.testing.assert_allclose(joint.sum(axis=1), a, atol=1e-12)
    np.testing.assert_allclose(joint.sum(axis=0), b, atol=1e-12)
    # An extreme point: as few cells as the marginals allow a plan to need.
    assert np.count_nonzero(transport_plan(a, b, shift) > 1e-12) <= len(a) + len(b) - 1


def test_strength_buys_information():
    masses = np.full(4, 0.25)
    found = [mutual_information(joint_law(masses, masses, s, 1)) for s in (0.0, 0.3, 0.6, 1.0)]
    assert found[0] == pytest.approx(0.0, abs=1e-12)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(2.0)
    weak, strong = (Grammar.preset("small", strength=s).selection_information() for s in (0.2, 0.9))
    assert all(strong[key] > weak[key] + 0.5 for key in weak)


def test_clusters_are_nearly_equal_and_do_not_move_with_alpha():
    law = Zipf().probabilities(300)
    masses = np.bincount(deal_clusters(300, 5), law)
    assert masses.max() - masses.min() < 0.01
    one, two = (Grammar.preset("tiny", zipf=Zipf(alpha)).lexicon.word_cluster for alpha in (0.3, 2.0))
    np.testing.assert_array_equal(one, two)


def test_category_marginals_are_zipf_at_every_strength():
    """The law of every slot's word, summed over the whole cluster tree, is the category's law."""
    for strength in (0.0, 0.5, 1.0):
        program = TOYS["relative"](strength=strength).program
        for t in range(len(program.templates)):
            start, n = int(program.start[t]), int(program.length[t])
            law = {}
            for i in sorted(range(n), key=lambda i, start=start: program.depth[start + i]):
                slot, parent = start + i, int(program.parent[start + i])
                first = int(program.law[slot])
                k = 1 if parent < 0 else len(law[parent])
                rows = program.conditional[first : first + k]
                law[i] = rows[0] if parent < 0 else law[parent] @ rows
                np.testing.assert_allclose(law[i], program.lexicon.mass[program.category[slot]], atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_requested_share_of_forms_is_ambiguous(share):
    lexicon = Grammar.preset("small", ambiguity=share).lexicon
    categories = (lexicon.entry_of >= 0).sum(axis=0)
    assert categories.max() == 2
    assert np.mean(categories == 2) == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("surface", ["pseudoword", "opaque", "labelled"])
def test_forms_are_distinct(surface):
    lexicon = Grammar.preset("small", surface=surface).lexicon
    assert len(set(lexicon.vocabulary)) == len(lexicon.vocabulary) == len(lexicon.entry_token)
    assert not any(" " in form for form in lexicon.vocabulary)


def test_with_entropy_reaches_its_target():
    grammar = Grammar.preset("small").with_entropy(4.5)
    assert float(absynth.Oracle(grammar).entropy_rate(samples=100)) == pytest.approx(4.5, abs=1e-8)
    by_strength = Grammar.preset("tiny").with_entropy(2.8, dial="strength")
    assert float(absynth.Oracle(by_strength).entropy_rate(samples=100)) == pytest.approx(2.8, abs=1e-8)
    with pytest.raises(AbsynthError, match=r"a value from \d\.\d+ to \d\.\d+"):
        Grammar.preset("tiny").with_entropy(9.0)
    with pytest.raises(AbsynthError, match="dial"):
        Grammar.preset("tiny").with_entropy(3.0, dial="volume")


def test_same_specification_same_fingerprint():
    grammar = Grammar.preset("tiny")
    assert Grammar.from_dict(grammar.to_dict()).fingerprint == grammar.fingerprint
    assert Grammar.preset("tiny", seed=1).fingerprint != grammar.fingerprint
    assert grammar.replace(name="other").fingerprint == grammar.fingerprint


@pytest.mark.parametrize("toy", list(TOYS))
def test_toml_round_trip(toy, tmp_path):
    grammar = TOYS[toy]()
    (tmp_path / "g.toml").write_text(grammar.to_toml())
    assert Grammar.from_toml(tmp_path / "g.toml") == grammar


_WEATHER = """preset = "tiny"
[frames.weather]
verb = "intransitive_verb"
core = ["Theme"]
share = 0.25
[[frames.weather.constructions]]
name = "plain"
level = "simple"
pattern = "(S (NP:Theme adjective noun) (VP verb))"
[[frames.weather.constructions]]
name = "more"
level = "medium"
pattern = "(S (NP:Time temporal) (NP:Theme noun) (VP verb))"
"""


def test_a_frame_can_be_added_in_toml(tmp_path):
    (tmp_path / "g.toml").write_text(_WEATHER)
    with pytest.raises(
        AbsynthError, match=r"g\.toml:13: frames\.weather\.more\.pattern: got 'Time'; allowed: a role of weather"
    ):
        Grammar.from_toml(tmp_path / "g.toml")
    text = (tmp_path / "g.toml").read_text().replace("share = 0.25", "share = 0.25\noptional = {Time = 0.5}")
    (tmp_path / "g.toml").write_text(text)
    grammar = Grammar.from_toml(tmp_path / "g.toml")
    assert grammar.shares["frame"]["weather"] == pytest.approx(0.25)
    assert grammar.shares["frame"]["transitive_action"] == pytest.approx(0.75 * 0.20)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sizes": {"noun": -1, "intransitive_verb": 4}}, "sizes.noun: got -1; allowed: a whole number from 1"),
        ({"sizes": {"noun": 5}}, "sizes.intransitive_verb: got None"),
        (
            {"sizes": {"noun": 5, "intransitive_verb": 4, "nuon": 3}},
            "sizes.nuon: got 'nuon'; allowed: a category: noun",
        ),
        ({"sizes": 7}, "sizes: got 7"),
        ({"levels": {"simple": 0.5}}, "levels: got .*sum to 0.5"),
        ({"levels": {"easy": 1.0}}, "levels.easy: got 'easy'; allowed: one of simple, medium, complex"),
        ({"strength": 1.5}, "strength: got 1.5; allowed: a number from 0 to 1"),
        ({"strength": {"noun-vreb": 0.5}}, "strength.noun-vreb"),
        ({"ambiguity": 0.6}, "ambiguity: got 0.6; allowed: a number from 0 to 0.5"),
        ({"surface": "runes"}, "surface: got 'runes'; allowed: one of pseudoword, opaque, labelled"),
        ({"zipf": Zipf(-1.0)}, "zipf.alpha: got -1.0"),
        ({"zipf": {"noun": 3}}, "zipf.noun: got 3"),
        ({"clusters": 0}, "clusters: got 0; allowed: a whole number from 1"),
        ({"plural": float("nan")}, "plural: got nan"),
        ({"seed": -4}, "seed: got -4"),
        ({"frame": {"share": 0.9}}, "frames.share: got .*sum to 0.9"),
        ({"frame": {"verb": "noun"}}, "frames.act.verb: got 'noun'; allowed: one of transitive_verb"),
        ({"frame": {"core": ("Agent", "Hero")}}, "frames.act.core: got 'Hero'; allowed: a role"),
        (
            {"frame": {"core": ("Agent", "Patient")}},
            "frames.act.c.pattern: got 'Agent'; allowed: all core roles of act; missing: Patient",
        ),
        ({"frame": {"optional": {"Time": 2.0}}}, "frames.act.optional.Time: got 2.0"),
        ({"frame": {"constructions": ()}}, "frames.act.constructions"),
        ({"frames": []}, "frames: got \\(\\)"),
        ({"frames": [3]}, "frames: got"),
    ],
)
def test_wrong_settings_are_named(change, text):
    with pytest.raises(AbsynthError, match=text):
        simple(**change)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(S (NP:Agent noun) (VP verb)", "closed brackets"),
        ("(S (NP:Agent noun) (VP verb)))", "one phrase"),
        ("(X (NP:Agent noun) (VP verb))", "got 'X'; allowed: a phrase label"),
        ("(S (NP:Agent nuon) (VP verb))", "got 'nuon'; allowed: a category"),
        ("(S (NP:Hero noun) (VP verb))", "got 'Hero'; allowed: a role"),
        ("(S (NP:Agent noun) (VP verb (NP:Time temporal)?))", "got 'Time'; allowed: \\?p, or a role"),
        ("(S (NP:Agent noun) (VP verb (NP:Time temporal)?1.5))", "allowed: \\? or \\?p"),
        ("(S (NP:Agent noun) (VP verb.sung))", "passive or .inf"),
        ("(S (NP:Agent noun) (VP (NP noun)))", "VP"),
        ("(S (VP verb))", "a subject in every finite clause"),
        ("(S (NP:Agent noun noun) (VP verb))", "a head or a function word"),
        ("(S (NP:Agent noun) (VP verb (NP:Agent noun)))", "each role of act once"),
        ("(S (NP:Agent (NP noun) conjunction) (VP verb))", "a phrase after a conjunction"),
        ("(S (NP:Agent (NP noun) (SBAR relativizer (S@act (VP verb)))) (VP verb))", "relativizer:Role"),
        (
            "(S (NP:Agent (NP noun) (SBAR relativizer:Agent (S@fly (VP verb)))) (VP verb))",
            "got 'fly'; allowed: a frame",
        ),
        ("", "opening bracket"),
        (7, "bracketed pattern"),
    ],
)
def test_wrong_patterns_are_named(pattern, text):
    with pytest.raises(AbsynthError, match=text) as error:
        simple(frame={"constructions": (Construction(name="c", level="simple", pattern=pattern),)})
    assert error.value.field == "frames.act.c.pattern"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1\npreset = 'tiny'\nstrenght = 0.5\n", r":3: strenght: got 'strenght'"),
        ("preset = 'tiny'\n\n[zipf]\nalpha = 'steep'\n", r":4: zipf.alpha: got 'steep'"),
        ("preset = 'tiny'\n[sizes]\nnoun = 3\nverb = 3\n", r":4: sizes.verb"),
        ("preset = 'huge'\n", r":1: preset: got 'huge'; allowed: one of tiny"),
        ("preset = 'tiny'\n[levels\n", r":2: .*valid TOML"),
        ("seed = 3\n", r"sizes: got None"),
    ],
)
def test_wrong_files_name_their_line(text, message, tmp_path):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(AbsynthError, match=r"bad\.toml" + message.replace("sizes: got None", ".*sizes: got None")):
        Grammar.from_toml(tmp_path / "bad.toml")
    with pytest.raises(AbsynthError, match="readable TOML"):
        Grammar.from_toml(tmp_path / "absent.toml")


_junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.floats()
    | st.sampled_from(["noun", "Agent", "simple", "x", "", PATTERN]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["noun", "alpha", "act", "verb", "share", "name", "", "core"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [
            "name",
            "seed",
            "surface",
            "plural",
            "ambiguity",
            "strength",
            "clusters",
            "zipf",
            "sizes",
            "levels",
            "frames",
            "shares",
            "verb",
            "core",
            "optional",
            "share",
            "constructions",
            "level",
            "pattern",
            "weight",
        ]
    ),
    _junk,
)
def test_junk_is_refused_with_our_error_only(key, value):
    spec = simple().to_dict()
    frame = spec["frames"]["act"]
    target = (
        frame
        if key in frame
        else frame["constructions"][0]
        if key in frame["constructions"][0] and key != "name"
        else spec
    )
    target[key] = value
    try:
        grammar = Grammar.from_dict(spec)
    except AbsynthError:
        return
    assert sum(t.probability for t in grammar.templates) == pytest.approx(1.0)


def test_import_is_light():
    heavy = "('torch', 'lmtrace', 'pyarrow', 'matplotlib', 'scipy')"
    code = f"import sys, absynth; sys.exit(any(m in sys.modules for m in {heavy}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = f"import sys, absynth; absynth.Grammar, absynth.Oracle; sys.exit(any(m in sys.modules for m in {heavy}))"
    subprocess.run([sys.executable, "-c", code], check=True)
