from __future__ import annotations

import http.client
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest

from lmtrace.errors import ConfigError, RunError
from lmtrace.records.store import RunWriter
from lmtrace.show import library
from lmtrace.show.dashboard import dashboard, host_name, is_local, serve
from lmtrace.show.library import Library
from lmtrace.show.pack import unpack
from reference.example_run import measure, write_example

Serving = Callable[[Any], AbstractContextManager[str]]


@pytest.fixture(scope="module")
def folder(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dashboard") / "runs"
    (root / "nested").mkdir(parents=True)
    shutil.copytree(example, root / "nested" / "first")
    write_example(root / "second", num_steps=300, seed=1)
    shutil.copytree(example, root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    (root / "broken").mkdir()
    (root / "broken" / "run.sqlite").write_bytes(b"this is no database" * 50)
    return root


@pytest.fixture(autouse=True)
def no_analysis(monkeypatch: pytest.MonkeyPatch, findings: list[dict[str, Any]]) -> None:
    monkeypatch.setattr(library, "findings", lambda run: findings)


def get(
    address: str, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=15)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_the_library_finds_runs_and_nothing_outside(folder: Path) -> None:
    library = Library(folder)
    assert set(library.names()) == {"nested/first", "second", "broken"}
    lines = {line["id"]: line for line in library.summaries()}
    assert lines["second"]["status"] == "finished"
    assert lines["second"]["step"] == 300
    assert lines["broken"]["status"] == "unreadable"
    for name in ("link", "../outside", "/etc", "", "nested", "nested/../second", "second/"):
        with pytest.raises(RunError, match="there is no run"):
            library.get(name)
    library.close()
    assert Library(folder / "second").names() == ["."]
    with pytest.raises(RunError, match="is not a folder"):
        Library(folder / "nowhere")


def test_it_serves_runs_payloads_and_findings(folder: Path, serving: Serving) -> None:
    with serving(dashboard(folder)) as address:
        status, headers, body = get(address, "/")
        assert status == 200
        assert b'id="app"' in body
        assert headers["x-content-type-options"] == "nosniff"
        assert {r["id"] for r in json.loads(get(address, "/api/runs")[2])["runs"]} == {
            "nested/first",
            "second",
            "broken",
        }
        status, _, body = get(address, f"/api/payload?run={quote('nested/first')}&run=second")
        head, _ = unpack(body)
        assert [r["id"] for r in head["runs"]] == ["nested/first", "second"]
        assert all(isinstance(r["cursor"], int) for r in head["runs"])
        status, _, body = get(address, "/api/findings?run=second")
        assert json.loads(body)["second"][0]["kind"] == "emergence"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/payload", 400),
        ("/api/payload?run=../outside", 404),
        ("/api/payload?run=..%2Foutside", 404),
        ("/api/payload?run=/etc/passwd", 404),
        ("/api/payload?run=link", 404),
        ("/api/payload?run=broken", 400),
        ("/api/payload?run=%00", 404),
        ("/api/payload?run=%ff%fe", 404),
        ("/api/payload?" + "&".join(["run=second"] * 40), 400),
        ("/api/comparison?run=second", 400),
        ("/api/inspections?run=..", 404),
        ("/api/live?run=second", 400),
        ("/api/live?run=second@minus", 400),
        ("/api/live?run=second@" + "9" * 40, 400),
        ("/api/live?run=nowhere@1", 404),
        ("/../../etc/passwd", 404),
        ("/static/../report.py", 404),
        ("/nothing", 404),
    ],
)  # fmt: skip
def test_what_is_wrong_is_answered(folder: Path, serving: Serving, path: str, status: int) -> None:
    with serving(dashboard(folder)) as address:
        answer = get(address, path)
        assert answer[0] == status
        assert b"Traceback" not in answer[2]
        assert str(folder.parent).encode() not in answer[2]


