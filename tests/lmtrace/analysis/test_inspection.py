from __future__ import annotations

import dataclasses
import json
import math

import pytest

from lmtrace.analysis.inspection import settled, when_got
from lmtrace.errors import RunError
from lmtrace.records.inspection import inspections_stamp, read_inspections, rounded
from reference.example_inspection import example_inspection


def test_settled_is_the_start_of_the_last_unbroken_stretch():
    assert settled([0, 1, 2], [True, True, True]) == 0
    assert settled([0, 1, 2], [True, False, True]) == 2
    assert settled([0, 1, 2], [True, True, False]) is None
    assert settled([], []) is None


def test_a_token_is_got_within_a_factor_of_two_of_the_exact_probability():
    # 4.5 * .2^i nats above the exact: 4.5, .9, .18, .036; log 2 = .69, so from the third checkpoint on.
    assert when_got(example_inspection())["columns"] == [400] * 7
    astray = when_got(example_inspection(wrong=3))["columns"]
    assert astray == [400] * 3 + [None] * 4, "what cannot stand there is never got"


def test_without_an_oracle_it_is_half_of_the_way_if_there_was_a_way():
    found = dataclasses.replace(example_inspection(), oracle=None)
    assert when_got(found)["columns"] == [100] * 7, ".9 of 4.5 nats are left"
    still = [{**m, "surprisal": [3.0 - 0.1 * i] * 7} for i, m in enumerate(found.moments)]
    assert when_got(dataclasses.replace(found, moments=still))["columns"] == [None] * 7


def test_a_label_is_got_where_the_best_probe_reads_it():
    found = example_inspection()
    got = found.got["labels"]["role"]
    assert got["site"] == "block.0"
    steps = [m["step"] for m in found.moments]
    for w, gold in enumerate(found.gold["role"]):
        right = [
            gold is not None and found.layers["role"][m["probes"]["role"]["reading"][1][w]] == gold
            for m in found.moments
        ]
        assert got["words"][w] == settled(steps, right)


def test_files_come_back_and_what_is_broken_is_said(tmp_path):
    assert read_inspections(tmp_path) == []
    assert inspections_stamp(tmp_path) == ""
    found = example_inspection()
    path = found.save(tmp_path)
    assert read_inspections(tmp_path)[0].to_dict() == found.to_dict()
    assert inspections_stamp(tmp_path).startswith("1-")
    assert read_inspections(tmp_path, since="9999") == []
    path.write_text(json.dumps({**found.to_dict(), "version": 99}))
    with pytest.raises(RunError, match="not an inspection of version 1"):
        read_inspections(tmp_path)
    path.write_text("[")
    with pytest.raises(RunError, match="is not an inspection"):
        read_inspections(tmp_path)


def test_numbers_are_rounded_and_finite():
    assert rounded({"a": [math.inf, 1.23456, 3]}) == {"a": [None, 1.235, 3]}
