from __future__ import annotations

import numpy as np
import pytest

from lmtrace.analysis.compare import compare
from lmtrace.errors import RunError

from .synthetic import SyntheticRun

STEPS = np.arange(40) * 100


def run(seed, shift=0.0, role_first=True):
    g = np.random.default_rng(seed)
    speed = np.exp(g.normal(0, 0.4))
    out = SyntheticRun(STEPS)
    for label, middle in (("role", 500 if role_first else 1000), ("upos", 1000 if role_first else 500)):
        rise = 1 / (1 + np.exp(-(np.log1p(STEPS) - np.log(middle * speed)) / 0.2))
        out.add(
            "probe", "accuracy", 0.3 + (0.5 + shift) * rise + 0.01 * g.standard_normal(40), label, stderr=0.01, null=0.3
        )
    return out


def kinds(found):
    return [f.kind for f in found]


def test_order_over_seeds_follows_the_plant():
    for role_first in (True, False):
        found = [f for f in compare([run(s, role_first=role_first) for s in range(5)]) if f.kind == "order"]
        assert len(found) == 1
        assert found[0].sentence.startswith("role came before upos" if role_first else "upos came before role")


def test_seeds_give_spread_and_times():
    first = compare([run(s) for s in range(4)])[0]
    assert first.kind == "seeds"
    assert first.numbers["emerged"] == 4
    assert first.interval[0] < 0.8 < first.interval[1] or first.numbers["mean"] == pytest.approx(0.8, abs=0.02)
    assert "Fewer than 5" in first.caveats[0]


def test_paired_groups():
    better = compare([run(s) for s in range(5)], [run(s, shift=0.1) for s in range(5)])
    ends = [f for f in better if "difference" in f.numbers]
    assert kinds(ends) == ["difference"] * 2
    assert all("better in the second" in f.sentence for f in ends)
    same = compare([run(s) for s in range(5)], [run(s + 50) for s in range(5)])
    assert "not resolved" in kinds(same)


def test_two_runs_by_their_own_errors():
    found = compare([run(0), run(0, shift=0.2)])
    assert kinds(found) == ["difference"] * 2 + ["not resolved"] * 2  # ends differ, times do not
    assert sum("One run each" in caveat for f in found for caveat in f.caveats) == 1
    assert found[0].interval[0] < found[0].numbers["difference"] < found[0].interval[1]
    assert set(kinds(compare([run(0), run(0)]))) == {"not resolved"}


def test_times_are_compared_over_pairs_of_seeds_and_within_two_runs():
    later = compare([run(s) for s in range(5)], [run(s, role_first=False) for s in range(5)])
    times = {f.series[0].label: f for f in later if "ratio" in f.numbers}
    assert later[0].kind == "difference"
    assert times["role"].interval[0] < 2 < times["role"].interval[1]
    assert "earlier in the first" in times["role"].sentence
    assert "earlier in the second" in times["upos"].sentence
    two = [f for f in compare([run(0)], [run(0, role_first=False)]) if "first_midpoint" in f.numbers]
    assert kinds(two) == ["difference"] * 2


def test_not_pairs():
    with pytest.raises(RunError, match="at least two runs"):
        compare([run(0)])
    with pytest.raises(RunError, match="not pairs"):
        compare([run(0)], [])
