from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmtrace.analysis.compare import compare
from lmtrace.records.schema import RunHeader
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run
from lmtrace.show.report import write_report
from reference.example_run import header, records, write_example

pytestmark = pytest.mark.browser

SECTIONS = [
    "findings", "loss", "emergence", "maps", "probe", "dimension", "curvature", "output", "errors", "pairs", "attention",
    "inside", "cost", "provenance",
]  # fmt: skip


@pytest.fixture(scope="session")
def report(example: Path, findings: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(open_run(example), path, [findings])
    return path.as_uri()


def draw_all(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_timeout(200)
    page.evaluate("window.lmtrace.drawAll()")


def until(page: Any, condition: Callable[[], bool]) -> bool:
    """Whether it comes true within some seconds."""
    for _ in range(100):
        if condition():
            return True
        page.wait_for_timeout(50)
    return False


AXE = """axe.run(document, {resultTypes: ['violations']})
  .then(r => r.violations.map(v => [v.id, v.help, v.nodes.slice(0, 3).map(n => n.html)]))"""

# The share of the pixels of each canvas that are not empty.
INK = """() => [...document.querySelectorAll('.plot')].map(el => {
  const c = el.querySelector('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0;
  return [el.getAttribute('aria-label'), n / (d.length / 4)];
})"""


def test_every_figure_draws_and_nothing_leaves_the_machine(report: str, visit: Callable[..., Any]) -> None:
    seen = visit()
    page = seen.open(report)
    assert page.eval_on_selector_all("main > section", "all => all.map(s => s.id)") == SECTIONS
    draw_all(page)
    ink = page.evaluate(INK)
    assert len(ink) >= 40
    assert [label for label, share in ink if share < 0.005] == []
    assert page.locator("figure:not([data-mounted])").count() == 0
    assert seen.problems == []
    assert seen.outside() == []


def test_figures_further_down_are_drawn_without_scrolling(report: str, visit: Callable[..., Any]) -> None:
    page = visit().open(report)
    page.wait_for_selector("#cost-seconds .plot[data-drawn]", state="attached")
    page.wait_for_timeout(500)
    assert (
        page.evaluate(
            "[...document.querySelectorAll('figure')].filter(f => f.clientWidth && !f.querySelector('.plot[data-drawn]')).length"
        )
        == 0
    )


def test_step_zero_and_the_null_are_drawn(report: str, visit: Callable[..., Any]) -> None:
    page = visit().open(report)
    draw_all(page)
    plot = page.locator("#map-probe-accuracy .plot").last
    plot.focus()
    page.keyboard.press("Home")
    page.keyboard.press("Home")
    assert "step 0 · role" in page.locator("[role=status].unseen").inner_text()
    note = page.locator("#map-probe-accuracy .note").inner_text()
    assert "null: accuracy of the majority class" in note
    assert "majority class" in page.locator("#curves-probe-accuracy .note").inner_text()


def test_a_point_tells_its_record(report: str, visit: Callable[..., Any], example: Path) -> None:
    page = visit().open(report)
    draw_all(page)
    page.locator("#map-probe-accuracy .plot").first.focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    dialog = page.locator("dialog.record")
    text = dialog.inner_text()
    series = open_run(example).series(signal="probe", metric="accuracy", label="category", split="lexical")
    value, error = series.values[-1, -1], series.stderr[-1, -1]
    assert f"{float(f'{value:.4g}'):g} ± {error:.2g}" in text
    assert "1,204" in text
    assert "majority class" in text
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")


def test_missing_numbers_give_their_reason(report: str, visit: Callable[..., Any]) -> None:
    page = visit().open(report)
    draw_all(page)
    plot = page.locator(".plot[aria-label^='F1, role: Source, site by step']")
    if plot.count():
        plot.focus()
        for key in ("End", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown"):
            page.keyboard.press(key)
        assert "class Source has 7 test words" in page.locator("[role=status].unseen").inner_text()
    else:
        pytest.fail("the map of F1 by value is not drawn")


def test_the_cursor_is_linked_and_the_zoom_too(report: str, visit: Callable[..., Any]) -> None:
    page = visit(height=1600).open(report)
    draw_all(page)
    page.locator("#map-probe-accuracy .facets").scroll_into_view_if_needed()
    first, other = (page.locator("#map-probe-accuracy .plot").nth(i) for i in (0, 1))
    over = """el => {
      const c = el.querySelectorAll('canvas')[1], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      return d.some((v, i) => i % 4 == 3 && v > 0);
    }"""
    assert not other.evaluate(over)
    box = first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40)
    assert until(page, lambda: other.evaluate(over))
    before = other.evaluate("el => el.querySelector('canvas').toDataURL()")
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40, steps=4)
    page.mouse.up()
    assert until(page, lambda: other.evaluate("el => el.querySelector('canvas').toDataURL()") != before)
    page.get_by_role("button", name="Reset zoom").click()
    assert until(page, lambda: other.evaluate("el => el.querySelector('canvas').toDataURL()") == before)


def test_the_slider_replays(report: str, visit: Callable[..., Any]) -> None:
    page = visit().open(report)
    draw_all(page)
    matrix = page.locator("#array-attention-previous-token .plot canvas").first
    before = matrix.evaluate("c => c.toDataURL()")
    page.locator(".replay input").evaluate("el => { el.value = 0; el.dispatchEvent(new Event('input')) }")
    page.locator("#array-attention-previous-token").scroll_into_view_if_needed()
    assert until(page, lambda: matrix.evaluate("c => c.toDataURL()") != before)
    assert "step 0" in page.locator(".replay output").inner_text()


def test_numbers_and_files_of_a_figure(report: str, visit: Callable[..., Any]) -> None:
    seen = visit(accept_downloads=True)
    page = seen.open(report)
    figure = page.locator("#curves-pairs-accuracy-values")
    figure.get_by_role("button", name="Table: show the numbers").click()
    assert figure.locator("tbody tr").count() == 41
    got = {}
    for name in ("CSV: save", "SVG: save", "PNG: save"):
        with page.expect_download() as download:
            figure.get_by_role("button", name=name).click()
        got[download.value.suggested_filename.rsplit(".")[-1]] = Path(download.value.path()).read_bytes()
    assert got["csv"].decode().splitlines()[0].startswith("facet,step,agreement,± s.e.,null")
    assert len(got["csv"].decode().splitlines()) == 42
    assert got["png"].startswith(b"\x89PNG")
    assert len(got["png"]) > 20_000
    from xml.etree import ElementTree

    svg = ElementTree.fromstring(got["svg"])
    assert any("agreement" in (e.text or "") for e in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert seen.problems == []


def test_every_figure_saves_as_well_formed_svg(report: str, visit: Callable[..., Any]) -> None:
    from xml.etree import ElementTree

    page = visit().open(report)
    draw_all(page)
    page.evaluate(
        "URL.createObjectURL = blob => { (window.saved ??= []).push(blob); return 'blob:none' };"
        "HTMLAnchorElement.prototype.click = () => {}"
    )
    count = page.evaluate(
        "[...document.querySelectorAll('.tools button[aria-label^=\"SVG: save\"]')].map(b => b.click()).length"
    )
    texts = page.evaluate("Promise.all(window.saved.map(b => b.text()))")
    assert len(texts) == count == page.locator("figure").count()
    for text in texts:
        ElementTree.fromstring(text)
        assert "NaN" not in text


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_axe_finds_nothing(
    report: str, visit: Callable[..., Any], axe: str, theme: str, width: int, shots: Path | None
) -> None:
    page = visit(width, 900, theme).open(report)
    draw_all(page)
    page.evaluate("document.querySelectorAll('.tools button[aria-expanded=false]').forEach(b => b.click())")
    assert page.locator("figure table").count() == page.locator("figure .plot").count()
    page.evaluate(axe)
    found = page.evaluate(AXE)
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if shots is not None:
        page.screenshot(path=shots / f"report-{theme}-{'desktop' if width > 800 else 'phone'}.png")


def test_the_dialog_and_the_theme_button_pass_axe(report: str, visit: Callable[..., Any], axe: str) -> None:
    page = visit().open(report)
    page.get_by_role("button", name="change to the dark theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    page.locator("#loss-figure .plot").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v => v.id))")
    assert found == []


def test_print_shows_every_figure_and_no_tools(report: str, visit: Callable[..., Any]) -> None:
    page = visit().open(report)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator(".replay").is_hidden()
    assert page.locator(".tools").first.is_hidden()
    assert page.evaluate(
        "[...document.querySelectorAll('main > section > .figures .plot, main > section > figure .plot')].every(p => p.dataset.drawn)"
    )


def test_paper_is_light(report: str, visit: Callable[..., Any]) -> None:
    page = visit(theme="dark").open(report)
    draw_all(page)
    canvas = page.locator("#loss-figure canvas").first
    dark = canvas.evaluate("c => c.toDataURL()")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 251)"
    assert canvas.evaluate("c => c.toDataURL()") != dark
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert canvas.evaluate("c => c.toDataURL()") == dark


def test_a_hostile_run_runs_no_script(tmp_path: Path, visit: Callable[..., Any]) -> None:
    evil = "</script><img src=x onerror=document.body.dataset.owned=1>"
    writer = RunWriter.create(tmp_path / "run", RunHeader(name=evil, model={"class": evil}, data={evil: evil}))
    writer.write_scalars("loss", [1, 2], [3.0, 2.0])
    writer.event(1, "alert", evil)
    writer.finish()
    path = write_report(
        open_run(tmp_path / "run"), tmp_path / "r.html", [[{"kind": evil, "sentence": evil, "caveats": [evil]}]]
    )
    seen = visit()
    page = seen.open(path.as_uri())
    assert page.evaluate("document.body.dataset.owned ?? null") is None
    assert page.locator("h1").inner_text() == evil
    assert seen.problems == []


@pytest.mark.parametrize("steps", [0, 1])
def test_runs_with_next_to_nothing_in_them(tmp_path: Path, visit: Callable[..., Any], steps: int) -> None:
    writer = RunWriter.create(tmp_path / "run", RunHeader())
    if steps:
        writer.write_scalars("loss", [1], [3.0])
    writer.finish()
    seen = visit()
    page = seen.open(write_report(open_run(tmp_path / "run"), tmp_path / "r.html", [[]]).as_uri())
    sections = page.eval_on_selector_all("main > section", "all => all.map(s => s.id)")
    assert sections == (["loss", "provenance"] if steps else ["provenance"])
    assert seen.problems == []


def test_one_measurement_is_drawn_as_dots(tmp_path: Path, visit: Callable[..., Any], axe: str) -> None:
    with RunWriter.create(tmp_path / "run", header(4, 0, "checkpoint")) as writer:
        writer.write(5_000, list(records(5_000, 4, np.random.default_rng(0), 5_000)))
    seen = visit()
    page = seen.open(write_report(open_run(tmp_path / "run"), tmp_path / "r.html", [[]]).as_uri())
    draw_all(page)
    assert "maps" not in page.eval_on_selector_all("main > section", "all => all.map(s => s.id)")
    assert page.locator(".replay").count() == 0
    assert [label for label, share in page.evaluate(INK) if share < 0.002] == []
    page.locator("#curves-probe-accuracy .plot").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "5,000" in page.locator("dialog.record").inner_text()
    page.keyboard.press("Escape")
    page.locator("#loss-figure").get_by_role("button", name="Table: show the numbers").click()
    assert "floor" in page.locator("#loss-figure table").inner_text()
    page.evaluate(axe)
    assert page.evaluate(AXE) == []
    assert seen.problems == []


def test_runs_are_overlaid(tmp_path: Path, visit: Callable[..., Any]) -> None:
    for seed in (0, 1):
        write_example(tmp_path / f"seed-{seed}", num_steps=600, seed=seed)
    path = write_report([open_run(tmp_path / f"seed-{seed}") for seed in (0, 1)], tmp_path / "r.html", [[], []])
    seen = visit()
    page = seen.open(path.as_uri())
    draw_all(page)
    assert page.locator("h1").inner_text() == "2 runs"
    loss = [open_run(tmp_path / f"seed-{seed}").series(signal="output", metric="loss", label=None) for seed in (0, 1)]
    rows = page.locator(".overview tbody tr").all_inner_texts()
    assert all(f"{s.values[-1, 0]:.4g}"[:5] in row for s, row in zip(loss, rows, strict=True))
    assert [label for label, share in page.evaluate(INK) if share < 0.005] == []
    before = page.locator("#curves-probe-accuracy .plot canvas").first.evaluate("c => c.toDataURL()")
    page.get_by_label("Site shown where runs are overlaid").select_option("embed")
    draw_all(page)
    assert page.locator("#curves-probe-accuracy .plot canvas").first.evaluate("c => c.toDataURL()") != before
    assert seen.problems == []


def test_what_differs_between_runs_stands_first(tmp_path: Path, visit: Callable[..., Any]) -> None:
    runs = []
    for seed in (0, 1):
        write_example(tmp_path / f"seed-{seed}", num_steps=600, seed=seed, speed=1 + seed)
        runs.append(open_run(tmp_path / f"seed-{seed}"))
    expected = compare(runs)
    page = visit().open(write_report(runs, tmp_path / "r.html").as_uri())
    text = page.locator("#findings").inner_text()
    assert text.index("Between the runs") < text.index("First is seed-0, second is seed-1.") < text.index("\nseed-0")
    assert expected[0].sentence in text


@pytest.mark.slow
def test_200_000_points_per_series_are_drawn_in_a_second(tmp_path: Path, visit: Callable[..., Any]) -> None:
    n, rng = 200_000, np.random.default_rng(0)
    writer = RunWriter.create(tmp_path / "run", RunHeader())
    for metric in ("loss", "learning_rate"):
        writer.write_scalars(metric, np.arange(1, n + 1), 2 + rng.normal(size=n))
    writer.finish()
    path = write_report(open_run(tmp_path / "run"), tmp_path / "r.html", [[]], max_bytes=20_000_000)
    page = visit().open(path.as_uri())
    assert page.evaluate("window.lmtrace.runs[0].series.map(s => s.rows)") == [n, n]
    drawn = page.evaluate("window.lmtrace.drawn")
    assert page.locator(".plot[data-drawn]").count() >= 1
    assert drawn < 1_000, f"{drawn:.0f} ms"
