from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from reference.example_findings import example_findings
from reference.example_run import write_example

ROOT = Path(__file__).parents[3]
FRONTEND = ROOT / "frontend"


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 41 measurements with every kind of quantity."""
    folder = tmp_path_factory.mktemp("show") / "first"
    write_example(folder)
    return folder


@pytest.fixture(scope="session")
def findings() -> list[dict[str, Any]]:
    return example_findings()


@pytest.fixture(scope="session")
def frontend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the front end with its locked packages installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node and npm are not installed: the bundle cannot be rebuilt here")
    copy = tmp_path_factory.mktemp("frontend") / "frontend"
    shutil.copytree(FRONTEND, copy, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and any(
        word in done.stderr for word in ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ENOTCACHED")
    ):
        pytest.skip("the npm registry cannot be reached: the bundle cannot be rebuilt here")
    assert done.returncode == 0, done.stderr
    return copy


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    """The source of axe-core, a development dependency of the front end."""
    path = Path("node_modules/axe-core/axe.min.js")
    folder = FRONTEND if (FRONTEND / path).is_file() else request.getfixturevalue("frontend")
    return (folder / path).read_text()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for found in map(shutil.which, names) if found), None)
    if path is None:
        pytest.skip("no Chromium on PATH: install it with: sudo apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--headless", "--disable-background-networking"]
        )
        yield running
        running.close()


class Visit:
    """A page under watch: what it logged, what it asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on(
            "console", lambda m: self.problems.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, address: str) -> Any:
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready=true]", timeout=20_000)
        return self.page

    def outside(self) -> list[str]:
        """Requests that left this machine."""
        local = ("file:", "data:", "blob:", "http://127.0.0.1:", "http://localhost:")
        return [url for url in self.requests if not url.startswith(local)]


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    contexts = []

    def make(width: int = 1360, height: int = 900, theme: str = "light", **options: Any) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce", **options
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        return Visit(context.new_page())

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def serving() -> Callable[..., AbstractContextManager[str]]:
    """Serve an application on a free port in a thread; yields its address."""
    import uvicorn

    @contextmanager
    def run(app: Any) -> Iterator[str]:
        config = uvicorn.Config(
            app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1,
            http="h11", h11_max_incomplete_event_size=16_384,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 15
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)

    return run


@pytest.fixture
def shots() -> Path | None:
    """Where screenshots go when they are wanted: LMTRACE_SHOTS names the folder."""
    wanted = os.environ.get("LMTRACE_SHOTS")
    return Path(wanted) if wanted else None
