"""Old module names give the modules of the new names; the public face is what it was."""

import pickle
import subprocess
import sys
from importlib import import_module
from unittest import mock

import pytest

import absynth
from absynth.aliases import ALIASES

# Every module of the package before its rooms (88a9dc2).
OLD = """
    absynth.beliefs absynth.categories absynth.checks absynth.cli absynth.cli.__main__ absynth.cli.corpora
    absynth.cli.languages absynth.cli.options absynth.cli.output absynth.corpus absynth.diagnosis absynth.edits
    absynth.entropy absynth.errors absynth.explanations absynth.files absynth.filtering absynth.fits absynth.formats
    absynth.formats.builder absynth.formats.conllu absynth.formats.header absynth.formats.hub absynth.formats.jsonl
    absynth.formats.lines absynth.formats.parquet absynth.formats.published absynth.formats.rendering
    absynth.formats.text absynth.frames absynth.grammar absynth.grammar_text absynth.interventions absynth.language
    absynth.layout absynth.lexicon absynth.oracle absynth.pairs absynth.pattern absynth.plots absynth.presets
    absynth.program absynth.quality absynth.quality_text absynth.reading absynth.sample absynth.selection
    absynth.sentence absynth.split absynth.surface absynth.template absynth.trie
"""

# Old module -> some names that code outside the package took from it.
NAMES = {
    "absynth.beliefs": "Beliefs Ceiling LabelMix ceiling construction_beliefs",
    "absynth.categories": "CATEGORIES END LEVELS ROLES",
    "absynth.corpus": "Column Corpus",
    "absynth.diagnosis": "Parse ParsedSentence parse",
    "absynth.entropy": "EntropyRate derivation_entropy entropy_rate solve",
    "absynth.explanations": "Diagnosis Grounds grounds_of",
    "absynth.files": "FORMATS generate_to load save scan whole_file",
    "absynth.fits": "chi_square_tail fit_exponent",
    "absynth.frames": "Construction Frame default_frames",
    "absynth.grammar": "LAW_VERSION Grammar",
    "absynth.grammar_text": "to_toml",
    "absynth.interventions": "KINDS minimal_pairs",
    "absynth.language": "derivations enumerate_language language_size",
    "absynth.lexicon": "Lexicon Zipf deal_clusters",
    "absynth.oracle": "CHUNK Oracle Score Step oracle_of",
    "absynth.pairs": "MinimalPair PairSet",
    "absynth.plots": "plot",
    "absynth.quality": "Description Entropy Exponent Shares describe ngrams rank_counts",
    "absynth.quality_text": "render",
    "absynth.sample": "BLOCK Sampler generate part quota_templates stream",
    "absynth.selection": "joint_law mutual_information transport_plan",
    "absynth.sentence": "LAYERS Derivation Sentence",
    "absynth.template": "FIXED_PLURAL Template",
}

PUBLIC = """
    AbsynthError Construction Corpus Frame Grammar Oracle Sentence Zipf describe generate generate_to load
    minimal_pairs plot stream
"""


def fresh(code: str) -> str:
    """Run code in a new interpreter where every warning is an error, and return what it prints."""
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_public_names():
    assert sorted(absynth.__all__) == PUBLIC.split()
    assert all(getattr(absynth, name) is not None for name in PUBLIC.split())
    assert set(PUBLIC.split()) <= set(dir(absynth))


@pytest.mark.parametrize("old", [name for name in OLD.split() if name != "absynth.cli.__main__"])
def test_every_old_module_is_there(old):
    assert import_module(old) is import_module(ALIASES.get(old, old))


def test_only_old_modules_are_in_the_table():
    assert set(ALIASES) < set(OLD.split())


@pytest.mark.parametrize(("old", "names"), NAMES.items())
def test_old_modules_have_their_names(old, names):
    module = import_module(old)
    assert [name for name in names.split() if not hasattr(module, name)] == []


@pytest.mark.parametrize(
    "statement",
    [
        "import absynth.{short} as found",
        "from absynth import {short} as found",
        "import absynth.{short}; found = absynth.{short}",
        "import absynth; found = absynth.{short}",
        "found = importlib.import_module('absynth.{short}')",
    ],
)
def test_every_way_to_import_gives_the_same_object(statement):
    lines = ["import importlib, sys"]
    for old, new in ALIASES.items():
        lines.append(statement.format(short=old.removeprefix("absynth.")))
        lines.append(f"assert found is sys.modules[{new!r}] and found is sys.modules[{old!r}]")
        lines.append(f"assert found.__name__ == found.__spec__.name == {new!r}")
    fresh("\n".join(lines))


def test_new_before_old_gives_the_same_object():
    fresh("import absynth.rules.lexicon as new, absynth.lexicon as old; assert new is old")


def test_importing_the_package_loads_nothing_that_moved():
    loaded = fresh("import sys, absynth; print(*sorted(name for name in sys.modules if name.startswith('absynth')))")
    assert loaded.split() == ["absynth", "absynth.aliases", "absynth.version"]
    fresh("import sys, absynth; assert not {'numpy', 'importlib.abc', 'importlib.resources'} & sys.modules.keys()")


def test_an_old_name_is_patched_where_it_is_used():
    with mock.patch("absynth.interventions.KINDS", ()):
        assert import_module("absynth.pairs.interventions").KINDS == ()
    assert len(import_module("absynth.pairs.interventions").KINDS) == 7


def test_pickles_of_old_names_are_read():
    law = absynth.Zipf(alpha=1.25, q=2.0)
    text = pickle.dumps(law, protocol=0)
    assert b"absynth.rules.lexicon" in text
    old = text.replace(b"absynth.rules.lexicon", b"absynth.lexicon")
    assert pickle.loads(old) == law


@pytest.mark.parametrize("name", ["absynth.no_such_module", "absynth.rules.no_such_module", "absynth.beliefs.part"])
def test_other_names_are_not_there(name):
    with pytest.raises(ModuleNotFoundError):
        import_module(name)
    assert not hasattr(absynth, "no_such_module")
