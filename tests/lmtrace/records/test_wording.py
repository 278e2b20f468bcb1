"""Counts and ranges read as a person would write them."""

import numpy as np
import pytest

from lmtrace.analysis.findings.finding import say_interval, say_when
from lmtrace.records.wording import counted, reach


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([], "no measurement yet"),
        ([2], "1 measurement, step 2"),
        ([0, 2000], "2 measurements, steps 0 to 2,000"),
    ],
)
def test_how_far_a_run_has_come(steps, text):
    assert reach(np.array(steps)) == text


def test_one_is_not_many():
    assert (counted(1, "step"), counted(1200, "step"), counted(0, "step")) == ("1 step", "1,200 steps", "0 steps")


def test_an_interval_of_one_step_is_that_step():
    assert (say_interval((2.1, 2.3)), say_interval((2, 30))) == ("2", "2 to 30")


def test_what_comes_after_the_end_is_not_at_after_the_end():
    assert (say_when(82.4), say_when(float("inf")), say_when(None)) == ("at 82", "after the end", "after the end")