def test_only_reading_is_allowed(folder: Path, serving: Serving) -> None:
    with serving(dashboard(folder)) as address:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            assert get(address, "/api/runs", method)[0] == 405
        assert get(address, "/api/runs", body=b"x" * 100)[0] == 413
        assert get(address, "/api/runs?" + "a" * 100_000)[0] in (400, 414, 431)
        assert get(address, "/api/runs")[0] == 200


def test_other_hosts_are_refused(folder: Path, serving: Serving) -> None:
    with serving(dashboard(folder)) as address:
        port = urlsplit(address).port
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1.evil.example",
            "localhost@evil",
            "",
            "[::1",
            "localhost:x",
            "0.0.0.0",
        ):
            assert get(address, "/api/runs", headers={"Host": host})[0] == 400, host
        for host in ("localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", "[::1]:80"):
            assert get(address, "/api/runs", headers={"Host": host})[0] == 200, host


def test_a_token_guards(folder: Path, serving: Serving) -> None:
    with serving(dashboard(folder, token="s3cret")) as address:
        assert get(address, "/api/runs")[0] == 401
        assert get(address, "/")[0] == 401
        assert get(address, "/?token=wrong")[0] == 401
        assert get(address, "/api/runs?token=s3cret")[0] == 401
        assert get(address, "/api/runs", headers={"Authorization": "Bearer s3cret"})[0] == 200
        status, headers, _ = get(address, "/?token=s3cret&run=second")
        assert status == 303
        assert headers["location"] == "/?run=second"
        assert "HttpOnly" in headers["set-cookie"]
        assert "SameSite=strict" in headers["set-cookie"]
        assert get(address, "/api/runs", headers={"Cookie": headers["set-cookie"].split(";")[0]})[0] == 200


def test_other_machines_need_a_token(folder: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.4", "example.org", "::"):
        with pytest.raises(ConfigError, match="no token is set"):
            serve(folder, host=host, port=0)
    assert all(is_local(h) for h in ("127.0.0.1", "127.8.8.8", "::1", "localhost"))


def test_host_names() -> None:
    assert host_name("Localhost:80") == "localhost"
    assert host_name("[::1]:80") == "::1"
    assert host_name("[::1") == ""
    assert host_name("a:b") == ""


def test_new_numbers_are_streamed(tmp_path: Path, serving: Serving) -> None:
    writer = write_example(tmp_path / "live", num_steps=200, finish=False)
    with serving(dashboard(tmp_path)) as address:
        head, _ = unpack(get(address, "/api/payload?run=live")[2])
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=15)
        connection.request("GET", f"/api/live?run=live@{head['runs'][0]['cursor']}")
        answer = connection.getresponse()
        assert answer.getheader("content-type").startswith("text/event-stream")

        def message() -> dict[str, Any]:
            while True:
                line = answer.readline().decode()
                if line.startswith("data: "):
                    return json.loads(line[6:])

        assert message()["status"] == "running"
        measure(writer, 300, 100, 4, np.random.default_rng(0), 10_000)
        new = message()
        assert {row["step"] for row in new["rows"]} == {300}
        accuracy = next(r for r in new["rows"] if r["key"] == ["probe", "accuracy", "role", "lexical"])
        stored = Library(tmp_path).get("live").series(signal="probe", metric="accuracy", label="role")
        assert accuracy["values"] == stored.values[-1].tolist()
        assert new["scalars"]["loss"]["steps"] == list(range(201, 301))
        assert {a["metric"] for a in new["arrays"]} == {"density", "previous_token", "entropy"}
        writer.finish()
        last = message()
        while last["status"] == "running":
            last = message()
        assert last["status"] == "finished"
        connection.close()


def test_a_run_that_is_replaced_is_opened_again(tmp_path: Path) -> None:
    write_example(tmp_path / "run", num_steps=100)
    library = Library(tmp_path)
    assert library.get("run").steps[-1] == 100
    shutil.rmtree(tmp_path / "run")
    write_example(tmp_path / "run", num_steps=300)
    assert library.get("run").steps[-1] == 300
    library.close()


