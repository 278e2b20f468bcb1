"""Every model with every signal gives a number or a reason, and the page in the docs says so."""

from __future__ import annotations

import re

import pytest

from lmtrace.signals import available
from model_table import MODELS, PAGE, row

pytestmark = pytest.mark.filterwarnings("ignore:.*causal_conv1d.*", "ignore:.*selective_scan.*")


def page() -> dict[str, dict[str, str]]:
    """Return the table of the page: model -> signal -> cell."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {cells[0]: dict(zip(rows[0][1:], cells[1:], strict=True)) for cells in rows[2:]}


@pytest.mark.parametrize("model", MODELS)
def test_no_cell_is_empty(model, tmp_path):
    cells, written = row(model, tmp_path), page()[model]
    assert sorted(cells) == sorted(available())
    for signal, cell in cells.items():
        assert cell != "", f"{signal} gave neither a number nor a reason"
        assert isinstance(cell, str) == written[signal].startswith("("), (
            f"{signal} is {cell!r} but docs/models.md says {written[signal]}: run python tests/model_table.py"
        )


def test_the_page_is_of_today():
    assert list(page()) == list(MODELS)
    assert {tuple(cells) for cells in page().values()} == {tuple(sorted(available()))}
    letters = {cell for cells in page().values() for cell in cells.values() if cell.startswith("(")}
    assert letters == set(re.findall(r"^- (\(\w\)) ", PAGE.read_text(), re.MULTILINE))
