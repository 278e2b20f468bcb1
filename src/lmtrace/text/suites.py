"""Suites of SyntaxGym: sentences in regions, under several conditions, and formulas over the regions' surprisals.

A formula compares sums: "(3;%match%) < (3;%mismatch%)", "[((2;%a%) + (3;%a%)) < (*;%b%)] & ((1;%a%) = (1;%b%))". (region;
%condition%) is the surprisal of a region, `*` that of the whole sentence. `&` and `|` bind weakest, then < > =, then + and -.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmtrace.errors import DataError
from lmtrace.text.readers.lines import suffixes, whole

Values = Mapping[tuple[str, str], float]
"""(condition, region or "*") -> surprisal in nats."""
Term = Callable[[Values], float]
Claim = Callable[[Values], bool]

METRICS: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": sum,
    "mean": lambda tokens: sum(tokens) / len(tokens) if tokens else 0.0,
    "max": lambda tokens: max(tokens, default=0.0),
    "min": lambda tokens: min(tokens, default=0.0),
    "all": sum,
}
"""From the surprisals of a region's tokens to that of the region; a region without tokens has 0."""
_TOKEN = re.compile(r"\(\s*(\*|\d+)\s*;\s*%([^%]+)%\s*\)|(\d+(?:\.\d+)?)|([()\[\]+\-<>=&|])|\s+")
_OPEN = {"(": ")", "[": "]"}
_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "=": lambda a, b: a == b,
}
_OLD = {"greaterthan": ">", "lessthan": "<", "equals": "="}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One claim about every item.

    Attributes
    ----------
    text
        The formula as written.
    holds
        Whether it is true of the surprisals of an item.
    mentioned
        The (condition, region) that it reads.
    """

    text: str
    holds: Claim
    mentioned: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One item: condition -> its regions, as (number, content) in reading order."""

    number: str
    conditions: Mapping[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Suite:
    """A test suite: its name, how tokens become a region's surprisal (`METRICS`), predictions and items."""

    name: str
    metric: str
    predictions: tuple[Prediction, ...]
    items: tuple[Item, ...]


def as_suites(source: str | Path | Suite | Iterable[Any]) -> list[Suite]:
    """Return suites from a file, a folder of them and of folders, `Suite` objects, or a mix."""
    if isinstance(source, Suite):
        return [source]
    if not isinstance(source, (str, Path)):
        return [suite for item in source for suite in as_suites(item)]
    path = Path(source)
    if not path.is_dir():
        return [read_suite(path)]
    files = [p for p in sorted(path.rglob("*")) if suffixes(p)[0] == ".json" and p.is_file()]
    if not files:
        raise DataError(f"{path}: no suite in it", "Expected files .json of SyntaxGym, each also compressed")
    return [read_suite(file) for file in files]


def read_suite(path: str | Path) -> Suite:
    """Read one suite.

    Raises
    ------
    DataError
        For a file that is no suite, a formula that cannot be read, or one that names a region or condition which an item lacks.
    """
    path = Path(path)
    try:
        content = json.loads(whole(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({str(error)[:60]})", "The file is truncated or damaged") from error
    try:
        meta = content["meta"]
        metric = str(meta.get("metric", "sum"))
        predictions = tuple(_prediction(path, p) for p in content["predictions"])
        items = tuple(_item(item) for item in content["items"])
        name = str(meta["name"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a suite of SyntaxGym ({type(error).__name__}: {error})",
            "Expected meta with name, predictions with formula, items with conditions of regions",
        ) from error
    if metric not in METRICS:
        raise DataError(f"{path}: metric is {metric!r}", f"Known: {', '.join(METRICS)}")
    if not items or not predictions:
        raise DataError(f"{path}: a suite of {len(items)} items and {len(predictions)} predictions measures nothing")
    for item in items:
        _check(path, item, predictions)
    return Suite(name, metric, predictions, items)


def _item(item: Mapping[str, Any]) -> Item:
    conditions = {
        str(c["condition_name"]): tuple((str(r["region_number"]), str(r["content"])) for r in c["regions"])
        for c in item["conditions"]
    }
    return Item(str(item.get("item_number", "")), conditions)


def _prediction(path: Path, prediction: Mapping[str, Any]) -> Prediction:
    if "formula" in prediction:
        return parse(str(prediction["formula"]), str(path))
    region, relation = prediction["region_number"], _OLD.get(str(prediction["relation"]), "")
    left, right = prediction["l_operand"], prediction["r_operand"]
    return parse(f"({region};%{left}%) {relation} ({region};%{right}%)", str(path))


def _check(path: Path, item: Item, predictions: Sequence[Prediction]) -> None:
    for prediction in predictions:
        for condition, region in prediction.mentioned:
            regions = item.conditions.get(condition)
            if regions is None:
                raise DataError(
                    f"{path}, item {item.number}: the formula {prediction.text!r} names the condition {condition!r}",
                    f"The item has: {', '.join(item.conditions)}",
                )
            if region != "*" and region not in [number for number, _ in regions]:
                raise DataError(
                    f"{path}, item {item.number}: the formula {prediction.text!r} names the region {region}",
                    f"The condition {condition!r} has: {', '.join(number for number, _ in regions)}",
                )


# ---- formulas ----
def parse(formula: str, where: str = "formula") -> Prediction:
    """Return a formula as a claim; an error names what stands where it cannot be read."""
    reader = _Formula(formula, where)
    try:
        claim = reader.claim()
    except RecursionError:
        raise reader.error("its brackets are nested too deep") from None
    reader.expect("")
    return Prediction(formula, claim, tuple(reader.mentioned))


class _Formula:
    """Reads a formula from left to right, one level of binding after the other."""

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        self.mentioned: list[tuple[str, str]] = []
        self.tokens: list[tuple[str, str, str, str]] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.error(f"{text[at : at + 12]!r} cannot be read")
            if match[0].strip():
                self.tokens.append((match[1] or "", match[2] or "", match[3] or "", match[4] or ""))
            at = match.end()
        self.at = 0

    def error(self, what: str) -> DataError:
        return DataError(f"{self.where}: formula {self.text!r}: {what}", "Write regions as (3;%condition%)")

    @property
    def sign(self) -> str:
        """Return the sign that comes next, or nothing."""
        return self.tokens[self.at][3] if self.at < len(self.tokens) else ""

    def expect(self, sign: str) -> None:
        if self.sign != sign or (not sign and self.at < len(self.tokens)):
            shown = "".join(self.tokens[self.at]) if self.at < len(self.tokens) else "nothing more"
            raise self.error(f"{shown!r}, expected {sign or 'the end'!r}")
        self.at += 1

    def claim(self) -> Claim:
        """Return claims joined by & and |, from the left."""
        left = self.comparison()
        while self.sign in ("&", "|") and self.sign:
            joint = self.sign
            self.at += 1
            left = _joined(joint, left, self.comparison())
        return left

    def comparison(self) -> Claim:
        """Return one comparison, or a claim in brackets: what follows the bracket tells which."""
        start, named = self.at, len(self.mentioned)
        try:
            return self.relation()
        except DataError:
            if self.at_bracket(start):
                self.at = start
                del self.mentioned[named:]
                close = _OPEN[self.sign]
                self.at += 1
                inner = self.claim()
                self.expect(close)
                return inner
            raise

    def at_bracket(self, place: int) -> bool:
        """Return whether a bracket opens at a place."""
        return place < len(self.tokens) and self.tokens[place][3] in _OPEN

    def relation(self) -> Claim:
        left = self.total()
        if self.sign not in _RELATIONS:
            raise self.error("a sum that is compared with nothing, expected <, > or =")
        holds = _RELATIONS[self.sign]
        self.at += 1
        right = self.total()
        if self.sign in _RELATIONS:
            raise self.error("one comparison after the other, expected two that & joins")
        return lambda values: holds(left(values), right(values))

    def total(self) -> Term:
        """Return a sum, from the left."""
        left = self.term()
        while self.sign in ("+", "-") and self.sign:
            factor = 1.0 if self.sign == "+" else -1.0
            self.at += 1
            left = _sum(left, factor, self.term())
        return left

    def term(self) -> Term:
        if self.at >= len(self.tokens):
            raise self.error("it ends where a region is expected")
        region, condition, number, sign = self.tokens[self.at]
        self.at += 1
        if condition:
            self.mentioned.append((condition, region))
            return lambda values: values[condition, region]
        if number:
            value = float(number)
            return lambda values: value
        if sign not in _OPEN:
            raise self.error(f"{sign!r} where a region is expected")
        inner = self.total()
        self.expect(_OPEN[sign])
        return inner


def _joined(sign: str, left: Claim, right: Claim) -> Claim:
    if sign == "&":
        return lambda values: left(values) and right(values)
    return lambda values: left(values) or right(values)


def _sum(left: Term, factor: float, right: Term) -> Term:
    return lambda values: left(values) + factor * right(values)
