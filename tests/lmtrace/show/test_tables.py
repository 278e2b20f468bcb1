from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lmtrace.records.schema import Field, Series, SeriesKey
from lmtrace.run import open_run
from lmtrace.show.library import Library
from lmtrace.show.tables import best_site, findings_table, number, print_findings, run_summary, runs_table, series_table


def text(renderable: Any, width: int = 140) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_findings_show_sentence_interval_null_and_caveats(findings: list[dict[str, Any]]) -> None:
    shown = text(findings_table(findings))
    assert "Selection before role: not resolved." in shown
    assert "430 to 640" in shown
    assert "-180 to 420" in shown
    assert "· One seed" in shown
    assert "One seed:" not in text(findings_table(findings, caveats=False))
    assert "majority class" in shown
    assert "No findings" in text(findings_table([]))


def test_findings_are_printed_with_their_run(example: Path, findings: list[dict[str, Any]]) -> None:
    console = Console(width=120, file=io.StringIO())
    print_findings(open_run(example), findings, console)
    shown = console.file.getvalue()
    assert shown.startswith("first  finished, 41 measurements")
    assert "not resolved" in shown


def test_a_run_is_summarised_with_its_last_numbers(example: Path) -> None:
    run = open_run(example)
    shown = text(run_summary(run), 200)
    series = run.series(signal="probe", metric="accuracy", label="role")
    column = int(np.argmax(series.values[-1]))
    assert number(series.values[-1, column]) in shown
    assert str(series.sites[column]) in shown
    assert "41 measurements, steps 0 to 4,000" in shown
    assert "GPT2LMHeadModel" in shown
    for width in (40, 80):
        assert max(map(len, text(run_summary(run), width).splitlines())) <= width


def test_a_series_without_numbers_says_why() -> None:
    nothing = np.full((2, 1), np.nan)
    series = Series(
        SeriesKey("probe", "f1"), Field(metric="f1", title="F1"), np.array([0, 1]), (None,), nothing, nothing, nothing, nothing,
        {(0, None): "too few words"},
    )  # fmt: skip
    assert best_site(series) is None
    assert "too few words" in text(series_table([series]))


def test_the_best_site_follows_the_field() -> None:
    values = np.array([[0.1, 0.5, np.nan], [0.2, np.nan, np.nan]])
    gaps = np.full_like(values, np.nan)
    for better, wanted in (("up", 1), ("down", 0)):
        field = Field(metric="m", title="M", better=better)  # type: ignore[arg-type]
        series = Series(SeriesKey("s", "m"), field, np.array([0, 1]), ("a", "b", "c"), values, gaps, gaps, gaps, {})
        assert best_site(series) == wanted


def test_runs_are_listed(example: Path) -> None:
    shown = text(runs_table(Library(example.parent).summaries()))
    assert "finished" in shown
    assert "4,000" in shown


def test_numbers() -> None:
    assert [number(v) for v in (None, float("nan"), 0.0, 12345.6, 1e-7, 0.123456)] == [
        "",
        "",
        "0",
        "12,346",
        "1.000e-07",
        "0.1235",
    ]


def test_what_emerged_is_one_line_each_in_the_order_of_time(example: Path) -> None:
    def emerged(metric: str, onset: float, site: str) -> dict[str, Any]:
        key = {"signal": "probe", "metric": metric, "label": "role", "split": "sentence"}
        numbers = {
            "onset": onset,
            "midpoint": onset + 1,
            "saturation": onset + 2,
            "start": 0.1,
            "final": 0.9,
            "stderr": 0.01,
            "null": 0.2,
        }
        return {"kind": "emergence", "sentence": f"{metric} emerged", "numbers": numbers, "series": [key], "site": site}

    gain = {
        "kind": "no contextual gain", "sentence": "nothing", "numbers": {"final": 0.01, "stderr": 0.02},
        "series": [{"signal": "probe", "metric": "gain_over_embed", "label": "role", "split": "sentence"}],
    }  # fmt: skip
    late, early, again = emerged("b", 300, "final"), emerged("a", 20, "embed"), emerged("a", 50, "block.0")
    console = Console(width=160, file=io.StringIO())
    print_findings(open_run(example), [late, early, again, gain], console)
    shown = console.file.getvalue()
    assert shown.index("probe a role (sentence)") < shown.index("probe b role (sentence)")
    assert shown.count("probe a role") == 1, "only the site where it came first"
    assert "~ 0.01 ± 0.02" in shown
    assert "and 1 more" in shown
    for width, terminal in ((80, True), (66, True), (80, False)):
        narrow = Console(width=width, file=io.StringIO(), force_terminal=terminal, color_system=None)
        print_findings(open_run(example), [late, early, again, gain], narrow)
        assert "role" in narrow.file.getvalue()
        assert "0.9 ± 0.01" in narrow.file.getvalue()
    console = Console(width=160, file=io.StringIO())
    print_findings(open_run(example), [late, early, again, gain], console, everything=True)
    assert "more:" not in console.file.getvalue()
