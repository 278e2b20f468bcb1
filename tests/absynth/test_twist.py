"""The example with the twist keeps what it promises."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import absynth


@pytest.fixture(scope="module")
def twist():
    path = Path(__file__).parents[2] / "examples" / "11_absynth_twist.py"
    spec = importlib.util.spec_from_file_location("absynth_twist", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_what_is_equal_and_what_is_not(twist):
    syntax, semantics = twist.twins(words=30_000, preset="tiny")
    assert syntax.first.vocabulary == semantics.first.vocabulary == syntax.second.vocabulary
    assert list(syntax.second[:50]) == list(semantics.second[:50])
    for part in (syntax.first, semantics.first, syntax.second):
        assert abs(len(part.ids) - 30_000) < 15
        noun = absynth.describe(part, scored=0).zipf["noun"]
        assert abs(noun.alpha - 1.05) < 4 * noun.stderr
    # No selection to learn in the one, no agreement in the other.
    assert sum(syntax.first.grammar.selection_information().values()) == 0
    assert min(semantics.first.grammar.selection_information().values()) > 0.05

    def plural_nouns(part):
        upos, names = part.column("upos")
        return int((part.column("number")[0][upos == names.index("NOUN")] == 1).sum())

    assert plural_nouns(syntax.first) > 1000
    assert plural_nouns(semantics.first) == 0
    assert set(np.unique(semantics.first.sentence_column("complexity")[0])) == {0}
    shares = [absynth.describe(part, scored=0).shares["frame"] for part in (syntax.first, semantics.first)]
    assert all(share.p > 0.001 for share in shares)
    assert shares[0].requested == pytest.approx(shares[1].requested)
