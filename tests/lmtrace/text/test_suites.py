"""SyntaxGym's suites: formulas by hand, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmtrace.errors import DataError
from lmtrace.text.suites import as_suites, parse, read_suite

FILE = Path(__file__).parents[2] / "data" / "formats" / "suite.json"
VALUES = {("a", "1"): 3.0, ("a", "2"): 1.0, ("b", "1"): 2.0, ("b", "2"): 5.0, ("a", "*"): 4.0, ("b", "*"): 7.0}


@pytest.mark.parametrize(
    ("formula", "right"),
    [
        ("(1;%a%) > (1;%b%)", 3 > 2),
        ("(1;%a%) - (2;%a%) = (1;%b%)", 3 - 1 == 2),
        ("(1;%a%)-(2;%a%)-(2;%a%) > 1", 3 - 1 - 1 > 1),
        ("(1;%a%) - [(2;%a%) - (2;%a%)] > 1", 3 - (1 - 1) > 1),
        ("(*;%a%) < (*;%b%)", 4 < 7),
        ("[(1;%a%) + (2;%a%)] < [(1;%b%)+(2;%b%)]", 4 < 7),
        ("((1;%a%) > (1;%b%)) & ((2;%a%) > (2;%b%))", False),
        ("((1;%a%) > (1;%b%)) | ((2;%a%) > (2;%b%))", True),
        ("(1;%a%) > (1;%b%) & (2;%a%) < (2;%b%)", True),
        ("((1;%a%) < (1;%b%)) & ((2;%a%) > (2;%b%)) | ((*;%a%) < (*;%b%))", True),
        ("((1;%a%) < (1;%b%)) & [((2;%a%) > (2;%b%)) | ((*;%a%) < (*;%b%))]", False),
        ("[[((1;%a%) - (1;%b%)) < ((2;%b%) - (2;%a%))] & [(( (1;%a%) )) > ((2;%a%))]]", (3 - 2 < 5 - 1) and 3 > 1),
    ],
)  # fmt: skip
def test_formulas_by_hand(formula, right):
    assert parse(formula).holds(VALUES) is right


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("(1;%a%)", "a sum that is compared with nothing"),
        ("(1;%a%) < ", "it ends where a region is expected"),
        ("(1;%a%) < (1;%b%) < (2;%b%)", "one comparison after the other"),
        ("(1;%a%) < (1;%b%))", "expected 'the end'"),
        ("[(1;%a%) < (1;%b%))", "expected"),
        ("(1;%a%) < (x;%b%)", "'x;%b%\\)' cannot be read. Write regions as"),
        ("(1;%a%) < + ", "'\\+' where a region is expected"),
        ("(" * 3000 + "(1;%a%) < (1;%b%)", "nested too deep|expected"),
    ],
)
def test_a_formula_that_cannot_be_read(formula, message):
    with pytest.raises(DataError, match=message):
        parse(formula)


@settings(max_examples=200, deadline=None)
@given(st.text("()[]+-<>=&|;%*1a ", max_size=24))
def test_no_formula_does_worse_than_an_error(text):
    try:
        held = parse(text).holds
    except DataError:
        return
    try:
        assert held({}) in (True, False)
    except KeyError:
        return


def test_a_file():
    suite = read_suite(FILE)
    assert (suite.name, suite.metric, len(suite.items), len(suite.predictions)) == ("agreement_pp", "sum", 1, 2)
    assert suite.items[0].conditions["match"] == (("1", "the boats"), ("2", ""), ("3", "sink"))
    assert suite.predictions[0].mentioned == (("match", "3"), ("mismatch", "3"))
    assert [s.name for s in as_suites((FILE, suite, str(FILE.parent / "suite.json")))] == ["agreement_pp"] * 3


def test_the_old_form_of_a_prediction(tmp_path):
    content = json.loads(FILE.read_text(encoding="utf-8"))
    content["predictions"] = [
        {"relation": "greaterthan", "region_number": 3, "l_operand": "mismatch", "r_operand": "match"}
    ]
    (tmp_path / "s.json").write_text(json.dumps(content))
    assert read_suite(tmp_path / "s.json").predictions[0].text == "(3;%mismatch%) > (3;%match%)"
    assert len(as_suites(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("items"), r"s\.json: not a suite of SyntaxGym \(KeyError: 'items'\). Expected meta"),
        (lambda c: c.update(items=[]), "a suite of 0 items"),
        (lambda c: c["meta"].update(metric="median"), "metric is 'median'. Known: sum"),
        (lambda c: c["predictions"][0].update(formula="(3;%match%) <"), r"s\.json: formula .* it ends"),
        (lambda c: c["predictions"][0].update(formula="(9;%match%) < 1"), "item 1: .* names the region 9. .* has: 1, 2, 3"),
        (lambda c: c["predictions"][0].update(formula="(1;%x%) < 1"), "item 1: .* names the condition 'x'. The item has: match"),
    ],
)  # fmt: skip
def test_a_broken_suite(tmp_path, change, message):
    content = json.loads(FILE.read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_suite(tmp_path / "s.json")


def test_no_suite(tmp_path):
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_suite(tmp_path / "s.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no suite in it"):
        as_suites(tmp_path / "empty")