@pytest.mark.browser
def test_the_live_page_follows_a_training(
    tmp_path: Path, serving: Serving, visit: Callable[..., Any], axe: str, shots: Path | None
) -> None:
    writer = write_example(tmp_path / "live", num_steps=1_000, finish=False)
    write_example(tmp_path / "before", num_steps=800, seed=4)
    os.utime(tmp_path / "before" / "run.sqlite", (1, 1))
    rng = np.random.default_rng(0)
    with serving(dashboard(tmp_path)) as address:
        seen = visit()
        page = seen.open(address)
        assert page.locator("h1").inner_text() == "live"
        assert page.locator(".hero .status").inner_text() == "running"
        page.wait_for_selector("#findings")
        page.locator("#loss-figure").scroll_into_view_if_needed()
        canvas = page.locator("#loss-figure canvas").first
        for step in range(1_100, 2_100, 100):
            before, updates = canvas.evaluate("c => c.toDataURL()"), page.evaluate("window.lmtrace.updates")
            measure(writer, step, 100, 4, rng, 10_000)
            deadline = 80
            while page.evaluate("window.lmtrace.updates") == updates and deadline:
                page.wait_for_timeout(50)
                deadline -= 1
            assert canvas.evaluate("c => c.toDataURL()") != before
        assert page.evaluate("window.lmtrace.live") < 50
        assert (
            page.evaluate(
                "window.lmtrace.runs[0].series.find(s => s.signal == 'probe' && s.label == 'role').steps.at(-1)"
            )
            == 2_000
        )
        assert page.locator(".tiles dd").first.inner_text() == "2,000"
        if shots is not None:
            page.evaluate("window.scrollTo(0, 0)")
            page.screenshot(path=shots / "dashboard-light-desktop.png")
        writer.finish()
        page.wait_for_selector(".hero .status.finished")
        page.get_by_role("checkbox", name="before").check()
        page.wait_for_selector("h1:text('2 runs')")
        page.wait_for_selector("body[data-ready=true]")
        page.evaluate(axe)
        found = page.evaluate(
            "axe.run(document, {resultTypes: ['violations']})"
            ".then(r => r.violations.map(v => [v.id, v.nodes.slice(0, 3).map(n => n.html)]))"
        )
        assert found == []
        assert seen.problems == []
        assert seen.outside() == []


@pytest.mark.browser
def test_the_live_page_forgets_what_a_resume_replaced(
    tmp_path: Path, serving: Serving, visit: Callable[..., Any]
) -> None:
    write_example(tmp_path / "live", num_steps=1_000)
    steps = "window.lmtrace.runs[0].series.find(s => s.signal == 'probe' && s.label == 'role').steps"
    with serving(dashboard(tmp_path)) as address:
        seen = visit()
        page = seen.open(address)
        assert page.evaluate(f"{steps}.at(-1)") == 1_000
        writer = RunWriter.resume(tmp_path / "live", 500)
        measure(writer, 600, 100, 4, np.random.default_rng(0), 10_000)
        for _ in range(100):
            page.wait_for_timeout(100)
            if page.evaluate(f"{steps}.at(-1)") == 600:
                break
        assert page.evaluate(f"[...{steps}]") == [0, 100, 200, 300, 400, 500, 600]
        writer.finish()
        page.wait_for_selector(".hero .status.finished")
        assert seen.problems == []


@pytest.mark.browser
def test_an_empty_folder_waits_for_its_first_run(tmp_path: Path, serving: Serving, visit: Callable[..., Any]) -> None:
    with serving(dashboard(tmp_path)) as address:
        seen = visit()
        page = seen.open(address)
        assert "There is no run" in page.locator("main").inner_text()
        write_example(tmp_path / "first", num_steps=200)
        page.wait_for_selector("h1:text('first')")
        assert seen.problems == []
