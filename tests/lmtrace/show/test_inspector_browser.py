"""The page of inspected sentences, in the report and live."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lmtrace.run import open_run
from lmtrace.show.dashboard import dashboard
from lmtrace.show.report import write_report
from reference.example_inspection import STEPS, example_inspection

pytestmark = pytest.mark.browser
Serving = Callable[[Any], AbstractContextManager[str]]
AXE = "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v => [v.id, v.nodes.slice(0, 2).map(n => n.html)]))"
INK = """() => [...document.querySelectorAll('.plot')].map(el => {
  const c = el.querySelector('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0;
  return [el.getAttribute('aria-label'), n / (d.length / 4)];
})"""


@pytest.fixture(scope="module")
def inspected(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example run with two sentences, the ill-formed one written first."""
    folder = tmp_path_factory.mktemp("inspected") / "first"
    shutil.copytree(example, folder)
    example_inspection("the old dog sees a cat barks", wrong=6, seed=1).save(folder)
    example_inspection().save(folder)
    return folder


@pytest.fixture(scope="module")
def report(inspected: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(open_run(inspected), path, [[]])
    return path.as_uri()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_drawing_is_there_and_axe_finds_nothing(
    report: str, visit: Callable[..., Any], axe: str, theme: str, width: int
) -> None:
    seen = visit(width, 900, theme)
    page = seen.open(f"{report}#sentences")
    assert page.eval_on_selector_all("main > section", "all => all.map(s => s.id)") == [
        "surprisal", "got", "lens", "readings", "arcs",
    ]  # fmt: skip
    page.evaluate("window.lmtrace.drawAll()")
    ink = page.evaluate(INK)
    assert len(ink) == 7
    assert [label for label, share in ink if share < 0.01] == []
    page.evaluate("document.querySelectorAll('.tools button[aria-expanded=false]').forEach(b => b.click())")
    page.evaluate(axe)
    assert page.evaluate(AXE) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "Missing: tense: only one class" in page.locator("#readings").inner_text()
    assert seen.problems == []
    assert seen.outside() == []


def test_the_pages_are_turned_and_a_sentence_chosen(report: str, visit: Callable[..., Any]) -> None:
    seen = visit()
    page = seen.open(report)
    assert page.locator("h1").inner_text() == "first"
    page.get_by_role("link", name="Sentences 2").click()
    assert page.locator("h1").inner_text() == "the old dog sees a cat"
    assert "well-formed" in page.locator(".verdict").inner_text().lower()
    assert "does not know 'old'" in page.locator(".hero").inner_text()
    page.get_by_label("Sentence", exact=True).select_option(index=1)
    assert page.locator("h1 mark").inner_text() == "barks"
    assert "agreement violation" in page.locator(".verdict").inner_text().lower()
    page.get_by_role("link", name="Run", exact=True).click()
    assert page.locator("h1").inner_text() == "first"
    assert seen.problems == []


def test_buttons_and_slider_choose_the_checkpoint(report: str, visit: Callable[..., Any]) -> None:
    page = visit().open(f"{report}#sentences")
    bars = page.locator("#token-surprisal .plot")
    picture = "el => el.querySelector('canvas').toDataURL()"
    last = bars.evaluate(picture)
    buttons = page.get_by_role("group", name="Checkpoint").get_by_role("button")
    assert buttons.all_inner_texts() == [f"{step}" for step in STEPS]
    buttons.first.click()
    page.wait_for_timeout(200)
    assert bars.evaluate(picture) != last
    assert "step 0" in page.locator(".hero .facts").first.inner_text()
    assert "step 0" in page.locator(".replay output").inner_text()
    assert buttons.first.get_attribute("aria-pressed") == "true"
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_timeout(200)
    assert bars.evaluate(picture) == last
    assert buttons.last.get_attribute("aria-pressed") == "true"


def test_keys_reach_every_number(report: str, visit: Callable[..., Any]) -> None:
    page = visit().open(f"{report}#sentences")
    expected = example_inspection()
    page.evaluate("window.lmtrace.drawAll()")
    page.locator("#token-surprisal .plot").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    dialog = page.locator("dialog.record").inner_text()
    assert "old" in dialog
    assert f"{expected.moments[-1]['surprisal'][1]:.4g}"[:5] in dialog
    assert f"{expected.oracle['surprisal'][1]:.4g}"[:5] in dialog
    page.keyboard.press("Escape")
    page.locator("#word-readings .plot").focus()
    page.keyboard.press("ArrowRight")
    assert "held-out accuracy 0.8, control 0.55" in page.locator("[role=status].unseen").inner_text()
    page.get_by_role("group", name="Heads shown").get_by_role("button", name="1").click()
    page.locator("#token-arcs .plot").first.focus()
    page.keyboard.press("ArrowRight")
    assert "looks at" in page.locator("[role=status].unseen").inner_text()


def test_saved_figures_are_well_formed(report: str, visit: Callable[..., Any]) -> None:
    page = visit().open(f"{report}#sentences")
    for figure in page.locator("figure").all():
        with page.expect_download() as waiting:
            figure.get_by_role("button", name="SVG").click()
        text = Path(waiting.value.path()).read_text()
        ElementTree.fromstring(text)
        assert "NaN" not in text


def test_the_live_page_says_how_and_shows_a_sentence_as_it_comes(
    example: Path, tmp_path: Path, serving: Serving, visit: Callable[..., Any]
) -> None:
    shutil.copytree(example, tmp_path / "runs" / "first")
    with serving(dashboard(tmp_path / "runs")) as address:
        seen = visit()
        page = seen.open(f"{address}#sentences")
        assert "lmtrace inspect" in page.locator("main").inner_text()
        page.wait_for_timeout(3500)  # the list of runs is asked for every three seconds
        example_inspection().save(tmp_path / "runs" / "first")
        page.wait_for_selector("h1:text('the old dog')", timeout=15_000)
        page.locator("#token-arcs .plot").nth(1).wait_for()
        assert page.locator("#token-arcs .plot").count() == 2
        assert seen.problems == []
        assert seen.outside() == []


def test_hostile_words_run_no_script(example: Path, tmp_path: Path, visit: Callable[..., Any]) -> None:
    shutil.copytree(example, tmp_path / "run")
    evil = "<img/src=x/onerror=alert(1)> </script><script>alert(2)</script>"
    example_inspection(evil, wrong=1).save(tmp_path / "run")
    write_report(open_run(tmp_path / "run"), tmp_path / "r.html", [[]])
    seen = visit()
    page = seen.open((tmp_path / "r.html").as_uri() + "#sentences")
    assert page.locator("h1").inner_text() == evil
    assert seen.problems == []
